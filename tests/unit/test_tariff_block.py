"""The price model `block`: a connect fee, and started blocks (P2)."""

from __future__ import annotations

import numpy as np

from rating.tariff import PriceBook, PriceSpec
from schemas.plans import Price, Rounding
from tests.support.price_case import costs


def test_connect_fee_and_blocks() -> None:
    """The connect fee is due with every record, a block as it is started."""
    price = Price(model="block", price="0.10", per=60, connect_fee="0.02")
    assert costs(price, [0, 30, 60, 61]) == ["0.12", "0.02", "0.12"]


def test_connect_fee_stays_apart() -> None:
    """The fee is no part of the cumulative cost; who asks without connects gets blocks alone."""
    book = PriceBook.compile([PriceSpec(Price(model="block", price="1", per=60, connect_fee="0.01"), Rounding())])
    assert [10_000_000] == book.connect_fee_nanos.tolist()
    zero = np.zeros(1, np.int64)
    assert [10**9] == book.charge(zero, zero, zero + 60).tolist()
    assert [-(10**9) - 10_000_000] == book.charge(zero, zero + 60, zero, zero - 1).tolist()
