"""CSV and Parquet files of a report, one file a section."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.output.formulas import FORMULA
from jobs.output.text import amounts_as_text
from jobs.report.files import file_stem, replacing
from jobs.report.model import SECTIONS, Report


def write_csv(report: Report, out: Path) -> list[Path]:
    """Write one CSV file a section and return the paths.

    Files are UTF-8 with commas, LF and a header of column names. Amounts are exact decimal text. A text that a
    spreadsheet would evaluate as a formula gets a leading apostrophe; numbers never do.
    """
    return _write_each(report, out, "csv", lambda frame, path: csv_frame(frame).write_csv(path))


def csv_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` as written to CSV: apostrophes before formula-like texts, Decimal columns as decimal text."""
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    guarded = frame.with_columns(
        pl.when(pl.col(name).str.contains(FORMULA)).then("'" + pl.col(name)).otherwise(pl.col(name)).alias(name)
        for name in texts
    )
    return amounts_as_text(guarded)


def write_parquet(report: Report, out: Path) -> list[Path]:
    """Write one Parquet file a section and return the paths.

    Quantities are int64 and amounts decimal(38, 9). The schema metadata has `weir.cycle` and `weir.as_of`.
    """

    def write(frame: pl.DataFrame, path: Path) -> None:
        table = frame.to_arrow()
        large_to_plain = [
            field.with_type(pa.string())
            if pa.types.is_large_string(field.type) or field.type == pa.string_view()
            else field
            for field in table.schema
        ]
        about = {"weir.cycle": report.cycle, "weir.as_of": report.as_of.isoformat()}
        pq.write_table(table.cast(pa.schema(large_to_plain, metadata=about)), path, compression="zstd")

    return _write_each(report, out, "parquet", write)


def _write_each(report: Report, out: Path, suffix: str, write: Callable[[pl.DataFrame, Path], None]) -> list[Path]:
    paths = []
    for name in SECTIONS:
        path = out / f"{file_stem(report)}-{name.replace('_', '-')}.{suffix}"
        with replacing(path) as unfinished:
            write(report.sections[name], unfinished)
        paths.append(path)
    return paths
