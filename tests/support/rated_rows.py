"""A small history for tests: valid RATED tables of events, each with one allowance and one flat price."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rating.queries.schemas import (
    ACCOUNTS_VIEW,
    ADDONS_VIEW,
    CARDS_VIEW,
    COUNTERS_VIEW,
    FEES_VIEW,
    POOLS_VIEW,
    RULES_VIEW,
    StateViews,
)
from schemas.tables import ACTIONS, FIRINGS, RATED, REJECTED, RESULTS, TABLES

MB = 1024 * 1024


@dataclass(frozen=True)
class Event:
    """One rated record. `nanos_per_unit` is the price of usage past the `allowance` of its subject."""

    iccid: str
    day: int
    quantity: int
    account: str = "acme"
    plan: str = "m2m-50"
    plan_version: int = 1
    pool: str | None = None
    device: str | None = None
    service: str = "data"
    currency: str = "EUR"
    country: str = "DE"
    allowance: int = 0
    nanos_per_unit: int = 0
    kind: str = "usage"
    late: bool = False
    month: dt.date = dt.date(2026, 10, 1)


def rated_table(events: Iterable[Event]) -> pa.Table:
    """Return the events as RATED rows, in order, with one running counter for each (subject, service, cycle)."""
    counters: dict[tuple[str, str, str], int] = defaultdict(int)
    overages: dict[tuple[str, str, str], int] = defaultdict(int)
    rows = []
    for offset, event in enumerate(events):
        subject_kind = "pool" if event.pool else "device" if event.device else "sim"
        subject = event.pool or event.device or event.iccid
        cycle = f"{event.month:%Y-%m}"
        counter = (subject, event.service, cycle)
        before, overage_before = counters[counter], overages[counter]
        after = before + event.quantity
        covered = min(after, event.allowance) - min(before, event.allowance)
        overage = event.quantity - covered
        counters[counter], overages[counter] = after, overage_before + overage
        used_at = dt.datetime(event.month.year, event.month.month, event.day, 12, offset % 60, tzinfo=dt.UTC)
        rows.append(
            {
                "record_key": f"k{offset}",
                "part": 0,
                "kind": event.kind,
                "feed": "plain",
                "account_id": event.account,
                "iccid": event.iccid,
                "subject_kind": subject_kind,
                "subject": subject,
                "service": event.service,
                "direction": "both" if event.service == "data" else "mo",
                "used_at": used_at,
                "cycle": cycle,
                "day": used_at.date(),
                "plan_id": event.plan,
                "plan_version": event.plan_version,
                "rate": "data" if event.service == "data" else f"{event.service}/mo",
                "zone": None,
                "country": event.country,
                "plmn": "26201",
                "volume_up_bytes": event.quantity // 4 if event.service == "data" else None,
                "volume_down_bytes": event.quantity - event.quantity // 4 if event.service == "data" else None,
                "quantity_raw": event.quantity,
                "billable_quantity": event.quantity,
                "from_test": 0,
                "from_allowance": covered,
                "from_addon": 0,
                "overage": overage,
                "charge_nanos": overage * event.nanos_per_unit,
                "currency": event.currency,
                "late": event.late,
                "counter_before": before,
                "counter_after": after,
                "overage_before": overage_before,
                "session_id": None,
                "received_at": used_at + dt.timedelta(minutes=5),
                "source": "october.csv",
                "source_row": offset + 2,
                "journal_partition": 0,
                "journal_offset": offset,
                **dict.fromkeys(RATED.names[RATED.names.index("adjusts_cycle") :]),
            }
        )
    return pa.Table.from_pylist(rows, schema=RATED)


def reject_table(rejects: Iterable[dict[str, Any]]) -> pa.Table:
    """Return REJECTED rows. Each dict overrides columns of a default row, which is a rejected CSV line."""
    rows = []
    for number, reject in enumerate(rejects):
        rows.append(
            {
                "reject_id": f"0123abcd:{number + 2}",
                "feed": "plain",
                "source": "october.csv",
                "source_row": number + 2,
                "received_at": dt.datetime(2026, 10, 12, 8, number % 60, tzinfo=dt.UTC),
                "reason": "bad_value",
                "field": "bytes",
                "message": "found 'x'; expected a whole number",
                "record_key": None,
                "raw": b"1,2,x",
                "raw_header": b"key,iccid,bytes",
            }
            | reject
        )
    return pa.Table.from_pylist(rows, schema=REJECTED)


def history(
    directory: Path, rated: pa.Table, rejected: pa.Table | None = None, **others: pa.Table
) -> duckdb.DuckDBPyConnection:
    """Write tables as Parquet into `directory`, and return a connection with the history's views over them.

    Tables that are not given are empty.
    """
    connection = duckdb.connect()
    given = {"rated": rated, "rejected": reject_table([]) if rejected is None else rejected, **others}
    for name, schema in TABLES.items():
        path = directory / f"{name}.parquet"
        pq.write_table(given.get(name, schema.empty_table()), path)
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{path}')")
    connection.execute(resources.files("jobs.show").joinpath("views.sql").read_text())
    return connection


def rule_tables() -> dict[str, pa.Table]:
    """Return firings, actions and results of a cycle cap, a pool rule and a change, with a release and a failure."""
    at = dt.datetime(2026, 10, 20, 8, tzinfo=dt.UTC)
    one, two, three = "8949000000000000001", "8949000000000000002", "8949000000000000003"
    cap = {"rule_id": "cap", "trigger": "data_usage_cycle", "window": "2026-10", "unit": "bytes"}
    pool = {"rule_id": "=pool", "trigger": "pool_data_usage", "owner": "acme-eu", "pool_id": "fleet"}
    pool |= {"window": "2026-10", "unit": "bytes", "account_id": "acme-eu"}
    moved = {"rule_id": "moved", "trigger": "imei_changed", "from_value": "35", "to_value": "49"}
    rows: list[tuple[str, dict[str, Any], int]] = [
        (one, cap | {"value_before": 40 * MB, "value_now": 65 * MB, "threshold": 50 * MB, "levels": ["50 MB"]}, 3),
        (two, pool | {"value_now": 120 * MB, "size": 100 * MB, "levels": ["80 %", "100 %"]}, 5),
        (three, pool | {"value_now": 121 * MB, "size": 100 * MB, "levels": ["100 %"]}, 6),
        (one, moved, 8),
        (one, moved | {"used_at": at - dt.timedelta(days=30), "fired_at": at - dt.timedelta(days=30)}, 9),
        (one, cap | {"kind": "released"}, 11),
    ]
    firings, actions = [], []
    for iccid, row, offset in rows:
        firing = {"kind": "fired", "account_id": "acme", "iccid": iccid, "used_at": at, "fired_at": at} | row
        firing |= {"firing_id": f"0.{offset}.{iccid}.{row['rule_id']}", "journal_offset": offset}
        firings.append(firing | {"journal_partition": 0})
        asked = {"cap": ["suspend", "notify"], "=pool": ["suspend"], "moved": []}[row["rule_id"]]
        if firing["kind"] == "released":
            asked = ["resume"]
        for sequence, action in enumerate(asked, 1):
            kept = {name: firing.get(name) for name in ACTIONS.names if name in FIRINGS.names}
            kept |= {"action_id": f"0.{offset}.{iccid}.{sequence}.{row['rule_id']}", "sequence": sequence}
            actions.append(kept | {"action": action, "created_at": firing["fired_at"], "parameters": '{"reason":"x"}'})
    results = [
        {"action_id": f"0.3.{one}.1.cap", "outcome": "failed", "message": "busy", "journal_offset": 20},
        {"action_id": f"0.3.{one}.1.cap", "outcome": "suspended", "journal_offset": 22},
        {"action_id": f"0.5.{two}.1.=pool", "outcome": "failed", "message": "no such SIM", "journal_offset": 21},
    ]
    results = [row | {"iccid": one, "at": at, "journal_partition": 0} for row in results]
    return {
        "firings": pa.Table.from_pylist(firings, schema=FIRINGS),
        "actions": pa.Table.from_pylist(actions, schema=ACTIONS),
        "results": pa.Table.from_pylist(results, schema=RESULTS),
    }


def _frame(rows: list[dict[str, Any]], schema: dict[str, pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def views(**rows: list[dict[str, Any]]) -> StateViews:
    """Return state views with the given rows. Columns that a row lacks are null."""
    schemas = {
        "cards": CARDS_VIEW,
        "counters": COUNTERS_VIEW,
        "pools": POOLS_VIEW,
        "fees": FEES_VIEW,
        "accounts": ACCOUNTS_VIEW,
        "addons": ADDONS_VIEW,
        "rules": RULES_VIEW,
    }
    return StateViews(**{name: _frame(rows.get(name, []), schema) for name, schema in schemas.items()})


OCTOBER = {"cycle": "2026-10", "cycle_from": dt.date(2026, 10, 1), "cycle_until": dt.date(2026, 10, 31)}


def small_events() -> list[Event]:
    """Return events of two accounts and a sub-account, with all special cases of the report.

    They have a pool, a device, SMS and voice, a reversal, a late record and two currencies.
    """
    alone = Event("8949000000000000001", 3, 40 * MB, allowance=50 * MB, nanos_per_unit=10)
    member = Event(
        "8949000000000000002", 4, 70 * MB, account="acme-eu", plan="pool-100", pool="fleet", allowance=100 * MB
    )
    member = replace(member, nanos_per_unit=3)
    return [
        alone,
        replace(alone, day=9, quantity=25 * MB),
        replace(alone, day=9, quantity=-5 * MB, kind="reversal"),
        replace(alone, day=12, service="sms", quantity=3, allowance=2, nanos_per_unit=90_000_000),
        replace(alone, day=12, service="voice", quantity=95, allowance=0, nanos_per_unit=1_666_667),
        member,
        replace(member, iccid="8949000000000000003", day=5, quantity=50 * MB, country="FR"),
        Event(
            "8901000000000000004",
            6,
            7 * MB,
            account="=globex",
            plan="us-flat",
            currency="USD",
            nanos_per_unit=1,
            country="US",
        ),
        replace(alone, iccid="8949000000000000005", day=28, quantity=1000, device="tracker-1", late=True),
        replace(alone, month=dt.date(2026, 9, 1), quantity=12 * MB),
    ]


def small_views() -> StateViews:
    """Return state views that match `small_events`: cycle 2026-10, a card without usage, fees of cards and a pool."""
    cards = [
        ("8949000000000000001", "acme", "m2m-50", None, None, "activated"),
        ("8949000000000000002", "acme-eu", "pool-100", "fleet", None, "activated"),
        ("8949000000000000003", "acme-eu", "pool-100", "fleet", None, "suspended"),
        ("8901000000000000004", "=globex", "us-flat", None, None, "activated"),
        ("8949000000000000005", "acme", "m2m-50", None, "tracker-1", "activated"),
        ("8949000000000000006", "acme", "m2m-50", None, None, "silent"),
    ]
    counter = {"counter": "data", "service": "data", "currency": "EUR", "addon_used": 0, **OCTOBER}
    return views(
        cards=[
            {
                "iccid": iccid,
                "imsi": f"26201{iccid[-10:]}",
                "msisdn": f"4917{iccid[-9:]}",
                "account_id": account,
                "plan_id": plan,
                "plan_version": 1,
                "pool_id": pool,
                "device_id": device,
                "carrier": "northtel",
                "status": status,
                "tags": ["meter", "north"] if iccid.endswith("1") else [],
                "activated_on": dt.date(2026, 1, 15),
                "term_ends_on": dt.date(2026, 12, 31),
                "custom": '{"site": "Kiel"}' if iccid.endswith("1") else None,
            }
            for iccid, account, plan, pool, device, status in cards
        ],
        counters=[
            counter
            | {
                "subject_kind": "sim",
                "subject": "8949000000000000001",
                "account_id": "acme",
                "billable": 60 * MB,
                "allowance_size": 50 * MB,
                "allowance_used": 50 * MB,
                "overage": 10 * MB,
                "charge_nanos": 100 * MB,
            },
            counter
            | {
                "subject_kind": "pool",
                "subject": "fleet",
                "account_id": "acme-eu",
                "billable": 120 * MB,
                "allowance_size": 100 * MB,
                "allowance_used": 100 * MB,
                "overage": 20 * MB,
                "charge_nanos": 60 * MB,
            },
            counter
            | {
                "subject_kind": "sim",
                "subject": "8901000000000000004",
                "account_id": "=globex",
                "billable": 7 * MB,
                "allowance_size": 0,
                "allowance_used": 0,
                "overage": 7 * MB,
                "charge_nanos": 7 * MB,
                "currency": "USD",
            },
        ],
        pools=[
            {
                "pool_id": "fleet",
                "account_id": "acme-eu",
                "kind": "static",
                "members": 2,
                "service": "data",
                "cycle": "2026-10",
                "size": 100 * MB,
                "used": 120 * MB,
                "percent": "120",
                "overage": 20 * MB,
                "charge_nanos": 60 * MB,
                "currency": "EUR",
            }
        ],
        fees=[
            {
                "account_id": "acme",
                "subject_kind": "sim",
                "subject": iccid,
                "plan_id": "m2m-50",
                "plan_version": 1,
                "cycle": "2026-10",
                "name": "base",
                "days": 31,
                "of_days": 31,
                "amount_nanos": 1_500_000_000,
                "currency": "EUR",
            }
            for iccid in ("8949000000000000001", "8949000000000000006")
        ]
        + [
            {
                "account_id": "acme-eu",
                "subject_kind": "pool",
                "subject": "fleet",
                "cycle": "2026-10",
                "name": "pool rent",
                "days": 31,
                "of_days": 31,
                "amount_nanos": 20_000_000_000,
                "currency": "EUR",
            }
        ],
        rules=[
            {"rule_id": "cap", "trigger": "data_usage_cycle", "threshold": "50 MB", "status": "ACTIVE"},
            {"rule_id": "=pool", "owner": "acme-eu", "trigger": "pool_data_usage", "status": "INACTIVE"},
            {"rule_id": "quiet", "trigger": "no_sms_24h", "status": "ACTIVE"},
        ],
        accounts=[
            {"account_id": "acme", "name": "Acme <Metering> & Sons", "time_zone": "Europe/Berlin", "grace_hours": 72},
            {"account_id": "acme-eu", "name": "Acme EU", "parent": "acme", "time_zone": "Europe/Berlin"},
            {"account_id": "=globex", "name": '=HYPERLINK("x")', "time_zone": "America/New_York"},
        ],
        addons=[
            {
                "addon_id": "plus-10",
                "iccid": "8949000000000000001",
                "service": "data",
                "size": 10 * MB,
                "used": 0,
                "purchased_at": dt.datetime(2026, 10, 2, tzinfo=dt.UTC),
                "expires_on": dt.date(2026, 10, 31),
            }
        ],
    )
