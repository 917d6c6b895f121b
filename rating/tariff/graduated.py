"""graduated: the units in each tier cost that tier's price. A tier may have a flat fee, due when it is entered."""

from __future__ import annotations

from fractions import Fraction

from rating.tariff.segments import BEFORE_FIRST_UNIT, PriceSpec, Segment, constant, tier_terms


def graduated(spec: PriceSpec) -> list[Segment]:
    """F(u) = the flat fees of the tiers entered + the units in each tier at its price.

    The first record enters the first tier, even a record of zero units. Packages count from the start of the tier.
    Beyond a last tier that has an end, units are free, or cost as in that tier if `last_tier` is "extend".
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
