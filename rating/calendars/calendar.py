"""Billing cycles, terms and windows of time, in the account's time zone (T1 to T5, T7).

Instants are microseconds since 1970 UTC. Days are numbers of days since 1970-01-01 (like datetime64[D] of NumPy).
Cycles are consecutive integers. A local day begins at the first instant at which the clocks of the zone show that day.
If clocks skip midnight, the day begins when they jump. A day that the zone skips is empty.

The plain way to find a local day is `datetime.astimezone` for each instant, which makes Python objects for each record.
Here it is a division and two comparisons with a table of midnights: 5,000,000 instants of one month take 0.04 to 0.09 s
(docs/decisions/0012-days-cycles-and-bands.md). tests/unit/test_calendar.py compares days with those of zoneinfo.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from rating.errors import Finding, InputError, PlanError
from rating.units.money import Ints
from schemas.plans import Cycle

Days = npt.NDArray[np.int32]

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
QUARTER_US = 900_000_000
ROLLING_QUARTERS = 96  # the rolling 24 hours are the current quarter of an hour and the 95 before it (T4)
FIRST_DAY, LAST_DAY = -25_567, 84_005  # 1900-01-01 and 2199-12-31; outside this range days are those of UTC

_EPOCH = dt.date(1970, 1, 1)
_ZERO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_ZONE_NAME = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}\Z", re.ASCII)
_MARGIN_DAYS = 200  # the table of midnights is extended this many days beyond the days needed
_CHUNK = 1 << 15


def day_number(day: dt.date) -> int:
    """Return the number of days since 1970-01-01."""
    return (day - _EPOCH).days


def day_date(number: int) -> dt.date:
    """Return the date that is `number` days after 1970-01-01."""
    return _EPOCH + dt.timedelta(days=int(number))


class ZoneCalendar:
    """The local days of one IANA time zone (T1).

    A table of the zone's midnights grows as more days are needed. The rules of the zone come from the `tzdata` package
    and never from the machine, so that a journal gives the same windows everywhere. Raises InputError if the package
    has no zone of that name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.zone = _load_zone(name)
        self._first = 0
        self._midnights: Ints = np.empty(0, np.int64)

    def local_day(self, us: Ints) -> Days:
        """Return the local day of each instant, int32[n]. Outside the years 1900 to 2199 it is the day in UTC."""
        result = np.empty(len(us), np.int32)
        if not len(us):
            return result
        first, last = int(us.min()) // DAY_US, int(us.max()) // DAY_US
        self._cover(first - 1, last + 2)
        for start in range(0, len(us), _CHUNK):
            part = us[start : start + _CHUNK]
            low, high = (int(self._bounded(np.array([edge]))[0]) for edge in (part.min(), part.max()))
            result[start : start + _CHUNK] = low if low == high else self._bounded(part)
        return result

    def _bounded(self, us: Ints) -> Ints:
        # The local day is the UTC day or one of its neighbours, because no time zone differs from UTC by a whole day.
        day = us // DAY_US
        table = self._midnights
        place = np.clip(day - self._first, 1, len(table) - 2)
        local = day + (us >= table[place + 1]) - (us < table[place])
        inside = (day >= FIRST_DAY) & (day <= LAST_DAY)
        return local if inside.all() else np.where(inside, local, day)

    def midnight_us(self, day: int) -> int:
        """Return the instant at which the local day begins, in microseconds since 1970 UTC."""
        day = int(day)
        if not FIRST_DAY <= day <= LAST_DAY:
            return day * DAY_US
        self._cover(day, day)
        return int(self._midnights[day - self._first])

    def midnights_us(self, days: npt.NDArray[np.integer]) -> Ints:
        """Return `midnight_us` of each day, int64[n]."""
        numbers = days.astype(np.int64)
        if not len(numbers):
            return numbers
        self._cover(int(numbers.min()), int(numbers.max()))
        inside = (numbers >= FIRST_DAY) & (numbers <= LAST_DAY)
        known = self._midnights[np.clip(numbers - self._first, 0, len(self._midnights) - 1)]
        return np.where(inside, known, numbers * DAY_US)

    def offset_us(self, us: int) -> int:
        """Return how far local clocks are ahead of UTC, in microseconds, at an instant of the years 1900 to 2199."""
        return _offset_us(self.zone, us)

    def as_of_previous_day_us(self, us: int) -> int:
        """Return the start of the current local day at `us`. Usage before it counts as "until yesterday" (T7)."""
        return self.midnight_us(int(self.local_day(np.array([us], np.int64))[0]))

    def _cover(self, first: int, last: int) -> None:
        first, last = max(first, FIRST_DAY), min(last, LAST_DAY)
        have_last = self._first + len(self._midnights) - 1
        if len(self._midnights) and self._first <= first and last <= have_last:
            return
        if first > last:  # all days are outside the range of the table
            first = last = FIRST_DAY if last < FIRST_DAY else LAST_DAY
        if len(self._midnights):
            first, last = min(first, self._first), max(last, have_last)
        first, last = max(first - _MARGIN_DAYS, FIRST_DAY - 2), min(last + _MARGIN_DAYS, LAST_DAY + 2)
        known = dict(enumerate(self._midnights.tolist(), self._first))
        midnights = [known[day] if day in known else _midnight_us(self.zone, day) for day in range(first, last + 1)]
        self._first, self._midnights = first, np.array(midnights, np.int64)


@lru_cache(maxsize=1024)
def zone_calendar(name: str) -> ZoneCalendar:
    """Return the cached ZoneCalendar of that name. Raises InputError if there is no such zone."""
    return ZoneCalendar(name)


@dataclass(frozen=True)
class CycleCalendar:
    """The billing cycles of a plan as consecutive integers, increasing with time (T2).

    In a month that lacks the anchor day, the cycle begins on the last day of the month.

    Cycles of several months are counted from January 1970: quarters begin in January, April, July and October, years
    begin in January. Raises PlanError if a cycle is shorter than a month or its anchor day is not 1 to 31.
    """

    cycle: Cycle

    def __post_init__(self) -> None:
        if self.cycle.months < 1:
            raise PlanError(Finding(("cycle", "months"), str(self.cycle.months), "1 or more"))
        if not 1 <= self.cycle.anchor_day <= 31:
            raise PlanError(Finding(("cycle", "anchor_day"), str(self.cycle.anchor_day), "1 to 31"))

    def index(self, day: Days) -> Days:
        """Return the cycle of each local day, int32[n]."""
        if not len(day):
            return np.empty(0, np.int32)
        low, high = int(day.min()), int(day.max())
        if high - low >= len(day):
            return self._index(day)
        cycles: Days = self._index(np.arange(low, high + 1, dtype=np.int32))[day - np.int32(low)]
        return cycles

    def _index(self, day: Days) -> Days:
        months = day.astype("datetime64[D]").astype("datetime64[M]")
        first = months.astype("datetime64[D]").astype(np.int64)
        day_of_month = day - first + 1
        anchor: int | Ints = self.cycle.anchor_day
        if anchor > 28:
            anchor = np.minimum(anchor, (months + 1).astype("datetime64[D]").astype(np.int64) - first)
        number = months.astype(np.int64) - (day_of_month < anchor)
        cycles: Days = (number // self.cycle.months).astype(np.int32)
        return cycles

    def start_day(self, index: int) -> int:
        """Return the first day of a cycle, in days since 1970-01-01."""
        month = np.datetime64(int(index) * self.cycle.months, "M")
        first, after = (int(one.astype("datetime64[D]").astype(np.int64)) for one in (month, month + 1))
        return first + min(self.cycle.anchor_day, after - first) - 1

    def end_day(self, index: int) -> int:
        """Return the last day of a cycle (inclusive), in days since 1970-01-01."""
        return self.start_day(int(index) + 1) - 1

    def days(self, index: int) -> int:
        """Return the number of days of a cycle."""
        return self.end_day(index) - self.start_day(index) + 1

    def label(self, index: int) -> str:
        """Return the name of a cycle in tables and reports: its first day, as 2026-10 if cycles begin on the 1st."""
        first = str(np.datetime64(self.start_day(index), "D"))
        return first[:7] if self.cycle.anchor_day == 1 else first

    def index_of_label(self, label: str) -> int:
        """Return the cycle with this label. Raises InputError if no cycle of this calendar has it."""
        try:
            first = dt.date.fromisoformat(f"{label}-01" if len(label) == 7 else label)
        except ValueError:
            first = None
        if first is not None:
            index = int(self._index(np.array([day_number(first)], np.int32))[0])
            if self.label(index) == label:
                return index
        like = self.label(12 * 56 // self.cycle.months)
        raise InputError(f"cycle: found {label!r}; expected the first day of a cycle, such as {like}")


def quarter(us: Ints) -> Ints:
    """Return the number of the quarter of an hour of each instant, counted from 1970 UTC, int64[n].

    Every zone in use today differs from UTC by whole quarters of an hour, so these are also quarters of the local hour.
    """
    return us // QUARTER_US


def _load_zone(name: str) -> ZoneInfo:
    if _ZONE_NAME.match(name):
        path = files("tzdata").joinpath("zoneinfo", *name.split("/"))
        if path.is_file():
            with path.open("rb") as rules:
                try:
                    return ZoneInfo.from_file(rules, key=name)
                except ValueError:
                    pass  # the package also contains files that are not zones, such as lists of zones
    raise InputError(f'time_zone: found {name!r}; expected an IANA time zone such as "Europe/Berlin" or "UTC"')


def _midnight_us(zone: ZoneInfo, day: int) -> int:
    date = day_date(day)
    local = dt.datetime(date.year, date.month, date.day, tzinfo=zone)
    instant = local.astimezone(dt.UTC)
    if instant.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
        return (instant - _ZERO) // dt.timedelta(microseconds=1)
    # Clocks skip this midnight. Find the first second at which they show this day or a later one.
    before, after = (int((instant - _ZERO).total_seconds()) + hours * 3600 for hours in (-26, 26))
    while after - before > 1:
        middle = (before + after) // 2
        if dt.datetime.fromtimestamp(middle, zone).date() >= date:
            after = middle
        else:
            before = middle
    return after * 1_000_000


def _offset_us(zone: ZoneInfo, us: int) -> int:
    offset = (_ZERO + dt.timedelta(microseconds=us)).astimezone(zone).utcoffset()
    assert offset is not None
    return offset // dt.timedelta(microseconds=1)
