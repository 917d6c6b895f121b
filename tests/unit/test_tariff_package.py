"""The price model `package`: each started package costs a whole one (P2)."""

from __future__ import annotations

from schemas.plans import Price
from tests.support.price_case import alone, costs


def test_package_of_ten() -> None:
    """A started package costs a whole one, whatever was used before it."""
    price = Price(model="package", price="15", per=10)
    assert alone(price, 0, 1, 10, 11) == ["0", "15", "15", "30"]
    assert costs(price, [17, 22]) == ["15"]


def test_free_units() -> None:
    """Free units are left out before packages are counted."""
    assert alone(Price(model="package", price="100", per=10), 121) == ["1300"]
    assert alone(Price(model="package", price="100", per=10, free_units=10), 121) == ["1200"]


def test_late_usage_bills_the_difference() -> None:
    """A total that grows from 1 to 401 adds the four packages that were not billed yet."""
    assert costs(Price(model="package", price="1", per=100), [0, 1, 401]) == ["1", "4"]


def test_a_part_of_a_unit_starts_a_package() -> None:
    """9.9 of 10, counted in tenths, is one package, or 0.99 in proportion."""
    assert alone(Price(model="package", price="1", per=100), 99) == ["1"]


def test_blocks_past_an_allowance() -> None:
    """415 s in started blocks of 30 s are 14 blocks; 7.5 MB in started MB are 8."""
    assert alone(Price(model="package", price="0.5", per=30), 415) == ["7"]
    assert alone(Price(model="package", price="1", per=1_000_000), 7_500_000) == ["8"]
