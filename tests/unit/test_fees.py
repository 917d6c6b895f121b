"""Fees and proration by days, both ends included (P9)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rating.errors import PlanError
from rating.tariff.fees import FeeTerms, prorate, prorate_units
from rating.units.money import parse_amount
from schemas.plans import Fee


def test_eighteen_of_31_days() -> None:
    """31.00 for 18 of 31 days is 18.00."""
    assert parse_amount("18.00") == prorate(parse_amount("31.00"), 18, 31)


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
    """Shares of an allowance are whole units, rounded down, and all days are the whole."""
    days = data.draw(st.integers(0, of_days))
    columns = (np.array(values, np.int64) for values in ([units, units], [days, of_days], [of_days, of_days]))
    assert [units * days // of_days, units] == prorate_units(*columns).tolist()


def test_terms_of_a_fee() -> None:
    """A fee is read into nanos with what it says of its days."""
    assert FeeTerms("access", 2_500_000_000, "cycle", True) == FeeTerms.compile(Fee(name="access", amount="2.50"))
    credit = Fee(name="credit", amount="-1", per="activation", prorate=False)
    assert FeeTerms("credit", -(10**9), "activation", False) == FeeTerms.compile(credit)


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
    with pytest.raises(ValueError, match=r"must not exceed|muldiv needs"):
        prorate_units(*(np.array([value], np.int64) for value in (1, days, of_days)))
