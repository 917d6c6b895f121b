"""Landing: rated, rejected and gap rows become the Parquet files of the history (Q5).

Within a checkpoint rows are cut into files by count alone, so that the files do not depend on how the stream was cut
into batches. Rated rows go to `history/rated/cycle=2026-10/day=2026-10-07/<checkpoint>-<part>.parquet`, in journal
order within a file; the other tables to `history/<table>/<checkpoint>-<part>.parquet`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.background import Background
from pipeline.datadir import Checkpoint
from pipeline.manifest import FileEntry
from pipeline.partition import by_cycle_and_day
from schemas.tables import TABLES

FILE_ROWS = 1_000_000
ROW_GROUP_ROWS = 524_288

# Always known of a rated row, whatever the feed and the tariff. Saying so in the file saves a sixth of the writing.
RATED_NULLABLE = frozenset({"zone", "country", "plmn", "volume_up_bytes", "volume_down_bytes", "session_id"})
# What files are skipped by; statistics on the other columns would cost a third more.
_STATISTICS = ("iccid", "subject", "account_id", "used_at", "cycle", "day", "journal_offset")
# A larger dictionary is cut down to the words that a file uses.
_DICTIONARY_KEPT = 256


class Landing:
    """Takes the tables of one checkpoint and stages their files, in the background thread.

    Raises, from `add` or `finish`, StorageError where the disk refuses, and ValueError where a table is not what
    schemas/tables.py says.
    """

    def __init__(self, checkpoint: Checkpoint, background: Background, *, file_rows: int = FILE_ROWS) -> None:
        self._checkpoint = checkpoint
        self._background = background
        self._file_rows = file_rows
        self._waiting: dict[str, list[pa.Table]] = {name: [] for name in TABLES}
        self._waiting_rows = dict.fromkeys(TABLES, 0)
        self._parts = dict.fromkeys(TABLES, 0)

    def add(self, name: str, table: pa.Table) -> None:
        """Land these rows of the table `rated`, `rejected` or `gaps`, after those added before."""
        if not table.schema.equals(TABLES[name]):
            raise ValueError(f"not the schema of {name}: {table.schema}")
        if table.num_rows:
            self._background.submit(lambda: self._take_in(name, table))

    def finish(self) -> None:
        """Wait until all rows added are staged; then the checkpoint can be committed."""
        self._background.submit(self._flush_all)
        self._background.finish()

    def _take_in(self, name: str, table: pa.Table) -> None:
        while table.num_rows:
            head = table.slice(0, self._file_rows - self._waiting_rows[name])
            self._waiting[name].append(head)
            self._waiting_rows[name] += head.num_rows
            table = table.slice(head.num_rows)
            if self._waiting_rows[name] == self._file_rows:
                self._flush(name)

    def _flush_all(self) -> None:
        for name in TABLES:
            if self._waiting_rows[name]:
                self._flush(name)

    def _flush(self, name: str) -> None:
        tables, self._waiting[name], self._waiting_rows[name] = self._waiting[name], [], 0
        file = f"{self._checkpoint.number:010}-{self._parts[name]:03}.parquet"
        self._parts[name] += 1
        if name != "rated":
            stage_table(self._checkpoint, name, f"history/{name}/{file}", pa.concat_tables(tables))
            return
        partitions: dict[tuple[str, str], list[pa.Table]] = {}
        for table in tables:
            for cycle, day, rows in by_cycle_and_day(table):
                partitions.setdefault((cycle, day), []).append(rows)
        for (cycle, day), pieces in sorted(partitions.items()):
            path = f"history/rated/cycle={cycle}/day={day}/{file}"
            stage_table(self._checkpoint, name, path, pa.concat_tables(pieces))


def stage_table(checkpoint: Checkpoint, name: str, path: str, table: pa.Table) -> FileEntry:
    """Stage one Parquet file with these rows of the table `name`; the same rows give the same bytes."""
    table = _with_used_words(table.unify_dictionaries())
    if name == "rated":
        table = table.cast(_RATED_FILE) if table.schema != _RATED_FILE else table

    def write(target: Path) -> None:
        write_parquet(table, target)

    return checkpoint.stage(name, path, write, rows=table.num_rows)


_RATED_FILE = pa.schema([field.with_nullable(field.name in RATED_NULLABLE) for field in TABLES["rated"]])


def write_parquet(table: pa.Table, target: Path) -> None:
    """Write a table as the history is written.

    Numbers and times are packed as differences and not compressed further; dictionaries are used only where the schema
    has them, that is, for words that repeat; everything else is zstd at level 1.
    """
    packed = [field.name for field in table.schema if field.type == pa.int64() or pa.types.is_timestamp(field.type)]
    others = [name for name in table.column_names if name not in packed]
    pq.write_table(
        table,
        target,
        row_group_size=ROW_GROUP_ROWS,
        use_dictionary=[field.name for field in table.schema if pa.types.is_dictionary(field.type)],
        column_encoding=dict.fromkeys(packed, "DELTA_BINARY_PACKED"),
        compression=dict.fromkeys(packed, "none") | dict.fromkeys(others, "zstd"),
        compression_level=dict.fromkeys(others, 1),
        write_statistics=[name for name in _STATISTICS if name in table.column_names],
    )


def _with_used_words(table: pa.Table) -> pa.Table:
    """Dictionaries without the words that no row uses, where they are large."""
    for place, field in enumerate(table.schema):
        column = table.column(place)
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
        table = table.set_column(place, field, pa.DictionaryArray.from_arrays(codes, words.take(pa.array(used))))
    return table
