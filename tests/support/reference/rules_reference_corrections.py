"""Corrections in the reference model of the rules: totals decrease, and a replacement is new usage (F6)."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from schemas.plans import Cycle
from schemas.usage import USAGE_SCHEMA, RecordType, UsageBatch
from tests.support.reference.reference import Model
from tests.support.reference.reference_terms import Day, Outcome, Row, cycle_days
from tests.support.reference.rules_reference_terms import home_meters, pool_meters
from tests.support.reference.rules_reference_totals import Fact, Totals, Window, quarter_of


@dataclass
class Standing:
    """A record that is not reversed: its facts, its cycle and lateness, and which totals it counted in."""

    fact: Fact
    late: bool
    in_day: bool
    in_rolling: bool


@dataclass(frozen=True)
class Rerated:
    """What corrections change in rating, as the engine's re-rating says: tests/property/test_rerating.py holds that.

    `rows` are rows of RATED. The others have the attributes of Model after the corrections.
    """

    rows: list[Row]
    counters: dict[tuple[str, str, str, str], dict[str, int]]
    test_used: dict[str, int]
    addon_used: dict[str, int]


class Corrections(Model):
    """Mixin of RuleModel for corrections."""

    if TYPE_CHECKING:
        at: dt.datetime
        clock: dt.datetime
        totals: Totals

        def counts_for_day(self, fact: Fact) -> bool: ...
        def grace(self, account: str) -> dt.timedelta: ...
        def settle(self, iccid: str, offset: int) -> None: ...
        def used(self, batch: UsageBatch) -> Outcome: ...

    def __init__(self) -> None:
        super().__init__()
        self.stands: dict[tuple[str, str], Standing] = {}
        self.replaced: dict[tuple[str, str], tuple[str, str]] = {}
        self.taken: dict[tuple[str, str], Standing] = {}
        self._replacing: Standing | None = None  # What the current record replaces.
        self.fires = True  # Whether the current record fires rules. What belongs to a closed cycle does not.

    def remember(self, feed: str, fact: Fact, rows: list[Row]) -> None:
        """Remember a rated record, so that it can be corrected."""
        oldest = quarter_of(self.clock - self.grace(fact.account)) - 95
        in_rolling = quarter_of(fact.used_at) >= oldest
        self.stands[feed, fact.key] = Standing(fact, rows[0]["late"], self.counts_for_day(fact), in_rolling)

    def cycle_of(self, cycle: Cycle, account: str, day: Day, received: dt.datetime) -> tuple[tuple[Day, Day], bool]:
        """Return the cycle of a record. What replaces a record of the cycle of its use belongs to that cycle."""
        found, late = super().cycle_of(cycle, account, day, received)
        of_use, old = cycle_days(cycle, day), self._replacing
        if late and old is not None and not old.late and (old.fact.cycle.first, old.fact.cycle.last) == of_use:
            self.fires = False
            return of_use, False
        return found, late

    def corrections(self, batch: UsageBatch, rerated: Rerated) -> None:
        """Apply corrections: take back first, then count what replaces, as far as neither depends on the other.

        A duplicate, or a correction of a record that does not exist or is already corrected, changes nothing. A key
        names its newest replacement.
        """
        first, begin, fresh = self.offset, 0, dict[tuple[str, str], tuple[int, Standing]]()
        for place, sent in enumerate(batch.rows.iter_rows(named=True)):
            key = (batch.feed, sent["record_key"])
            day = (self.at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)).days
            known = key in fresh or (key in self.seen and day - self.seen[key][1] <= 32)
            named = self._newest((batch.feed, sent["corrects_key"]))
            if named in fresh and not known:
                self._count(batch, first, (begin, place), fresh, rerated)
                begin = place
            replaces = sent["record_type"] == RecordType.REPLACE
            record = dict.fromkeys(USAGE_SCHEMA) | sent
            if known or named not in self.stands or (replaces and self.refusal(record, self.at) is not None):
                continue
            self.taken[named] = self.stands.pop(named)
            if replaces:
                self.replaced[named] = key
                fresh[key] = place, self.taken[named]
            else:
                self.seen[key] = (None, day)
        self._count(batch, first, (begin, len(batch.rows)), fresh, rerated)
        self.offset = first + len(batch.rows)
        self.counters = defaultdict(lambda: defaultdict(int), rerated.counters)
        self.test_used = defaultdict(int, rerated.test_used)
        self.addon_used = defaultdict(int, rerated.addon_used)

    def _newest(self, key: tuple[str, str]) -> tuple[str, str]:
        while key not in self.stands and key in self.replaced:
            key = self.replaced[key]
        return key

    def _count(
        self,
        batch: UsageBatch,
        first: int,
        places: tuple[int, int],
        fresh: dict[tuple[str, str], tuple[int, Standing]],
        rerated: Rerated,
    ) -> None:
        """Count what is taken back, then replacements as if nothing else had been used, then what rating changes.

        `places` are the first row of the batch that is not yet counted, and the first that is not counted now.
        """
        start, end = first + places[0], first + places[1]
        rows = [row for row in rerated.rows if start <= row["journal_offset"] < end]
        for row in rows:
            if row["kind"] == "reversal":
                self._adjust(row)
        rated = self.counters, self.test_used, self.addon_used
        counted: list[Standing] = []
        for key, (place, old) in fresh.items():
            self.counters, self.test_used = defaultdict(lambda: defaultdict(int)), defaultdict(int)
            self.addon_used = defaultdict(int, rated[2])
            self.offset, self._replacing = first + place, old
            row = batch.rows[place : place + 1].with_columns(record_type=pl.lit(0, pl.UInt8))
            self.used(replace(batch, rows=row))
            if self.fires:
                counted.append(self.stands[key])
            self.fires = True
        self.counters, self.test_used, self.addon_used = rated
        self._replacing = None
        for one in counted:
            self.totals.take_back(one.fact, one.in_day, one.in_rolling)
        for row in rows:
            if row["kind"] != "reversal":
                self._adjust(row)
        for iccid in sorted({row["iccid"] for row in rows if row["kind"] != "usage"}):
            self.settle(iccid, end - 1)
        fresh.clear()

    def _adjust(self, row: Row) -> None:
        """Add a rated row to the totals. It counts in the cycle that it belongs to, and begins no session."""
        key = row["feed"], row["record_key"]
        one = self.stands[key] if key in self.stands and row["kind"] != "reversal" else self.taken[key]
        plan = self.plans[row["plan_id"]]
        version = next(version for version in plan.versions if version.version == row["plan_version"])
        pool = row["subject"] if row["subject_kind"] == "pool" else None
        kind = plan.cycle if pool is None else self.pools[pool].cycle or plan.cycle
        name = row["adjusts_cycle"] or row["cycle"]
        cycle = Window(name, *cycle_days(kind, dt.date.fromisoformat(name if len(name) == 10 else f"{name}-01")))
        units = row["billable_quantity"] - row["from_test"]
        part = replace(
            one.fact, account=row["account_id"], version=version, zone=row["zone"], pool=pool, cycle=cycle,
            units=-units, overage=-row["overage"],
            home_units=-units if row["rate"] in home_meters(self, version, row["service"], None) else 0,  # type: ignore[arg-type]
            pool_units=-units if row["rate"] in pool_meters(self, version, row["service"], None) else 0,  # type: ignore[arg-type]
        )  # fmt: skip
        self.totals.take_back(part, one.in_day, one.in_rolling)
