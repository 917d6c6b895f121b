"""Rules on time: silences, ends of terms, repeats of daily rules, and the end of suspensions.

A tick evaluates each rule once over whole columns of cards. Only the entries before the tick in the journal count.
A condition that came and went between two ticks is not detected, except a billing cycle without any report.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rating.calendars.calendar import DAY_US, QUARTER_US
from rating.catalogue.spells import END
from rating.columnar.key_index import Flags, Ints
from rating.rules.active_rule import Watch
from rating.rules.commands.results import CANCELLED
from rating.rules.detect.changes import plan_fires
from rating.rules.detect.events import admit, last_seen, matching
from rating.rules.detect.last_seen import HEARD, quiet_columns
from rating.rules.detect.releases import release_fires
from rating.rules.firing.firings import Fires
from rating.rules.firing.holding import take_holds
from rating.rules.firing.repetition import WINDOW_BITS, Occurrences
from rating.rules.totals.current import TERM, current_window, label_of, standing, windows_of
from rating.rules.totals.cycle_and_day import Slice
from rating.usage.accept import local_days
from rating.usage.cycles import cycle_code

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet
    from rating.rules.state import RuleState

_ACTIVE: Final = "activated"


def tick_fires(ruleset: RuleSet, state: RuleState, now_us: int, offset: int) -> list[Fires]:
    """Return the firings of a tick: silences, terms, daily rules that are still past their threshold, changes of plan,
    and releases (L1 to L5). The holds of the others are put before anything is released.
    """
    tick = _Tick(ruleset, state, now_us, offset)
    fires: list[Fires] = []
    for watch in ruleset.watches:
        kind, rule = watch.trigger.kind, watch.rule
        if kind == "silence":
            fires += tick.silence(watch)
        elif watch.trigger.unit == "days":
            fires += tick.term_ends(watch)
        elif kind == "term" and rule.by != "data":
            fires += tick.term_over(watch)
        if rule.repetition == "daily" and Slice.of(rule, watch.trigger) is not None:
            fires += tick.repeats(watch)
    fires += plan_fires(ruleset, state, now_us, offset)
    fires = take_holds(ruleset, state.holds, fires)
    fires += release_fires(ruleset, state, now_us, offset, ticking=True)
    tick.forget()
    return fires


@dataclass(frozen=True)
class _Former:
    """The last complete billing cycle before a tick, one row per card.

    `begins` and `ends` are microseconds since 1970 UTC, `ends` exclusive. `code` is the code of the cycle. `known` is
    False if the card has no plan.
    """

    begins: Ints
    ends: Ints
    code: Ints
    known: Flags


class _Tick:
    """Values that the rules share during one tick. Columns have one row per card."""

    def __init__(self, ruleset: RuleSet, state: RuleState, now_us: int, offset: int) -> None:
        self.ruleset, self.state = ruleset, state
        self.now_us, self.offset = now_us, offset
        accounts = np.arange(len(ruleset.catalogue.accounts))
        self._past: list[Ints] = []  # keys of memory rows to forget at the end of the tick
        days = local_days(ruleset.book, accounts, np.full(len(accounts), now_us, np.int64))
        self.today = days[ruleset.directory.account]

    @cached_property
    def rules(self) -> npt.NDArray[np.uint16]:
        """uint16[memory]: the rule of each memory row. Narrow, because every rule scans it for its own rows."""
        return self.state.memory.rule.astype(np.uint16)

    @cached_property
    def activated(self) -> Flags:
        """bool[cards]: the activated cards. Only these are watched for silence."""
        status = self.ruleset.directory.cards["status"]
        active: Flags = (status.fill_null(_ACTIVE) == _ACTIVE).to_numpy()
        return active

    @cached_property
    def cancelled(self) -> Flags:
        """bool[cards]: the cards that are cancelled for good. Nobody is notified of the end of their terms."""
        return (self.ruleset.directory.cards["status"] == CANCELLED).fill_null(False).to_numpy()

    @cached_property
    def _has_plan(self) -> Flags:
        """bool[cards]: the cards that have a plan today."""
        has: Flags = self.ruleset.directory.plans.at(np.arange(len(self.today)), self.today) >= 0
        return has

    @cached_property
    def former(self) -> _Former:
        """The last complete billing cycle of the plan of each card."""
        book, directory = self.ruleset.book, self.ruleset.directory
        plan = directory.plans.at(np.arange(len(directory)), self.today)
        known = plan >= 0
        zone = book.account_zone[directory.account]
        days = [int(one.local_day(np.array([self.now_us], np.int64))[0]) for one in book.time_zones]
        table = np.zeros((3, len(book.cycle_calendars), len(days)), np.int64)
        for kind, calendar in enumerate(book.cycle_calendars):
            for place, day in enumerate(days):
                number = int(calendar.index(np.array([day], np.int32))[0]) - 1
                midnight_us = book.time_zones[place].midnight_us
                begins, ends = calendar.start_day(number), calendar.start_day(number + 1)
                table[:, kind, place] = midnight_us(begins), midnight_us(ends), cycle_code(kind, np.array(number))
        kind_of = book.plan_cycle[plan] if len(book.plan_cycle) else np.zeros(len(plan), np.int64)
        begins_us, ends_us, code = table[:, kind_of, zone]
        return _Former(begins_us, ends_us, code, known)

    def silence(self, watch: Watch) -> list[Fires]:
        """Return the firings for SIMs without a report for 24 hours, or in the whole last complete cycle."""
        sightings = self.state.sightings
        heard = HEARD[watch.trigger.service]
        last = sightings[heard]
        since = np.maximum(sightings["known_us"], watch.since_us)
        if watch.trigger.window == "day":
            began = np.maximum(last, since)
            silent = self.activated & (self.now_us - began >= DAY_US)
            # The begin of a silence, in quarters of an hour, identifies it. The number repeats after 29 years.
            window = (began // QUARTER_US) & ((1 << WINDOW_BITS) - 1)
            return self._due(watch, silent.astype(np.int64), window, labelled=False)
        former = self.former
        quiet, again = quiet_columns(heard)
        silent = (last < former.begins) | ((sightings[quiet] < former.begins) & (sightings[again] >= former.ends))
        silent &= self.activated & former.known & (since <= former.begins)
        return self._due(watch, silent.astype(np.int64), former.code)

    def term_ends(self, watch: Watch) -> list[Fires]:
        """Return the firings for SIMs whose term ends in so many days. The last day of the term is day 0 (L4, L5)."""
        end = self.ruleset.directory.term_ends
        left = np.where(self.cancelled, -1, end - self.today)
        thresholds = self.ruleset.limits.days(watch.place)
        level = np.zeros(len(end), np.int64)
        for days in thresholds:
            level += left <= days
        level[(left < 0) | (end == END)] = 0
        return self._due(watch, level, TERM | end, left, thresholds)

    def term_over(self, watch: Watch) -> list[Fires]:
        """Return the firings for SIMs whose term is over, and was not when the rule started."""
        book, directory = self.ruleset.book, self.ruleset.directory
        end = directory.term_ends
        since = local_days(book, directory.account, np.full(len(directory), watch.since_us, np.int64))
        level = (self.today > end) & (since <= end + 1) & ~self.cancelled
        return self._due(watch, level.astype(np.int64), TERM | end)

    def _due(
        self,
        watch: Watch,
        level: Ints,
        window: Ints,
        value: Ints | None = None,
        thresholds: Ints | None = None,
        labelled: bool = True,
    ) -> list[Fires]:
        """Fire for cards that meet a level that has not fired yet in their window. Columns are int64[cards].

        `level` is the number of levels met. `value` and `thresholds` are given for rules on the end of the term.
        """
        memory, repetition = self.state.memory, watch.rule.repetition
        due = level > 0
        rows = np.flatnonzero(self.rules == watch.row)
        if len(rows):
            card = memory.card[rows]
            same = memory.window[rows] == (0 if repetition == "once" else window[card])
            past = rows[~same & (memory["held"][rows] == 0)]
            self._past.append(memory.keys[past[(memory.window[past] >= TERM) | (watch.trigger.kind == "silence")]])
            rows, card = rows[same], card[same]
            done = (
                memory["day"][rows] >= self.today[card]
                if repetition == "daily"
                else memory["level"][rows] >= level[card]
            )
            due[card[done]] = False
        card = np.flatnonzero(due)
        card = card[matching(self.ruleset, watch, card, self.today[card])]
        keep = last_seen(self.ruleset, watch, self.state.sightings, card)
        card = card if keep is True else card[keep]
        columns: dict[str, Ints | pl.Series] = {"offset": np.full(len(card), self.offset, np.int64)}
        if labelled:
            columns["label"] = label_of(self.ruleset, watch, window[card])
        if value is not None and thresholds is not None:
            columns |= {"now": value[card], "threshold": thresholds[level[card] - 1]}
        # No record meets the condition of a silence or a term, so "always" cannot fire for each record.
        once = "once_per_window" if repetition == "always" else repetition
        held = watch.holds_back and watch.trigger.kind == "term"
        found = Occurrences(card, window[card], level[card], self.today[card])
        return admit(self.state, watch, found, columns, once, held)

    def forget(self) -> None:
        """Forget the firings of silences that have ended and of terms that have changed."""
        past = np.concatenate([np.zeros(0, np.int64), *self._past])
        if len(past):
            self.state.memory.keep(~np.isin(self.state.memory.keys, past))

    def repeats(self, watch: Watch) -> list[Fires]:
        """Return the firings of a daily rule for SIMs that are past its threshold in the current window.

        A SIM for which the rule fired today is left out. A pool rule has only the SIMs as targets whose usage met the
        condition before, as long as the window of that firing is open.
        """
        memory = self.state.memory
        rows = np.flatnonzero(self.rules == watch.row)
        told = memory["day"][rows] >= self.today[memory.card[rows]]
        if watch.trigger.kind == "pool":
            rows = rows[~told]
            card, window = memory.card[rows], memory.window[rows]
        else:
            due = self._has_plan.copy()
            due[memory.card[rows[told]]] = False
            card = np.flatnonzero(due)
            card = card[matching(self.ruleset, watch, card, self.today[card])]
            window = current_window(self.ruleset, watch, card, self.today[card])
        if not len(card):
            return []
        windows = windows_of(self.ruleset, watch, card, window, self.today[card], self.now_us)
        windows = windows.take(np.flatnonzero(~windows.over))
        # Sort, because the order of the memory depends on how usage was split into batches.
        windows = windows.take(np.lexsort((windows.start, windows.end, windows.card)))
        windows = windows.take(np.flatnonzero(matching(self.ruleset, watch, windows.card, windows.today)))
        keep = last_seen(self.ruleset, watch, self.state.sightings, windows.card)
        windows = windows if keep is True else windows.take(np.flatnonzero(keep))
        now = standing(self.ruleset, self.state, watch, windows, self.now_us)
        at = np.flatnonzero(now.level > 0)
        if not len(at):
            return []
        columns: dict[str, Ints | pl.Series] = {
            "offset": np.full(len(at), self.offset, np.int64),
            "before": now.value[at],
            "now": now.value[at],
            "size": now.size[at],
            "pool": windows.pool[at],
            "threshold": now.threshold[at],
            "label": label_of(self.ruleset, watch, windows.window[at]),
        }
        found = Occurrences(windows.card[at], windows.window[at], now.level[at], windows.today[at])
        return admit(self.state, watch, found, columns, held=watch.holds_back)
