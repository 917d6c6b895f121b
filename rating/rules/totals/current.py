"""Current totals and levels of rules, for entries that bring no usage (ticks, catalogues, commands)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import polars as pl

from rating.calendars.calendar import day_date, quarter
from rating.catalogue.allowance_sizes import CycleDays
from rating.columnar.groups import distinct
from rating.columnar.key_index import Flags, Ints
from rating.rules.active_rule import Watch
from rating.rules.firing.firings import NONE
from rating.rules.totals.cycle_and_day import Slice
from rating.usage.accept import local_days
from rating.usage.cycles import cycle_code, cycle_days, cycle_label

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet
    from rating.rules.state import RuleState

TERM: Final = 1 << 19  # added to the last day of a term, so that its window code differs from every cycle code so far


@dataclass(frozen=True)
class Windows:
    """Windows in which a rule fired for SIMs. Columns are int64[n] unless noted.

    `start` and `end` are the first and last local day of the cycle, inclusive, or the one day. `today` is the current
    local day, `plan` the current plan. `pool` is the current pool of the SIM, for a pool rule (NONE: none). `over`
    (bool[n]) says that the window has ended or, if the window is a term, that the term was extended.
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
        """Return the windows at the given indices, in that order."""
        columns: dict[str, Any] = {one.name: getattr(self, one.name)[at] for one in fields(self)}
        return type(self)(**columns)


def windows_of(ruleset: RuleSet, watch: Watch, card: Ints, window: Ints, day: Ints, now_us: int) -> Windows:
    """Return the windows of memory rows, given card, window and the local day of the last firing (int64[n] each).

    The memory keeps no window for a rule with repetition `once`. Its window is the one that contains the day of the
    firing.
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
    over[at] = (ends != window[at] - TERM) & (today[at] <= ends)  # the term was extended
    return Windows(card, window, today, plan, pool, start, end, over)


def current_window(ruleset: RuleSet, watch: Watch, card: Ints, day: Ints) -> Ints:
    """int64[n]: the window of the total of a SIM rule that contains a local day: its billing cycle, or the day.

    The billing cycle is that of the pool if the SIM draws on one that has its own, else that of the plan.
    """
    total = Slice.of(watch.rule, watch.trigger)
    if total is None or total.window != "cycle":
        return day
    plan = ruleset.directory.plans.at(card, day)
    pool = ruleset.pools.of(card, plan, np.full(len(card), int(total.service)), day)
    return _window_on(ruleset, replace(total, pooled=True), card, pool, day)


def _window_on(ruleset: RuleSet, total: Slice | None, card: Ints, pool: Ints, day: Ints) -> Ints:
    """int64[n]: the window of a total that contains a local day; the window of the term if there is no total."""
    book, directory = ruleset.book, ruleset.directory
    if total is None:
        return TERM | directory.term_ends[card]
    if total.window != "cycle":
        return day
    plan = directory.plans.at(card, day)
    kind = np.where(plan >= 0, book.plan_cycle[plan], 0)
    if total.pooled and len(book.pool_cycle):
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
    """Current values of a rule in each window, int64[n] each; NONE is null.

    `level` is the number of levels met, `value` the total, `size` the size that it is compared with, and `threshold`
    the highest level met, in units.
    """

    level: Ints
    value: Ints
    size: Ints
    threshold: Ints


def standing(ruleset: RuleSet, state: RuleState, watch: Watch, windows: Windows, now_us: int) -> Standing:
    """Return the current level, total and size of the rule in each window, with the current quotas and pools."""
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
    sizes: Ints | None
    addons: Ints | None
    if ruleset.limits.needs_size(watch.place) == "covered":
        sizes, addons = own - _overage(ruleset, state, watch, windows, own, now_us), None
    else:
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
    """int64[n]: the total that a rule compares, for SIMs (or pools) in windows; a rolling total as of `now_us`."""
    total = Slice.of(watch.rule, watch.trigger)
    if total is None:
        return np.zeros(len(subject), np.int64)
    if total.window == "rolling":
        latest = int(quarter(np.array([now_us], np.int64))[0])
        return state.rolling.value(total.text, subject, np.full(len(subject), latest))
    return state.totals.value(total.text, subject, window)


def _overage(ruleset: RuleSet, state: RuleState, watch: Watch, windows: Windows, used: Ints, now_us: int) -> Ints:
    """int64[n]: the overage of each SIM in its window: what rating priced, less what add-ons and plans cover by now.

    What a later add-on has left covers overage. So does the quota of a later plan, of a SIM that draws on no pool and
    whose plan has one counter for the service.
    """
    total, card, quota = Slice.of(watch.rule, watch.trigger), windows.card, ruleset.quota
    assert total is not None
    priced = state.totals.value(total.of_overage().text, card, windows.window)
    version = ruleset.book.version_of(windows.plan, windows.today)
    pool = ruleset.pools.of(card, windows.plan, np.full(len(card), int(total.service)), windows.today)
    days = CycleDays(windows.window, windows.start, windows.end, windows.today)
    past = np.maximum(used - quota.sim(total.service, card, version, days, now_us), 0)
    left = ruleset.addons.left(card, total.service, now_us, windows.today)
    alone = (pool < 0) & quota.has_one_counter(total.service)[version] & (version >= 0)
    overage: Ints = np.where(alone, np.minimum(priced, past), np.maximum(priced - left, 0))
    return overage


def _size(ruleset: RuleSet, watch: Watch, windows: Windows, now_us: int) -> tuple[Ints | None, Ints | None]:
    """Return the size that the rule compares with, and the add-ons on top of it: int64[n] each, or None."""
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
    """String[n]: the name of each window: the label of a cycle, a local day, or the last day of the term."""
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
