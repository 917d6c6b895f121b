"""The price model `free` (P2)."""

from __future__ import annotations

from schemas.plans import Price
from tests.support.price_case import alone, costs


def test_costs_nothing() -> None:
    """Free is free, however much is used, unless a minimum is agreed."""
    assert alone(Price(model="free"), 0, 10**18) == ["0", "0"]
    assert costs(Price(model="free", minimum="2"), [-1, 0, 10**18]) == ["2", "0"]
