"""Late and future usage (T5), and keys and content of repeats (F4) where arrival decides."""

from __future__ import annotations

import datetime as dt

import pytest

from rating.engine import Engine
from schemas.cards import Account, Pool, PoolSize
from schemas.plans import Cycle, Plan, PlanVersion, Price, Rate
from tests.support.fold_case import SINCE, engine, plan, rows_of, us, usage

TERMS = plan(Rate(service="data", allowance=100, price=Price(model="flat", price="1")))
SECOND = dt.timedelta(seconds=1)
OCTOBER = dt.datetime(2026, 10, 31, 12, tzinfo=dt.UTC)


def local(zone_hours: int, *when: int) -> dt.datetime:
    """An instant on a clock that is so many hours ahead of UTC."""
    year, month, day = when
    return dt.datetime(year, month, day, tzinfo=dt.timezone(dt.timedelta(hours=zone_hours)))


def counted(weir: Engine, used: dt.datetime, received: dt.datetime) -> tuple[str, bool]:
    """The cycle that usage of a moment counts in when it arrives at another, and whether it is late."""
    step = weir.usage(usage({"used_at": used, "record_key": f"{used}{received}", "quantity": 5}, received=received))
    (row,) = rows_of(step.rated)
    assert used == row["used_at"]
    return row["cycle"], row["late"]


@pytest.mark.parametrize(
    ("zone", "grace_hours", "closes"),
    [
        ("UTC", 72, dt.datetime(2026, 11, 4, tzinfo=dt.UTC)),
        ("UTC", 0, dt.datetime(2026, 11, 1, tzinfo=dt.UTC)),
        ("Europe/Berlin", 72, local(1, 2026, 11, 4)),
        # The clocks go back on 1 November: midnight is at -7, and 72 hours later it is 23:00 at -8.
        ("America/Los_Angeles", 72, local(-7, 2026, 11, 4)),
        ("Pacific/Auckland", 24, local(13, 2026, 11, 2)),
    ],
)
def test_a_closed_cycle_takes_usage_for_the_grace_period(zone: str, grace_hours: int, closes: dt.datetime) -> None:
    """72 hours after the cycle's end by default, in the account's zone; one second later it counts in the open one."""
    weir = engine(TERMS, account=Account(id="a", time_zone=zone, grace_hours=grace_hours))
    used = OCTOBER - dt.timedelta(days=3)
    assert ("2026-10", False) == counted(weir, used, closes)
    assert ("2026-11", True) == counted(weir, used, closes + SECOND)


def test_late_usage_is_charged_in_the_open_cycle() -> None:
    """It draws on that cycle's allowance and counter, and keeps its own day and plan version."""
    versions = tuple(
        PlanVersion(version=n, effective=day, rates=TERMS.versions[0].rates)
        for n, day in ((1, SINCE), (2, dt.date(2026, 11, 1)))
    )
    weir = engine(Plan(id="p", currency="EUR", versions=versions))
    november = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    weir.usage(usage({"used_at": november, "quantity": 70}, received=november))
    step = weir.usage(usage({"used_at": OCTOBER, "quantity": 70, "record_key": "late"}, received=november))
    (row,) = rows_of(step.rated)
    facts = ("cycle", "late", "day", "plan_version", "counter_before", "from_allowance", "overage")
    assert ("2026-11", True, dt.date(2026, 10, 31), 1, 70, 30, 40) == tuple(row[name] for name in facts)


def test_usage_of_an_open_cycle_is_never_late() -> None:
    """However long ago within the cycle it was."""
    assert ("2026-10", False) == counted(engine(TERMS), dt.datetime(2026, 10, 1, tzinfo=dt.UTC), OCTOBER)


def test_a_late_record_in_a_batch_does_not_make_others_late() -> None:
    """Each record of a batch is judged for itself."""
    weir = engine(TERMS)
    rows = [{"used_at": dt.datetime(2026, month, 5, tzinfo=dt.UTC), "quantity": 1} for month in (8, 10, 9, 10)]
    step = weir.usage(usage(*rows, received=dt.datetime(2026, 10, 5, 1, tzinfo=dt.UTC)))
    assert [True, False, True, False] == step.rated["late"].to_pylist()
    assert {"2026-10"} == set(step.rated["cycle"].to_pylist())


@pytest.mark.parametrize(("ahead", "rated"), [(3600, 1), (3601, 0)])
def test_usage_ahead_of_its_arrival(ahead: int, rated: int) -> None:
    """One hour is allowed for clocks that are wrong; more is refused, with both times named."""
    step = engine(TERMS).usage(usage({"used_at": OCTOBER + ahead * SECOND}, received=OCTOBER))
    assert rated == step.rated_records
    if not rated:
        assert [("future", "used_at")] == step.rejects.select("reason", "field").rows()
        assert "found 2026-10-31T13:00:01Z" in step.rejects["message"][0]
        assert "arrival at 2026-10-31T12:00:00Z" in step.rejects["message"][0]


def test_the_cycle_is_cut_in_the_accounts_zone() -> None:
    """23:30 in UTC is already November in Berlin and still October in Los Angeles."""
    used = dt.datetime(2026, 10, 31, 23, 30, tzinfo=dt.UTC)
    for zone, cycle in (("UTC", "2026-10"), ("Europe/Berlin", "2026-11"), ("America/Los_Angeles", "2026-10")):
        assert (cycle, False) == counted(engine(TERMS, account=Account(id="a", time_zone=zone)), used, used)


def test_cycles_of_other_lengths_and_anchors() -> None:
    """A cycle may begin on another day, and span several months (T2)."""
    for cycle, label in (
        (Cycle(anchor_day=15), "2026-10-15"),
        (Cycle(months=3), "2026-10"),
        (Cycle(months=12), "2026-01"),
    ):
        terms = Plan(id="p", currency="EUR", versions=TERMS.versions, cycle=cycle)
        assert (label, False) == counted(engine(terms), OCTOBER, OCTOBER)


def test_a_pool_counts_in_its_own_cycle() -> None:
    """Members of a pool are charged by the cycle of the pool."""
    pool = Pool(
        id="q", account="a", kind="static", size=(PoolSize(service="data", amount=10),), cycle=Cycle(anchor_day=15)
    )
    assert ("2026-10-15", False) == counted(
        engine(TERMS, card_rows=({"iccid": "1", "pool": "q"},), pools=(pool,)), OCTOBER, OCTOBER
    )


def test_old_counters_go_when_they_can_take_no_more() -> None:
    """A tick past the grace period drops them; within it they stay, and count on."""
    weir = engine(TERMS)
    weir.usage(usage({"used_at": OCTOBER, "quantity": 70}))
    weir.tick(us(dt.datetime(2026, 11, 4, tzinfo=dt.UTC)))
    step = weir.usage(usage({"used_at": OCTOBER, "quantity": 70, "record_key": "more"}, received=OCTOBER))
    assert [70] == step.rated["counter_before"].to_pylist()
    weir.tick(us(dt.datetime(2026, 11, 20, tzinfo=dt.UTC)))
    assert 0 == len(weir.state.counters)


def test_a_key_is_known_for_32_days() -> None:
    """On day 32 a repeat is a duplicate; from day 33 on the key may be used again."""
    weir = engine(TERMS)
    row = {"used_at": OCTOBER, "record_key": "k"}
    weir.usage(usage(row))
    again = weir.usage(usage(row, received=OCTOBER + dt.timedelta(days=32)))
    assert (1, 0) == (again.duplicates, again.rated_records)
    anew = weir.usage(usage(row, received=OCTOBER + dt.timedelta(days=33)))
    assert (0, 1) == (anew.duplicates, anew.rated_records)


def test_usage_taken_in_as_of_an_earlier_day_is_known_too() -> None:
    """A file of an old month that is ingested twice, after newer ones, counts once."""
    weir = engine(TERMS)
    weir.usage(usage({"used_at": OCTOBER, "record_key": "new"}))
    july = dt.datetime(2026, 7, 5, tzinfo=dt.UTC)
    old = {"used_at": july, "record_key": "old"}
    assert 1 == weir.usage(usage(old, received=july)).rated_records
    assert 1 == weir.usage(usage(old, received=july)).duplicates


def test_the_first_record_of_a_key_that_can_be_rated_stands() -> None:
    """One that was refused leaves its key free; what comes after the good one is duplicate or conflict."""
    good = {"record_key": "k", "quantity": 5, "used_at": OCTOBER}
    bad = good | {"iccid": "404"}
    rows = [bad, good, bad, good, good | {"quantity": 6}]
    expected = [("unknown_card", 1), ("conflict", 3), ("conflict", 5)]
    whole = engine(TERMS).usage(usage(*rows))
    assert (expected, 1, 1) == (
        whole.rejects.select("reason", "source_row").rows(), whole.duplicates, whole.rated_records
    )  # fmt: skip
    weir = engine(TERMS)
    steps = [weir.usage(usage(row, first_row=number)) for number, row in enumerate(rows, 1)]
    found = [pair for step in steps for pair in step.rejects.select("reason", "source_row").rows()]
    assert (expected, 1) == (found, sum(step.duplicates for step in steps))
