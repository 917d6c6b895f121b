"""Merges small files of the history into larger ones.

The files of one folder (a day of rated rows, or another table) sort by path in the order of their rows. Only neighbours
in this order are merged, so rows keep their order, also across files. Values never change.
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

Group = tuple[str, list[FileEntry]]  # a table, and files of one of its folders, in order


def mergeable(
    directory: DataDirectory, *, target_rows: int = FILE_ROWS, target_bytes: int = TARGET_BYTES
) -> list[Group]:
    """Return all groups of two or more neighbours that fit the targets together.

    After merging them no group is left.
    """
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
    """Return the newest files of each folder in which more than `most_files` of them fit the targets together.

    A file that is at least as large as all newer ones together is left for later. So a row is rewritten only when as
    many rows have followed it, about log n times for n rows.
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
    """Stage one file with the rows of a group. It replaces the group, and its name sorts where the first of them did.

    Raises StorageError if the disk fails or a file is damaged.
    """
    name, entries = group
    tables = []
    for entry in entries:
        file = directory.check(entry)  # or the merged file would have a good digest of bad rows
        with storage_errors(file, "read"), pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            tables.append(parquet.read())
    first = entries[0].path.removesuffix(".parquet").partition(_MERGED)[0]
    path = f"{first}{_MERGED}{checkpoint.number:010}.parquet"
    merged = stage_table(checkpoint, name, path, pa.concat_tables(tables))
    checkpoint.retire(*entries)
    return merged


def _folders(directory: DataDirectory) -> list[Group]:
    """Return all committed files of the history by table and folder."""
    found: dict[tuple[str, str], list[FileEntry]] = {}
    for name in TABLES:
        for entry in directory.manifest.group(name):
            found.setdefault((name, os.path.dirname(entry.path)), []).append(entry)
    return [(name, entries) for (name, _), entries in found.items()]


def _fits(entries: list[FileEntry], target_rows: int, target_bytes: int) -> bool:
    rows = sum(entry.rows for entry in entries)
    return rows <= target_rows and sum(entry.size_bytes for entry in entries) <= target_bytes
