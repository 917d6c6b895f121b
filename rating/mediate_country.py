"""Networks to countries: the ISO 3166 country of a mobile country code (F1)."""

from __future__ import annotations

from functools import lru_cache

import polars as pl
from phone_iso3166.e212 import networks

_UNITED_STATES = range(310, 317)


@lru_cache(maxsize=4096)
def country_of(plmn: str) -> str | None:
    """ISO 3166 alpha-2 code of a PLMN or a bare MCC; None for test, international and unknown networks.

    Of a code that several territories share, an unlisted network counts as the one with the most networks.
    """
    if not (plmn.isascii() and plmn.isdigit() and len(plmn) >= 3):
        return None
    mcc = int(plmn[:3])
    found = networks.get(mcc)
    if isinstance(found, dict):
        found = found.get(int(plmn[3:]) if len(plmn) > 3 else -1) or _most_common(list(found.values()))
    # The table lists the largest networks of the United States, 310-260 and 310-410 among them, under the Virgin
    # Islands, which they serve too.
    return "US" if mcc in _UNITED_STATES and found == "VI" else found


def _most_common(countries: list[str]) -> str:
    return max(sorted(set(countries)), key=countries.count)


def distinct(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The distinct values of `text` in order of appearance, and for each row the index of its value (null for null)."""
    encoded = text.to_arrow().dictionary_encode()
    indices = pl.Series(pl.from_arrow(encoded.indices)).cast(pl.Int64)
    return pl.Series(pl.from_arrow(encoded.dictionary)).cast(pl.String), indices
