"""A catalogue, an engine and usage in a few words, for tests of the fold."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl
import pyarrow as pa

from rating.engine import Engine
from rating.state import State
from rating.step import Step
from schemas.cards import CARD_SCHEMA, Account, Catalogue
from schemas.plans import Plan, PlanVersion, Rate
from schemas.usage import USAGE_SCHEMA, Direction, Service, UsageBatch

Row = dict[str, Any]

NOON = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)
RECEIVED = dt.datetime(2026, 10, 31, 12, tzinfo=dt.UTC)
SINCE = dt.date(2000, 1, 1)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def us(moment: dt.datetime) -> int:
    """Microseconds since 1970 UTC."""
    return (moment - _EPOCH) // dt.timedelta(microseconds=1)


def cards(*rows: Row) -> pl.DataFrame:
    """A frame of CARD_SCHEMA; `iccid` is given, `account` is "a" where it is not."""
    return pl.DataFrame([{"account": "a"} | row for row in rows], schema=CARD_SCHEMA)


def plan(*rates: Rate, name: str = "p", **version: Any) -> Plan:
    """A plan of one version in euros, in force since ever; `version` are further fields of it."""
    return Plan(id=name, currency="EUR", versions=(PlanVersion(version=1, effective=SINCE, rates=rates, **version),))


def engine(
    *plans: Plan, card_rows: tuple[Row, ...] = ({"iccid": "1"},), account: Account | None = None, **parts: Any
) -> Engine:
    """An engine with these plans and cards; a card without a plan is on the first one."""
    started = Engine(State())
    rows = [({"plan": plans[0].id} if plans else {}) | row for row in card_rows]
    accounts = parts.pop("accounts", (account or Account(id="a"),))
    started.apply(Catalogue(accounts=accounts, plans=plans, cards=cards(*rows), **parts))
    return started


def usage(
    *rows: Row, feed: str = "plain", received: dt.datetime = RECEIVED, cumulative: bool = False, first_row: int = 1
) -> UsageBatch:
    """A batch of records; what a row does not say is one record of card 1 at NOON, keyed by its place."""
    filled = []
    for number, row in enumerate(rows, first_row):
        service = Service(row.get("service", Service.DATA))
        direction = Direction.BOTH if service == Service.DATA else Direction.MO
        known = {"record_key": f"k{number}", "service": service, "direction": direction, "used_at": NOON}
        if not {"iccid", "imsi", "msisdn"} & row.keys():
            known["iccid"] = "1"
        if "quantity" not in row:
            known["quantity"] = (row.get("volume_up_bytes") or 0) + (row.get("volume_down_bytes") or 0)
        filled.append(known | {"source_row": number} | row)
    names = [name for name in USAGE_SCHEMA if any(name in row for row in filled)]
    frame = pl.DataFrame(
        [[_plain(row.get(name)) for name in names] for row in filled],
        schema={name: USAGE_SCHEMA[name] for name in names},
        orient="row",
    )
    return UsageBatch(feed, "usage.csv", us(received), cumulative, frame)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, (Service, Direction)) else value


def rows_of(table: pa.Table) -> list[Row]:
    """Rated rows as dicts."""
    rows: list[Row] = table.to_pylist()
    return rows


def charges(step: Step) -> dict[str, int]:
    """Nanos by record key, its parts together, in order of first appearance."""
    total: dict[str, int] = {}
    for row in rows_of(step.rated):
        total[row["record_key"]] = total.get(row["record_key"], 0) + row["charge_nanos"]
    return total
