"""block: a connect fee a record, and `price` for each started block of `per` units.

The connect fee is no function of the counter, so it is not part of F: the book keeps it aside for every model.
"""

from __future__ import annotations

from rating.tariff.package import package
from rating.tariff.segments import PriceSpec, Segment


def block(spec: PriceSpec) -> list[Segment]:
    """F(u) = ceil(u / per) * price; the connect fee is `PriceBook.connect_fee_nanos`."""
    return package(spec)
