"""Rounding of charges at the cycle and at the record, and prices of quantities that were rounded before (P3)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from rating.tariff import PriceBook, PriceSpec
from rating.tariff.increments import IncrementBook, IncrementSpec
from schemas.plans import Increment, IncrementStart, Price, Rounding
from tests.support.price_case import alone, costs


def test_thirty_six() -> None:
    """30/6 at 0.006 a minute: 32, 57 and 75 s are billed as 36, 60 and 78 s."""
    increment = Increment(step=30, starts=(IncrementStart(start=30, step=6),))
    book = IncrementBook.compile([IncrementSpec(increment, "voice")])
    billable = book.billable(np.zeros(3, np.int32), np.array([32, 57, 75])).tolist()
    assert [36, 60, 78] == billable
    assert alone(Price(model="flat", price="0.006", per=60), *billable) == ["0.0036", "0.006", "0.0078"]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("half_even", ["0.02", "0.04"]),
        ("half_up", ["0.03", "0.04"]),
        ("up", ["0.03", "0.04"]),
        ("down", ["0.02", "0.03"]),
    ],
)
def test_modes_of_rounding(mode: str, expected: list[str]) -> None:
    """2.5 and 3.5 hundredths in each mode, and the same below zero."""
    rounding = Rounding(decimals=2, mode=mode, at="record")  # type: ignore[arg-type]
    price = Price(model="flat", price="0.005")
    assert expected == [costs(price, [0, units], rounding)[0] for units in (5, 7)]
    assert [f"-{cost}" for cost in expected] == [costs(price, [units, 0], rounding)[0] for units in (5, 7)]


def test_rounding_at_the_cycle_loses_nothing() -> None:
    """Three records of a third of a cent are a cent together at the cycle, and nothing at the record."""
    price = Price(model="flat", price="0.01", per=3)
    assert costs(price, [0, 1, 2, 3], Rounding(decimals=2)) == ["0", "0.01", "0"]
    assert costs(price, [0, 1, 2, 3], Rounding(decimals=2, at="record")) == ["0", "0", "0"]
    book = PriceBook.compile([PriceSpec(price, Rounding(decimals=2))])
    nanos, part = book.cumulative(np.array([0]), np.array([2]))
    assert Fraction(20_000_000, 3) == Fraction(int(nanos[0])) + Fraction(int(part[0]), int(book.denominator[0]))
