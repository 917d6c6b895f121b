"""Writes the sections of a report as CSV and Parquet, one file a section."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.report.model import SECTIONS, Report
from jobs.report.place import file_stem, placed
from jobs.report.text import amounts_as_text


def write_csv(report: Report, out: Path) -> list[Path]:
    """One CSV file a section: UTF-8, comma, LF, header of column names, amounts as exact decimal text.

    A text that a spreadsheet would take for a formula gets an apostrophe in front; numbers never do.
    """
    return _write_each(report, out, "csv", lambda frame, path: csv_frame(frame).write_csv(path))


def csv_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` as its CSV shows it: texts guarded against formulas, amounts and percentages as decimal text."""
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    guarded = frame.with_columns(
        pl.when(pl.col(name).str.contains(r"^[=+\-@\t\r]")).then("'" + pl.col(name)).otherwise(pl.col(name)).alias(name)
        for name in texts
    )
    return amounts_as_text(guarded)


def write_parquet(report: Report, out: Path) -> list[Path]:
    """One Parquet file a section: quantities int64, amounts decimal(38, 9), title and cycle in the file's metadata."""

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
        with placed(path) as unfinished:
            write(report.sections[name], unfinished)
        paths.append(path)
    return paths
