"""Columns of names, from columns of their numbers."""

from __future__ import annotations

import numpy as np
import polars as pl

from rating.columnar.key_index import Ints


def named(rows: Ints, names: list[str]) -> pl.Series:
    """Return a String column of names by row; -1 is null."""
    if len(rows) < len(names):  # a question about one card must not read the names of all devices
        return pl.Series([None if row < 0 else names[row] for row in rows.tolist()], dtype=pl.String)
    table = pl.Series([*names, None], dtype=pl.String)
    return table.gather(np.where(rows < 0, len(names), rows))
