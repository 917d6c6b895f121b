"""Short builders of a catalogue, an engine and usage, for tests of the fold."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from rating.catalogue.pools import DEVICE_PREFIX
from rating.engine import Engine
from rating.state import State
from rating.step import Step
from rating.usage.charge import TEST_METER
from rating.usage.cycles import cycle_label
from rating.usage.rerating import Moment, Rerating
from schemas.cards import CARD_SCHEMA, CHANGE_SCHEMA, Account, Catalogue
from schemas.plans import Plan, PlanVersion, Rate
from schemas.usage import USAGE_SCHEMA, Direction, Service, UsageBatch

Row = dict[str, Any]

NOON = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)
RECEIVED = dt.datetime(2026, 10, 31, 12, tzinfo=dt.UTC)
SINCE = dt.date(2000, 1, 1)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def us(moment: dt.datetime) -> int:
    """Return the microseconds since 1970 UTC."""
    return (moment - _EPOCH) // dt.timedelta(microseconds=1)


def cards(*rows: Row) -> pl.DataFrame:
    """Return a frame of CARD_SCHEMA, or of CHANGE_SCHEMA if a row says `from` or `given`.

    Each row has an `iccid`; `account` is "a" if a row does not have it.
    """
    schema = CHANGE_SCHEMA if any({"from", "given"} & row.keys() for row in rows) else CARD_SCHEMA
    return pl.DataFrame([{"account": "a"} | row for row in rows], schema=schema)


def plan(*rates: Rate, name: str = "p", **version: Any) -> Plan:
    """Return a plan in euros with one version that is always in force. `version` has more fields of the version."""
    return Plan(id=name, currency="EUR", versions=(PlanVersion(version=1, effective=SINCE, rates=rates, **version),))


def engine(
    *plans: Plan, card_rows: tuple[Row, ...] = ({"iccid": "1"},), account: Account | None = None, **parts: Any
) -> Engine:
    """Return an engine with these plans and cards. A card without a plan gets the first plan."""
    started = Engine(State())
    rows = [({"plan": plans[0].id} if plans else {}) | row for row in card_rows]
    accounts = parts.pop("accounts", (account or Account(id="a"),))
    started.apply(Catalogue(accounts=accounts, plans=plans, cards=cards(*rows), **parts))
    return started


def usage(
    *rows: Row,
    feed: str = "plain",
    received: dt.datetime = RECEIVED,
    cumulative: bool = False,
    first_row: int = 1,
    counter_bits: int = 0,
) -> UsageBatch:
    """Return a batch of records. By default, a row is a record of card 1 at NOON, and its position is its key."""
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
    return UsageBatch(feed, "usage.csv", us(received), cumulative, frame, counter_bits)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, (Service, Direction)) else value


def rerate(history: pa.Table, weir: Engine, moment: Moment) -> pa.Table:
    """Return the adjustment rows of rating `history` again. The engine does not change."""
    return Rerating(weir.state, weir.compiled, history, moment).adjustments


@dataclass(frozen=True)
class NamedCounter:
    """A counter by its names. `meter` is None for units of the test allowance.

    `account` is None, unless the counter is of a card that is in another account than its first.
    """

    row: int
    kind: str
    name: str
    account: str | None
    meter: str | None
    cycle: str


def named_counters(engine: Engine) -> Iterator[NamedCounter]:
    """Yield all counters of an engine under the names that rated rows give them."""
    counters, book, directory = engine.state.counters, engine.compiled.book, engine.compiled.directory
    card, owner = directory.tenant(np.where(counters.subject & 1, 0, counters.subject >> 1))
    for row in range(len(counters)):
        subject, meter = int(counters.subject[row]), int(counters.meter[row])
        kind, name, account = "sim", directory.cards["iccid"][int(card[row])], None
        if subject & 1:
            name = book.vocabulary.pools.names[subject >> 1]
            kind = "device" if name.startswith(DEVICE_PREFIX) else "pool"
            name = name.removeprefix(DEVICE_PREFIX)
        elif owner[row] >= 0:
            account = book.vocabulary.accounts.names[owner[row]]
        tested = meter == TEST_METER
        cycle = "" if tested else cycle_label(book, int(counters.cycle[row]))
        yield NamedCounter(row, kind, name, account, None if tested else book.vocabulary.meters.names[meter], cycle)


def rows_of(table: pa.Table) -> list[Row]:
    """Return rated rows as dicts."""
    rows: list[Row] = table.to_pylist()
    return rows


def charges(step: Step) -> dict[str, int]:
    """Return the charge of each record in nanos, summed over its parts, by key in order of first appearance."""
    total: dict[str, int] = {}
    for row in rows_of(step.rated):
        total[row["record_key"]] = total.get(row["record_key"], 0) + row["charge_nanos"]
    return total
