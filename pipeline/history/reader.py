"""Opens committed histories for reading: of a data directory, or of all partitions that streaming workers land.

    <history>/partition-0000/    a data directory with history tables only, written by one worker at a time
    <history>/partition-0001/    …

A reader sees one checkpoint of each partition. While it reads, the worker of a partition does not merge small files
there: the reader has a shared lock on the file `readers`, which the kernel releases when the process ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from pipeline.store import manifest as manifests
from pipeline.store.directory import READ_ATTEMPTS, READ_PAUSE_S, DataDirectory, NothingCommittedError
from pipeline.store.settling import VanishedError
from rating.errors import UsageError

T = TypeVar("T")

READERS: Final = "readers"

_FOLDER = re.compile(r"partition-(\d{4,})")
_UNCHANGED: Final = 6  # attempts without a newer checkpoint; after them a missing file counts as lost, not as replaced


def partition_folder(history: Path, partition: int) -> Path:
    """Return the folder for the rows of a journal partition."""
    return history / f"partition-{partition:04}"


def partition_folders(history: Path) -> dict[int, Path]:
    """Return the partition folders by number, in order; empty if this is not a history of streaming workers."""
    if (history / manifests.NAME).exists() or not history.is_dir():
        return {}
    named = ((_FOLDER.fullmatch(path.name), path) for path in history.iterdir() if path.is_dir())
    return dict(sorted((int(name[1]), path) for name, path in named if name is not None))


def no_state(path: Path, wanted: str) -> UsageError:
    """Return the error for a command that needs the state, if streaming workers have it."""
    return UsageError(
        f"{path}: found the history of streaming workers, which keep the state (cards, counters, pools, fees, rules) "
        f"in Kafka; it does not have {wanted}. Expected a data directory that `weir apply` and `weir ingest` made. "
        "These commands need no state: `weir sql` over the tables and views of docs/tables.md, `weir rules firings`, "
        "`weir rules actions`, `weir rejected list` and `export`, `weir compact`. These read the state from Kafka: "
        "`weir report`, `cards`, `card`, `pools`, `pool`, `status`, `rules list` and `rules show`"
    )


class Histories:
    """The committed history at a path, by journal partition; a context manager.

    A data directory has only partition 0. If `streaming` is True, streaming workers land the history, and it has no
    state.
    """

    def __init__(self, path: Path, partitions: dict[int, DataDirectory], *, streaming: bool) -> None:
        self.path = path
        self.partitions = partitions
        self.streaming = streaming
        self._locks: list[int] = []

    @classmethod
    def open(cls, path: Path | DataDirectory) -> Histories:
        """Open a history for reading. Partitions without committed data are left out.

        Raises UsageError if there is nothing to read, StorageError if it is damaged.
        """
        if isinstance(path, DataDirectory):
            return cls(path.path, {0: path}, streaming=False)
        folders = partition_folders(path)
        if not folders:
            return cls(path, {0: DataDirectory.open(path, write=False)}, streaming=False)
        found = cls(path, {}, streaming=True)
        try:
            for partition, folder in folders.items():
                found._hold(folder)
                with suppress(NothingCommittedError):
                    found.partitions[partition] = DataDirectory.open(folder, write=False)
        except BaseException:
            found.close()
            raise
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the locks, so that small files may be merged again."""
        while self._locks:
            os.close(self._locks.pop())

    def files(self, name: str, *, check: bool = False) -> list[Path]:
        """Return the committed files of a table, in order of partition and path.

        With `check`, raises StorageError if one has changed since it was written.
        """
        return [
            directory.check(entry) if check else directory.locate(entry)
            for directory in self.partitions.values()
            for entry in directory.manifest.group(name)
        ]

    def rows(self, name: str) -> int:
        """Return the number of committed rows of a table."""
        return sum(entry.rows for directory in self.partitions.values() for entry in directory.manifest.group(name))

    def read(self, use: Callable[[], T], *, vanished: Callable[[Exception], bool] = lambda _: False) -> T:
        """Call `use`, and again with newer manifests if a file was replaced meanwhile (as DataDirectory.read).

        `vanished` returns True for an exception of `use` that a replaced file may have caused; a missing file always
        counts.
        """
        unchanged = 0
        for attempt in range(READ_ATTEMPTS):
            try:
                return use()
            except Exception as failure:
                if not (isinstance(failure, FileNotFoundError | VanishedError) or vanished(failure)):
                    raise
                seen = self._checkpoints()
                time.sleep(READ_PAUSE_S)
                for directory in self.partitions.values():
                    directory.refresh()
                unchanged = unchanged + 1 if self._checkpoints() == seen else 0
                if attempt + 1 == READ_ATTEMPTS or unchanged == _UNCHANGED:
                    raise
        raise AssertionError("unreachable")

    def _checkpoints(self) -> list[int]:
        return [directory.manifest.checkpoint for directory in self.partitions.values()]

    def _hold(self, folder: Path) -> None:
        # If the lock file is missing or not readable, read without a lock: `read` starts over if files vanish.
        with suppress(FileNotFoundError, PermissionError):
            lock = os.open(folder / READERS, os.O_RDONLY)
            self._locks.append(lock)
            fcntl.flock(lock, fcntl.LOCK_SH)
