"""Charges of one price, as text: what each step of a counter costs."""

from __future__ import annotations

import numpy as np

from rating.tariff import PriceBook, PriceSpec
from rating.units.money import format_amount
from schemas.plans import Price, Rounding, Tier


def costs(price: Price, counter: list[int], rounding: Rounding | None = None, service: str = "voice") -> list[str]:
    """What each step of a counter costs, as decimal text, connect fee included."""
    book = PriceBook.compile([PriceSpec(price, rounding or Rounding(), service)])
    before, after = np.array(counter[:-1], np.int64), np.array(counter[1:], np.int64)
    charged = book.charge(np.zeros(len(before), np.int32), before, after, np.ones(len(before), np.int64))
    return [format_amount(nanos) for nanos in charged.tolist()]


def alone(price: Price, *units: int) -> list[str]:
    """What each quantity costs when it is all there is."""
    return [costs(price, [-1, quantity])[0] for quantity in units]


def tiers(*rows: tuple[int | None, str, str]) -> tuple[Tier, ...]:
    """Tiers given as (to, price, flat)."""
    return tuple(Tier(to=to, price=price, flat=flat) for to, price, flat in rows)
