"""How a rule on a running total stands now, without a record that moved it: for ticks, catalogues and commands."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import polars as pl

from rating.calendars.calendar import day_date, quarter
from rating.catalogue.allowance_sizes import CycleDays
from rating.columnar.groups import distinct
from rating.columnar.key_index import Ints
from rating.rules.active_rule import Watch
from rating.rules.detect.traffic import Flags
from rating.rules.firing.firings import NONE
from rating.rules.totals.cycle_and_day import Slice
from rating.usage.accept import local_days
from rating.usage.cycles import cycle_code, cycle_days, cycle_label

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet
    from rating.rules.state import RuleState

TERM: Final = 1 << 19  # on top of the last day of a term, which makes it another number than that of any cycle so far


@dataclass(frozen=True)
class Windows:
    """Windows in which a rule fired for SIMs; int64[n] unless noted.

    `start` and `end` are the local days of a cycle, both inclusive, or the one day; `pool` (NONE: none) is what a pool
    rule looks at for the SIM now. `over` (bool[n]): the window takes no more usage of its own days.
    """

    card: Ints
    window: Ints
    today: Ints
    plan: Ints
    pool: Ints
    start: Ints
    end: Ints
    over: Flags

    def take(self, at: Ints) -> Self:
        """The windows at the places given, in that order."""
        columns: dict[str, Any] = {one.name: getattr(self, one.name)[at] for one in fields(self)}
        return type(self)(**columns)


def windows_of(ruleset: RuleSet, watch: Watch, card: Ints, window: Ints, day: Ints, now_us: int) -> Windows:
    """The windows of rows of the memory: card, window and the local day on which the rule fired last.

    A rule that fires once for ever keeps no window; it is the one that the day of its firing lies in.
    """
    book, directory = ruleset.book, ruleset.directory
    today = local_days(book, directory.account[card], np.full(len(card), now_us, np.int64))
    plan = directory.plans.at(card, today)
    pool = np.full(len(card), NONE, np.int64)
    trigger = watch.trigger
    if trigger.kind == "pool" and trigger.service is not None:
        found = ruleset.pools.of(card, plan, np.full(len(card), int(trigger.service)), today)
        declared = np.array([pool is not None for pool in book.pools] or [False])
        pool = np.where((found >= 0) & declared[found], found, NONE)
    total = Slice.of(watch.rule, trigger)
    if watch.rule.repetition == "once":
        window = _window_on(ruleset, total, card, pool, day)
        if trigger.kind == "term" and watch.rule.by != "data":
            ends = directory.term_ends[card]
            window = np.where(day > ends, TERM | ends, window)
    term = window >= TERM if trigger.kind == "term" else np.zeros(len(card), bool)
    start, end = window.copy(), window.copy()
    at = np.flatnonzero(~term)
    if total is not None and total.window == "cycle" and len(at):
        codes, inverse = distinct(window[at])
        days = np.array([cycle_days(book, code) for code in codes.tolist()], np.int64)
        start[at], end[at] = days[inverse].T
    over = today > end
    at = np.flatnonzero(term)
    ends = directory.term_ends[card[at]]
    over[at] = (ends != window[at] - TERM) & (today[at] <= ends)  # the term goes on
    return Windows(card, window, today, plan, pool, start, end, over)


def _window_on(ruleset: RuleSet, total: Slice | None, card: Ints, pool: Ints, day: Ints) -> Ints:
    """int64[n]: the window of a total that lies over a local day; the end of the term where nothing is totalled."""
    book, directory = ruleset.book, ruleset.directory
    if total is None:
        return TERM | directory.term_ends[card]
    if total.window != "cycle":
        return day
    plan = directory.plans.at(card, day)
    kind = np.where(plan >= 0, book.plan_cycle[plan], 0)
    if total.pooled:
        own = np.where(pool >= 0, book.pool_cycle[pool], -1)
        kind = np.where(own >= 0, own, kind)
    code = np.zeros(len(card), np.int64)
    for one in distinct(kind)[0].tolist():
        at = np.flatnonzero(kind == one)
        number = book.cycle_calendars[one].index(day[at].astype(np.int32)).astype(np.int64)
        code[at] = cycle_code(one, number)
    return code


@dataclass(frozen=True)
class Standing:
    """Levels that hold in each window, the total, what it is compared with, and the highest level; NONE for nothing."""

    level: Ints
    value: Ints
    size: Ints
    threshold: Ints


def standing(ruleset: RuleSet, state: RuleState, watch: Watch, windows: Windows, now_us: int) -> Standing:
    """How the rule stands in each window, by the totals so far and the quota and pools as they are now."""
    count = len(windows.card)
    nothing = np.full(count, NONE, np.int64)
    total = Slice.of(watch.rule, watch.trigger)
    level = np.zeros(count, np.int64)
    value, size, threshold = nothing, nothing, nothing
    timed = windows.window >= TERM if watch.trigger.kind == "term" else np.zeros(count, bool)
    level[timed] = ~windows.over[timed]
    at = np.flatnonzero(~timed)
    if total is None or not len(at):
        return Standing(level, value, size, threshold)
    windows = windows if len(at) == count else windows.take(at)
    subject = np.maximum(windows.pool, 0) if total.pooled else windows.card
    own = total_of(state, watch, subject, windows.window, now_us)
    sizes, addons = _size(ruleset, watch, windows, now_us)
    limits = ruleset.limits.of(watch.place, sizes, addons)
    own_level = np.count_nonzero(own > limits, axis=0)
    if total.pooled:
        own, own_level = np.where(windows.pool == NONE, NONE, own), np.where(windows.pool == NONE, 0, own_level)
        if watch.rule.pools:
            rows = ruleset.vocabulary.pools.rows
            named = [rows[name] for name in watch.rule.pools if name in rows]
            own_level = np.where(np.isin(windows.pool, named), own_level, 0)
    level[at] = own_level
    value, threshold, size = value.copy(), threshold.copy(), size.copy()
    value[at] = own
    if sizes is not None:
        size[at] = np.where(windows.pool == NONE, NONE, sizes) if total.pooled else sizes
    holds = np.flatnonzero(own_level > 0)
    if len(holds):
        part = [None if one is None else one[holds] for one in (sizes, addons)]
        threshold[at[holds]] = ruleset.limits.units(watch.place, own_level[holds], *part)
    return Standing(level, value, size, threshold)


def total_of(state: RuleState, watch: Watch, subject: Ints, window: Ints, now_us: int) -> Ints:
    """int64[n]: the total that a rule compares, of SIMs (or pools) in windows; the rolling 24 hours at `now_us`."""
    total = Slice.of(watch.rule, watch.trigger)
    if total is None:
        return np.zeros(len(subject), np.int64)
    if total.window == "rolling":
        latest = int(quarter(np.array([now_us], np.int64))[0])
        return state.rolling.value(total.text, subject, np.full(len(subject), latest))
    return state.totals.value(total.text, subject, window)


def _size(ruleset: RuleSet, watch: Watch, windows: Windows, now_us: int) -> tuple[Ints | None, Ints | None]:
    """What the rule compares with, and add-ons on top of it: int64[n], or None where it asks for none."""
    asked = ruleset.limits.needs_size(watch.place)
    service, quota = watch.trigger.service, ruleset.quota
    if asked == "" or service is None:
        return None, None
    days = CycleDays(windows.window, windows.start, windows.end, windows.today)
    if asked == "pool":
        pool = np.maximum(windows.pool, 0)
        return quota.pool(service, watch.trigger.direction, pool, days), None
    version = ruleset.book.version_of(windows.plan, windows.today)
    if asked == "home":
        return quota.home(windows.card, version, windows.start, windows.end), None
    whole = quota.sim(service, windows.card, version, days, now_us)
    if asked == "quota":
        return whole, None
    included = quota.allowance(service, windows.card, version, windows.start, windows.end)
    return included, whole - included


def label_of(ruleset: RuleSet, watch: Watch, window: Ints) -> pl.Series:
    """String[n]: the name of each window: the label of a cycle, a local day, or the last day of a term."""
    total = Slice.of(watch.rule, watch.trigger)
    codes, inverse = distinct(window)
    names = []
    for code in codes.tolist():
        if watch.trigger.kind == "term" and code >= TERM:
            names.append(day_date(code - TERM).isoformat())
        elif watch.trigger.kind == "silence" or (total is not None and total.window == "cycle"):
            names.append(cycle_label(ruleset.book, code))
        else:
            names.append(day_date(code).isoformat())
    return pl.Series(names, dtype=pl.String).gather(inverse)
