"""Selection of the records of a batch that make rules on usage fire: thresholds, filters, memory (L8 to L11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from rating.calendars.calendar import day_date
from rating.catalogue.allowance_sizes import CycleDays
from rating.columnar.groups import distinct
from rating.columnar.key_index import Flags, Ints
from rating.rules.active_rule import Watch
from rating.rules.detect.traffic import Traffic
from rating.rules.firing.firings import NETWORK, NONE, Fires, Labels, nothing
from rating.rules.firing.repetition import Occurrences, memory_key
from rating.rules.totals.batch import Moved, Slid, Tally, spans
from rating.rules.totals.cycle_and_day import Slice
from rating.usage.cycles import cycle_label
from schemas.usage import Service

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet
    from rating.rules.state import RuleState


@dataclass(frozen=True)
class Candidates:
    """Records of a batch that meet the condition of one rule, in journal order. Columns are int64[n].

    `places` are rows of the traffic. `before` and `now` are the total before and after the record. `level` is the
    number of levels met, `threshold` the highest of them in units. `size` is None if the rule needs no size.
    """

    watch: Watch
    slice: Slice
    places: Ints  # rows of the traffic
    window: Ints
    level: Ints
    before: Ints
    now: Ints
    size: Ints | None
    threshold: Ints


@dataclass(frozen=True)
class _Compared:
    """Records with the totals that they found and left, and what the totals are compared with; int64[n]."""

    places: Ints  # in the traffic
    before: Ints
    now: Ints
    size: Ints | None
    limits: Ints  # int64[levels, n], or int64[levels, 1] if the limits of all records are the same


class Decisions:
    """Decisions for one batch: first the candidates of each rule, then those that the memory lets fire."""

    def __init__(self, ruleset: RuleSet, state: RuleState, traffic: Traffic) -> None:
        self.ruleset, self.state, self.traffic = ruleset, state, traffic
        self._sizes: dict[tuple[str, Service, str], tuple[Ints, Ints | None]] = {}
        self._label_of: dict[bool, Labels] = {}
        self._rat: tuple[Ints, list[str]] | None = None

    def moved(self, watch: Watch, moved: Moved, tally: Tally) -> Candidates | None:
        """Return the candidates of a rule on a slice by cycle or day; None if there are none.

        A group of records is first judged by its total after the batch. Only groups that may fire are examined record
        by record.
        """
        ordered, place = moved.ordered, watch.place
        need = self.ruleset.limits.needs_size(place)
        overage: tuple[Ints, Ints] | None = None
        size: Ints | None
        over: Ints | None
        if need == "covered":
            overage = tally.overage(moved.slice, ordered)
            size, over = moved.now - overage[1], None
        else:
            size, over = self._size(need, moved.slice, ordered.first, moved.groups)
        limits = self.ruleset.limits.of(place, size, over)
        if not len(limits):
            return None
        past = moved.now > limits[0]
        mixed = ordered.mixed if need and overage is None else None
        may = (moved.now > moved.before) & (past if mixed is None else past | mixed)
        at = np.flatnonzero(may)
        if moved.slice.pooled:
            at = at[self._has_pool(watch, self.traffic.pool[ordered.first[at]])]
        else:
            at = self._rested(watch, moved, at, limits, mixed)
        if not len(at):
            return None
        where, group = spans(ordered.starts[at], ordered.stops[at])
        added = moved.added[where]
        ends = np.cumsum(ordered.stops[at] - ordered.starts[at])
        now = _running(added, ends, group, moved.now[at])
        if overage is not None:
            covered = now - _running(overage[0][where], ends, group, overage[1][at])
        adds = np.flatnonzero(added > 0)
        where, group, now, added = where[adds], group[adds], now[adds], added[adds]
        places = ordered.order[where]
        if overage is not None:
            size = covered[adds]
            limits = self.ruleset.limits.of(place, size)
        elif mixed is not None:
            size, over = self._size(need, moved.slice, places, None)
            limits = self.ruleset.limits.of(place, size, over)
        else:
            size = None if size is None else size[at][group]
            limits = _of(limits, at[group])
        return self._candidates(watch, moved.slice, _Compared(places, now - added, now, size, limits))

    def slid(self, watch: Watch, slid: Slid) -> Candidates | None:
        """Return the candidates of a rule on a rolling slice, whose totals are known for each record; None if none."""
        limits = self.ruleset.limits.of(watch.place, None)
        return self._candidates(watch, slid.slice, _Compared(slid.places, slid.before, slid.now, None, limits))

    def fires(self, found: Sequence[Candidates]) -> list[Fires]:
        """Return the firings among the candidates of all rules. Rules with one repetition share one memory call."""
        traffic, fires = self.traffic, list[Fires]()
        for repetition in sorted({one.watch.rule.repetition for one in found}):
            some = [one for one in found if one.watch.rule.repetition == repetition]
            lengths = [len(one.places) for one in some]
            places, window, level = (
                np.concatenate([getattr(one, name) for one in some]) for name in ("places", "window", "level")
            )
            admitted, known = self.state.memory.admit(
                np.repeat([one.watch.row for one in some], lengths),
                repetition,
                Occurrences(traffic.card[places], window, level, traffic.today[places]),
                np.repeat([one.watch.holds_back for one in some], lengths)
                & ~np.concatenate([self._is_over(one.slice, one.places) for one in some]),
            )
            ends = np.cumsum(lengths).tolist()
            for one, start, end in zip(some, [0, *ends], ends, strict=False):
                at = np.flatnonzero(admitted[start:end])
                if len(at):
                    fires.append(self._fires(one, at, known[start:end][at]))
        return fires

    def _fires(self, one: Candidates, at: Ints, known: Ints) -> Fires:
        """Return the firings of the candidates at the indices `at`."""
        traffic, places = self.traffic, one.places[at]
        return Fires(
            one.watch.row,
            traffic.card[places],
            traffic.offset[places],
            one.window[at],
            one.level[at],
            known,
            before=one.before[at],
            now=one.now[at],
            size=nothing() if one.size is None else one.size[at],
            threshold=one.threshold[at],
            pool=traffic.pool[places] if one.slice.pooled else nothing(),
            used_us=traffic.used_us[places],
            place=traffic.place[places],
            label=self._labels(one.slice, places),
            withheld=np.where(self._is_over(one.slice, places), NETWORK, NONE),
        )

    def _is_over(self, one: Slice, places: Ints) -> Flags:
        """bool[n]: whether the window of each record was over when the record arrived.

        What fires for it is recorded, and people are notified. But the network does nothing: the window that it would
        be for is past.
        """
        traffic = self.traffic
        ends = traffic.cycle_end if one.window == "cycle" else traffic.day
        over: Flags = ends[places] < traffic.today[places]
        return over

    def _rested(self, watch: Watch, moved: Moved, at: Ints, limits: Ints, mixed: Flags | None) -> Ints:
        """int64[k]: the groups in `at` that the rule watches and in which the memory may let it fire."""
        traffic, rule = self.traffic, watch.rule
        first = moved.ordered.first[at]
        at = at[self.ruleset.filters.cards(watch.place, traffic.card[first], traffic.today[first])]
        if rule.repetition == "always" or not len(at) or not len(self.state.memory):
            return at
        first = moved.ordered.first[at]
        level = np.broadcast_to((moved.now[at] > _of(limits, at)).sum(axis=0), len(at))
        fires = self._unsaid(watch, traffic.card[first], self._windows(moved.slice)[first], level, traffic.today[first])
        return at[fires if mixed is None else fires | mixed[at]]

    def _unsaid(self, watch: Watch, card: Ints, window: Ints, level: Ints, today: Ints) -> Flags:
        """bool[n]: whether the memory, as of before the batch, lets the rule fire."""
        memory = self.state.memory
        if watch.rule.repetition == "once":
            window = np.zeros_like(window)
        if watch.rule.repetition == "daily":
            rows = memory.index.find(memory_key(watch.row, card, window).view(np.uint64))
            return (rows < 0) | (memory["day"][rows] < today)
        unsaid: Flags = level > memory.levels(watch.row, card, window)
        return unsaid

    def _candidates(self, watch: Watch, one: Slice, compared: _Compared) -> Candidates | None:
        """The records that meet the condition."""
        places, now, limits = compared.places, compared.now, compared.limits
        level = np.broadcast_to((now > limits).sum(axis=0), len(now))
        at = np.flatnonzero(level)
        window = self._windows(one)
        if one.pooled or one.family is None:
            at = at[self._may_fire(watch, places[at], window, level[at])]
        at = at[self._matches(watch, places[at])]
        if not len(at):
            return None
        at = at[np.argsort(places[at])]
        threshold = self.ruleset.limits.reached(watch.place, level[at], _of(limits, at))
        places, size = places[at], None if compared.size is None else compared.size[at]
        before, now = compared.before[at], now[at]
        return Candidates(watch, one, places, window[places], level[at], before, now, size, threshold)

    def _may_fire(self, watch: Watch, places: Ints, window: Ints, level: Ints) -> Flags:
        """bool[n]: whether the rule watches the card of each record, and the memory lets it fire."""
        traffic = self.traffic
        card, today = traffic.card[places], traffic.today[places]
        may = self.ruleset.filters.cards(watch.place, card, today)
        if watch.rule.repetition != "always" and len(self.state.memory):
            at = np.flatnonzero(may)
            may[at] = self._unsaid(watch, card[at], window[places[at]], level[at], today[at])
        return may

    def _matches(self, watch: Watch, places: Ints) -> Flags:
        """bool[n]: whether the filters on the zone and the RAT of the record match."""
        filters, traffic = self.ruleset.filters, self.traffic
        by_zone, by_rat = filters.looks_at(watch.place, "zone"), filters.looks_at(watch.place, "rat")
        if not len(places) or not (by_zone or by_rat):
            return np.ones(len(places), bool)
        rat, rats = self._rats() if by_rat else (np.full(len(traffic), -1), [])
        return filters.places(watch.place, traffic.zone[places], self.ruleset.zones, rat[places], rats)

    def _rats(self) -> tuple[Ints, list[str]]:
        if self._rat is None:
            rows = self.traffic.rows
            column = rows["rat"] if "rat" in rows.columns else pl.Series("rat", [None] * len(rows), pl.String)
            names = column.drop_nulls().unique().sort().to_list()
            numbers = {name: number for number, name in enumerate(names)}
            code = column.replace_strict(numbers, default=-1, return_dtype=pl.Int64).fill_null(-1)
            self._rat = code.to_numpy(), names
        return self._rat

    def _has_pool(self, watch: Watch, pool: Ints) -> Flags:
        if not watch.rule.pools:
            return np.ones(len(pool), bool)
        rows = self.ruleset.vocabulary.pools.rows
        return np.isin(pool, [rows[name] for name in watch.rule.pools if name in rows])

    def _size(self, need: str, one: Slice, at: Ints, keep: str | None) -> tuple[Ints | None, Ints | None]:
        """Return the size that limits need for the records `at`, and the add-ons on top of it (int64[k] or None each).

        The result is cached under `keep`, unless that is None.
        """
        if not need:
            return None, None
        key = (need, one.service, f"{keep}/{one.direction}")
        if keep is not None and key in self._sizes:
            return self._sizes[key]
        quota, traffic, service = self.ruleset.quota, self.traffic, one.service
        start, end = traffic.cycle_start[at], traffic.cycle_end[at]
        days = CycleDays(traffic.cycle[at], start, end, traffic.today[at])
        card, version = traffic.card[at], traffic.version[at]
        over: Ints | None = None
        if need == "pool":
            size = quota.pool(service, one.direction, traffic.pool[at], days)
        elif need == "home":
            size = quota.home(card, version, start, end)
        elif need == "tier":
            size = quota.allowance(service, card, version, start, end)
            over = quota.sim(service, card, version, days, traffic.received_us) - size
        else:
            size = quota.sim(service, card, version, days, traffic.received_us)
        if keep is not None:
            self._sizes[key] = size, over
        return size, over

    def _windows(self, one: Slice) -> Ints:
        """int64[n]: the window code of each record in the memory: its cycle, or its local day of use."""
        return self.traffic.cycle if one.window == "cycle" else self.traffic.day

    def _labels(self, one: Slice, places: Ints) -> Labels:
        """Return the name of the window of each record. The names are made once per batch."""
        by_cycle = one.window == "cycle"
        if by_cycle not in self._label_of:
            windows, rank = distinct(self._windows(one))
            book = self.ruleset.book
            names = [cycle_label(book, code) if by_cycle else day_date(code).isoformat() for code in windows.tolist()]
            self._label_of[by_cycle] = Labels(names, rank)
        return self._label_of[by_cycle][places]


def _running(added: Ints, ends: Ints, group: Ints, last: Ints) -> Ints:
    """int64[n]: the total after each record, given what each adds and the total of each group after its last record.

    Group g ends before row `ends[g]`; `group` is the group of each record.
    """
    running = np.cumsum(added)
    return running - running[ends - 1][group] + last[group]


def _of(limits: Ints, at: Ints) -> Ints:
    """Return the limits of the subjects `at`. Limits with one column apply to all subjects and are returned as is."""
    return limits if limits.shape[1] == 1 else limits[:, at]
