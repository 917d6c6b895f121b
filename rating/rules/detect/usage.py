"""Rules on usage: each batch adds to the totals of SIMs and pools, and rules fire past their thresholds (L7, L8, L11).

Plain version: for each record and each rule, add the record to the total and compare it with the limit. A Python loop
over records times rules is too slow, so totals move by slice for the whole batch, and only groups of records that may
fire are examined record by record. `test_rules_fire_as_record_by_record_and_in_any_cut` compares both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from rating.calendars.calendar import DAY_US, day_date
from rating.catalogue.rates import SERVICES, Book
from rating.columnar.groups import Groups, distinct
from rating.columnar.key_index import Flags, Ints
from rating.columnar.sharing import own_frame
from rating.errors import InputError
from rating.rules.active_rule import Watch
from rating.rules.detect.thresholds_crossed import Candidates, Decisions
from rating.rules.detect.traffic import Traffic
from rating.rules.firing.firings import Fires, nothing
from rating.rules.firing.repetition import Memory
from rating.rules.totals.batch import Tally, floor_quarter
from rating.rules.totals.current import TERM
from rating.rules.totals.cycle_and_day import BASELINE, FAMILIES, Slice, total_key
from rating.rules.triggers import TRIGGERS
from rating.usage.cycles import cycle_code, cycle_days, cycle_label
from schemas.usage import Direction, Service

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet
    from rating.rules.state import RuleState

_MARGIN_US: Final = 2 * DAY_US  # covers midnight in any time zone, and records dated up to an hour ahead
_QUARTER_US: Final = 15 * 60 * 1_000_000


def usage_fires(ruleset: RuleSet, state: RuleState, traffic: Traffic) -> list[Fires]:
    """Add a batch to the totals and return the firings of rules on usage, one Fires per rule, in journal order.

    A rule fires for a record that adds to its slice and leaves the total above the limit, unless `repetition` forbids
    another firing. Only slices that an active rule needs are totalled; other slices are dropped.
    """
    by_slice = _watched(ruleset, state.memory)
    _drop_unused(state, by_slice)
    return _moved_past(ruleset, state, traffic, by_slice)


def count_sessions(ruleset: RuleSet, state: RuleState, traffic: Traffic) -> list[Fires]:
    """Count data sessions that the network reported, and return the firings of rules on their number.

    `traffic` has a row for each session that began, with no units. No record brought it, so the firings have no time of
    use and no key.
    """
    by_slice = {one: watches for one, watches in _watched(ruleset, state.memory).items() if one.counts == "sessions"}
    fires = _moved_past(ruleset, state, traffic, by_slice)
    return [replace(one, used_us=nothing(), place=nothing()) for one in fires]


def _moved_past(
    ruleset: RuleSet, state: RuleState, traffic: Traffic, by_slice: dict[Slice, list[Watch]]
) -> list[Fires]:
    """Add the traffic to these slices, and return the firings of their rules."""
    if not by_slice or not len(traffic):
        return []
    decisions = Decisions(ruleset, state, traffic)
    tally = Tally(ruleset, state, traffic, list(by_slice))
    found: list[Candidates | None] = []
    for one, watches in by_slice.items():
        if one.family is None:
            slid = tally.slide(one)
            found += [decisions.slid(watch, slid) for watch in watches if slid is not None and len(slid.places)]
        else:
            moved = tally.move(one)
            found += [decisions.moved(watch, moved, tally) for watch in watches if moved is not None]
    return decisions.fires([one for one in found if one is not None])


def _watched(ruleset: RuleSet, memory: Memory) -> dict[Slice, list[Watch]]:
    """Return the slices that rules need, with the active rules of each.

    An inactive rule needs its slice as long as it holds SIMs, because a hold may end when the SIM recovers.
    """
    found: dict[Slice, list[Watch]] = {}
    for watch in ruleset.watches:
        one = Slice.of(watch.rule, watch.trigger)
        if one is not None:
            if watch.rule.measure == "over":
                found.setdefault(one.of_overage(), [])
            found.setdefault(one, []).append(watch)
    if ruleset.resting:
        holding = set(np.unique(memory.rule[memory["held"] == 1]).tolist())
        for watch in ruleset.resting:
            one = Slice.of(watch.rule, watch.trigger)
            if one is not None and watch.row in holding:
                found.setdefault(one, [])
                if watch.rule.measure == "over":
                    found.setdefault(one.of_overage(), [])
    return dict(sorted(found.items(), key=lambda one: one[0].counts != "overage"))


def drop_unwatched(ruleset: RuleSet, state: RuleState) -> None:
    """Drop slices that no active rule needs. Call this whenever rules are activated or deactivated."""
    _drop_unused(state, _watched(ruleset, state.memory))


def _drop_unused(state: RuleState, slices: Iterable[Slice]) -> None:
    """Drop slices other than `slices`. Their totals are no longer updated, so keeping them would be wrong."""
    used = {one.text for one in slices}
    for text in state.totals.slices - used:
        state.totals.drop(text)
    for text in state.rolling.slices - used:
        state.rolling.drop(text)


def expire(ruleset: RuleSet, state: RuleState, clock_us: int) -> None:
    """Drop totals whose window takes no more usage, the firings of such windows, and slices that no active rule needs.

    This changes no later firing. Call it at ticks, after the release of suspensions whose window is over: the release
    still needs their totals.
    """
    drop_unwatched(ruleset, state)
    book = ruleset.book
    last_us = clock_us - int(book.grace_us.max(initial=0)) - _MARGIN_US
    held = state.memory.window[state.memory["held"] == 1]
    for family in FAMILIES:
        windows, rank = distinct(state.totals.window(family))
        if not len(windows):
            continue
        days = windows if family == "sim/day" else np.array([cycle_days(book, code)[1] for code in windows.tolist()])
        # A deactivated rule keeps its suspensions, and needs their totals when it is activated again.
        state.totals.keep(family, ((days + 1) * DAY_US >= last_us)[rank] | np.isin(windows, held)[rank])
    _forget_past(ruleset, state, last_us)
    state.rolling.expire(int(floor_quarter(clock_us, book.grace_us.max(initial=0, keepdims=True))[0]))


def _forget_past(ruleset: RuleSet, state: RuleState, last_us: int) -> None:
    """Forget firings in cycles and days that ended before `last_us`, except those that await an automatic resume."""
    memory = state.memory
    numbers, gone = memory.rule, np.zeros(len(memory), bool)
    for watch in ruleset.watches if len(memory) else ():
        one = Slice.of(watch.rule, watch.trigger)
        if one is None or watch.rule.repetition == "once":
            continue
        rows = np.flatnonzero(numbers == watch.row)
        windows, rank = distinct(memory.window[rows])
        ends = [
            cycle_days(ruleset.book, code)[1] if one.window == "cycle" and code < TERM else code
            for code in windows.tolist()
        ]
        past = (np.array(ends, np.int64) + 1) * DAY_US < last_us
        gone[rows] = (past & (windows < TERM))[rank] & (memory["held"][rows] == 0)
    memory.keep(~gone)


def adjust(ruleset: RuleSet, state: RuleState, added: Sequence[pa.Table], taken: Sequence[pa.Table]) -> None:
    """Add rated rows (RATED) to the totals, and subtract others (F6). Nothing fires.

    A row counts in the cycle that it belongs to. Counts of sessions do not change.
    """
    watched = _watched(ruleset, state.memory)
    _drop_unused(state, watched)
    rows = pl.concat([_sums(table, sign) for tables, sign in ((added, 1), (taken, -1)) for table in tables])
    rows = rows.filter((pl.col("units") != 0) | (pl.col("overage") != 0))
    if rows.is_empty():
        return
    history = _History(ruleset, rows)
    kept = state.totals.slices | state.rolling.slices
    for one in watched:
        if one.text in kept:
            history.add(state, one)


def _sums(rated: pa.Table, sign: int) -> pl.DataFrame:
    """Return rated rows with the columns of BASELINE."""
    names = [name for name in BASELINE if name in rated.schema.names]
    rows = own_frame(rated.select([*names, "adjusts_cycle", "used_at", "billable_quantity", "from_test"]))
    return rows.select(
        *(pl.col(name) for name in names if name not in ("cycle", "overage")),
        cycle=pl.coalesce(pl.col("adjusts_cycle").cast(pl.String), pl.col("cycle").cast(pl.String)),
        quarter=pl.col("used_at").to_physical() // _QUARTER_US,
        units=sign * (pl.col("billable_quantity") - pl.col("from_test")),
        overage=sign * pl.col("overage"),
        sessions=pl.lit(0, pl.Int64),
    ).select(pl.col(name).cast(kind) for name, kind in BASELINE.items())


def backfill(ruleset: RuleSet, state: RuleState, rows: pl.DataFrame, watches: Sequence[Watch]) -> None:
    """Fill the slices that `watches` need and that have no totals yet from the history.

    `rows` has the columns of BASELINE and contains all usage up to this journal entry. Rows of cards, plans and cycles
    that the catalogue no longer has are skipped.
    """
    kept = state.totals.slices | state.rolling.slices
    slices = {one for watch in watches if (one := Slice.of(watch.rule, watch.trigger)) is not None}
    slices |= {one.of_overage() for watch in watches if watch.rule.measure == "over"
               and (one := Slice.of(watch.rule, watch.trigger)) is not None}  # fmt: skip
    fresh = sorted((one for one in slices if one.text not in kept), key=lambda one: one.text)
    if fresh:
        history = _History(ruleset, rows)
        for one in fresh:
            history.add(state, one)


def baseline_scope(ruleset: RuleSet, memory: Memory, clock_us: int) -> dict[str, Any]:
    """Return the parameters of `baseline_sql`: labels of the cycles that still take usage, and the first day needed.

    They may cover more than needed. They include past windows whose suspension still awaits its automatic resume.
    """
    book, held = ruleset.book, list(_held_windows(ruleset, memory))
    latest = clock_us // DAY_US + 2
    first = (clock_us - int(book.grace_us.max(initial=0)) - _MARGIN_US) // DAY_US - 1
    first = min([first, *(day for one, windows in held if one.window != "cycle" for day in windows)])
    days = np.arange(first, latest + 1, dtype=np.int32)
    labels = {
        calendar.label(int(number)) for calendar in book.cycle_calendars for number in np.unique(calendar.index(days))
    }
    for one, windows in held:
        if one.window == "cycle":
            labels |= {cycle_label(book, code) for code in windows if code < TERM}
    return {"cycles": sorted(labels), "first_day": day_date(first)}


def _held_windows(ruleset: RuleSet, memory: Memory) -> Iterator[tuple[Slice, list[int]]]:
    """Yield the slice and the windows of each rule, active or not, whose suspensions await their automatic resume."""
    held = memory["held"] == 1
    numbers = ruleset.vocabulary.rules.rows
    for rule in ruleset.catalogue.rules if held.any() else ():
        one = Slice.of(rule, TRIGGERS[rule.trigger])
        windows = memory.window[held & (memory.rule == numbers[rule.id])]
        if one is not None and len(windows) and rule.repetition != "once":
            yield one, distinct(windows)[0].tolist()


class _History:
    """Sums of rated rows (BASELINE), converted to numeric columns."""

    def __init__(self, ruleset: RuleSet, rows: pl.DataFrame) -> None:
        book, vocabulary, quota = ruleset.book, ruleset.vocabulary, ruleset.quota
        versions = pl.format("{}@{}", "plan_id", "plan_version")
        card = ruleset.directory.rows_of(rows["iccid"])
        version = _codes(rows.select(versions.alias("v"))["v"], vocabulary.versions.rows)
        version = np.where(version < len(book.versions), version, -1)
        known = (card >= 0) & (version >= 0)
        self.rows = rows.filter(pl.Series(known))
        self.card, version = card[known], version[known]
        self.service = _codes(self.rows["service"], {name: int(number) for name, number in SERVICES.items()})
        self.direction = _codes(self.rows["direction"], {one.name.lower(): int(one) for one in Direction})
        pools = {pool.id: row for row, pool in enumerate(book.pools) if pool is not None}
        charged = np.where(self.rows["subject_kind"] == "pool", _codes(self.rows["subject"], pools), -1)
        self.pool = charged
        self.cycle = _cycles(book, _codes(self.rows["plan_id"], vocabulary.plans.rows), charged, self.rows["cycle"])
        self.day = self.rows["day"].to_physical().cast(pl.Int64).fill_null(-1).to_numpy()
        self.quarter = self.rows["quarter"].fill_null(-1).to_numpy()
        meter = _codes(self.rows["rate"], vocabulary.meters.rows)
        none = np.zeros(0, bool)
        self.on_home_meter = quota.home_meters(Service.DATA, None)[version, meter] if len(version) else none
        self.on_pool_meter = quota.all_pool_meters()[version, meter] if len(version) else none

    def add(self, state: RuleState, one: Slice) -> None:
        """Add the rows that belong to a slice to its totals."""
        subject = self.pool if one.pooled else self.card
        window = {"cycle": self.cycle, "day": self.day, "rolling": self.quarter}[one.window]
        at = np.flatnonzero(self._which(one) & (subject >= 0) & (window >= 0))
        name = one.counts if one.counts in ("sessions", "overage") else "units"
        # An entry of an older version has no column of overage.
        column = self.rows[name] if name in self.rows.columns else pl.Series(np.zeros(len(self.rows), np.int64))
        units = column.fill_null(0).to_numpy()[at]
        subject, window = subject[at], window[at]
        if one.family is None:
            state.rolling.add(one.text, subject, window, units)
            return
        state.totals.use(one.text, one.family)
        groups = Groups.of(total_key(subject, window))
        rows = state.totals.rows(one.family, groups.keys)
        state.totals.column(one.text)[rows] += groups.totals(units[groups.order])

    def _which(self, one: Slice) -> Flags:
        """bool[n]: the rows that belong to a slice."""
        which: Flags = self.service == one.service
        if one.direction is not None:
            which &= self.direction == one.direction
        for name, wanted in (("country", one.country), ("zone", one.zone)):
            if wanted is not None:
                which &= (self.rows[name] == wanted).fill_null(False).to_numpy()
        if one.counts == "home":
            which &= self.on_home_meter
        return which & self.on_pool_meter if one.pooled else which


def _codes(names: pl.Series, numbers: dict[str, int]) -> Ints:
    """int64[n]: the number of each name; -1 if it has none."""
    codes = names.replace_strict(numbers, default=-1, return_dtype=pl.Int64).fill_null(-1)
    return codes.to_numpy().astype(np.int64)


def _cycles(book: Book, plan: Ints, pool: Ints, labels: pl.Series) -> Ints:
    """int64[n]: the code of each cycle, given its label and its plan or pool; -1 if there is no such cycle."""
    kind = np.where(plan >= 0, book.plan_cycle[plan], 0)
    if (pool >= 0).any():
        kind = np.where((pool >= 0) & (book.pool_cycle[pool] >= 0), book.pool_cycle[pool], kind)
    names = labels.unique().sort().to_list()
    label = _codes(labels, {name: number for number, name in enumerate(names)})
    codes = np.full((len(book.cycle_calendars), len(names)), -1, np.int64)
    for row, number in np.ndindex(codes.shape):
        try:
            index = book.cycle_calendars[row].index_of_label(names[number])
        except InputError:
            continue  # no cycle of this kind begins on that day
        codes[row, number] = int(cycle_code(row, np.array([index]))[0])
    return codes[kind, label] if len(label) else label
