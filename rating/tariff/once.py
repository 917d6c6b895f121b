"""once: `price` for the first unit, and nothing for further units."""

from __future__ import annotations

from fractions import Fraction

from rating.tariff.segments import BEFORE_FIRST_UNIT, PriceSpec, Segment, constant


def once(spec: PriceSpec) -> list[Segment]:
    """F(0) = 0, F(u) = price for u > 0."""
    return [constant(BEFORE_FIRST_UNIT, Fraction(0)), constant(0, spec.nanos(spec.price.price, ("price",)))]
