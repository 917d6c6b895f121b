"""The price model `volume`: all units cost the price of the tier that the total reaches (P2)."""

from __future__ import annotations

from schemas.plans import Price
from tests.support.price_case import alone, costs, tiers


def test_top_tier() -> None:
    """All 111 units at the price of the tier that they reach."""
    sizes = tiers((10, "1.5", "0"), (110, "1", "0"), (1110, "0.5", "0"))
    assert alone(Price(model="volume", tiers=sizes), 111) == ["55.5"]


def test_a_cheaper_tier_gives_back() -> None:
    """As a cheaper tier is reached, what was paid too much for earlier units comes back."""
    price = Price(model="volume", tiers=tiers((10, "1", "0"), (None, "0.5", "0")))
    assert costs(price, [0, 10, 11]) == ["10", "-4.5"]


def test_flat_of_the_reached_tier_alone() -> None:
    """The flat fee is that of the reached tier, not of every tier on the way."""
    price = Price(model="volume", tiers=tiers((10, "0", "5"), (None, "0", "8")))
    assert costs(price, [-1, 0, 10, 11]) == ["5", "0", "3"]


def test_past_the_last_tier() -> None:
    """Past a last tier that ends the cost stays; where it extends it goes on."""
    ended = tiers((10, "1", "0"))
    assert alone(Price(model="volume", tiers=ended), 10, 12) == ["10", "10"]
    assert alone(Price(model="volume", tiers=ended, last_tier="extend"), 12) == ["12"]


def test_bounds_where_cost_falls() -> None:
    """Minimum and maximum hold on both sides of a drop in cost."""
    price = Price(model="volume", tiers=tiers((10, "1", "0"), (None, "0.5", "0")), minimum="3", maximum="8")
    assert alone(price, 0, 2, 4, 9, 10, 11, 14, 100) == ["3", "3", "4", "8", "8", "5.5", "7", "8"]
