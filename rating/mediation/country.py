"""Countries of networks: the ISO 3166 country of a PLMN or mobile country code (F1)."""

from __future__ import annotations

from functools import lru_cache

import polars as pl

from rating.mediation.network_countries import COUNTRY_BY_MCC, COUNTRY_BY_NETWORK


@lru_cache(maxsize=4096)
def country_of(plmn: str) -> str | None:
    """Return the ISO 3166 alpha-2 code of a PLMN or of an MCC alone; None for test, international and unknown networks.

    A network counts to the country of its MCC, unless it is known to serve another that shares the MCC. An MNC of two
    digits and one of three are the same network if they are the same number.
    """
    if not (plmn.isascii() and plmn.isdigit() and len(plmn) >= 3):
        return None
    mcc = int(plmn[:3])
    other = COUNTRY_BY_NETWORK.get((mcc, int(plmn[3:]))) if len(plmn) > 3 else None
    return other or COUNTRY_BY_MCC.get(mcc)


def distinct(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return the distinct values of `text` in order of appearance, and each row's index in them (null for null)."""
    encoded = text.to_arrow().dictionary_encode()
    indices = pl.Series(pl.from_arrow(encoded.indices)).cast(pl.Int64)
    return pl.Series(pl.from_arrow(encoded.dictionary)).cast(pl.String), indices
