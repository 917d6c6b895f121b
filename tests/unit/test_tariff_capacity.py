"""The price model `capacity`: the fee of the tier that the peak reaches (P2)."""

from __future__ import annotations

from schemas.plans import Price
from tests.support.price_case import costs, tiers


def test_by_peak() -> None:
    """The fee of the tier that the peak reaches replaces that of the tier before."""
    price = Price(model="capacity", tiers=tiers((10, "0", "20"), (100, "0", "50"), (None, "0.25", "50")))
    assert costs(price, [-1, 4, 10, 11, 100, 104]) == ["20", "0", "30", "0", "26"]
