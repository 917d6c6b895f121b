"""Price models, one file each. A model compiles a price to segments; PriceBook evaluates all prices at once (P2)."""

from __future__ import annotations

from rating.tariff.book import PriceBook
from rating.tariff.segments import PriceSpec

__all__ = ["PriceBook", "PriceSpec"]
