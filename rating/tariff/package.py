"""package: `price` for each started package of `per` units."""

from __future__ import annotations

from fractions import Fraction

from rating.tariff.segments import BEFORE_FIRST_UNIT, PriceSpec, Segment


def package(spec: PriceSpec) -> list[Segment]:
    """F(u) = ceil(u / per) * price."""
    size = spec.units(spec.price.per, ("per",), at_least=1)
    return [Segment(BEFORE_FIRST_UNIT, 0, size, Fraction(0), spec.nanos(spec.price.price, ("price",)))]
