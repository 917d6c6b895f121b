"""Finds the corrections in a batch, and the committed rated rows that they correct (F6)."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from pipeline.store.directory import DataDirectory
from rating.errors import StorageError
from schemas.tables import RATED
from schemas.usage import RecordType


def stretches(usage: pl.DataFrame, start: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Yield (first, end, corrections) of ranges of rows from `start` on that are either all corrections or none."""
    if "record_type" not in usage.columns:
        if start < len(usage):
            yield start, len(usage), False
        return
    corrects = (usage["record_type"].fill_null(0) >= int(RecordType.REVERSE)).slice(start)
    for length, value in corrects.rle().struct.unnest().iter_rows():
        yield start, start + length, bool(value)
        start += length


def originals_in(directory: DataDirectory, corrections: pl.DataFrame, before_offset: int | None = None) -> pa.Table:
    """Return the committed rated rows with the keys that REVERSE and REPLACE records correct, in journal order.

    With `before_offset`, only rows of entries before that offset. Raises StorageError if a page does not fit its
    checksum.
    """
    import pyarrow.dataset as ds  # a slow import, which loads pandas if installed; corrections are rare

    files = [str(directory.locate(entry)) for entry in directory.manifest.group("rated")]
    if not files:
        return RATED.empty_table()
    wanted = ds.field("record_key").isin(corrections["corrects_key"].drop_nulls().unique().to_list())
    if before_offset is not None:
        wanted &= ds.field("journal_offset") < before_offset
    checked = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    try:
        rows = ds.dataset(files, schema=RATED, format=checked).to_table(filter=wanted)
    except (OSError, pa.ArrowException) as failure:
        if isinstance(failure, FileNotFoundError):
            raise
        raise StorageError(f"{directory.path}: {failure}; `weir verify` says which files are damaged") from failure
    return rows.sort_by([("journal_offset", "ascending"), ("part", "ascending")])
