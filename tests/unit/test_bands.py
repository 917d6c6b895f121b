"""Time bands: which holds when, and records that are split at their boundaries (P4)."""

from __future__ import annotations

import datetime as dt
import time
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rating.calendars.bands import NO_BAND, Parts, Timetable, split, timetable
from rating.calendars.calendar import DAY_US, HOUR_US, zone_calendar
from rating.errors import PlanError
from schemas.plans import Band

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
SECOND_US = 1_000_000
DAY_AND_EVENING = (Band(name="day", days="weekdays"), Band(name="evening", days="weekdays", start="18:00", weight=10))


def instant(text: str, zone: str = "UTC", fold: int = 0) -> int:
    local = dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return (local - EPOCH) // dt.timedelta(microseconds=1)


def parts_of(
    bands: tuple[Band, ...], start: int, end: int, quantity: int, zone: str = "UTC", *holidays: dt.date
) -> Parts:
    columns = (np.array([value], np.int64) for value in (start, end, quantity))
    return split(zone_calendar(zone), bands, holidays, *columns)


def shares(bands: tuple[Band, ...], start: int, end: int, quantity: int, zone: str = "UTC") -> list[tuple[int, int]]:
    """(band, quantity) of each part of one record."""
    parts = parts_of(bands, start, end, quantity, zone)
    return list(zip(parts.band.tolist(), parts.quantity.tolist(), strict=True))


def test_an_hour_around_the_evening() -> None:
    """A call on a Thursday from 17:30 to 18:30 is 1800 s of the day and 1800 s of the evening."""
    start, end = instant("2026-10-15T17:30:00"), instant("2026-10-15T18:30:00")
    parts = parts_of(DAY_AND_EVENING, start, end, 3600)
    assert ([0, 0], [0, 1], [0, 1], [1800, 1800]) == tuple(column.tolist() for column in parts[:4])
    six = instant("2026-10-15T18:00:00")
    assert ([start, six], [six, end]) == (parts.start_us.tolist(), parts.end_us.tolist())
    assert ["int64", "int16", "int16", "int64"] == [str(column.dtype) for column in parts[:4]]


def test_equal_weights_go_to_the_later_start() -> None:
    """Of two bands of one weight the one that starts later in the day holds, whatever their order."""
    later = (Band(name="evening", start="18:00"), Band(name="day"))
    assert [(1, 1800), (0, 1800)] == shares(later, instant("2026-10-15T17:30"), instant("2026-10-15T18:30"), 3600)


def test_a_record_on_the_boundary_is_not_split() -> None:
    """A record that ends when a band begins is before the band. A record that starts then is in the band."""
    six = instant("2026-10-15T18:00")
    assert [(0, 60)] == shares(DAY_AND_EVENING, six - 60 * SECOND_US, six, 60)
    assert [(1, 60)] == shares(DAY_AND_EVENING, six, six + 60 * SECOND_US, 60)


def test_a_record_without_length_belongs_to_its_start() -> None:
    """A record of no length, or whose end is before its start, belongs whole to the band at its start."""
    six = instant("2026-10-15T18:00")
    assert [(1, 1)] == shares(DAY_AND_EVENING, six, six, 1)
    assert [(0, 5)] == shares(DAY_AND_EVENING, six - 1, six - 2 * HOUR_US, 5)
    assert [(1, 5)] == shares(DAY_AND_EVENING, six, six - 2 * HOUR_US, 5)


def test_the_same_band_goes_on_over_midnight() -> None:
    """Midnight is no boundary where the band before and after it is the same, nor is the absence of a band."""
    night = (Band(name="night", start="22:00", end="06:00"),)
    assert [(0, 100)] == shares(night, instant("2026-10-15T23:00"), instant("2026-10-16T01:00"), 100)
    assert [(NO_BAND, 100)] == shares(night, instant("2026-10-15T06:00"), instant("2026-10-15T22:00"), 100)
    assert [(NO_BAND, 25), (0, 50), (NO_BAND, 25)] == shares(
        night, instant("2026-10-15T18:00"), instant("2026-10-16T10:00"), 100
    )


def test_quantities_that_do_not_divide_sum_to_the_whole() -> None:
    """Shares are whole units, cumulatively rounded down, and nothing of the quantity is lost."""
    start = instant("2026-10-15T17:00")
    assert [(0, 3), (1, 4)] == shares(DAY_AND_EVENING, start, start + 2 * HOUR_US, 7)
    assert [(0, -3), (1, -4)] == shares(DAY_AND_EVENING, start, start + 2 * HOUR_US, -7)
    assert [(0, 0), (1, 1)] == shares(DAY_AND_EVENING, start, start + 2 * HOUR_US, 1)
    huge = 2**62
    assert [(0, huge // 2), (1, huge // 2)] == shares(DAY_AND_EVENING, start, start + 2 * HOUR_US, huge)


def test_on_a_holiday_the_weight_decides() -> None:
    """A holiday is a weekday or weekend too. Of equal weight, its own band holds; a heavier band of weekdays does."""
    bands = (Band(name="all", weight=-1), Band(name="work", days="weekdays"), Band(name="end", days="weekend"))
    bands = (*bands, Band(name="feast", days="holidays"))
    table = Timetable(zone_calendar("UTC"), bands, [dt.date(2026, 12, 25), dt.date(2026, 12, 26)])
    noons = np.array([instant(f"2026-12-{day}T12:00") for day in (24, 25, 26, 27)])
    one = np.ones(len(noons), np.int64)
    assert [1, 3, 3, 2] == table.split(noons, noons, one).band.tolist()  # Thursday, Friday, Saturday, Sunday
    without = timetable(zone_calendar("UTC"), bands[:3], (dt.date(2026, 12, 25),))
    lighter = (*bands[:3], msgspec.structs.replace(bands[3], weight=-2))
    heavy = timetable(zone_calendar("UTC"), lighter, (dt.date(2026, 12, 25), dt.date(2026, 12, 26)))
    assert [1, 1, 2, 2] == heavy.split(noons, noons, one).band.tolist()
    assert [1, 1, 2, 2] == without.split(noons, noons, one).band.tolist()


def test_the_night_when_clocks_go_back() -> None:
    """In an hour that clocks show twice a band applies twice: 02:30 comes back at 02:00 to be 02:30 again."""
    zone = "Europe/Berlin"
    bands = (Band(name="half", start="02:30", end="03:00"),)
    start, end = instant("2025-10-26T02:00", zone), instant("2025-10-26T03:00", zone)
    assert 2 * HOUR_US == end - start
    assert [(-1, 30), (0, 30), (-1, 30), (0, 30)] == shares(bands, start, end, 120, zone)


def test_the_night_when_clocks_go_forward() -> None:
    """A band within a skipped hour does not apply; one that reaches out of it begins as the clocks jump."""
    zone = "Europe/Berlin"
    bands = (
        Band(name="skipped", start="02:10", end="02:50"),
        Band(name="after", start="02:30", end="04:00", weight=-1),
    )
    start, end = instant("2025-03-30T01:00", zone), instant("2025-03-30T05:00", zone)
    assert [(-1, 60), (1, 60), (-1, 60)] == shares(bands, start, end, 180, zone)
    start, end = instant("2025-03-31T01:00", zone), instant("2025-03-31T05:00", zone)
    assert [(-1, 70), (0, 40), (1, 70), (-1, 60)] == shares(bands, start, end, 240, zone)


def test_without_bands_nothing_is_split() -> None:
    """A plan without bands leaves every record whole, and an empty batch empty."""
    assert [(NO_BAND, 9)] == shares((), 0, 10 * DAY_US, 9)
    nothing = np.empty(0, np.int64)
    assert 0 == len(split(zone_calendar("UTC"), DAY_AND_EVENING, (), nothing, nothing, nothing).record)


def test_records_of_absurd_length_stay_whole() -> None:
    """A record over more parts than can be numbered stays whole; no instant of 64 bits is an error."""
    hourly = tuple(Band(name=str(hour), start=f"{hour:02}:00", end=f"{hour:02}:30") for hour in range(24))
    assert [(0, 7)] == shares(hourly, instant("1980-01-01T00:00"), instant("2020-01-01T00:00"), 7)
    whole = parts_of(hourly, -(2**63), 2**63 - 1, 7)
    assert [7] == whole.quantity.tolist()
    holiday = (Band(name="feast", days="holidays"),)
    parts = parts_of(holiday, -(2**63), 2**63 - 1, 300, "UTC", dt.date(2100, 1, 1))
    assert ([-1, 0, -1], 300) == (parts.band.tolist(), parts.quantity.sum())


@pytest.mark.parametrize(
    ("band", "named"),
    [
        (Band(name="x", start="24:00"), r"bands\[0\].end"),
        (Band(name="x", start="18:00", end="18:00"), r"bands\[0\].end: found '18:00' after start '18:00'"),
        (Band(name="x", start="6:00"), r"bands\[0\].start: found '6:00'"),
        (Band(name="x", end="24:01"), r"bands\[0\].end: found '24:01'"),
        (Band(name="x", end="12:60"), r"bands\[0\].end: found '12:60'"),
        (Band(name="x", days="mondays"), r"bands\[0\].days: found 'mondays'"),  # type: ignore[arg-type]
    ],
)
def test_a_band_that_cannot_be(band: Band, named: str) -> None:
    """What is wrong with a band is said by field."""
    with pytest.raises(PlanError, match=f"^{named}"):
        timetable(zone_calendar("UTC"), (band,), ())


TIMES = st.integers(0, 24 * 12 - 1).map(lambda number: f"{number // 12:02}:{number % 12 * 5:02}")
BANDS = st.lists(
    st.builds(
        Band,
        name=st.just("band"),
        days=st.sampled_from(["all", "weekdays", "weekend", "holidays"]),
        start=TIMES,
        end=TIMES | st.just("24:00"),
        weight=st.integers(0, 2),
    ).filter(lambda band: band.start != band.end),
    min_size=1,
    max_size=4,
).map(tuple)
CHANGES = [
    *(("Europe/Berlin", "2025-10-25T20:00"), ("Europe/Berlin", "2025-03-29T20:00"), ("UTC", "2025-12-24T12:00")),
    *(
        ("America/St_Johns", "2010-11-06T12:00"),
        ("Asia/Beirut", "2022-03-26T20:00"),
        ("Pacific/Apia", "2011-12-29T03:00"),
    ),
    ("Australia/Lord_Howe", "2025-04-05T06:00"),
]
HOLIDAYS = (dt.date(2025, 12, 25), dt.date(2025, 10, 26))


def expected_band(bands: tuple[Band, ...], zone: str, us: int) -> int:
    """The band at an instant by the words of the rule: its wall clock, its kind of day, weight, then later start."""
    wall = dt.datetime.fromtimestamp(us / 1e6, ZoneInfo(zone))
    clock = f"{wall.hour:02}:{wall.minute:02}"
    holiday = wall.date() in HOLIDAYS
    kinds = ("all", "weekend" if wall.weekday() >= 5 else "weekdays", *(("holidays",) if holiday else ()))
    best = (0, False, "", 0)
    found = NO_BAND
    for number, band in enumerate(bands):
        begins = band.start
        if band.end <= band.start and clock < band.end:
            begins = "00:00"  # the piece of a night after midnight
        inside = begins <= clock and (clock < band.end or (band.end < band.start and clock >= band.start))
        rank = (band.weight, not holiday or band.days in ("all", "holidays"), begins, -number)
        if band.days in kinds and inside and (found == NO_BAND or rank > best):
            best, found = rank, number
    return found


@given(BANDS, st.sampled_from(CHANGES), st.integers(0, 30 * 12), st.integers(0, 40 * 12), st.integers(0, 10**15))
def test_parts_are_those_of_the_wall_clock(
    bands: tuple[Band, ...], place: tuple[str, str], start: int, length: int, quantity: int
) -> None:
    """Around every kind of clock change, each five minutes of a record lie in the band that the wall clock names."""
    zone, text = place
    step = 300 * SECOND_US
    begin = instant(text) + start * step
    parts = parts_of(bands, begin, begin + length * step, quantity, zone, *HOLIDAYS)
    slots = range(begin, begin + max(length, 1) * step, step)
    found = [int(parts.band[np.searchsorted(parts.start_us, us, "right") - 1]) for us in slots]
    assert [expected_band(bands, zone, us) for us in slots] == found
    assert quantity == parts.quantity.sum()
    assert parts.start_us[1:].tolist() == parts.end_us[:-1].tolist()
    assert all(one != other for one, other in zip(parts.band[1:].tolist(), parts.band[:-1].tolist(), strict=True))
    if length:
        reached = [quantity * (end - begin) // (length * step) for end in parts.end_us.tolist()]
        assert reached == np.cumsum(parts.quantity).tolist()


def test_batches_are_the_sum_of_their_records() -> None:
    """A batch is split record by record, each under its own number, as each would be alone."""
    random = np.random.default_rng(5)
    start = instant("2026-10-01T00:00") + random.integers(0, 30 * DAY_US, 200)
    end = start + random.integers(-HOUR_US, 30 * HOUR_US, 200)
    quantity = random.integers(0, 10**9, 200)
    together = split(zone_calendar("Europe/Berlin"), DAY_AND_EVENING, (), start, end, quantity)
    alone = [
        shares(DAY_AND_EVENING, int(one), int(other), int(amount), "Europe/Berlin")
        for one, other, amount in zip(start, end, quantity, strict=True)
    ]
    assert [part for parts in alone for part in parts] == list(
        zip(together.band.tolist(), together.quantity.tolist(), strict=True)
    )
    assert [row for row, parts in enumerate(alone) for _ in parts] == together.record.tolist()
    assert [number for parts in alone for number in range(len(parts))] == together.part.tolist()


def test_a_million_short_records_are_fast() -> None:
    """A million records, nearly all within one band, are placed within 0.5 s (0.1 s when measured)."""
    random = np.random.default_rng(9)
    start = instant("2026-10-01T00:00") + random.integers(0, 31 * DAY_US, 1_000_000)
    end, quantity = start + random.integers(0, HOUR_US // 4, 1_000_000), random.integers(0, 10**6, 1_000_000)
    zone = zone_calendar("America/Los_Angeles")
    best = 9.0
    for _ in range(3):
        started = time.process_time()
        split(zone, DAY_AND_EVENING, (), start, end, quantity)
        best = min(best, time.process_time() - started)
    assert best < 0.5
