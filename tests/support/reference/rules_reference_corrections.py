"""Corrections in the reference model of the rules: totals decrease, and a replacement is new usage (F6)."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from schemas.usage import USAGE_SCHEMA, RecordType, UsageBatch
from tests.support.reference.reference_terms import Outcome, Row
from tests.support.reference.rules_reference_totals import Fact, Totals, quarter_of

if TYPE_CHECKING:
    from typing import Any


@dataclass
class Standing:
    """A record that is not reversed: its facts, its rated rows, and which totals it counted in."""

    fact: Fact
    rows: list[Row]
    in_day: bool
    in_rolling: bool


class Corrections:
    """Mixin of RuleModel for corrections."""

    if TYPE_CHECKING:
        at: dt.datetime
        clock: dt.datetime
        offset: int
        totals: Totals
        seen: dict[tuple[str, str], tuple[Any, int]]
        today: int
        test_used: dict[str, int]

        def counts_for_day(self, fact: Fact) -> bool: ...
        def grace(self, account: str) -> dt.timedelta: ...
        def local(self, account: str, moment: dt.datetime) -> dt.datetime: ...
        def refusal(self, record: Row, received: dt.datetime) -> str | None: ...
        def settle(self, iccid: str, offset: int) -> None: ...
        def used(self, batch: UsageBatch) -> Outcome: ...

    def __init__(self) -> None:
        super().__init__()
        self.stands: dict[tuple[str, str], Standing] = {}
        self.replaced: dict[tuple[str, str], tuple[str, str]] = {}

    def remember(self, feed: str, fact: Fact, rows: list[Row]) -> None:
        """Remember a rated record, so that it can be corrected."""
        oldest = quarter_of(self.clock - self.grace(fact.account)) - 95
        in_rolling = quarter_of(fact.used_at) >= oldest
        self.stands[feed, fact.key] = Standing(fact, rows, self.counts_for_day(fact), in_rolling)

    def corrections(self, batch: UsageBatch) -> None:
        """Apply corrections: take back first, then count what replaces, as far as neither depends on the other.

        A duplicate, or a correction of a record that does not exist or is already corrected, changes nothing. A key
        names its newest replacement.
        """
        first, fresh, taken_from = self.offset, dict[tuple[str, str], int](), set[str]()
        for place, sent in enumerate(batch.rows.iter_rows(named=True)):
            key = (batch.feed, sent["record_key"])
            day = (self.at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)).days
            known = key in fresh or (key in self.seen and day - self.seen[key][1] <= 32)
            named = self._newest((batch.feed, sent["corrects_key"]))
            if named in fresh and not known:
                self._count(batch, first, place, fresh, taken_from)
            replaces = sent["record_type"] == RecordType.REPLACE
            record = dict.fromkeys(USAGE_SCHEMA) | sent
            if known or named not in self.stands or (replaces and self.refusal(record, self.at) is not None):
                continue
            taken = self.stands.pop(named)
            self._take_back(taken)
            taken_from.add(taken.fact.iccid)
            if replaces:
                self.replaced[named] = key
                fresh[key] = place
            else:
                self.seen[key] = (None, day)
        self._count(batch, first, len(batch.rows), fresh, taken_from)
        self.offset = first + len(batch.rows)

    def _newest(self, key: tuple[str, str]) -> tuple[str, str]:
        while key not in self.stands and key in self.replaced:
            key = self.replaced[key]
        return key

    def _count(
        self, batch: UsageBatch, first: int, end: int, fresh: dict[tuple[str, str], int], taken_from: set[str]
    ) -> None:
        """Count replacements, then end what the usage that was taken back had begun, up to row `end` of the batch."""
        for place in fresh.values():
            self.offset = first + place
            rows = batch.rows[place : place + 1].with_columns(record_type=pl.lit(0, pl.UInt8))
            self.used(replace(batch, rows=rows))
        for iccid in sorted(taken_from):
            self.settle(iccid, first + end - 1)
        fresh.clear()
        taken_from.clear()

    def _take_back(self, one: Standing) -> None:
        fact = one.fact
        self.totals.take_back(fact, one.in_day, one.in_rolling)
        after = fact.cycle.last + dt.timedelta(days=1)
        closes = dt.datetime.combine(after, dt.time(), tzinfo=self.local(fact.account, self.at).tzinfo)
        # The test allowance that was used in a closed cycle is not refunded.
        if self.at <= closes.astimezone(dt.UTC) + self.grace(fact.account):
            self.test_used[fact.iccid] -= sum(row["from_test"] for row in one.rows)
