"""The rolling 24 hours: units by slice, SIM and quarter of an hour (T4).

The window of a SIM ends with the latest quarter Q in which the SIM had usage, and contains the quarters Q-95 to Q. It
only moves forward, so a quarter that has left the window never counts again.

Plain version: keep every record, and sum the window again for each new one. That is too slow for a batch of all SIMs.
So each SIM keeps the sum of its window, and its quarters form a linked list in NumPy arrays, which is walked only when
quarters leave. `test_windows_agree_with_a_sum_over_all_records` compares both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rating.calendars.calendar import ROLLING_QUARTERS
from rating.columnar.key_index import Ints, KeyIndex, reserve
from rating.rules.totals.cycle_and_day import stretches

QUARTER_BITS: Final = 23  # quarters of an hour since 1970: enough until 2209

_NEVER: Final = -(1 << 40)


@dataclass(frozen=True)
class Moved:
    """Total of the window before and after each record, int64[n], in the given order.

    `before` is the window moved forward to the record, without its units; `now` is with them. `counts` (bool[n]) is
    False for a record older than the window. Such a record adds nothing.
    """

    before: Ints
    now: Ints
    counts: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ByCard:
    """Records grouped by card, in journal order inside a group; int64.

    `segment[n]` is the group of each record, `starts[g]` the record that begins each group, `card[g]` its card and
    `floor[g]` the first quarter that still counts. Units of the window below it are forgotten. No record is below it.
    """

    card: Ints
    segment: Ints
    starts: Ints
    quarter: Ints  # of each record, [n]
    units: Ints  # of each record, [n]
    floor: Ints


class _Buckets:
    """The quarters of one slice.

    A row that left its window is unlinked and older than `oldest`. It stays until `Rolling.expire` drops it.
    """

    def __init__(self, keys: Ints | None = None, units: Ints | None = None) -> None:
        self.index = KeyIndex()
        self.columns = {name: np.zeros(1024, np.int64) for name in ("units", "next")}  # next: row + 1; 0: end of list
        self.cards = {name: np.zeros(1024, np.int64) for name in ("head", "total", "latest", "oldest")}
        if keys is not None and units is not None and len(keys):
            self.add(keys >> QUARTER_BITS, keys & ((1 << QUARTER_BITS) - 1), units)

    def add(self, card: Ints, quarter: Ints, units: Ints) -> None:
        """Add units to quarters that are in the windows of their cards."""
        if not len(card):
            return
        key = (card << QUARTER_BITS) | quarter
        if (np.diff(key) < 0).any():
            order = np.argsort(key, kind="stable")
            key, units = key[order], units[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        key = key[first]
        self._put(key >> QUARTER_BITS, key & ((1 << QUARTER_BITS) - 1), np.add.reduceat(units, first))

    def reach(self, card: Ints) -> None:
        """Grow the columns so that they have a row for each of these cards."""
        reserve(self.cards, int(card.max(initial=-1)) + 1)

    def _put(self, card: Ints, quarter: Ints, units: Ints) -> None:
        """Add units to distinct quarters, sorted by card and quarter."""
        self.reach(card)
        known = len(self.index)
        rows = self.index.insert(((card << QUARTER_BITS) | quarter).view(np.uint64))
        reserve(self.columns, len(self.index))
        self.columns["units"][rows] += units
        first = np.flatnonzero(np.diff(card, prepend=-1))
        last = np.append(first[1:], len(card)) - 1
        own = card[first]
        head, total, latest, oldest = (self.cards[name] for name in ("head", "total", "latest", "oldest"))
        fresh = head[own] == 0
        latest[own] = np.where(fresh, quarter[last], np.maximum(latest[own], quarter[last]))
        oldest[own] = np.where(fresh, quarter[first], np.minimum(oldest[own], quarter[first]))
        total[own] = np.where(fresh, 0, total[own]) + np.add.reduceat(units, first)
        at = np.flatnonzero(rows >= known)
        if len(at):
            rows, card = rows[at], card[at]
            begins = np.diff(card, prepend=-1) != 0
            follows = np.zeros(len(rows), np.int64)
            follows[1:] = rows[:-1] + 1
            self.columns["next"][rows] = np.where(begins, head[card], follows)
            ends = np.append(np.flatnonzero(begins)[1:], len(rows)) - 1
            head[card[ends]] = rows[ends] + 1

    def leave(self, card: Ints, lower: Ints) -> tuple[Ints, Ints, Ints]:
        """Unlink the quarters older than `lower` of distinct cards; return their index in `card`, quarter and units."""
        places, quarters, units = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        cards, columns = self.cards, self.columns
        at = np.arange(len(card))
        walked = cards["head"][card]
        fresh = np.zeros(len(card), np.int64)
        oldest = np.full(len(card), 1 << QUARTER_BITS)
        while True:
            more = walked > 0
            at, walked = at[more], walked[more] - 1
            if not len(at):
                break
            quarter = self.index.keys[walked].view(np.int64) & ((1 << QUARTER_BITS) - 1)
            following = columns["next"][walked]
            stays = quarter >= lower[at]
            kept = at[stays]
            columns["next"][walked[stays]] = fresh[kept]
            fresh[kept] = walked[stays] + 1
            oldest[kept] = np.minimum(oldest[kept], quarter[stays])
            gone = ~stays
            places.append(at[gone])
            quarters.append(quarter[gone])
            units.append(columns["units"][walked[gone]])
            columns["units"][walked[gone]] = 0
            columns["next"][walked[gone]] = 0
            walked = following
        cards["head"][card] = fresh
        cards["oldest"][card] = oldest
        left = np.concatenate(places), np.concatenate(quarters), np.concatenate(units)
        lost = np.zeros(len(card), np.int64)
        np.add.at(lost, left[0], left[2])
        cards["total"][card] -= lost
        return left

    def value(self, card: Ints, lower: Ints) -> Ints:
        """int64[n]: the units of each card in the quarters from `lower` on."""
        self.reach(card)
        value = np.where(self.cards["head"][card] > 0, self.cards["total"][card], 0)
        at = np.flatnonzero((self.cards["head"][card] > 0) & (self.cards["oldest"][card] < lower))
        walked = self.cards["head"][card[at]]
        while len(at):
            walked -= 1
            quarter = self.index.keys[walked].view(np.int64) & ((1 << QUARTER_BITS) - 1)
            value[at] -= np.where(quarter < lower[at], self.columns["units"][walked], 0)
            walked = self.columns["next"][walked]
            at, walked = at[walked > 0], walked[walked > 0]
        return value

    def linked(self) -> Ints:
        """int64[k]: the rows that define the windows, in ascending order of key: those with units, and the latest."""
        keys = self.index.keys.view(np.int64)
        card, quarter = keys >> QUARTER_BITS, keys & ((1 << QUARTER_BITS) - 1)
        inside = (self.cards["head"][card] > 0) & (quarter >= self.cards["oldest"][card])
        inside &= (self.columns["units"][: len(keys)] != 0) | (quarter == self.cards["latest"][card])
        at = np.flatnonzero(inside)
        order: Ints = at[np.argsort(keys[at])]
        return order


class Rolling:
    """Units by slice, SIM and quarter of an hour."""

    def __init__(self) -> None:
        self._slices: dict[str, _Buckets] = {}

    @property
    def slices(self) -> set[str]:
        """The names of the slices that have totals."""
        return set(self._slices)

    def use(self, text: str) -> None:
        """Start to total a slice. A new slice starts empty; an existing one does not change."""
        self._slices.setdefault(text, _Buckets())

    def drop(self, text: str) -> None:
        """Delete the totals of a slice."""
        self._slices.pop(text)

    def value(self, text: str, card: Ints, latest: Ints) -> Ints:
        """int64[n]: units of each card in the 96 quarters that end with `latest`, or with its own latest if later.

        0 if the slice has no totals.
        """
        buckets = self._slices.get(text)
        if buckets is None or not len(buckets.index):
            return np.zeros(len(card), np.int64)
        return buckets.value(card, latest - (ROLLING_QUARTERS - 1))

    def move(self, text: str, records: ByCard) -> Moved:
        """Move a slice on by records. A record of no units moves the window on, too."""
        card, segment, quarter, units, floor = (
            records.card, records.segment, records.quarter, records.units, records.floor,
        )  # fmt: skip
        buckets = self._slices[text]
        buckets.reach(card)
        held = buckets.cards["head"][card] > 0
        newest = np.where(held, buckets.cards["latest"][card], _NEVER)
        held &= newest >= floor
        newest = np.where(held, newest, _NEVER)
        final = np.maximum(np.maximum.reduceat(quarter, records.starts), newest)
        lower = np.maximum(final - (ROLLING_QUARTERS - 1), floor)
        # Walk only the cards whose windows lose quarters. The sum of all others is right as it is.
        at = np.flatnonzero((buckets.cards["head"][card] > 0) & (buckets.cards["oldest"][card] < lower))
        place, left_quarter, left_units = buckets.leave(card[at], lower[at])
        place = at[place]
        counted = left_quarter >= floor[place]
        place, left_quarter, left_units = place[counted], left_quarter[counted], left_units[counted]
        lump = np.where(buckets.cards["head"][card] > 0, buckets.cards["total"][card], 0)
        moved = _slide(records, _Windows(newest, final, lump), (place, left_quarter, left_units))
        inside = np.flatnonzero((quarter >= lower[segment]) & ((units > 0) | (quarter == final[segment])))
        buckets.add(card[segment[inside]], quarter[inside], units[inside])
        return moved

    def add(self, text: str, card: Ints, quarter: Ints, units: Ints) -> None:
        """Add units to quarters, in any order; negative units are subtracted. A new slice is started.

        Units of quarters before the window of their SIM are ignored.
        """
        self.use(text)
        buckets = self._slices[text]
        buckets.reach(card)
        held = buckets.cards["head"][card] > 0
        latest = np.full(len(buckets.cards["head"]), _NEVER)
        latest[card] = np.where(held, buckets.cards["latest"][card], _NEVER)
        np.maximum.at(latest, card, quarter)
        inside = quarter > latest[card] - ROLLING_QUARTERS
        row = buckets.index.find(((card << QUARTER_BITS) | quarter).view(np.uint64))
        inside &= (units >= 0) | (held & (row >= 0) & (quarter >= buckets.cards["oldest"][card]))
        buckets.add(card[inside], quarter[inside], units[inside])

    def expire(self, floor: int) -> None:
        """Drop quarters older than `floor`, and quarters that have left the windows of their SIMs."""
        for text, buckets in self._slices.items():
            keys = buckets.index.keys.view(np.int64)
            rows = buckets.linked()
            rows = rows[keys[rows] & ((1 << QUARTER_BITS) - 1) >= floor]
            if len(rows) < len(keys):
                self._slices[text] = _Buckets(keys[rows], buckets.columns["units"][rows])

    def to_table(self) -> pa.Table:
        """Return a table of `slice`, `key` (card and quarter) and `units`, sorted by slice and key.

        Each slice begins with a row of key -1, even if it is empty. Equal windows give equal tables.
        """
        texts = sorted(self._slices)
        counts, keys, units = [], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for text in texts:
            buckets = self._slices[text]
            rows = buckets.linked()
            keys += [np.array([-1], np.int64), buckets.index.keys[rows].view(np.int64)]
            units += [np.zeros(1, np.int64), buckets.columns["units"][rows]]
            counts.append(len(rows) + 1)
        code = np.repeat(np.arange(len(texts), dtype=np.int32), counts)
        return pa.table(
            {
                "slice": pa.DictionaryArray.from_arrays(code, pa.array(texts, pa.string())),
                "key": np.concatenate(keys),
                "units": np.concatenate(units),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> Rolling:
        """Return the windows from a table that `to_table` returned."""
        rolling = cls()
        for text, start, stop in stretches(table):
            own = table.slice(start + 1, stop - start - 1)
            rolling._slices[text] = _Buckets(np.array(own["key"].to_numpy()), np.array(own["units"].to_numpy()))
        return rolling


@dataclass(frozen=True)
class _Windows:
    """The windows of the groups of records, int64[g]: their latest quarter before and after the records, and the units
    that are in them before and stay.
    """

    newest: Ints
    final: Ints
    lump: Ints


def _slide(records: ByCard, windows: _Windows, left: tuple[Ints, Ints, Ints]) -> Moved:
    """The window of each record. `left` (group, quarter, units) was in the windows and leaves.

    `lump[g]` are earlier units of the window that stay. `left` (group, quarter, units) are earlier units that leave it.
    Units enter with their record, and leave with the first record of their group that is 96 or more quarters later. The
    total is what has entered minus what has left.
    """
    segment, starts, quarter, units = records.segment, records.starts, records.quarter, records.units
    newest, final = windows.newest, windows.final
    fresh = np.ones(len(segment), bool)
    if len(left[0]):
        # The earlier units go before the records of their group.
        whose = np.concatenate([left[0], segment])
        order = np.argsort(whose, kind="stable")
        segment = whose[order]
        quarter = np.concatenate([left[1], quarter])[order]
        units = np.concatenate([left[2], units])[order]
        fresh = np.concatenate([np.zeros(len(left[0]), bool), fresh])[order]
        starts = np.flatnonzero(np.diff(segment, prepend=-1))
    reached = np.where(fresh, quarter, newest[segment])
    reached[starts] = np.maximum(reached[starts], newest)
    base = int(min(quarter.min(), reached.min()))
    span = int(final.max()) - base + ROLLING_QUARTERS + 2
    latest = np.maximum.accumulate(segment * span + (reached - base))
    entered = np.cumsum(units)
    leaves = np.flatnonzero(quarter + ROLLING_QUARTERS <= final[segment])
    if len(leaves):
        until = np.searchsorted(latest, segment[leaves] * span + (quarter[leaves] - base + ROLLING_QUARTERS))
        until = np.maximum(until, leaves)
        out = np.zeros(len(units), np.int64)
        np.add.at(out, until, units[leaves])
        entered -= np.cumsum(out)
    opened = np.zeros(len(starts), np.int64)
    opened[1:] = entered[starts[1:] - 1]
    now = entered - opened[segment] + windows.lump[segment]
    counts = quarter + ROLLING_QUARTERS > latest - segment * span + base
    before = now - np.where(counts, units, 0)
    return Moved(before[fresh], now[fresh], counts[fresh])
