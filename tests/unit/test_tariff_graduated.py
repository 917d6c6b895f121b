"""The price model `graduated`: each unit costs the price of its own tier (P2)."""

from __future__ import annotations

from schemas.plans import Price, Tier
from tests.support.price_case import alone, costs, tiers


def test_flat_fees_and_unit_prices() -> None:
    """Flat fees are due as tiers are entered; 5.001 units, counted in thousandths, enter the second."""
    scaled = tuple(
        Tier(to=to, price=price, flat=flat, per=1000)
        for to, price, flat in [(5000, "0", "100"), (10000, "0", "50"), (15000, "10", "0"), (None, "5", "0")]
    )
    assert alone(Price(model="graduated", tiers=scaled), 0, 3000, 5000, 5001, 12000, 22000) == [
        *("100", "100", "100", "150", "170", "235")
    ]


def test_entry_fees() -> None:
    """Each entered tier adds its own fee to its own units."""
    price = Price(model="graduated", tiers=tiers((10, "10", "2"), (20, "5", "3"), (None, "5", "3")))
    assert alone(price, 0, 10, 11, 21) == ["2", "102", "110", "163"]


def test_stop_past_the_last_tier() -> None:
    """Nothing is charged past a last tier that ends, unless it says that it extends."""
    ended = tiers((1, "0.5", "0"), (4, "0.5", "0"), (9, "1.2", "0"))
    assert alone(Price(model="graduated", tiers=ended), 10) == ["8"]
    assert alone(Price(model="graduated", tiers=ended, last_tier="extend"), 10) == ["9.2"]


def test_two_steps_of_overage() -> None:
    """225 units past the allowances: 20 at 0.2 and 205 at 0.5."""
    assert alone(Price(model="graduated", tiers=tiers((20, "0.2", "0"), (None, "0.5", "0"))), 225) == ["106.5"]


def test_converted_units() -> None:
    """8 billable units, 5 at 1 and 3 at 0.5."""
    assert alone(Price(model="graduated", tiers=tiers((5, "1", "0"), (None, "0.5", "0"))), 8) == ["6.5"]


def test_all_tiers() -> None:
    """10 at 1.5, 100 at 1 and 1 at 0.5."""
    sizes = tiers((10, "1.5", "0"), (110, "1", "0"), (1110, "0.5", "0"))
    assert alone(Price(model="graduated", tiers=sizes), 111) == ["115.5"]


def test_packages_within_a_tier() -> None:
    """Packages count from the start of their tier, the last of them cut short by its end."""
    packaged = (Tier(to=25, price="1", per=10, package=True), Tier(price="2", per=10, package=True))
    assert alone(Price(model="graduated", tiers=packaged), 1, 21, 25, 26, 35, 36) == ["1", "3", "3", "5", "5", "7"]


def test_flat_fee_of_the_first_tier_is_due_once() -> None:
    """A record of no units enters the first tier; the next one does not enter it again."""
    price = Price(model="graduated", tiers=tiers((None, "1", "7")))
    assert costs(price, [-1, 0, 2, 2, -1]) == ["7", "2", "0", "-9"]
