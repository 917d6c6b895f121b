"""The price model `once`: the first unit costs the price, the others nothing (P2)."""

from __future__ import annotations

from schemas.plans import Price
from tests.support.price_case import costs


def test_first_unit_only() -> None:
    """The first unit costs the price; a record of no units does not, and no later one does."""
    assert costs(Price(model="once", price="3.50"), [-1, 0, 1, 1000]) == ["0", "3.5", "0"]
