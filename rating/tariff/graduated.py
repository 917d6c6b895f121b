"""graduated: each tier's part of the units at that tier's own price, with an optional flat fee as a tier is entered."""

from __future__ import annotations

from fractions import Fraction

from rating.tariff.segments import BEFORE_FIRST_UNIT, PriceSpec, Segment, constant, tier_terms


def graduated(spec: PriceSpec) -> list[Segment]:
    """F(u) = the flat fees of the tiers entered + each tier's units at its price.

    The first tier is entered with the first record, even one of no units. Packages count from the tier's start.
    Past a last tier that has an end, units are free, or with `last_tier` "extend" cost as in it.
    """
    segments: list[Segment] = []
    spent = Fraction(0)
    tiers = tier_terms(spec)
    for tier in tiers:
        above = tier.start if segments else BEFORE_FIRST_UNIT
        segments.append(Segment(above, tier.start, tier.size, spent + tier.flat, tier.step))
        if tier.to is not None:
            spent = segments[-1].cost(tier.to)
    end = tiers[-1].to
    if end is not None and spec.price.last_tier == "stop":
        segments.append(constant(end, spent))
    return segments
