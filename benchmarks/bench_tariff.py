"""Pricing and increments: columns of records over many prices at once."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from rating.tariff import PriceBook, PriceSpec
from rating.tariff.increments import IncrementBook, IncrementSpec
from schemas.plans import Increment, Price, Rounding, Tier

RECORDS = 1_000_000
GRADUATED = Price(
    model="graduated",
    tiers=(
        Tier(to="500 MB", price="0.010", per="1 MB"),
        Tier(to="2 GB", price="0.006", per="1 MB"),
        Tier(price="0.003", per="1 MB"),
    ),
)
PRICES = {
    "one flat price": [Price(model="flat", price="0.012", per="1 MB")],
    "one graduated price": [GRADUATED],
    "a mix of 200 prices": [
        Price(model="flat", price="0.012", per="1 MB"),
        GRADUATED,
        Price(model="package", price="4.50", per="1 GB"),
        Price(model="free"),
    ]
    * 50,
}


@pytest.mark.parametrize("name", PRICES)
def bench_charge(benchmark: BenchmarkFixture, name: str) -> None:
    """A million charges, of counters between 0 and 4 GB."""
    rng = np.random.default_rng(1)
    book = PriceBook.compile([PriceSpec(price, Rounding(), "data", 1024) for price in PRICES[name]])
    price = rng.integers(0, len(book), RECORDS).astype(np.int32)
    before = rng.integers(0, 4 << 30, RECORDS)
    after = before + rng.integers(1, 20 << 20, RECORDS)
    benchmark.extra_info["records"] = RECORDS
    charged = benchmark(book.charge, price, before, after)
    assert len(charged) == RECORDS
    assert charged.min() >= 0
    assert charged.max() > 0


def bench_billable(benchmark: BenchmarkFixture) -> None:
    """A million quantities through a mix of three increments."""
    rng = np.random.default_rng(1)
    increments = [Increment(step="1 KB"), Increment(step="10 KB"), Increment(step="1 KB", round="none")]
    book = IncrementBook.compile([IncrementSpec(increment, "data", 1024) for increment in increments])
    which = rng.integers(0, len(increments), RECORDS).astype(np.int32)
    quantity = rng.integers(1, 20 << 20, RECORDS)
    benchmark.extra_info["records"] = RECORDS
    billable = benchmark(book.billable, which, quantity)
    assert (billable >= quantity).all()
