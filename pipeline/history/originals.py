"""Finds the corrections in a batch, and the rated rows that rating again needs (F6, P10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.directory import DataDirectory
from rating.engine import Engine
from rating.errors import StorageError
from rating.usage.corrections import REPLACED
from rating.usage.rerate_scope import RerateScope, gathered
from schemas.tables import RATED
from schemas.usage import RecordType, UsageBatch


def stretches(usage: pl.DataFrame, start: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Yield (first, end, corrections) of ranges of rows from `start` on that are either all corrections or none."""
    if "record_type" not in usage.columns:
        if start < len(usage):
            yield start, len(usage), False
        return
    corrects = corrections_in(usage).slice(start)
    for length, value in corrects.rle().struct.unnest().iter_rows():
        yield start, start + length, bool(value)
        start += length


def corrections_in(usage: pl.DataFrame) -> pl.Series:
    """Return whether each row is a correction."""
    if "record_type" not in usage.columns:
        return pl.repeat(False, len(usage), eager=True)
    return usage["record_type"].fill_null(0) >= int(RecordType.REVERSE)


def rated_files(directory: DataDirectory) -> list[tuple[str, Path]]:
    """Return the committed files of rated rows: their cycle and where they are."""
    return [(cycle_of_path(entry.path), directory.locate(entry)) for entry in directory.manifest.group("rated")]


def cycle_of_path(path: str) -> str:
    """Return the cycle in which the rows of a file of the history are billed."""
    return next(part.removeprefix("cycle=") for part in path.split("/") if part.startswith("cycle="))


class RatedRows:
    """Reads rated rows from the files of a history (`rated_files`).

    With `before_offset`, only rows of entries before that offset count. Reading raises StorageError if a page does not
    fit its checksum.
    """

    def __init__(self, files: Sequence[tuple[str, Path]], before_offset: int | None = None) -> None:
        self._files = files
        self._before = before_offset

    def touched(self, engine: Engine, batch: UsageBatch) -> pa.Table:
        """Return the rows that the corrections of a batch touch (Engine.correction_scope), in journal order."""
        originals = self.of_keys(batch.rows["corrects_key"].drop_nulls().unique().to_list())
        return self.sharing(engine, engine.correction_scope(batch, originals), originals)

    def of_keys(self, keys: Sequence[str]) -> pa.Table:
        """Return the rows of records with these keys, and of what has replaced them since."""
        wanted, rows = set(keys), RATED.empty_table()
        more = set(keys)
        while more:
            found = self._read([path for _, path in self._files], pc.field("record_key").isin(sorted(more)))
            rows = pa.concat_tables([rows, found])
            replaced = found.filter(pc.field("because").cast(pa.string()) == REPLACED)
            more = set(replaced.column("cause").to_pylist()) - wanted - {None}
            wanted |= more
        return rows

    def sharing(self, engine: Engine, scope: RerateScope, others: pa.Table | None = None) -> pa.Table:
        """Return the rows in a scope and of everything that shares a total with it, with `others`, in journal order."""
        rows = gathered(engine.compiled, scope, self._within)
        if others is not None:
            known = pa.array(rows.column("record_key").unique().to_pylist(), pa.string())
            rows = pa.concat_tables([rows, others.filter(~pc.field("record_key").isin(known))])
        return rows.sort_by([("journal_offset", "ascending"), ("part", "ascending")])

    def batches(self, columns: list[str], wanted: Any | None) -> Iterator[pa.Table]:
        """Yield these columns of the rows that the filter `wanted` selects, batch by batch."""
        if self._files:
            with _reading():
                for batch in _dataset([path for _, path in self._files]).to_batches(columns=columns, filter=wanted):
                    if batch.num_rows:
                        yield pa.Table.from_batches([batch])

    def _within(self, scope: RerateScope) -> pa.Table:
        # What is billed in another cycle than its own is billed in a later one.
        first = scope.first_cycle
        return self._read([path for cycle, path in self._files if first is None or cycle >= first], scope.rows())

    def _read(self, files: Sequence[Path], wanted: Any) -> pa.Table:
        if not files:
            return RATED.empty_table()
        if self._before is not None:
            wanted &= pc.field("journal_offset") < self._before
        with _reading():
            return _dataset(files).to_table(filter=wanted)


def _dataset(files: Sequence[Path]) -> Any:
    """Return the rows of files of RATED, whose pages are compared with their checksums when they are read."""
    import pyarrow.dataset as ds  # a slow import, which loads pandas if installed; corrections are rare

    checked = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    return ds.dataset([str(path) for path in files], schema=RATED, format=checked)


@contextmanager
def _reading() -> Iterator[None]:
    """Turn what Arrow raises of a damaged file into StorageError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as failure:
        raise StorageError(f"{failure}; `weir verify` says which files are damaged") from failure
