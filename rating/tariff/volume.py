"""volume: all units cost the price of the tier that the total reaches.

F may fall at the start of a cheaper tier. So the charge of a record can be negative, and it depends on the units before
it. The charges of a cycle still sum to F(total).
"""

from __future__ import annotations

from rating.tariff.segments import BEFORE_FIRST_UNIT, PriceSpec, Segment, constant, tier_terms


def volume(spec: PriceSpec) -> list[Segment]:
    """F(u) = flat + u * price / per of the tier that u falls into, or by started packages if the tier says so.

    Beyond a last tier that has an end, F stays constant, or continues as in that tier if `last_tier` is "extend".
    """
    segments: list[Segment] = []
    tiers = tier_terms(spec)
    for tier in tiers:
        above = tier.start if segments else BEFORE_FIRST_UNIT
        segments.append(Segment(above, 0, tier.size, tier.flat, tier.step))
    end = tiers[-1].to
    if end is not None and spec.price.last_tier == "stop":
        segments.append(constant(end, segments[-1].cost(end)))
    return segments
