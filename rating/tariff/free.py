"""free: usage costs nothing. A connect fee or a minimum may still be due."""

from __future__ import annotations

from fractions import Fraction

from rating.tariff.segments import BEFORE_FIRST_UNIT, PriceSpec, Segment, constant


def free(spec: PriceSpec) -> list[Segment]:
    """F(u) = 0."""
    return [constant(BEFORE_FIRST_UNIT, Fraction(0))]
