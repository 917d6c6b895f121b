"""Burn order: test allowance, plan or pool, add-ons, overage (P6); allowances by days (P9)."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from rating.columnar.groups import Groups
from rating.engine import Engine
from rating.usage.allowances import draw
from schemas.cards import Addon, Catalogue
from schemas.plans import Price, Rate, TestAllowance
from schemas.usage import Service
from tests.support.fold_case import NOON, Row, cards, engine, plan, rows_of, usage

FLAT = Price(model="flat", price="1")
BURNED = ("from_test", "from_allowance", "from_addon", "overage")
MB = 1 << 20


def addon(name: str, amount: int, expires: dt.date, bought: dt.datetime | None = None, **fields: object) -> Addon:
    """An add-on of card 1."""
    facts = {"id": name, "iccid": "1", "service": "data", "amount": amount, "expires_on": expires}
    return Addon(**(facts | {"purchased_at": bought or NOON - dt.timedelta(days=9)} | fields))  # type: ignore[arg-type]


def burned(weir: Engine, *rows: Row, by: int = 100) -> list[list[int]]:
    """What each record took from where; the records come `by` in a batch."""
    found = []
    for first in range(0, len(rows), by):
        step = weir.usage(usage(*rows[first : first + by], first_row=first + 1))
        found += [[row[name] for name in BURNED] for row in rows_of(step.rated)]
    return found


@pytest.mark.parametrize("by", [1, 3])
def test_the_whole_order(by: int) -> None:
    """Test units first, then the plan's, then add-ons, then what is priced; in one batch or in several."""
    terms = plan(Rate(service="data", allowance=100, price=FLAT), test=TestAllowance(amount=30))
    card = {"iccid": "1", "test_from": dt.date(2026, 10, 1)}
    weir = engine(terms, card_rows=(card,), addons=(addon("x", 50, dt.date(2026, 10, 31)),))
    rows = ({"quantity": 20}, {"quantity": 100}, {"quantity": 90})
    assert [[20, 0, 0, 0], [10, 90, 0, 0], [0, 10, 50, 30]] == burned(weir, *rows, by=by)
    assert {"x": 50} == weir.compiled.addons.usage()


def test_addons_by_earliest_expiry_then_purchase() -> None:
    """Whatever their order in the catalogue."""
    early, late = NOON - dt.timedelta(days=9), NOON - dt.timedelta(days=5)
    bought = (
        addon("last", 10, dt.date(2026, 12, 31)),
        addon("second", 10, dt.date(2026, 11, 30), late),
        addon("first", 10, dt.date(2026, 11, 30), early),
    )
    weir = engine(plan(Rate(service="data", price=FLAT)), addons=bought)
    for expected in ({"first": 8}, {"first": 10, "second": 6}, {"first": 10, "second": 10, "last": 4}):
        burned(weir, {"quantity": 8, "record_key": str(expected)})
        assert expected == weir.compiled.addons.usage()


def test_an_addon_acts_from_purchase_to_its_last_day() -> None:
    """It covers usage of its time alone, of its card and service alone, until it is used up."""
    only = addon("x", 100, dt.date(2026, 10, 6), NOON)
    weir = engine(
        plan(Rate(service="data", price=FLAT), Rate(service="sms", price=FLAT)),
        card_rows=({"iccid": "1"}, {"iccid": "2"}),
        addons=(only,),
    )
    second = dt.timedelta(seconds=1)
    last = dt.datetime(2026, 10, 7, tzinfo=dt.UTC)
    rows: list[Row] = [
        {"used_at": NOON - second},
        {"used_at": NOON},
        {"used_at": last - second},
        {"used_at": last},
        {"iccid": "2"},
        {"service": Service.SMS},
        {"quantity": 95},
    ]
    expected = [0, 5, 5, 0, 0, 0, 90]
    assert expected == [row[2] for row in burned(weir, *({"quantity": 5} | row for row in rows))]


def test_an_addon_bought_later_leaves_earlier_overage_alone() -> None:
    """What is used of add-ons lives through changes of the catalogue."""
    weir = engine(plan(Rate(service="data", price=FLAT)), addons=(addon("x", 10, dt.date(2026, 10, 31)),))
    assert [[0, 0, 10, 5]] == burned(weir, {"quantity": 15, "record_key": "a"})
    weir.apply(Catalogue(addons=(addon("y", 10, dt.date(2026, 10, 31)),)))
    assert [[0, 0, 10, 2]] == burned(weir, {"quantity": 12, "record_key": "b"})
    assert {"x": 10, "y": 10} == weir.compiled.addons.usage()


def test_the_test_period() -> None:
    """30 MB or three months, whichever is first, and never from the day of activation on (C2)."""
    terms = plan(Rate(service="data", price=FLAT), Rate(service="voice", price=FLAT), test=TestAllowance())
    rows = (
        {"iccid": "1", "test_from": dt.date(2026, 7, 10)},
        {"iccid": "2", "test_from": dt.date(2026, 9, 1), "activated_on": dt.date(2026, 10, 5)},
        {"iccid": "3"},
    )
    weir = engine(terms, card_rows=rows)
    used = [
        ("1", 9, 23, 20 * MB),
        ("1", 9, 23, 20 * MB),
        ("1", 10, 0, 5),
        ("2", 4, 23, 5),
        ("2", 5, 0, 5),
        ("3", 4, 0, 5),
    ]
    records = [
        {"iccid": iccid, "used_at": dt.datetime(2026, 10, day, hour, tzinfo=dt.UTC), "quantity": units}
        for iccid, day, hour, units in used
    ]
    assert [20 * MB, 10 * MB, 0, 5, 0, 0] == [row[0] for row in burned(weir, *records)]
    call = {"iccid": "2", "used_at": dt.datetime(2026, 10, 4, tzinfo=dt.UTC), "service": Service.VOICE, "quantity": 9}
    assert [[0, 0, 0, 9]] == burned(weir, call | {"record_key": "call"})


def test_test_allowance_is_for_the_life_of_the_card() -> None:
    """What was used of it in one cycle is gone in the next, also after old counters are dropped."""
    terms = plan(Rate(service="data", price=FLAT), test=TestAllowance(amount=30))
    weir = engine(terms, card_rows=({"iccid": "1", "test_from": dt.date(2026, 9, 20)},))
    assert [[20, 0, 0, 0]] == burned(weir, {"quantity": 20, "used_at": dt.datetime(2026, 9, 30, 12, tzinfo=dt.UTC)})
    weir.tick(1_800_000_000_000_000)
    assert [[10, 0, 0, 10]] == burned(weir, {"quantity": 20, "record_key": "next"})


@pytest.mark.parametrize(("active", "size"), [(None, 310), (1, 310), (2, 300), (14, 180), (31, 10)])
def test_an_allowance_by_days_of_the_first_cycle(active: int | None, size: int) -> None:
    """Activated on the 14th of 31 days a card has 18 of them; in full from the first day, and in later cycles."""
    terms = plan(Rate(service="data", allowance=310, prorate_allowance=True, price=FLAT))
    day = None if active is None else dt.date(2026, 10, active)
    weir = engine(terms, card_rows=({"iccid": "1", "activated_on": day},))
    (october,) = burned(weir, {"quantity": 1000, "used_at": dt.datetime(2026, 10, 31, 12, tzinfo=dt.UTC)})
    assert size == october[1]
    november = dt.datetime(2026, 11, 10, tzinfo=dt.UTC)
    step = weir.usage(usage({"quantity": 1000, "used_at": november, "record_key": "n"}, received=november))
    assert [310] == step.rated["from_allowance"].to_pylist()


def test_an_upgrade_gives_the_rest_of_the_larger_allowance() -> None:
    """What was used on the old plan counts on the new one, record by record by its own day."""
    small, large = (
        plan(Rate(service="data", allowance=size, price=FLAT), name=name) for name, size in (("s", 100), ("l", 250))
    )
    weir = engine(small, large)
    weir.apply(Catalogue(cards=cards({"iccid": "1", "plan": "l", "plan_from": dt.date(2026, 10, 6)})))
    days = [5, 6, 5, 7]
    rows = [{"quantity": 90, "used_at": dt.datetime(2026, 10, day, tzinfo=dt.UTC)} for day in days]
    expected = [[0, 90, 0, 0], [0, 90, 0, 0], [0, 0, 0, 90], [0, 70, 0, 20]]
    assert expected == burned(weir, *rows)


class TestDraw:
    def test_until_it_is_empty(self) -> None:
        """Records take what they want in order until the bucket is empty; each bucket is its own."""
        groups = Groups.of(np.array([5, 3, 5, 5]))
        taken, held = draw(groups, np.array([4, 10]), np.array([6, 9, 3, 5]), np.array([20, 7, 20, 20]))
        assert ([6, 3, 3, 1], [7, 20]) == (taken.tolist(), held.tolist())

    def test_a_bucket_that_changes_size_on_the_way(self) -> None:
        """Each record finds the bucket as large as it is for it; one that shrank gives nothing and takes nothing."""
        groups = Groups.of(np.zeros(5, np.int64))
        taken, held = draw(groups, np.array([0]), np.full(5, 10), np.array([15, 15, 5, 40, 15]))
        assert ([10, 5, 0, 10, 0], [25]) == (taken.tolist(), held.tolist())
