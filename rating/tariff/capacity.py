"""capacity: a price by the peak that is reached.

Its units are the highest level seen in the cycle, not a sum: `before` and `after` of a record are the peak before
and after it. As a function of the peak it is the tier that the peak falls into, as in `volume`.
"""

from __future__ import annotations

from rating.tariff.segments import PriceSpec, Segment
from rating.tariff.volume import volume


def capacity(spec: PriceSpec) -> list[Segment]:
    """F(peak) = flat + peak * price / per of the tier that the peak falls into."""
    return volume(spec)
