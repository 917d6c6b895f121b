"""Intake of the outbox: actions of the history beyond the cursor become messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.outbox.message import Target, outgoing
from pipeline.outbox.store import Cursor, Store
from pipeline.store.directory import DataDirectory, storage_errors
from pipeline.store.manifest import FileEntry, Manifest
from rating.errors import StorageError
from schemas.rules import Action
from schemas.tables import ACTIONS, FIRINGS

_PLACES: Final = ["journal_partition", "journal_offset", "action_id"]


class Intake:
    """Reads committed actions from a data directory opened for reading. Repeated calls read only new files."""

    def __init__(
        self,
        directory: DataDirectory,
        store: Store,
        route: Callable[[Action, str], Sequence[Target]],
        ordered: frozenset[str],
    ) -> None:
        self._directory = directory
        self._store = store
        self._route = route
        self._ordered = ordered
        self._cursors = store.cursors()
        self._read: set[str] = set()  # paths of files that have been read completely

    def take_in(self) -> int:
        """Store messages for all actions committed so far, each once; return the number of actions.

        The messages of a row group and the cursor after them are stored in one transaction. Raises StorageError if the
        disk fails or the history is damaged.
        """
        self._directory.refresh()
        taken = 0

        def new_files(manifest: Manifest) -> None:
            nonlocal taken
            firings = manifest.group("firings")
            for entry in manifest.group("actions"):
                if entry.path not in self._read:
                    taken += self._file(entry, firings)
                    self._read.add(entry.path)

        self._directory.read(new_files)
        return taken

    def _file(self, entry: FileEntry, firings: Iterable[FileEntry]) -> int:
        path = self._directory.locate(entry)
        taken = 0
        with storage_errors(path, "read"), pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                new = self._new(file.read_row_group(group, columns=_PLACES))
                if pc.any(new).as_py():
                    rows = _frame(file.read_row_group(group).filter(new), ACTIONS)
                    self._keep(rows, self._firings(firings, rows), entry)
                    taken += rows.height
        return taken

    def _new(self, places: pa.Table) -> pa.ChunkedArray:
        """bool[n]: which rows are beyond the cursor of their partition."""
        partition, offset, ids = (places.column(name) for name in _PLACES)
        new = pc.is_valid(offset)
        for number, cursor in self._cursors.items():
            at = pc.and_(
                pc.equal(offset, cursor.offset),
                pc.invert(pc.is_in(ids, value_set=pa.array(sorted(cursor.ids), pa.string()))),
            )
            beyond = pc.or_(pc.greater(offset, cursor.offset), at)
            new = pc.and_(new, pc.or_(pc.not_equal(partition, number), beyond))
        return new

    def _firings(self, entries: Iterable[FileEntry], rows: pl.DataFrame) -> pl.DataFrame:
        """Return the firings that the rows name. A firing has the same journal offset as its actions."""
        offsets = rows["journal_offset"]
        low, high = offsets.min(), offsets.max()
        assert isinstance(low, int)
        assert isinstance(high, int)
        wanted = rows.select("firing_id").unique()
        found = [_frame(FIRINGS.empty_table(), FIRINGS)]
        for entry in entries:
            path = self._directory.locate(entry)
            with storage_errors(path, "read"), pq.ParquetFile(path, page_checksum_verification=True) as file:
                for group in range(file.num_row_groups):
                    if _overlaps(file, group, low, high):
                        frame = _frame(file.read_row_group(group), FIRINGS)
                        found.append(frame.join(wanted, on="firing_id", how="semi"))
        return pl.concat(found)

    def _keep(self, rows: pl.DataFrame, firings: pl.DataFrame, entry: FileEntry) -> None:
        cursors = dict(self._cursors)
        last = rows.group_by("journal_partition").agg(
            pl.col("journal_offset").max(),
            pl.col("action_id").filter(pl.col("journal_offset") == pl.col("journal_offset").max()),
        )
        for partition, offset, ids in last.iter_rows():
            before = cursors.get(partition)
            held = before.ids if before is not None and before.offset == offset else frozenset()
            cursors[partition] = Cursor(offset, held | frozenset(ids), entry.path)
        try:
            messages = outgoing(rows, firings, self._route)
            self._store.take_in(messages, cursors, self._ordered, time.time_ns() // 1000)
        except ValueError as damage:
            raise StorageError(
                f"{Path(entry.path)}: {damage}; restore the data directory from a backup, or ingest again into another "
                "--data directory"
            ) from damage
        self._cursors = cursors


def _frame(table: pa.Table, schema: pa.Schema) -> pl.DataFrame:
    """Return the rows as a frame, with dictionary columns as plain text."""
    plain = pa.schema(
        [(field.name, pa.string() if pa.types.is_dictionary(field.type) else field.type) for field in schema]
    )
    frame = pl.from_arrow(table.select(schema.names).cast(plain))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _overlaps(file: pq.ParquetFile, group: int, low: int, high: int) -> bool:
    column = file.metadata.row_group(group).column(file.schema_arrow.get_field_index("journal_offset"))
    known = column.statistics
    return known is None or not known.has_min_max or (known.min <= high and known.max >= low)
