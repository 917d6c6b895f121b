"""The committed history of a data directory as blocks in journal order, for loading into ClickHouse.

Rows of `rejected` have no journal offset. Their offset here is their row number in the history, which compaction keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.journal import segments as journal
from pipeline.store.directory import DataDirectory, storage_errors
from pipeline.store.manifest import FileEntry, Manifest
from schemas.tables import TABLES

BLOCK_ROWS: Final = 250_000
_KEPT_ROWS: Final = 2_000_000  # limit of the cache of row groups from which several blocks take rows


@dataclass(frozen=True)
class Block:
    """All rows of a table with offsets in [first_offset, next_offset), and the offset of each row (int64[n])."""

    rows: pa.Table
    offsets: npt.NDArray[np.int64]
    first_offset: int
    next_offset: int


@dataclass(frozen=True)
class _FileGroup:
    """A Parquet row group and the range of its offsets (`first` to `last`, inclusive)."""

    entry: FileEntry
    number: int
    rows: int
    first: int
    last: int


class History:
    """One table of a data directory opened for reading, as committed when this object is created.

    `next_offset` is the end of the journal. Give it if the data directory has no journal of its own.
    """

    def __init__(
        self, directory: DataDirectory, name: str, *, block_rows: int = BLOCK_ROWS, next_offset: int | None = None
    ) -> None:
        self._directory = directory
        self._name = name
        self._block_rows = block_rows
        self._checkpoint = -1
        self._groups: list[_FileGroup] = []
        self._kept: dict[tuple[str, int], tuple[pa.Table, npt.NDArray[np.int64]]] = {}
        entries = directory.manifest.group(name)
        self.rows = sum(entry.rows for entry in entries)
        if next_offset is None:
            next_offset = journal.end_offset(directory)
        self.next_offset = self.rows if name == "rejected" else next_offset

    def blocks(self, from_offset: int) -> Iterator[Block]:
        """Yield the rows from an offset on as blocks, in order. The blocks cover all offsets to the end.

        A block has about `block_rows` rows, and all rows of its offsets. If a compaction replaces files meanwhile, the
        new files are read. Raises StorageError if a file is damaged or missing.
        """
        at = from_offset
        while at < self.next_offset:
            block = self._directory.read(partial(self._block, at))
            yield block
            at = block.next_offset

    def _block(self, start: int, manifest: Manifest) -> Block:
        self._look(manifest)
        left = [group for group in self._groups if group.last >= start]
        begin = max(start, min((group.first for group in left), default=self.next_offset))
        rows_left = sum(group.rows for group in left)
        spread = max(1, (self.next_offset - begin) // max(1, rows_left))
        end = min(begin + self._block_rows * spread, self.next_offset)
        taken = [self._rows(group, start, end) for group in left if group.first < end]
        rows = pa.concat_tables([TABLES[self._name].empty_table(), *(table for table, _ in taken)])
        offsets = np.concatenate([np.zeros(0, np.int64), *(part for _, part in taken)])
        if len(offsets) > 2 * self._block_rows:
            # The rows are denser here than on average. End the block at an earlier offset.
            end = int(np.partition(offsets, self._block_rows)[self._block_rows]) + 1
            inside = offsets < end
            rows, offsets = rows.filter(pa.array(inside)), offsets[inside]
        self._forget(end)
        return Block(rows, offsets, start, end)

    def _look(self, manifest: Manifest) -> None:
        """Read the offset ranges of the row groups, if the files have changed since the last call."""
        if manifest.checkpoint == self._checkpoint:
            return
        groups: list[_FileGroup] = []
        self._kept.clear()
        row = 0
        for entry in manifest.group(self._name):
            path = self._directory.locate(entry)
            with storage_errors(path, "read"), pq.ParquetFile(path, page_checksum_verification=True) as file:
                for number in range(file.num_row_groups):
                    rows = file.metadata.row_group(number).num_rows
                    first, last = (row, row + rows - 1) if self._name == "rejected" else self._bounds(file, number)
                    groups.append(_FileGroup(entry, number, rows, first, last))
                    row += rows
        self._groups = groups
        self._checkpoint = manifest.checkpoint

    def _bounds(self, file: pq.ParquetFile, number: int) -> tuple[int, int]:
        place = file.schema_arrow.get_field_index("journal_offset")
        known = file.metadata.row_group(number).column(place).statistics
        if known is not None and known.has_min_max:
            return int(known.min), int(known.max)
        offsets = file.read_row_group(number, columns=["journal_offset"]).column(0)
        bounds = pc.min_max(offsets).as_py()
        return int(bounds["min"]), int(bounds["max"])

    def _rows(self, group: _FileGroup, start: int, end: int) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        table, offsets = self._read(group)
        inside = (offsets >= start) & (offsets < end)
        if inside.all():
            return table, offsets
        return table.filter(pa.array(inside)), offsets[inside]

    def _read(self, group: _FileGroup) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        key = (group.entry.path, group.number)
        if key not in self._kept:
            path = self._directory.locate(group.entry)
            with storage_errors(path, "read"), pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read_row_group(group.number).cast(TABLES[self._name])
            if self._name == "rejected":
                offsets = np.arange(group.first, group.last + 1)
            else:
                offsets = table.column("journal_offset").to_numpy()
            if sum(len(kept) for _, kept in self._kept.values()) + len(offsets) > _KEPT_ROWS:
                return table, offsets
            self._kept[key] = (table, offsets)
        return self._kept[key]

    def _forget(self, end: int) -> None:
        """Drop cached row groups from which no later block takes rows."""
        done = {(group.entry.path, group.number) for group in self._groups if group.last < end}
        self._kept = {key: kept for key, kept in self._kept.items() if key not in done}
