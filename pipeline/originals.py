"""The committed rated rows that corrections are about (F6)."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from pipeline.datadir import DataDirectory
from schemas.tables import RATED


def originals_in(directory: DataDirectory, corrections: pl.DataFrame, before_offset: int | None = None) -> pa.Table:
    """The committed rated rows of the keys that REVERSE and REPLACE records correct, in journal order.

    With `before_offset` only rows of entries before it.
    """
    import pyarrow.dataset as ds  # it loads pandas, where that is installed; corrections are rare

    files = [str(directory.locate(entry)) for entry in directory.manifest.group("rated")]
    if not files:
        return RATED.empty_table()
    wanted = ds.field("record_key").isin(corrections["corrects_key"].drop_nulls().unique().to_list())
    if before_offset is not None:
        wanted &= ds.field("journal_offset") < before_offset
    rows = ds.dataset(files, schema=RATED, format="parquet").to_table(filter=wanted)
    return rows.sort_by([("journal_offset", "ascending"), ("part", "ascending")])
