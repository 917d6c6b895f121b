"""Verification of a data directory: every committed file is compared with its digest in the manifest."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from jobs.output.printable import printable
from pipeline.history.reader import Histories
from pipeline.outbox.store import FOLDER, NAME
from pipeline.store.directory import DataDirectory
from pipeline.store.manifest import FileEntry
from pipeline.store.settling import VanishedError
from rating.errors import StorageError

Watch = Callable[[int, int], None]  # called with the bytes read so far and the bytes of all files


@dataclass
class Verified:
    """Result of a verification: files and bytes read, files that have no digest, and what is wrong with a file."""

    files: int = 0
    size_bytes: int = 0
    without_digest: int = 0
    damaged: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return the result as JSON values."""
        return {
            "files": self.files,
            "size_bytes": self.size_bytes,
            "without_digest": self.without_digest,
            "damaged": self.damaged,
        }


def verify(path: Path, watch: Watch = lambda done, all_: None) -> Verified:
    """Read every committed file of a data directory, or of a history of streaming workers, and compare its digest.

    Files that are committed or replaced meanwhile are no damage. SQLite checks the database of the outbox. Raises
    UsageError if there is nothing to read, StorageError if a manifest itself is damaged.
    """
    done = Verified()
    with Histories.open(path) as histories:
        for directory in histories.partitions.values():
            _verify(directory, done, watch)
    _verify_outbox(path / FOLDER / NAME, done)
    return done


def _verify(directory: DataDirectory, done: Verified, watch: Watch) -> None:
    read: set[str] = set()
    before_bytes = done.size_bytes
    while left := [entry for entry in _entries(directory) if entry.path not in read]:
        for entry in left:
            read.add(entry.path)
            try:
                directory.check(entry)
            except VanishedError as gone:
                directory.refresh()
                if any(one.path == entry.path for one in _entries(directory)):
                    done.damaged.append(str(gone))
            except StorageError as damage:
                done.damaged.append(str(damage))
            done.files += 1
            done.size_bytes += entry.size_bytes
            done.without_digest += not entry.digest
            watch(done.size_bytes, before_bytes + sum(one.size_bytes for one in _entries(directory)))
        directory.refresh()


def _entries(directory: DataDirectory) -> list[FileEntry]:
    return [entry for entries in directory.manifest.files.values() for entry in entries]


def _verify_outbox(path: Path, done: Verified) -> None:
    if not path.exists():
        return
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
        try:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
        finally:
            connection.close()
    except sqlite3.Error as damage:
        found = [str(damage)]
    done.files += 1
    done.size_bytes += path.stat().st_size
    if found != ["ok"]:
        done.damaged.append(
            f"{path}: the database of the outbox is damaged: {'; '.join(found)}; restore it from a backup"
        )


def render(done: Verified, console: Console) -> None:
    """Print the result of a verification."""
    for damage in done.damaged:
        console.print(printable(damage), style="red", highlight=False, soft_wrap=True)
    good = done.files - len(done.damaged)
    console.print(
        f"{good:,} of {done.files:,} files are as they were written, {done.size_bytes / 1e6:,.1f} MB read",
        highlight=False,
    )
    if done.without_digest:
        console.print(
            f"{done.without_digest:,} of them have no digest, as an older version wrote them: only their size is "
            "known. Files that are written from now on have one",
            highlight=False,
            soft_wrap=True,
        )
