"""Fees and proration by days, both ends included (P9)."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rating.calendar import day_number
from rating.errors import PlanError
from rating.fees import FeeDue, FeeTerms, prorate, prorate_units, prorate_units_column, shared_days
from rating.money import parse_amount
from schemas.plans import Fee

FIRST, LAST = day_number(dt.date(2026, 10, 1)), day_number(dt.date(2026, 10, 31))


def october(day: int) -> int:
    return FIRST + day - 1


def test_eighteen_of_31_days() -> None:
    """31.00 for 18 of 31 days is 18.00: activated on the 14th, the 14th and the 31st both count."""
    assert 18 == shared_days(FIRST, LAST, october(14), None)
    assert parse_amount("18.00") == prorate(parse_amount("31.00"), 18, 31)


@pytest.mark.parametrize(
    ("first", "last", "days"),
    [(-40, None, 31), (1, 31, 31), (14, 14, 1), (20, 50, 12), (31, None, 1), (32, None, 0), (-9, 0, 0)],
)
def test_shared_days(first: int, last: int | None, days: int) -> None:
    """Days of a span that lie in the cycle, its ends included."""
    assert days == shared_days(FIRST, LAST, october(first), None if last is None else october(last))


@pytest.mark.parametrize(
    ("decimals", "mode", "expected"),
    [(9, "half_even", "3.333333333"), (2, "half_up", "3.33"), (2, "up", "3.34"), (0, "down", "3")],
)
def test_rounding_of_a_share_is_named(decimals: int, mode: str, expected: str) -> None:
    """A share is rounded once, to nanos unless another rounding is named."""
    assert parse_amount(expected) == prorate(10 * 10**9, 10, 30, decimals=decimals, mode=mode)  # type: ignore[arg-type]


def test_a_credit_mirrors_a_fee() -> None:
    """An amount below zero is prorated as its opposite."""
    assert -prorate(10**9, 7, 31) == prorate(-(10**9), 7, 31)


@given(st.integers(-(2**62), 2**62), st.integers(1, 366), st.data())
def test_shares_of_a_cycle(amount: int, of_days: int, data: st.DataObject) -> None:
    """All days are the whole amount, no days nothing, and two parts of a cycle the whole but for a nano."""
    days = data.draw(st.integers(0, of_days))
    assert amount == prorate(amount, of_days, of_days)
    assert 0 == prorate(amount, 0, of_days)
    assert abs(prorate(amount, days, of_days) + prorate(amount, of_days - days, of_days) - amount) <= 1


@given(st.integers(0, 2**62), st.integers(1, 366), st.data())
def test_shares_of_an_allowance(units: int, of_days: int, data: st.DataObject) -> None:
    """Shares of an allowance are rounded down, never exceed the whole, and are the same for columns."""
    days = data.draw(st.integers(0, of_days))
    share = prorate_units(units, days, of_days)
    assert share * of_days <= units * days < (share + 1) * of_days
    columns = (np.array([value], np.int64) for value in (units, days, of_days))
    assert [share] == prorate_units_column(*columns).tolist()


def test_a_cycle_fee() -> None:
    """A fee of each cycle is due by the days that the plan was held, and not at all where it was not."""
    fee = FeeTerms.compile(Fee(name="access", amount="31.00"))
    assert FeeDue(18, 31, 18 * 10**9) == fee.due(FIRST, LAST, october(14), None)
    assert FeeDue(31, 31, 31 * 10**9) == fee.due(FIRST, LAST, october(-300), None)
    assert FeeDue(3, 31, 3 * 10**9) == fee.due(FIRST, LAST, october(-300), october(3))
    assert fee.due(FIRST, LAST, october(32), None) is None


def test_a_cycle_fee_that_is_not_prorated() -> None:
    """Without proration one day costs the whole fee."""
    fee = FeeTerms.compile(Fee(name="access", amount="5", prorate=False))
    assert FeeDue(31, 31, 5 * 10**9) == fee.due(FIRST, LAST, october(31), None)
    assert fee.due(FIRST, LAST, october(32), None) is None


def test_an_activation_fee_is_due_once() -> None:
    """An activation's fee is due in full in the cycle of the activation, by the plan held that day."""
    fee = FeeTerms.compile(Fee(name="activation", amount="2.50", per="activation"))
    assert FeeDue(31, 31, 2_500_000_000) == fee.due(FIRST, LAST, october(14), None, october(14))
    assert fee.due(FIRST, LAST, october(-20), None, october(-20)) is None
    assert fee.due(FIRST, LAST, october(-20), None) is None
    assert fee.due(FIRST, LAST, october(20), None, october(14)) is None
    assert fee.due(FIRST, LAST, october(1), october(9), october(14)) is None


@pytest.mark.parametrize(
    ("fee", "named"),
    [(Fee(name="a", amount="x"), "fee 'a', amount: found 'x'"), (Fee(name="a", amount="1", per="day"), "fee 'a', per")],  # type: ignore[arg-type]
)
def test_a_fee_that_cannot_be(fee: Fee, named: str) -> None:
    """What is wrong with a fee is said by name and field."""
    with pytest.raises(PlanError, match=f"^{named}"):
        FeeTerms.compile(fee)


@pytest.mark.parametrize(("days", "of_days"), [(-1, 31), (32, 31), (0, 0)])
def test_days_that_are_no_share(days: int, of_days: int) -> None:
    """Days outside the cycle are a mistake of the caller and not rated."""
    with pytest.raises(ValueError, match="no share of a cycle"):
        prorate(1, days, of_days)
    with pytest.raises(ValueError, match="no share of a cycle"):
        prorate_units(1, days, of_days)


def test_an_allowance_below_nothing() -> None:
    """An allowance is never negative."""
    with pytest.raises(ValueError, match="cannot be prorated"):
        prorate_units(-1, 1, 31)
