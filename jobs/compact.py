"""Merge the small files of the history, a partition at a time, without a reader noticing.

Each checkpoint of an ingest adds a file to every partition it touched. Neighbouring files of a partition are merged
up to a target size; rows keep their order, also from file to file, and not a value changes. The swap is a checkpoint
of the data directory like any other (docs/guarantees.md says what each kind of reader sees meanwhile).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipeline.datadir import Checkpoint, DataDirectory, storage_errors
from pipeline.land import FILE_ROWS, stage_table
from pipeline.manifest import FileEntry
from schemas.tables import TABLES

TARGET_BYTES = 128 << 20
# Merged files wait in staging beside the old ones; a checkpoint at least so often bounds the space they take.
CHECKPOINT_BYTES = 1 << 30

_MERGED = ".merged-"


@dataclass
class Compacted:
    """What a compaction did: files of each table before and after, rows rewritten, bytes of them before and after."""

    files_before: dict[str, int] = field(default_factory=dict)
    files_after: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0

    def as_json(self) -> dict[str, object]:
        """The same as JSON values."""
        return {
            "files_before": self.files_before,
            "files_after": self.files_after,
            "rows_rewritten": self.rows,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
        }


def compact(path: Path, *, target_rows: int = FILE_ROWS, target_bytes: int = TARGET_BYTES) -> Compacted:
    """Merge neighbouring files of each partition up to `target_rows` rows and `target_bytes`, whichever is less.

    Running it again changes nothing. Killed at any moment, the history has the same rows, and the next run goes on.
    Raises LockedError while another process writes, UsageError where there is no data directory, StorageError where
    the disk refuses.
    """
    DataDirectory.open(path, write=False).close()
    done = Compacted()
    with DataDirectory.open(path, write=True) as directory:
        groups = _planned(directory, target_rows, target_bytes)
        done.files_before = {name: len(directory.manifest.group(name)) for name in TABLES}
        while groups:
            with directory.begin() as step:
                waiting_bytes = 0
                while groups and waiting_bytes < CHECKPOINT_BYTES:
                    name, group = groups.pop(0)
                    merged = _merge(directory, step, name, group)
                    waiting_bytes += merged.size_bytes
                    done.rows += merged.rows
                    done.bytes_before += sum(entry.size_bytes for entry in group)
                    done.bytes_after += merged.size_bytes
                step.commit()
        done.files_after = {name: len(directory.manifest.group(name)) for name in TABLES}
    return done


def _planned(directory: DataDirectory, target_rows: int, target_bytes: int) -> list[tuple[str, list[FileEntry]]]:
    """Which files become one: runs of neighbours in a partition that stay within the targets together."""
    groups = []
    for name in TABLES:
        partitions: dict[str, list[FileEntry]] = {}
        for entry in directory.manifest.group(name):
            partitions.setdefault(os.path.dirname(entry.path), []).append(entry)
        for entries in partitions.values():
            group: list[FileEntry] = []
            for entry in entries:
                rows = entry.rows + sum(one.rows for one in group)
                size_bytes = entry.size_bytes + sum(one.size_bytes for one in group)
                if group and (rows > target_rows or size_bytes > target_bytes):
                    groups.append((name, group))
                    group = []
                group.append(entry)
            groups.append((name, group))
    return [(name, group) for name, group in groups if len(group) > 1]


def _merge(directory: DataDirectory, step: Checkpoint, name: str, group: list[FileEntry]) -> FileEntry:
    """Stage one file with the rows of the group, named so that it sorts where the first of them did."""
    tables = []
    for entry in group:
        file = directory.locate(entry)
        with storage_errors(file, "read"):
            tables.append(pq.ParquetFile(file).read())
    first = group[0].path.removesuffix(".parquet").partition(_MERGED)[0]
    merged = stage_table(step, name, f"{first}{_MERGED}{step.number:010}.parquet", pa.concat_tables(tables))
    step.retire(*group)
    return merged


def render(done: Compacted, console: Console) -> None:
    """Say what a compaction did."""
    before, after = sum(done.files_before.values()), sum(done.files_after.values())
    if before == after:
        console.print(f"nothing to merge: {before:,} files", highlight=False)
        return
    console.print(
        f"{before:,} files are now {after:,}: {done.rows:,} rows rewritten, "
        f"{done.bytes_before / 1e6:,.1f} MB became {done.bytes_after / 1e6:,.1f} MB",
        highlight=False,
    )
