"""Networks to countries: the ISO 3166 country of a mobile country code (F1)."""

from __future__ import annotations

from functools import cache

import polars as pl
from phone_iso3166.e212 import networks

# Of a country code that several territories share, and that network codes tell apart, the main one.
_SHARED = {"310": "US", "311": "US", "312": "US", "313": "US", "314": "US", "315": "US", "316": "US"}


@cache
def country_of(plmn: str) -> str | None:
    """ISO 3166 alpha-2 code of a PLMN or a bare MCC; None for test and international networks."""
    if not (plmn.isascii() and plmn.isdigit() and len(plmn) >= 3):
        return None
    found = networks.get(int(plmn[:3]))
    if isinstance(found, dict):
        shared = found.get(int(plmn[3:])) if len(plmn) > 3 else None
        found = shared or _SHARED.get(plmn[:3]) or _most_common(list(found.values()))
    return found if isinstance(found, str) and len(found) == 2 and found.isalpha() else None


def _most_common(countries: list[str]) -> str | None:
    return max(sorted(set(countries)), key=countries.count) if countries else None


def distinct(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The distinct values of `text` in order of appearance, and for each row the index of its value (null for null)."""
    encoded = text.to_arrow().dictionary_encode()
    indices = pl.Series(pl.from_arrow(encoded.indices)).cast(pl.Int64)
    return pl.Series(pl.from_arrow(encoded.dictionary)).cast(pl.String), indices
