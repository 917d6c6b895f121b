"""Cycles, terms and windows (T1 to T5, T7), over every kind of change of the clocks."""

from __future__ import annotations

import datetime as dt
import time
from calendar import monthrange
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rating.calendars.calendar import (
    DAY_US,
    HOUR_US,
    CycleCalendar,
    ZoneCalendar,
    day_date,
    day_number,
    quarter,
    zone_calendar,
)
from rating.errors import InputError, PlanError
from schemas.plans import Cycle

ZONES = [
    *("UTC", "America/Los_Angeles", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"),
    *("Pacific/Apia", "Pacific/Kiritimati", "America/Sao_Paulo", "Asia/Beirut", "America/Havana", "Africa/Casablanca"),
    *("Pacific/Chatham", "America/St_Johns", "Asia/Shanghai", "Antarctica/Troll", "Etc/GMT+12", "Asia/Gaza"),
]
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def instant(text: str, zone: str = "UTC") -> int:
    """Microseconds since 1970 of a local time."""
    return (dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)) - EPOCH) // dt.timedelta(microseconds=1)


def local_dates(zone: str, *instants: int) -> list[str]:
    days = zone_calendar(zone).local_day(np.array(instants, np.int64))
    assert days.dtype == np.int32
    return [day_date(day).isoformat() for day in days]


def edges_of(zone: str, first: str, days: int) -> list[int]:
    """The instants at which so many local days from the first on begin, and the one at which the last ends."""
    number = day_number(dt.date.fromisoformat(first))
    return zone_calendar(zone).midnights_us(np.arange(number, number + days + 1)).tolist()


class TestLocalDays:
    def test_seven_windows_across_the_change_to_summer_time(self) -> None:
        """2025-03-06 to 2025-03-12 in Los Angeles is 7 contiguous windows, each from local midnight, one of 23 h."""
        edges = edges_of("America/Los_Angeles", "2025-03-06", 7)
        assert edges == [instant(f"2025-03-{day:02}T00:00", "America/Los_Angeles") for day in range(6, 14)]
        assert [24, 24, 24, 23, 24, 24, 24] == [(end - start) // HOUR_US for start, end in pairwise(edges)]

    def test_a_day_of_25_hours(self) -> None:
        """The day on which clocks go back is one window of 25 hours, whose repeated hour is in it twice."""
        start, end = edges_of("Europe/Berlin", "2025-10-26", 1)
        assert 25 * HOUR_US == end - start
        edges = (start, start + 3 * HOUR_US, end - 1, end)
        assert ["2025-10-26"] * 3 + ["2025-10-27"] == local_dates("Europe/Berlin", *edges)

    @pytest.mark.parametrize(
        ("zone", "day", "first"),
        [
            ("America/Sao_Paulo", "2018-11-04", "2018-11-04T01:00"),
            ("Asia/Beirut", "2022-03-27", "2022-03-27T01:00"),
            ("America/Havana", "2024-03-10", "2024-03-10T01:00"),
        ],
    )
    def test_a_midnight_that_does_not_exist(self, zone: str, day: str, first: str) -> None:
        """Where clocks skip midnight, the day begins at the first instant that it has."""
        began = zone_calendar(zone).midnight_us(day_number(dt.date.fromisoformat(day)))
        assert instant(first, zone) == began
        before = (dt.date.fromisoformat(day) - dt.timedelta(days=1)).isoformat()
        assert [before, day] == local_dates(zone, began - 1, began)

    def test_a_midnight_inside_a_gap(self) -> None:
        """Where clocks jump from before midnight to after it, the day begins there (Toronto, 1919-03-30 23:30)."""
        start, end = edges_of("America/Toronto", "1919-03-31", 1)
        assert instant("1919-03-31T00:30", "America/Toronto") == start
        assert 23 * HOUR_US + HOUR_US // 2 == end - start

    def test_a_midnight_that_comes_twice(self) -> None:
        """Where clocks go back over midnight, the day begins at the first of the two (Havana, 2024-11-03)."""
        start, end = edges_of("America/Havana", "2024-11-03", 1)
        assert instant("2024-11-03T04:00") == start
        assert 25 * HOUR_US == end - start

    def test_a_day_that_the_zone_skipped(self) -> None:
        """Samoa had no 2011-12-30: its window is empty and contains no instant."""
        edges = edges_of("Pacific/Apia", "2011-12-29", 3)
        assert [24, 0, 24] == [(end - start) // HOUR_US for start, end in pairwise(edges)]
        jump = instant("2011-12-30T10:00")
        assert ["2011-12-29", "2011-12-31"] == local_dates("Pacific/Apia", jump - 1, jump)

    def test_both_sides_of_the_date_line(self) -> None:
        """One instant is three dates: in Kiritimati, in UTC and in the zone of GMT-12."""
        noon = instant("2026-01-31T11:00")
        found = [local_dates(zone, noon)[0] for zone in ("Pacific/Kiritimati", "UTC", "Etc/GMT+12")]
        assert ["2026-02-01", "2026-01-31", "2026-01-30"] == found

    def test_as_of_the_previous_day(self) -> None:
        """Traffic as of 24:00 of the previous local day is traffic before the last local midnight (T7)."""
        zone = zone_calendar("Europe/Berlin")
        midnight = instant("2026-10-15T00:00", "Europe/Berlin")
        for now in ("2026-10-15T00:00", "2026-10-15T17:40", "2026-10-15T23:59:59.999999"):
            assert midnight == zone.as_of_previous_day_us(instant(now, "Europe/Berlin"))

    @given(
        st.sampled_from(ZONES),
        st.lists(st.datetimes(dt.datetime(2005, 1, 1), dt.datetime(2045, 1, 1)), min_size=1, max_size=20),
    )
    def test_days_are_those_of_the_zone(self, zone: str, times: list[dt.datetime]) -> None:
        """The day of an instant is the date on the zone's clocks, save where they went back over midnight."""
        instants = [(time.replace(tzinfo=dt.UTC) - EPOCH) // dt.timedelta(microseconds=1) for time in times]
        calendar = zone_calendar(zone)
        for time_, day, us in zip(times, calendar.local_day(np.array(instants)).tolist(), instants, strict=True):
            assert calendar.midnight_us(day) <= us < calendar.midnight_us(day + 1)
            shown = time_.replace(tzinfo=dt.UTC).astimezone(calendar.zone).date()
            assert day_number(shown) == day or (zone in REPEAT_MIDNIGHT and day_number(shown) == day - 1)

    @given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.sampled_from(ZONES[:2]))
    def test_any_instant_has_a_day(self, instants: list[int], zone: str) -> None:
        """No instant of 64 bits is an error; far off the calendar, days are those of UTC."""
        for us, day in zip(instants, zone_calendar(zone).local_day(np.array(instants, np.int64)).tolist(), strict=True):
            assert abs(us // DAY_US - day) <= 1
            if not -25_567 <= us // DAY_US <= 84_005:
                assert us // DAY_US == day

    def test_midnights_of_columns(self) -> None:
        """Midnights of a column are those of its days, also beyond the calendar."""
        zone = ZoneCalendar("America/Los_Angeles")
        days = np.array([20_000, 20_160, -30_000, 90_000])
        assert [zone.midnight_us(day) for day in days] == zone.midnights_us(days).tolist()
        assert [] == zone.midnights_us(np.empty(0, np.int32)).tolist()

    def test_five_million_days_are_fast(self) -> None:
        """5,000,000 instants of a month find their local day within 0.2 s (0.05 s when measured)."""
        zone = zone_calendar("America/Los_Angeles")
        start = instant("2025-03-01T00:00")
        us = start + np.random.default_rng(3).integers(0, 31 * DAY_US, 5_000_000)
        best = 9.0
        for _ in range(4):
            started = time.process_time()
            zone.local_day(us)
            best = min(best, time.process_time() - started)
        assert best < 0.2

    @pytest.mark.parametrize("name", ["", "Mars/Base", "../../etc/passwd", "Europe", "zone.tab", "leapseconds", "/UTC"])
    def test_a_zone_that_there_is_not(self, name: str) -> None:
        """A name that is no IANA zone is refused, with one that is."""
        with pytest.raises(InputError, match="expected an IANA time zone"):
            ZoneCalendar(name)


REPEAT_MIDNIGHT = {"America/Havana", "America/St_Johns", "America/Sao_Paulo", "Asia/Beirut", "Asia/Gaza"}


class TestCycles:
    @pytest.mark.parametrize(
        ("cycle", "day", "first", "last", "label"),
        [
            (Cycle(), "2026-10-31", "2026-10-01", "2026-10-31", "2026-10"),
            (Cycle(), "2024-02-29", "2024-02-01", "2024-02-29", "2024-02"),
            (Cycle(anchor_day=15), "2026-10-14", "2026-09-15", "2026-10-14", "2026-09-15"),
            (Cycle(anchor_day=15), "2026-10-15", "2026-10-15", "2026-11-14", "2026-10-15"),
            (Cycle(anchor_day=28), "2026-03-01", "2026-02-28", "2026-03-27", "2026-02-28"),
            (Cycle(anchor_day=28), "2026-01-27", "2025-12-28", "2026-01-27", "2025-12-28"),
            (Cycle(months=3), "2026-05-20", "2026-04-01", "2026-06-30", "2026-04"),
            (Cycle(months=12), "2026-12-31", "2026-01-01", "2026-12-31", "2026-01"),
            (Cycle(months=3, anchor_day=10), "2026-04-09", "2026-01-10", "2026-04-09", "2026-01-10"),
            (Cycle(anchor_day=31), "2026-02-27", "2026-01-31", "2026-02-27", "2026-01-31"),
            (Cycle(anchor_day=31), "2026-02-28", "2026-02-28", "2026-03-30", "2026-02-28"),
            (Cycle(anchor_day=31), "2026-04-29", "2026-03-31", "2026-04-29", "2026-03-31"),
            (Cycle(anchor_day=31), "2026-04-30", "2026-04-30", "2026-05-30", "2026-04-30"),
            (Cycle(anchor_day=30), "2024-02-29", "2024-02-29", "2024-03-29", "2024-02-29"),
            (Cycle(months=3, anchor_day=29), "2026-04-28", "2026-01-29", "2026-04-28", "2026-01-29"),
            (Cycle(), "1969-12-31", "1969-12-01", "1969-12-31", "1969-12"),
        ],
    )
    def test_the_cycle_of_a_day(self, cycle: Cycle, day: str, first: str, last: str, label: str) -> None:
        """A day's cycle begins on the anchor day and has its first day for a name."""
        calendar = CycleCalendar(cycle)
        index = int(calendar.index(np.array([day_number(dt.date.fromisoformat(day))], np.int32))[0])
        assert first == day_date(calendar.start_day(index)).isoformat()
        assert last == day_date(calendar.end_day(index)).isoformat()
        assert label == calendar.label(index)
        assert index == calendar.index_of_label(label)
        assert (dt.date.fromisoformat(last) - dt.date.fromisoformat(first)).days + 1 == calendar.days(index)

    @given(st.integers(1, 24), st.integers(1, 31), st.lists(st.integers(-25_000, 80_000), max_size=40))
    def test_cycles_follow_each_other(self, months: int, anchor: int, days: list[int]) -> None:
        """Every day is in one cycle, between its first and last day, and the next cycle begins the day after."""
        calendar = CycleCalendar(Cycle(months=months, anchor_day=anchor))
        indices = calendar.index(np.array(days, np.int32))
        assert indices.dtype == np.int32
        for day, index in zip(days, indices.tolist(), strict=True):
            assert calendar.start_day(index) <= day <= calendar.end_day(index)
            assert calendar.start_day(index + 1) == calendar.end_day(index) + 1
            first = day_date(calendar.start_day(index))
            assert first.day == min(anchor, monthrange(first.year, first.month)[1])

    def test_dense_and_sparse_days_agree(self) -> None:
        """Many records of few days take another way to the same cycles."""
        calendar = CycleCalendar(Cycle(months=2, anchor_day=7))
        days = np.arange(20_000, 20_100, dtype=np.int32)
        dense = calendar.index(np.repeat(days, 3))[::3].tolist()
        assert dense == [int(calendar.index(np.array([day], np.int32))[0]) for day in days]

    @pytest.mark.parametrize("cycle", [Cycle(months=0), Cycle(anchor_day=0), Cycle(anchor_day=32)])
    def test_a_cycle_that_cannot_be(self, cycle: Cycle) -> None:
        """A cycle has one month or more and begins on a day of a month."""
        with pytest.raises(PlanError, match=r"^cycle\."):
            CycleCalendar(cycle)

    @pytest.mark.parametrize("label", ["2026-10", "2026-10-14", "2026-13-15", "october", "", "2026-10-15T00:00"])
    def test_a_label_that_no_cycle_has(self, label: str) -> None:
        """A label names the first day of a cycle, in full where that is not the 1st."""
        with pytest.raises(InputError, match=r"expected the first day of a cycle, such as 2026-01-15"):
            CycleCalendar(Cycle(anchor_day=15)).index_of_label(label)


class TestQuarters:
    def test_a_quarter_begins_with_its_first_instant(self) -> None:
        """On the quarter of an hour itself the next one begins; the rolling 24 hours count in these (T4)."""
        start = instant("2026-10-15T10:15")
        found = quarter(np.array([start - 1, start, start + 15 * 60 * 1_000_000 - 1, start + 15 * 60 * 1_000_000]))
        assert [-1, 0, 0, 1] == (found - found[1]).tolist()
