"""SQL of the report's sections: a few scans of the history, then small aggregations over the scans."""

from __future__ import annotations

from jobs.report.model import FEES_SERVICE
from rating.units.ratio import PERCENT_SQL

# Exact conversion: a HUGEINT sum of nanos becomes a DECIMAL(38, 9) amount by a multiplication of decimals.
_DECIMAL = "(coalesce({}, 0)::DECIMAL(29, 0) * 0.000000001::DECIMAL(9, 9))::DECIMAL(38, 9)"

_ADJUSTS = "kind <> 'usage'"

_SCAN_MEASURES = {
    "records": "count(*) FILTER (kind = 'usage' AND part = 0)",
    "quantity_raw": "sum(quantity_raw)::BIGINT",
    "used": "sum(billable_quantity)::BIGINT",
    "from_test": "sum(from_test)::BIGINT",
    "from_allowance": "sum(from_allowance)::BIGINT",
    "from_addon": "sum(from_addon)::BIGINT",
    "overage": "sum(overage)::BIGINT",
    "late_records": "count(*) FILTER (late AND kind = 'usage' AND part = 0)",
    "late_quantity": "coalesce(sum(billable_quantity) FILTER (late), 0)::BIGINT",
    "adjustment_rows": f"count(*) FILTER ({_ADJUSTS})",
    "adjustment_quantity": f"coalesce(sum(billable_quantity) FILTER ({_ADJUSTS}), 0)::BIGINT",
    "charge": _DECIMAL.format("sum(charge_nanos) FILTER (kind = 'usage')"),
    "late_charge": _DECIMAL.format("sum(charge_nanos) FILTER (late)"),
    "adjustments": _DECIMAL.format(f"sum(charge_nanos) FILTER ({_ADJUSTS})"),
}

_SCAN_KEYS = {
    "lines": "account_id kind iccid subject_kind subject plan_id plan_version service currency",
    "days": "day service currency",
    "rates": "plan_id plan_version rate service currency",
    "countries": "country service currency",
}
_TEXT_KEYS = {"account_id", "kind", "subject_kind", "plan_id", "service", "currency", "rate", "country"}


def scan_sql(name: str, of_accounts: bool) -> str:
    """Return the SQL of a scan of the view `rated`. $1 is the cycle. If `of_accounts`, $2 is a list of account ids."""
    keys = ", ".join(_key(key) for key in _SCAN_KEYS[name].split())
    measures = ", ".join(f"{expression} AS {measure}" for measure, expression in _SCAN_MEASURES.items())
    extra = ", max(used_at) AS last_used_at" if name == "lines" else ", count(DISTINCT iccid) AS sims"
    where = " AND list_contains($2, account_id::VARCHAR)" if of_accounts else ""
    return f"SELECT {keys}, {measures}{extra} FROM rated WHERE cycle = $1{where} GROUP BY ALL"


def _key(key: str) -> str:
    return f"{key}::VARCHAR AS {key}" if key in _TEXT_KEYS else key


def lines_sql() -> str:
    """Return the SQL that creates the table `lines` from the scan `lines` and the fees.

    Fees are rows of the service `fees` without usage. `elapsed_s` and `cycle_s` are the elapsed and the total seconds
    of the cycle of the row's subject; both are null if that cycle is closed.
    """
    amount = _DECIMAL.format("amount_nanos")
    fees = (
        "SELECT account_id, 'fee' AS kind, name AS fee, CASE WHEN subject_kind = 'sim' THEN subject END AS iccid, "
        f"subject_kind, subject, plan_id, plan_version, '{FEES_SERVICE}' AS service, currency, "
        f"{amount} AS fees FROM fees"
    )
    return (
        "CREATE TABLE lines AS "
        "SELECT * FROM scan_lines LEFT JOIN progress USING (subject_kind, subject, service) "
        f"UNION ALL BY NAME {fees}"
    )


_AMOUNTS = ["charge", "late_charge", "adjustments", "fees"]
_QUANTITIES = [name for name in _SCAN_MEASURES if name not in _AMOUNTS]

_SIMS = "count(DISTINCT iccid)::BIGINT AS sims"
_QUANTITY_SUMS = ", ".join(f"coalesce(sum({name}), 0)::BIGINT AS {name}" for name in _QUANTITIES)
_ZERO = "0::DECIMAL(38, 9)"
_AMOUNT_SUMS = ", ".join(f"coalesce(sum({name}), {_ZERO})::DECIMAL(38, 9) AS {name}" for name in _AMOUNTS)
_TOTAL = (
    f"(coalesce(sum(charge), {_ZERO}) + coalesce(sum(adjustments), {_ZERO}) + coalesce(sum(fees), {_ZERO}))"
    "::DECIMAL(38, 9) AS total"
)
_NET = "(charge + adjustments)::DECIMAL(38, 9) AS total"

# Linear forecast of an open cycle. Late usage of earlier cycles is not extrapolated, nor is usage of a closed cycle.
# If no row has an open cycle, the forecast is null.
_FORECAST = (
    "CASE WHEN count(cycle_s) > 0 THEN sum(CASE WHEN cycle_s IS NULL THEN used "
    "ELSE late_quantity + (used - late_quantity)::HUGEINT * cycle_s // elapsed_s END)::BIGINT END AS forecast"
)


def _by_service(keys: str, where: str = "true") -> str:
    """Return the SQL of measures, amounts and forecast grouped by `keys`, which include service and currency.

    The forecast first sums the usage of each pair (elapsed_s, cycle_s), so that the rounding error is less than one
    unit for each pair.
    """
    same = " AND ".join(f"usage.{key.strip()} IS NOT DISTINCT FROM ahead.{key.strip()}" for key in keys.split(","))
    return (
        f"SELECT * FROM (SELECT usage.*, unit, forecast FROM (SELECT {keys}, {_SIMS}, {_QUANTITY_SUMS}, "
        f"{_AMOUNT_SUMS}, {_TOTAL} FROM lines WHERE {where} GROUP BY ALL) AS usage LEFT JOIN ("
        f"SELECT {keys}, {_FORECAST} FROM (SELECT {keys}, elapsed_s, cycle_s, sum(used) AS used, "
        "sum(late_quantity) AS late_quantity FROM lines "
        f"WHERE {where} GROUP BY ALL) GROUP BY ALL) AS ahead ON {same} "
        "LEFT JOIN units ON units.service = usage.service)"
    )


_SERVICE_RANK = "CASE service WHEN 'data' THEN 1 WHEN 'sms' THEN 2 WHEN 'voice' THEN 3 ELSE 4 END"

_SUMMARY = (
    f"{_SIMS}, coalesce(sum(used) FILTER (service = 'data'), 0)::BIGINT AS data_used_bytes, "
    "coalesce(sum(overage) FILTER (service = 'data'), 0)::BIGINT AS data_overage_bytes, "
    "coalesce(sum(used) FILTER (service = 'sms'), 0)::BIGINT AS sms_used, "
    f"coalesce(sum(used) FILTER (service = 'voice'), 0)::BIGINT AS voice_used_s, {_AMOUNT_SUMS}, {_TOTAL}"
)

_SHARED = "subject_kind IN ('pool', 'device')"

SECTION_SQL: dict[str, str] = {
    "totals": f"""
        SELECT currency, {_SIMS}, coalesce(sum(records), 0)::BIGINT AS records, {_AMOUNT_SUMS}, {_TOTAL}
        FROM lines GROUP BY ALL ORDER BY currency""",
    "services": f"""
        SELECT * FROM ({_by_service("service, currency")}) WHERE service <> '{FEES_SERVICE}'
        ORDER BY {_SERVICE_RANK}, currency""",
    "accounts": f"""
        SELECT name, parent, usage.*
        FROM (SELECT account_id, currency, {_SUMMARY} FROM lines GROUP BY ALL) AS usage
        LEFT JOIN accounts USING (account_id)
        ORDER BY currency, total DESC, account_id""",
    "accounts_by_service": f"""
        {_by_service("account_id, service, currency")}
        ORDER BY account_id, {_SERVICE_RANK}, currency""",
    "plans": f"""
        SELECT plan_id, plan_version, currency, {_SUMMARY} FROM lines GROUP BY ALL
        ORDER BY currency, total DESC, plan_id NULLS LAST, plan_version NULLS LAST""",
    "plans_by_service": f"""
        {_by_service("plan_id, plan_version, service, currency")}
        ORDER BY plan_id NULLS LAST, plan_version NULLS LAST, {_SERVICE_RANK}, currency""",
    "pools": f"""
        SELECT *, {PERCENT_SQL.format(used="used", size="size")} AS percent,
            {PERCENT_SQL.format(used="forecast", size="size")} AS forecast_percent
        FROM (
            SELECT usage.* EXCLUDE (subject_kind, subject), subject AS pool_id,
                coalesce(pools.kind, subject_kind) AS kind, members, size
            FROM ({_by_service("account_id, subject_kind, subject, service, currency", _SHARED)}) AS usage
            LEFT JOIN (
                SELECT pool_id, kind, max(members) AS members FROM pools GROUP BY ALL
            ) AS pools ON pools.pool_id = subject AND (pools.kind = 'device') = (subject_kind = 'device')
            LEFT JOIN (
                SELECT pool_id, kind, service, sum(size)::BIGINT AS size FROM pools GROUP BY ALL
            ) AS sizes ON sizes.pool_id = subject AND sizes.kind = pools.kind AND sizes.service = usage.service
        )
        ORDER BY account_id, pool_id, {_SERVICE_RANK}, currency""",
    "sims": f"""
        SELECT usage.*, latest.plan_id AS plan_id, latest.subject_kind AS subject_kind, latest.subject AS subject,
            status, allowance_size, unit
        FROM (
            SELECT account_id, iccid, service, currency, {_QUANTITY_SUMS}, {_AMOUNT_SUMS}, {_TOTAL}, {_FORECAST},
                max(struct_pack(at := last_used_at, plan_id := plan_id, subject_kind := subject_kind,
                    subject := subject)) AS latest
            FROM lines WHERE iccid IS NOT NULL GROUP BY account_id, iccid, service, currency
        ) AS usage
        LEFT JOIN (SELECT iccid, status FROM cards) USING (iccid)
        LEFT JOIN (
            SELECT subject AS iccid, service, sum(allowance_size)::BIGINT AS allowance_size
            FROM counters WHERE subject_kind = 'sim' GROUP BY ALL
        ) AS own USING (iccid, service)
        LEFT JOIN units USING (service)
        ORDER BY account_id, iccid, {_SERVICE_RANK}, currency""",
    "rates": f"""
        SELECT *, {_NET} FROM scan_rates LEFT JOIN units USING (service)
        ORDER BY plan_id, plan_version, rate, {_SERVICE_RANK}, currency""",
    "fees": f"""
        SELECT account_id, plan_id, plan_version, fee, currency, count(*)::BIGINT AS fee_count,
            sum(fees)::DECIMAL(38, 9) AS amount
        FROM lines WHERE service = '{FEES_SERVICE}' GROUP BY ALL
        ORDER BY account_id, plan_id NULLS LAST, plan_version NULLS LAST, fee, currency""",
    "days": f"""
        SELECT *, {_NET} FROM scan_days LEFT JOIN units USING (service)
        ORDER BY day, {_SERVICE_RANK}, currency""",
    "countries": f"""
        SELECT *, {_NET} FROM scan_countries LEFT JOIN units USING (service)
        ORDER BY {_SERVICE_RANK}, used DESC, country NULLS LAST, currency""",
    "adjustments": f"""
        SELECT * FROM (
            SELECT account_id, kind, service, currency, sum(adjustment_rows)::BIGINT AS rows,
                sum(adjustment_quantity)::BIGINT AS quantity, sum(adjustments)::DECIMAL(38, 9) AS amount
            FROM lines WHERE adjustment_rows > 0 GROUP BY ALL
        ) LEFT JOIN units USING (service)
        ORDER BY account_id, kind, {_SERVICE_RANK}, currency""",
}
