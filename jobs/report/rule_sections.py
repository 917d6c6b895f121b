"""Rule sections of the report: firings and actions in a cycle by rule, and the SIMs with most firings (L10, L12)."""

from __future__ import annotations

import datetime as dt
from typing import Final

import duckdb
import polars as pl

from rating.queries.schemas import StateViews
from rating.rules.triggers import TRIGGERS

_CYCLES: Final = [name for name, each in TRIGGERS.items() if each.window == "cycle" and each.kind != "term"]
_DAYS: Final = [name for name, each in TRIGGERS.items() if each.window == "day"]

# A firing of a trigger with a total per cycle belongs to that cycle. Any other firing belongs to the cycle with its
# day: the day of its window, or the local day of use, or the local day of the firing.
_FIRED: Final = """
CREATE OR REPLACE TEMP TABLE fired_in_cycle AS
SELECT firings.rule_id::VARCHAR AS rule_id, firings.trigger::VARCHAR AS trigger, owner::VARCHAR AS owner,
    firings.account_id::VARCHAR AS account_id, firings.iccid, kind = 'fired' AS fired,
    coalesce(actions, 0) AS actions, coalesce(done, 0) AS done, coalesce(failed, 0) AS failed,
    coalesce(told, 0) AS told, coalesce(open, 0) AS open
FROM firings
LEFT JOIN report_accounts ON report_accounts.account_id = firings.account_id::VARCHAR
LEFT JOIN (
    SELECT firing_id, count(*) AS actions, count(*) FILTER (state = 'done') AS done,
        count(*) FILTER (state = 'failed') AS failed, count(*) FILTER (state = 'told') AS told,
        count(*) FILTER (state = 'open') AS open
    FROM action_states GROUP BY firing_id
) AS asked ON asked.firing_id = firings.firing_id
WHERE ($accounts IS NULL OR list_contains($accounts, firings.account_id::VARCHAR)) AND coalesce(
    CASE WHEN list_contains($cycles, trigger::VARCHAR) THEN "window"::VARCHAR = $cycle
    ELSE coalesce(
        CASE WHEN list_contains($days, trigger::VARCHAR) THEN try_cast("window"::VARCHAR AS DATE) END,
        timezone(coalesce(time_zone, 'UTC'), coalesce(used_at, fired_at))::DATE
    ) BETWEEN $first AND $last END, false)
"""
_COUNTS: Final = (
    "count(*) FILTER (fired)::BIGINT AS firings, count(*) FILTER (NOT fired)::BIGINT AS released, "
    "sum(actions)::BIGINT AS actions, sum(done)::BIGINT AS actions_done, sum(failed)::BIGINT AS actions_failed, "
    "sum(told)::BIGINT AS actions_told, sum(open)::BIGINT AS actions_open"
)
_SECTIONS: Final = {
    "rules": f"""
        SELECT rule_id, trigger, owner, count(DISTINCT iccid)::BIGINT AS sims, {_COUNTS}
        FROM fired_in_cycle GROUP BY ALL ORDER BY firings DESC, rule_id""",
    "rule_sims": f"""
        SELECT iccid, account_id, count(DISTINCT rule_id)::BIGINT AS rules, {_COUNTS}
        FROM fired_in_cycle GROUP BY ALL ORDER BY firings DESC, iccid LIMIT $top""",
}


def rule_sections(
    connection: duckdb.DuckDBPyConnection,
    views: StateViews,
    cycle: str,
    first: dt.date,
    last: dt.date,
    accounts: list[str] | None,
    top: int,
) -> dict[str, pl.DataFrame]:
    """Return the frames of the sections `rules` and `rule_sims` (of at most `top` SIMs). Empty if no rule fired."""
    connection.register("report_accounts", views.accounts.select("account_id", "time_zone").to_arrow())
    try:
        given = {"cycles": _CYCLES, "days": _DAYS, "cycle": cycle, "first": first, "last": last, "accounts": accounts}
        connection.execute(_FIRED, given)
        found = {}
        for name, sql in _SECTIONS.items():
            rows = connection.sql(sql, params={"top": top} if "$top" in sql else None).to_arrow_table()
            frame = pl.from_arrow(rows)
            assert isinstance(frame, pl.DataFrame)
            found[name] = frame
        return found
    finally:
        connection.execute("DROP TABLE IF EXISTS fired_in_cycle")
        connection.unregister("report_accounts")
