"""The price model `flat`: a price for each unit or number of units, in proportion (P2)."""

from __future__ import annotations

import numpy as np

from rating.tariff import PriceBook, PriceSpec
from schemas.plans import Price, Rounding
from tests.support.price_case import alone, costs


def test_half_per_second() -> None:
    """A price for each unit is paid for each unit."""
    assert alone(Price(model="flat", price="0.5"), 30, 3621) == ["15", "1810.5"]


def test_price_per_several_units() -> None:
    """A price for ten units is paid in proportion, in fractions that no single unit has."""
    assert alone(Price(model="flat", price="0.002", per=10), 20) == ["0.004"]
    assert alone(Price(model="flat", price="1", per=100), 99) == ["0.99"]


def test_rounding_up_a_record_with_its_connect_fee() -> None:
    """24 s at 0.05 a minute and a connect fee of 0.15 are 0.17, rounded up once."""
    price = Price(model="flat", price="0.05", per=60, connect_fee="0.15", basis="record")
    assert costs(price, [0, 24], Rounding(mode="up", decimals=2)) == ["0.17"]
    assert costs(price, [0, 24], Rounding(mode="up", decimals=2, at="record")) == ["0.17"]


def test_maximum_then_free() -> None:
    """Past the maximum nothing more is charged."""
    price = Price(model="flat", price="1", maximum="10")
    assert alone(price, 1800) == ["10"]
    assert costs(price, [0, 4, 9, 12, 10**15]) == ["4", "5", "1", "0"]


def test_minimum_is_due_at_the_first_record() -> None:
    """A minimum falls due as the price is entered, and usage counts against it."""
    assert costs(Price(model="flat", price="1", minimum="5"), [-1, 0, 3, 6]) == ["5", "0", "1"]


def test_reversal_is_negative() -> None:
    """Ten units taken back are ten units paid back."""
    assert costs(Price(model="flat", price="1"), [10, 0]) == ["-10"]


def test_free_units_and_time_order() -> None:
    """After 60 free seconds the order of records decides which costs what, but not what they cost together."""
    assert costs(Price(model="flat", price="0.6", per=60, free_units=60), [0, 120, 240]) == ["0.6", "1.2"]


def test_a_price_finer_than_a_nano() -> None:
    """A price of less than a nano a unit adds up over the cycle instead of being lost record by record."""
    price = Price(model="flat", price="0.0000000000625")
    assert costs(price, list(range(17)), service="data").count("0.000000001") == 1
    assert costs(price, [0, 16 * 10**12], service="data") == ["1000"]


def test_price_per_gigabyte() -> None:
    """A byte at 2.50 a GB is a fraction of a nano that is kept until the cycle is rounded."""
    assert costs(Price(model="flat", price="2.50", per="1 GB"), [0, 2**29, 2**30], service="data") == ["1.25"] * 2


def test_connect_fee_alone() -> None:
    """Usage that costs nothing still pays the connect fee."""
    assert costs(Price(model="flat", connect_fee="0.01"), [40, 40]) == ["0.01"]


def test_evening_band() -> None:
    """Half an hour at 1 and half at 0.5 a second with a fee of 1 are 2701, and 2700 where the call goes on."""
    day = Price(model="flat", price="1", connect_fee="1", basis="record")
    book = PriceBook.compile([PriceSpec(p, Rounding(), "voice") for p in (day, Price(model="flat", price="0.5"))])
    price, before, after = np.array([0, 1]), np.zeros(2, np.int64), np.full(2, 1800)
    assert 2701 * 10**9 == book.charge(price, before, after, np.array([1, 0])).sum()
    assert 2700 * 10**9 == book.charge(price, before, after).sum()
