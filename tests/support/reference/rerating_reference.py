"""Reference model of corrections and re-rating: a ledger of the records that stand, and a rating of them from scratch.

Like the other reference models it takes one record at a time. It shares no code with the engine's re-rating.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from schemas.cards import Catalogue
from schemas.plans import Cycle
from schemas.usage import Service, UsageBatch
from tests.support.reference.reference import CONTENT, Model
from tests.support.reference.reference_terms import Day, Outcome, Row, Session, cycle_days, cycle_kind, cycle_name, held

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NAMES = (*dict.fromkeys((*CONTENT, "zone", "country", "started_at", "ended_at", "record_type")),)


@dataclass(frozen=True)
class Stands:
    """A record that stands: its content, its arrival, and the cycle that it counts in if it did not come late."""

    key: str
    feed: str
    record: Row
    cumulative: bool
    counter_bits: int
    received: dt.datetime
    offset: int
    late: bool
    cycle: str


class Ledger:
    """The records that stand, by feed and key, and what has replaced the others (F6)."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Stands] = {}
        self.replaced: dict[tuple[str, str], str | None] = {}
        self.earlier: list[Stands] = []  # records whose key came again after it had been forgotten (F4)

    def all(self) -> list[Stands]:
        """Return all records that stand."""
        return [*self.records.values(), *self.earlier]

    def used(self, batch: UsageBatch, outcome: Outcome) -> None:
        """Add the records of a batch that the reference model has rated."""
        rows = {row["source_row"]: row for row in batch.rows.iter_rows(named=True)}
        received = _EPOCH + dt.timedelta(microseconds=batch.received_at_us)
        for rated in outcome.rated:
            if rated["part"] == 0:
                key = batch.feed, rated["record_key"]
                self.replaced.pop(key, None)
                if key in self.records:
                    self.earlier.append(self.records[key])
                record = {name: rows[rated["source_row"]].get(name) for name in _NAMES}
                record |= {"iccid": rated["iccid"], "imsi": None, "msisdn": None}
                self.records[key] = Stands(
                    rated["record_key"], batch.feed, record, batch.cumulative, batch.counter_bits, received,
                    rated["journal_offset"], rated["late"], rated["cycle"],
                )  # fmt: skip

    def newest(self, feed: str, key: str) -> str | None:
        """Return the key of the record that a key names, or None."""
        while (feed, key) in self.replaced:
            following = self.replaced[feed, key]
            if following is None:
                return None
            key = following
        return key if (feed, key) in self.records else None

    def reverse(self, feed: str, key: str) -> bool:
        """Take back what a key names. Return whether anything did."""
        target = self.newest(feed, key)
        if target is None:
            return False
        del self.records[feed, target]
        self.replaced[feed, target] = None
        return True

    def replace(self, model: Model, key: str, batch: UsageBatch, row: Row, offset: int) -> bool:
        """Replace what a key names by a row of a batch of corrections. Return whether that could be done."""
        target = self.newest(batch.feed, key)
        received = _EPOCH + dt.timedelta(microseconds=batch.received_at_us)
        record = {name: row.get(name) for name in _NAMES}
        if target is None or model.refusal(record, received) is not None:
            return False
        old = self.records.pop((batch.feed, target))
        card = model.card_of(record)
        assert card is not None
        record |= {"iccid": card["iccid"], "imsi": None, "msisdn": None}
        late, of_use = _timing(model, record, received)
        # What replaces a record of the cycle of its use belongs to that cycle, even if the cycle is closed by now.
        late = late and (old.late or old.cycle != of_use)
        fresh = Stands(
            row["record_key"], batch.feed, record, batch.cumulative, batch.counter_bits, received, offset, late, of_use
        )
        self.records[batch.feed, fresh.key] = fresh
        self.replaced[batch.feed, target] = fresh.key
        return True


def _timing(model: Model, record: Row, received: dt.datetime) -> tuple[bool, str]:
    """Return whether a record is late, and the cycle of its time of use."""
    card = model.card_of(record)
    assert card is not None
    day = model.local(card["account"], record["used_at"]).date()
    plan = model.plans[held(model.card_plans[card["iccid"]], day) or ""]
    pool = model.pool_of(card, plan, Service(record["service"]).name.lower(), day)
    cycle = plan.cycle if pool is None or isinstance(pool, str) else pool.cycle
    _, late = model.cycle_of(cycle, card["account"], day, received)
    return late, cycle_name(cycle_days(cycle, day), cycle_kind(pool, plan))


class _Again(Model):
    """The reference model for a rating from scratch: lateness is known, and no session is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.late = False
        self.sessions = defaultdict(lambda: Session(heard=1 << 40))

    def cycle_of(self, cycle: Cycle, account: str, day: Day, received: dt.datetime) -> tuple[tuple[Day, Day], bool]:
        """Return the cycle of use, or that of arrival if the record is late."""
        return cycle_days(cycle, self.local(account, received).date() if self.late else day), self.late


def rated_from_scratch(
    catalogues: Iterable[tuple[Catalogue, dt.datetime]], records: Iterable[Stands]
) -> tuple[list[Row], Model, list[Stands]]:
    """Rate records in order of use with the facts that stand. Return rows, model, and the records that have no rate.

    `catalogues` has each catalogue with its time of arrival.
    """
    model, rows, refused = _Again(), list[Row](), list[Stands]()
    for catalogue, arrived in catalogues:
        model.apply(catalogue, arrived)
    for one in sorted(records, key=lambda one: (one.record["used_at"], one.offset)):
        if model.refusal(one.record, dt.datetime(2100, 1, 1, tzinfo=dt.UTC)) is not None:
            refused.append(one)
            continue
        model.late = one.late
        batch: Any = _Facts(one.feed, one.cumulative, one.counter_bits)
        rows += model.rate(one.record, one.key, batch, one.received, Outcome())
    return rows, model, refused


@dataclass(frozen=True)
class _Facts:
    feed: str
    cumulative: bool
    counter_bits: int
