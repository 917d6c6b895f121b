"""flat: `price` per `per` units, in proportion."""

from __future__ import annotations

from fractions import Fraction

from rating.tariff.segments import BEFORE_FIRST_UNIT, PriceSpec, Segment


def flat(spec: PriceSpec) -> list[Segment]:
    """F(u) = u * price / per."""
    step = spec.nanos(spec.price.price, ("price",)) / spec.units(spec.price.per, ("per",), at_least=1)
    return [Segment(BEFORE_FIRST_UNIT, 0, 1, Fraction(0), step)]
