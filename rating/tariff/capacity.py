"""capacity: a price by the peak in the cycle.

Its units are the highest level seen in the cycle, not a sum. `before` and `after` of a record are the peak before and
after it. All units of the peak are charged at the price of the tier that the peak reaches, as in `volume`.
"""

from __future__ import annotations

from rating.tariff.segments import PriceSpec, Segment
from rating.tariff.volume import volume


def capacity(spec: PriceSpec) -> list[Segment]:
    """F(peak) = flat + peak * price / per of the tier that the peak falls into."""
    return volume(spec)
