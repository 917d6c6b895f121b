"""Small files of the history become larger ones: which are merged, and how.

Files of one folder of the history (a day of rated rows, or another table) are neighbours in the order of their paths,
which is the order of their rows. Neighbours are merged only with one another, so rows keep their order, also from file
to file, and not a value changes.
"""

from __future__ import annotations

import os
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.history.writer import FILE_ROWS, stage_table
from pipeline.store.directory import Checkpoint, DataDirectory, storage_errors
from pipeline.store.manifest import FileEntry
from schemas.tables import TABLES

TARGET_BYTES: Final = 128 << 20

_MERGED: Final = ".merged-"

Group = tuple[str, list[FileEntry]]  # a table, and files of one folder of it, in order


def mergeable(
    directory: DataDirectory, *, target_rows: int = FILE_ROWS, target_bytes: int = TARGET_BYTES
) -> list[Group]:
    """All runs of two or more neighbours that stay within the targets together; merged, there are none any more."""
    groups = []
    for name, entries in _folders(directory):
        group: list[FileEntry] = []
        for entry in entries:
            if group and not _fits([*group, entry], target_rows, target_bytes):
                groups.append((name, group))
                group = []
            group.append(entry)
        groups.append((name, group))
    return [(name, group) for name, group in groups if len(group) > 1]


def crowded(directory: DataDirectory, most_files: int, *, target_rows: int, target_bytes: int) -> list[Group]:
    """The newest files of each folder that has more than `most_files` within the targets together.

    A file that is larger than all newer ones together is left for later, so that a row is rewritten only each time
    the rows after it have become as many: as often as the logarithm of their number.
    """
    groups = []
    for name, entries in _folders(directory):
        tail: list[FileEntry] = []
        for entry in reversed(entries):
            if not _fits([entry, *tail], target_rows, target_bytes):
                break
            tail.insert(0, entry)
        if len(tail) <= most_files:
            continue
        while len(tail) > 2 and tail[0].rows >= sum(entry.rows for entry in tail[1:]):
            tail = tail[1:]
        groups.append((name, tail))
    return groups


def merge(directory: DataDirectory, checkpoint: Checkpoint, group: Group) -> FileEntry:
    """Stage one file with the rows of a group, which it replaces, named so that it sorts where the first of them did.

    Raises StorageError where the disk refuses or a file is damaged.
    """
    name, entries = group
    tables = []
    for entry in entries:
        file = directory.locate(entry)
        with storage_errors(file, "read"):
            tables.append(pq.ParquetFile(file).read())
    first = entries[0].path.removesuffix(".parquet").partition(_MERGED)[0]
    path = f"{first}{_MERGED}{checkpoint.number:010}.parquet"
    merged = stage_table(checkpoint, name, path, pa.concat_tables(tables))
    checkpoint.retire(*entries)
    return merged


def _folders(directory: DataDirectory) -> list[Group]:
    """All committed files of the history by table and folder."""
    found: dict[tuple[str, str], list[FileEntry]] = {}
    for name in TABLES:
        for entry in directory.manifest.group(name):
            found.setdefault((name, os.path.dirname(entry.path)), []).append(entry)
    return [(name, entries) for (name, _), entries in found.items()]


def _fits(entries: list[FileEntry], target_rows: int, target_bytes: int) -> bool:
    rows = sum(entry.rows for entry in entries)
    return rows <= target_rows and sum(entry.size_bytes for entry in entries) <= target_bytes
