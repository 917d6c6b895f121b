"""volume: all units at the price of the tier that they reach.

F may fall where a cheaper tier is entered, so the charge of a record can be negative and depends on the units
before it; the sum over a cycle is still F(total).
"""

from __future__ import annotations

from rating.tariff.segments import BEFORE_FIRST_UNIT, PriceSpec, Segment, constant, tier_terms


def volume(spec: PriceSpec) -> list[Segment]:
    """F(u) = flat + u * price / per of the tier that u falls into (started packages where it says so).

    Past a last tier that has an end F stays as it is there, or with `last_tier` "extend" goes on as in it.
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
