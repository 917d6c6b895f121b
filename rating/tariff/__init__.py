"""Price models (P2): one file a model, each compiling a price into segments that the book evaluates all at once."""

from __future__ import annotations

from rating.tariff.book import PriceBook
from rating.tariff.segments import PriceSpec

__all__ = ["PriceBook", "PriceSpec"]
