"""Totals of a batch: what each record adds to each slice, and the totals before and after it (L7, L8).

Records are sorted once for all slices of a family, and once for all rolling slices. A slice is then one column: the
units that each record adds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from rating.calendars.calendar import ROLLING_QUARTERS, quarter
from rating.columnar.groups import Groups, distinct
from rating.columnar.key_index import Flags, Ints
from rating.rules.detect.traffic import Traffic
from rating.rules.totals.cycle_and_day import Family, Slice, total_key
from rating.rules.totals.rolling import ByCard

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet
    from rating.rules.state import RuleState


@dataclass(frozen=True)
class Ordered:
    """Records grouped by subject and window, in journal order inside a group.

    `order` (int64[n]) are rows of the traffic. Group i has the records `order[starts[i]:stops[i]]`.
    """

    order: Ints
    starts: Ints
    stops: Ints
    first: Ints  # int64[g]: the first record of each group
    rows: Ints  # int64[g]: the row of each group in the totals of its family
    mixed: Flags | None  # bool[g]: whether the size can differ within the group; None: it differs in no group

    def take(self, at: Ints) -> Self:
        """Return the groups at the given indices."""
        mixed = None if self.mixed is None else self.mixed[at]
        return replace(
            self, starts=self.starts[at], stops=self.stops[at], first=self.first[at], rows=self.rows[at], mixed=mixed
        )


@dataclass(frozen=True)
class Moved:
    """Totals of one slice before and after the batch.

    `before` and `now` (int64[g]) are the totals of the groups of `ordered`. `added` (int64[n]) has the units that each
    record adds, in the order of `ordered.order`. `groups` names the groups: equal names mean equal groups.
    """

    slice: Slice
    groups: str
    ordered: Ordered
    added: Ints
    before: Ints
    now: Ints


@dataclass(frozen=True)
class Slid:
    """Totals of one rolling slice before and after each record that adds to it, int64[k] each.

    `places` are rows of the traffic.
    """

    slice: Slice
    places: Ints
    before: Ints
    now: Ints


class Tally:
    """Adds a batch of traffic, which must have at least one record, to the totals of slices."""

    def __init__(self, ruleset: RuleSet, state: RuleState, traffic: Traffic, slices: list[Slice]) -> None:
        self.ruleset, self.state, self.traffic = ruleset, state, traffic
        self._services: dict[Family | None, Ints] = {}
        for one in slices:
            known = self._services.setdefault(one.family, np.zeros(3, np.int64))
            known[one.service] = 1
        self._ordered: dict[Family, Ordered | None] = {}
        self._by_card: Groups | None = None
        self._rolled: tuple[Ints, Groups, Ints, Ints] | None = None

    def move(self, one: Slice) -> Moved | None:
        """Add the batch to a slice of a family. Returns None if no record adds to it."""
        family = one.family
        assert family is not None
        self.state.totals.use(one.text, family)
        which = self._which(one)
        if which is None or not which.any():
            return None
        if family not in self._ordered:
            self._ordered[family] = self._order(family)
        ordered = self._ordered[family]
        if ordered is None:
            return None
        added = np.where(which, self._units(one), 0)[ordered.order]
        sums, groups = np.add.reduceat(added, ordered.starts), str(family)
        at = np.flatnonzero(sums)
        if 2 * len(at) < len(sums):  # spare rules the many groups that add nothing to this slice
            sums, ordered, groups = sums[at], ordered.take(at), one.text
        column = self.state.totals.column(one.text)
        before = column[ordered.rows]
        now = before + sums
        column[ordered.rows] = now
        return Moved(one, groups, ordered, added, before, now)

    def slide(self, one: Slice) -> Slid | None:
        """Add the batch to a rolling slice. Returns None if no record belongs to it."""
        self.state.rolling.use(one.text)
        which = self._which(one)
        if which is None or not which.any():
            return None
        if self._rolled is None:
            self._rolled = self._roll()
        at, groups, quarters, floors = self._rolled
        order = at[groups.order]
        takes = which[order]
        places, segment = order[takes], groups.segment[takes]
        if not len(places):
            return None
        first = np.flatnonzero(np.diff(segment, prepend=-1))
        present = np.diff(segment, prepend=-1) != 0
        units = self._units(one)[places]
        card, floor = self.traffic.card[places[first]], floors[self.traffic.account[places[first]]]
        records = ByCard(card, np.cumsum(present) - 1, first, quarters[places], units, floor)
        moved = self.state.rolling.move(one.text, records)
        added = np.flatnonzero(moved.counts & (units > 0))
        return Slid(one, places[added], moved.before[added], moved.now[added])

    def _units(self, one: Slice) -> Ints:
        traffic = self.traffic
        if one.counts == "sessions":
            return traffic.started.astype(np.int64)
        if one.counts == "overage":
            return traffic.overage
        if one.pooled:
            return traffic.pool_units
        return traffic.home_units if one.counts == "home" else traffic.units

    def overage(self, one: Slice, ordered: Ordered) -> tuple[Ints, Ints]:
        """Return how much of what each record adds to a slice was overage, and the overage of each group by now.

        int64[n] in the order of `ordered.order`, and int64[groups]. The slice's overage must have been moved before.
        """
        companion = one.of_overage()
        which = self._which(companion)
        assert which is not None
        added = np.where(which, self.traffic.overage, 0)[ordered.order]
        return added, self.state.totals.column(companion.text)[ordered.rows]

    def _which(self, one: Slice) -> Flags | None:
        """bool[n]: the records that belong to a slice, whatever their time of use; None if there are none."""
        traffic = self.traffic
        which: Flags = traffic.service == one.service
        if one.direction is not None:
            which &= traffic.direction == one.direction
        if one.country is not None:
            if one.country not in traffic.countries:
                return None
            which &= traffic.country == traffic.countries.index(one.country)
        if one.zone is not None:
            if one.zone not in self.ruleset.zones:
                return None
            which &= traffic.zone == self.ruleset.zones.index(one.zone)
        if one.pooled:
            which &= traffic.pool_units > 0
        return which

    def _order(self, family: Family) -> Ordered | None:
        traffic = self.traffic
        takes = self._services[family][traffic.service] > 0
        subject, window = traffic.card, traffic.cycle
        if family == "pool/cycle":
            subject = traffic.pool
            declared = np.array([pool is not None for pool in self.ruleset.book.pools] or [False])
            takes &= (subject >= 0) & declared[subject]
        elif family == "sim/day":
            window = traffic.day
            takes &= self._day_is_open()
        if not takes.any():
            return None
        at, groups = self._group(takes, subject, window)
        first = at[groups.order[groups.starts]]
        keys = total_key(subject[first], window[first])
        # A quota depends on the plan version. The size of a pool depends on the local day.
        order = at[groups.order]
        differs = traffic.today if family == "pool/cycle" else traffic.version
        other = differs[order] != differs[first][groups.segment]
        return Ordered(
            order,
            groups.starts,
            np.append(groups.starts[1:], len(order)),
            first,
            self.state.totals.rows(family, keys),
            np.logical_or.reduceat(other, groups.starts) if other.any() else None,
        )

    def _group(self, takes: Flags, subject: Ints, window: Ints) -> tuple[Ints, Groups]:
        at = np.flatnonzero(takes)
        windows, rank = distinct(window[at])
        if len(windows) == 1 and len(at) == len(takes) and subject is self.traffic.card:
            return at, self._cards()
        return at, Groups.of(subject[at] * len(windows) + rank)

    def _cards(self) -> Groups:
        if self._by_card is None:
            self._by_card = Groups.of(self.traffic.card)
        return self._by_card

    def _day_is_open(self) -> Flags:
        """bool[n]: whether the local day of use still takes usage: until the grace period of the account ends (T5)."""
        book, traffic = self.ruleset.book, self.traffic
        days, rank = distinct(traffic.day)
        ends = np.stack([zone.midnights_us(days + 1) for zone in book.time_zones])
        if traffic.clock_us <= ends.min() + book.grace_us.min(initial=0):
            return np.ones(len(traffic), bool)
        closes = ends[book.account_zone[traffic.account], rank] + book.grace_us[traffic.account]
        is_open: Flags = traffic.clock_us <= closes
        return is_open

    def _roll(self) -> tuple[Ints, Groups, Ints, Ints]:
        """Group the records that rolling windows still take by card.

        Returns the rows of the traffic (int64[k]), their groups by card, the quarter of an hour of every record
        (int64[n]), and the first quarter that still counts for each account (int64[accounts]).
        """
        traffic = self.traffic
        quarters = quarter(traffic.used_us)
        floors = floor_quarter(traffic.clock_us, self.ruleset.book.grace_us)
        takes = self._services[None][traffic.service] > 0
        if quarters.min() < floors.max(initial=0):
            takes &= quarters >= floors[traffic.account]
        if takes.all():
            return np.arange(len(traffic)), self._cards(), quarters, floors
        at = np.flatnonzero(takes)
        return at, Groups.of(traffic.card[at]), quarters, floors


def floor_quarter(clock_us: int, grace_us: Ints) -> Ints:
    """int64[n]: the first quarter of an hour that rolling windows still count, given the grace period (T4, T5)."""
    return quarter(clock_us - grace_us) - (ROLLING_QUARTERS - 1)


def spans(starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """Return the concatenated indices of the non-empty ranges [starts[i], stops[i]), and the range number of each."""
    lengths = stops - starts
    stretch = np.repeat(np.arange(len(starts)), lengths)
    begins = np.cumsum(lengths) - lengths
    return np.arange(len(stretch)) + (starts - begins)[stretch], stretch
