"""Compaction of the history: it merges small files, one folder at a time, and readers do not notice.

Each checkpoint of an ingest adds a file to every folder that it writes to. Compaction merges neighbouring files of a
folder up to a target size (pipeline/history/compaction.py) and swaps them in with an ordinary checkpoint of the data
directory. docs/guarantees.md says what each kind of reader sees meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from pipeline.history.compaction import TARGET_BYTES, merge, mergeable
from pipeline.history.reader import Histories
from pipeline.history.writer import FILE_ROWS
from pipeline.store.directory import DataDirectory
from rating.errors import LockedError
from schemas.tables import TABLES

# Merged files are staged beside the old ones until the next checkpoint. A checkpoint after so many bytes bounds the
# extra space.
CHECKPOINT_BYTES = 1 << 30


@dataclass
class Compacted:
    """Result of a compaction: files by table before and after, rewritten rows, and their bytes before and after."""

    files_before: dict[str, int] = field(default_factory=dict)
    files_after: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0

    def as_json(self) -> dict[str, object]:
        """Return the result as JSON values."""
        return {
            "files_before": self.files_before,
            "files_after": self.files_after,
            "rows_rewritten": self.rows,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
        }


def compact(path: Path, *, target_rows: int = FILE_ROWS, target_bytes: int = TARGET_BYTES) -> Compacted:
    """Merge neighbouring files of each folder up to `target_rows` rows or `target_bytes`, whichever is reached first.

    In the history of streaming workers, partitions are compacted one after the other. A repeated run changes nothing.
    If a run is killed, the history still has the same rows, and the next run resumes. Raises LockedError if another
    process is writing, UsageError if there is no data directory, and StorageError if the disk fails.
    """
    with Histories.open(path) as histories:
        folders = [directory.path for directory in histories.partitions.values()]
    done = Compacted(dict.fromkeys(TABLES, 0), dict.fromkeys(TABLES, 0))
    for folder in folders:
        try:
            with DataDirectory.open(folder, write=True) as directory:
                _compact(directory, done, target_rows, target_bytes)
        except LockedError as locked:
            if not histories.streaming:
                raise
            raise LockedError(
                f"{locked}: a worker merges small files of its partitions itself; to merge them further, stop it "
                "first. Lower partitions are merged already"
            ) from locked
    return done


def _compact(directory: DataDirectory, done: Compacted, target_rows: int, target_bytes: int) -> None:
    groups = mergeable(directory, target_rows=target_rows, target_bytes=target_bytes)
    _count(directory, done.files_before)
    while groups:
        with directory.begin() as step:
            waiting_bytes = 0
            while groups and waiting_bytes < CHECKPOINT_BYTES:
                group = groups.pop(0)
                merged = merge(directory, step, group)
                waiting_bytes += merged.size_bytes
                done.rows += merged.rows
                done.bytes_before += sum(entry.size_bytes for entry in group[1])
                done.bytes_after += merged.size_bytes
            step.commit()
    _count(directory, done.files_after)


def _count(directory: DataDirectory, files: dict[str, int]) -> None:
    for name in TABLES:
        files[name] += len(directory.manifest.group(name))


def render(done: Compacted, console: Console) -> None:
    """Print the result of a compaction."""
    before, after = sum(done.files_before.values()), sum(done.files_after.values())
    if before == after:
        console.print(f"nothing to merge: {before:,} files", highlight=False)
        return
    console.print(
        f"{before:,} files are now {after:,}: {done.rows:,} rows rewritten, "
        f"{done.bytes_before / 1e6:,.1f} MB became {done.bytes_after / 1e6:,.1f} MB",
        highlight=False,
    )
