"""What the committed history says of totals that a rule is the first to look at (rating.rules.totals)."""

from __future__ import annotations

import polars as pl

from pipeline.datadir import DataDirectory


def baseline(directory: DataDirectory) -> pl.DataFrame:
    """The totals of all committed rated rows, with the columns that the fold takes them in by."""
    raise NotImplementedError(directory)
