"""Time bands: find the band of a record, and split a record that spans a boundary of bands (P4).

Bands are local wall clock times, so their boundaries move with the clocks of the zone. In an hour that clocks show
twice, a band applies twice. In an hour that they skip, it does not apply. The charge of a record with several bands is
not a function of one counter, but the charge of each part is a function of the counter of its rate.

The plain version looks up the wall clock of every instant. Here a table of the instants at which the band changes is
made once per zone and set of bands, and the records of a batch are searched in it. tests/unit/test_bands.py compares
the parts with the wall clock.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rating.calendars.calendar import DAY_US, FIRST_DAY, HOUR_US, LAST_DAY, ZoneCalendar, day_number
from rating.errors import FieldPath, Finding, PlanError
from rating.units.money import Ints, muldiv
from schemas.plans import Band

NO_BAND: Final = -1
MAX_PARTS = 32_767
_WEEKDAY, _WEEKEND, _WEEKDAY_HOLIDAY, _WEEKEND_HOLIDAY = range(4)
_HOLIDAYS = (_WEEKDAY_HOLIDAY, _WEEKEND_HOLIDAY)
_KINDS = {
    "all": (_WEEKDAY, _WEEKEND, *_HOLIDAYS),
    "weekdays": (_WEEKDAY, _WEEKDAY_HOLIDAY),
    "weekend": (_WEEKEND, _WEEKEND_HOLIDAY),
    "holidays": _HOLIDAYS,
}
_DAY_S = 86_400
_MARGIN_DAYS = 200
_FIRST_US, _LAST_US = (FIRST_DAY + 1) * DAY_US, LAST_DAY * DAY_US
_TIME = re.compile(r"(\d\d):(\d\d)(?::(\d\d))?\Z", re.ASCII)


class Parts(NamedTuple):
    """The parts of records, in the order of the records. Columns have one element per part.

    `record` (int64) is the row of the record, and `part` (int16) numbers its parts from 0. `band` (int16) is the
    position in the list of bands, or NO_BAND. `quantity` (int64) is the part's share of the quantity; the shares of a
    record sum to its quantity. A part lasts from `start_us` to `end_us` (int64, microseconds since 1970 UTC), the end
    not included.
    """

    record: Ints
    part: npt.NDArray[np.int16]
    band: npt.NDArray[np.int16]
    quantity: Ints
    start_us: Ints
    end_us: Ints


def split(
    zone: ZoneCalendar,
    bands: Sequence[Band],
    holidays: Sequence[dt.date],
    start_us: Ints,
    end_us: Ints,
    quantity: Ints,
) -> Parts:
    """Split records by `Timetable.split`, with the cached timetable of these bands and holidays."""
    return timetable(zone, tuple(bands), tuple(holidays)).split(start_us, end_us, quantity)


def bands_in_use(bands: Sequence[Band], holidays: Sequence[dt.date]) -> set[int]:
    """Return the positions in `bands` of those that apply at some time of some day.

    The result contains NO_BAND if there is a time at which no band applies. Raises PlanError naming a band with
    invalid times.
    """
    pieces = [piece for number, band in enumerate(bands) for piece in _pieces(number, band)]
    kinds = {_WEEKDAY, _WEEKEND, *(_HOLIDAYS[day.weekday() >= 5] for day in holidays)}
    return {band for kind in kinds for _, band in _day(pieces, kind)}


def check_band(number: int, band: Band) -> None:
    """Raise PlanError if the days or times of band `number` of a list are invalid."""
    for _ in _pieces(number, band):
        pass


@lru_cache(maxsize=512)
def timetable(zone: ZoneCalendar, bands: tuple[Band, ...], holidays: tuple[dt.date, ...]) -> Timetable:
    """Return the cached Timetable of a zone, bands and holidays. Raises PlanError naming a band with invalid times."""
    return Timetable(zone, bands, holidays)


class Timetable:
    """The times at which bands apply, in one time zone.

    If bands overlap, the one with the highest weight applies, then the one that starts later in the day, then the one
    listed first. A band that ends before it starts, such as 22:00 to 06:00, has two pieces: one before midnight and one
    after it. Each piece applies by the kind of its own day. A holiday is a weekday or weekend too, but of bands with
    equal weight, those of weekdays and of the weekend give way on it. `all` is every day.
    """

    def __init__(self, zone: ZoneCalendar, bands: Sequence[Band], holidays: Sequence[dt.date]) -> None:
        self._zone = zone
        self._plain = not bands
        pieces = [piece for number, band in enumerate(bands) for piece in _pieces(number, band)]
        self._days = [_day(pieces, kind) for kind in _KINDS["all"]]
        self._holidays = np.array(sorted({day_number(day) for day in holidays}), np.int64)
        self._first, self._last = 0, -1
        self._edges: Ints = np.empty(0, np.int64)
        self._bands: npt.NDArray[np.int16] = np.empty(0, np.int16)

    def split(self, start_us: Ints, end_us: Ints, quantity: Ints) -> Parts:
        """Split each record at the instants at which its band changes. Most records are in one band and stay whole.

        `start_us`, `end_us` and `quantity` are int64[n]; times are in microseconds since 1970 UTC. The quantity is
        split in proportion to time. Cumulative shares are rounded down to whole units, so that the seconds of a call
        are split to the second. A record stays whole, in the band at its start, if it has no length, ends before it
        starts, or would have more than MAX_PARTS parts. Instants outside the years 1900 to 2199 count as the first or
        last instant of these years.
        """
        count = len(start_us)
        end = np.maximum(start_us, end_us)
        records = np.arange(count, dtype=np.int64)
        if not count or self._plain:
            whole = np.full(count, NO_BAND, np.int16)
            return Parts(records, np.zeros(count, np.int16), whole, quantity.copy(), start_us.copy(), end)
        since, until = (np.clip(instants, _FIRST_US, _LAST_US) for instants in (start_us, end))
        self._cover(since, until)
        first = np.maximum(np.searchsorted(self._edges, since, "right") - 1, 0)
        last = np.maximum(np.searchsorted(self._edges, until, "left") - 1, first)
        parts = last - first + 1
        parts[parts > MAX_PARTS] = 1
        if parts.max() == 1:
            return Parts(records, np.zeros(count, np.int16), self._bands[first], quantity.copy(), start_us.copy(), end)
        record = np.repeat(records, parts)
        part = np.arange(len(record)) - np.repeat(np.cumsum(parts) - parts, parts)
        place = first[record] + part
        final = part == parts[record] - 1
        next_edge = self._edges[np.minimum(place + 1, len(self._edges) - 1)]
        share = quantity[record]
        cut = np.flatnonzero(parts[record] > 1)
        owner = record[cut]
        elapsed = np.where(final[cut], until[owner], next_edge[cut]) - since[owner]
        reached, _ = muldiv(np.abs(quantity[owner]), elapsed, until[owner] - since[owner])
        before = np.where(part[cut] == 0, 0, np.concatenate([np.zeros(1, np.int64), reached[:-1]]))
        share[cut] = (reached - before) * np.sign(quantity[owner])
        starts = np.where(part == 0, start_us[record], self._edges[place])
        ends = np.where(final, end[record], next_edge)
        return Parts(record, part.astype(np.int16), self._bands[place], share, starts, ends)

    def _cover(self, start_us: Ints, end_us: Ints) -> None:
        ends = np.array([start_us.min(), end_us.max()], np.int64)
        first, last = (int(day) for day in np.clip(self._zone.local_day(ends), FIRST_DAY, LAST_DAY))
        if self._first <= first and last <= self._last:
            return
        if self._first <= self._last:
            first, last = min(first, self._first), max(last, self._last)
        first, last = max(first - _MARGIN_DAYS, FIRST_DAY), min(last + _MARGIN_DAYS, LAST_DAY)
        days = np.arange(first, last + 1, dtype=np.int64)
        midnights = self._zone.midnights_us(np.arange(first, last + 2, dtype=np.int64))
        regular = np.diff(midnights) == DAY_US
        kinds = self._kinds(days)
        edges, bands = [], []
        for kind, changes in enumerate(self._days):
            starts = midnights[:-1][regular & (kinds == kind)]
            for second, band in changes:
                edges.append(starts + second * 1_000_000)
                bands.append(np.full(len(starts), band, np.int16))
        for place in np.flatnonzero(~regular):
            changes_us = list(self._changes_us(int(midnights[place]), int(midnights[place + 1])))
            edges.append(np.array([instant for instant, _ in changes_us], np.int64))
            bands.append(np.array([band for _, band in changes_us], np.int16))
        instants, holding = np.concatenate(edges), np.concatenate(bands)
        order = np.argsort(instants, kind="stable")
        instants, holding = instants[order], holding[order]
        changed = np.concatenate([[True], holding[1:] != holding[:-1]])
        self._first, self._last, self._edges, self._bands = first, last, instants[changed], holding[changed]

    def _kinds(self, days: Ints) -> Ints:
        weekend = (days + 3) % 7 >= 5  # day 0 was a Thursday
        kinds: Ints = np.where(weekend, _WEEKEND, _WEEKDAY) + len(_HOLIDAYS) * np.isin(days, self._holidays)
        return kinds

    def _changes_us(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (instant, band) at the start of a day and at each change of band, for a day on which clocks change."""
        for since, until, offset in _clock_spans(self._zone, start, end):
            wall_days = np.arange((since + offset) // DAY_US, (until + offset - 1) // DAY_US + 1, dtype=np.int64)
            walls = [
                (int(day) * DAY_US + second * 1_000_000 - offset, band)
                for day, kind in zip(wall_days, self._kinds(wall_days), strict=True)
                for second, band in self._days[kind]
            ]
            yield since, [band for instant, band in walls if instant <= since][-1]
            yield from (change for change in walls if since < change[0] < until)


def _clock_spans(zone: ZoneCalendar, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (from, until, offset from UTC) of the spans between `start` and `end` without a change of clocks.

    All are in microseconds; the end of a span is not included.
    """
    since, offset = start, zone.offset_us(start)
    while since < end:
        until = since
        while until < end and zone.offset_us(until) == offset:
            until += HOUR_US
        if until >= end and zone.offset_us(end - 1) == offset:
            yield since, end, offset
            return
        low, high = until - HOUR_US, min(until, end - 1)
        while high - low > 1:
            middle = (low + high) // 2
            if zone.offset_us(middle) == offset:
                low = middle
            else:
                high = middle
        yield since, high, offset
        since, offset = high, zone.offset_us(high)


class _Piece(NamedTuple):
    start_s: int
    end_s: int
    kinds: tuple[int, ...]
    weight: int
    gives_way: bool  # on a holiday, to other bands of its weight
    band: int


def _pieces(number: int, band: Band) -> Iterator[_Piece]:
    if band.days not in _KINDS:
        raise PlanError(Finding(("bands", number, "days"), repr(band.days), f"one of {', '.join(_KINDS)}"))
    start = _second(band.start, ("bands", number, "start"))
    end = _second(band.end, ("bands", number, "end"))
    if start in (end, _DAY_S):
        found = f"{band.end!r} after start {band.start!r}"
        raise PlanError(Finding(("bands", number, "end"), found, "a later time"))
    kinds = _KINDS[band.days]
    rank = band.weight, band.days in ("weekdays", "weekend")
    if start < end:
        yield _Piece(start, end, kinds, *rank, number)
        return
    yield _Piece(start, _DAY_S, kinds, *rank, number)
    if end > 0:
        yield _Piece(0, end, kinds, *rank, number)


def _day(pieces: Sequence[_Piece], kind: int) -> list[tuple[int, int]]:
    """Return (second of the day, band from then on) of a day without clock changes, from second 0 on.

    Consecutive elements have different bands.
    """
    own = [piece for piece in pieces if kind in piece.kinds]
    changes: list[tuple[int, int]] = []
    for second in sorted({0, *(piece.start_s for piece in own), *(piece.end_s for piece in own)} - {_DAY_S}):
        holding = [piece for piece in own if piece.start_s <= second < piece.end_s]
        best = max(holding, key=lambda piece: _rank(piece, kind), default=None)
        band = NO_BAND if best is None else best.band
        if not changes or changes[-1][1] != band:
            changes.append((second, band))
    return changes


def _rank(piece: _Piece, kind: int) -> tuple[int, bool, int, int]:
    return piece.weight, not (piece.gives_way and kind in _HOLIDAYS), piece.start_s, -piece.band


def _second(text: str, path: FieldPath) -> int:
    match = _TIME.match(text)
    if match is not None:
        hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
        value = hour * 3600 + minute * 60 + second
        if minute < 60 and second < 60 and value <= _DAY_S:
            return value
    raise PlanError(Finding(path, repr(text), 'a time from "00:00" to "24:00"'))
