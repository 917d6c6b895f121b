"""block: a connect fee per record, and `price` for each started block of `per` units.

The connect fee is not a function of the counter, so it is not part of F. PriceBook stores it separately, for any model.
"""

from __future__ import annotations

from rating.tariff.package import package
from rating.tariff.segments import PriceSpec, Segment


def block(spec: PriceSpec) -> list[Segment]:
    """F(u) = ceil(u / per) * price; the connect fee is `PriceBook.connect_fee_nanos`."""
    return package(spec)
