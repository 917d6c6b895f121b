"""Writes rated, rejected and other result rows to the Parquet files of the history (Q5).

Within a checkpoint, rows are cut into files by their number alone, so the files do not depend on how the stream was cut
into batches. Rated rows go to `history/rated/cycle=2026-10/day=2026-10-07/<checkpoint>-<part>.parquet`, in journal
order within a file. The other tables (rejected, gaps, firings, actions, results) have few rows a month, so they are not
split: `history/<table>/<checkpoint>-<part>.parquet`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.history.partitioning import by_cycle_and_day
from pipeline.store.background import Background
from pipeline.store.directory import Checkpoint, storage_errors
from pipeline.store.manifest import FileEntry
from schemas.tables import TABLES

FILE_ROWS = 1_000_000
ROW_GROUP_ROWS = 524_288
LANDED_GROUP_ROWS = 65_536  # small enough that little is left to write when the checkpoint is committed

# The only columns of a rated row that may be null. Declaring the others non-null saves a sixth of the time to write.
RATED_NULLABLE = frozenset({"zone", "country", "plmn", "volume_up_bytes", "volume_down_bytes", "session_id"})
# Columns with statistics, by which readers skip files. Statistics on all columns would cost a third more time.
_STATISTICS = ("iccid", "subject", "account_id", "used_at", "cycle", "day", "journal_offset", "fired_at")
# A larger dictionary is reduced to the words that the file uses.
_DICTIONARY_KEPT = 256


class Landing:
    """Stages the files for the tables of one checkpoint, in the background thread.

    `add` and `finish` raise StorageError if the disk fails, and ValueError if a table does not match schemas/tables.py.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        background: Background,
        *,
        file_rows: int = FILE_ROWS,
        group_rows: int = LANDED_GROUP_ROWS,
    ) -> None:
        self._checkpoint = checkpoint
        self._background = background
        self._file_rows = file_rows
        self._group_rows = min(group_rows, file_rows)
        self._files: dict[tuple[str, str], _File] = {}  # by table and folder

    def add_later(self, name: str, make: Callable[[], pa.Table]) -> None:
        """Like `add`, but `make` builds the table in the background thread."""
        self._background.submit(lambda: self._take_in(name, make()))

    def add(self, name: str, table: pa.Table) -> None:
        """Append rows to a table of schemas.tables.TABLES."""
        if not table.schema.equals(TABLES[name]):
            raise ValueError(f"not the schema of {name}: {table.schema}")
        if table.num_rows:
            self._background.submit(lambda: self._take_in(name, table))

    def flush(self) -> None:
        """Stage all rows added so far, in the background."""
        self._background.submit(self._flush_all)

    def finish(self) -> None:
        """Wait until all added rows are staged. Then the checkpoint can be committed."""
        self.flush()
        self._background.finish()

    def _take_in(self, name: str, table: pa.Table) -> None:
        if name == "rated":
            for cycle, day, rows in by_cycle_and_day(table):
                self._file(name, f"history/rated/cycle={cycle}/day={day}").add(rows)
        else:
            self._file(name, f"history/{name}").add(table)

    def _file(self, name: str, folder: str) -> _File:
        if (name, folder) not in self._files:
            self._files[name, folder] = _File(self._checkpoint, name, folder, self._group_rows, self._file_rows)
        return self._files[name, folder]

    def _flush_all(self) -> None:
        for _, file in sorted(self._files.items()):
            file.close()


class _File:
    """The current file of one folder: row groups of `group_rows`, and a new file after `file_rows`."""

    def __init__(self, checkpoint: Checkpoint, name: str, folder: str, group_rows: int, file_rows: int) -> None:
        self._checkpoint = checkpoint
        self._name = name
        self._folder = folder
        self._group_rows = group_rows
        self._file_rows = file_rows
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._part = 0
        self._rows = 0
        self._writer: pq.ParquetWriter | None = None

    @property
    def path(self) -> str:
        return f"{self._folder}/{self._checkpoint.number:010}-{self._part:03}.parquet"

    def add(self, table: pa.Table) -> None:
        """Append rows. Each time there are enough, a row group is written."""
        while table.num_rows:
            room = min(self._group_rows, self._file_rows - self._rows) - self._waiting_rows
            head = table.slice(0, room)
            self._waiting.append(head)
            self._waiting_rows += head.num_rows
            table = table.slice(head.num_rows)
            if head.num_rows == room:
                self._write_group()
                if self._rows == self._file_rows:
                    self.close()

    def close(self) -> None:
        """Write the remaining rows and stage the file. Later rows go to the next file."""
        self._write_group()
        writer, self._writer = self._writer, None
        if writer is not None:
            self._checkpoint.stage(self._name, self.path, lambda _: writer.close(), rows=self._rows, begun=True)
            self._part += 1
            self._rows = 0

    def _write_group(self) -> None:
        if not self._waiting_rows:
            return
        table = _as_filed(self._name, pa.concat_tables(self._waiting))
        with storage_errors(self._checkpoint.target(self.path), "write"):
            if self._writer is None:
                options = _options(table.schema)
                self._writer = pq.ParquetWriter(self._checkpoint.target(self.path), table.schema, **options)
            self._writer.write_table(table, row_group_size=self._group_rows)
        self._rows += self._waiting_rows
        self._waiting, self._waiting_rows = [], 0


def stage_table(checkpoint: Checkpoint, name: str, path: str, table: pa.Table) -> FileEntry:
    """Stage one Parquet file with these rows of the table `name`. The same rows give the same bytes."""
    filed = _as_filed(name, table)

    def write(target: Path) -> None:
        pq.write_table(filed, target, row_group_size=ROW_GROUP_ROWS, **_options(filed.schema))

    return checkpoint.stage(name, path, write, rows=table.num_rows)


_RATED_FILE = pa.schema([field.with_nullable(field.name in RATED_NULLABLE) for field in TABLES["rated"]])


def _as_filed(name: str, table: pa.Table) -> pa.Table:
    table = with_used_words(table.unify_dictionaries())
    return table.cast(_RATED_FILE) if name == "rated" and table.schema != _RATED_FILE else table


@lru_cache(maxsize=32)  # there are few schemas
def _options(schema: pa.Schema) -> dict[str, Any]:
    """Return the Parquet options of the history.

    Integers and times are delta-encoded and not compressed further. Dictionaries are used only for dictionary columns
    of the schema, which have repeated words. Everything else is zstd-compressed at level 1.
    """
    packed = [field.name for field in schema if field.type == pa.int64() or pa.types.is_timestamp(field.type)]
    others = [_leaf(field) for field in schema if field.name not in packed]
    return {
        "use_dictionary": [field.name for field in schema if pa.types.is_dictionary(field.type)],
        "column_encoding": dict.fromkeys(packed, "DELTA_BINARY_PACKED"),
        "compression": dict.fromkeys(packed, "none") | dict.fromkeys(others, "zstd"),
        "compression_level": dict.fromkeys(others, 1),
        "write_statistics": [name for name in _STATISTICS if name in schema.names],
        "write_page_checksum": True,
    }


def _leaf(field: pa.Field) -> str:
    """Return the name of a column's values in the file."""
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name


def with_used_words(table: pa.Table) -> pa.Table:
    """Return the table with large dictionaries reduced to the words that rows use."""
    for position, field in enumerate(table.schema):
        column = table.column(position)
        if not pa.types.is_dictionary(field.type) or column.num_chunks == 0:
            continue
        words = column.chunk(0).dictionary
        if len(words) <= _DICTIONARY_KEPT or len(words) <= table.num_rows // 8:
            continue
        indices = pa.chunked_array([chunk.indices for chunk in column.chunks], pa.int32()).combine_chunks()
        if isinstance(indices, pa.ChunkedArray):
            indices = indices.chunk(0)
        used = np.unique(indices.drop_null().to_numpy())
        new_code = np.zeros(len(words), np.int32)
        new_code[used] = np.arange(len(used), dtype=np.int32)
        codes = pc.take(pa.array(new_code), indices)
        table = table.set_column(position, field, pa.DictionaryArray.from_arrays(codes, words.take(pa.array(used))))
    return table
