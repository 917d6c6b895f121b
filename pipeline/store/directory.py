"""One data directory: all data of the embedded driver, changed only by atomic checkpoints.

    lock                       locked by the one process that writes; readers take no lock
    manifest.json              the committed files (pipeline/store/manifest.py); it makes the directory one of Weir
    staging/                   files of a checkpoint that is being written
    journal/ seen/ state/ history/
    outbox/                    delivered actions, with a lock of its own (pipeline/outbox); no part of the checkpoints

A checkpoint stages files, then replaces the manifest (the commit), then moves the files to their final paths. A process
killed before the commit has changed nothing. If it is killed after, the next writer completes the moves, and readers
look into staging meanwhile (reasons: docs/decisions/0021, consequences for readers: docs/guarantees.md).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import polars as pl
import pyarrow as pa

from pipeline.store import manifest as manifests
from pipeline.store.digests import ALGORITHM, descriptor_digest, file_digest, is_known
from pipeline.store.folders import FILE_MODE, folder, lock_directory, make_folder
from pipeline.store.manifest import FileEntry, Manifest
from pipeline.store.ownership import require_own
from pipeline.store.settling import (
    RESTORE,
    STAGING,
    VanishedError,
    clear_staging,
    missing,
    require_size,
    settle,
    staged_path,
)
from rating.errors import StorageError, UsageError

T = TypeVar("T")

READ_ATTEMPTS = 50
READ_PAUSE_S = 0.02

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space, then give the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space, then give the same command again",
    errno.EFBIG: "a file would become larger than the system allows; raise the limit (ulimit -f), then try again",
    errno.EROFS: "the file system is read-only; name a writable directory with --data",
    errno.EACCES: "permission is missing; give this user write access, or name another directory with --data",
    errno.EPERM: "permission is missing; give this user write access, or name another directory with --data",
    errno.ENOTDIR: "a part of the path is a file, not a directory; name another directory with --data",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n), then give the same command again",
}


@contextmanager
def storage_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn disk failures into a StorageError that names the path, the operation and the next action."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError, pa.ArrowException) as failure:
        raise StorageError(f"{path}: cannot {doing}: {_reason(failure)}") from failure


def _reason(failure: Exception) -> str:
    code = getattr(failure, "errno", None)
    if code is None:
        # Polars and pyarrow give the system's error only in their message text.
        code = next((number for number in _ADVICE if os.strerror(number) in str(failure)), None)
    if code in _ADVICE:
        return f"{os.strerror(code)}: {_ADVICE[code]}"
    return f"{failure}; check the disk, then give the same command again"


class DataDirectory:
    """A data directory, opened for writing (by one process at a time) or for reading; a context manager."""

    def __init__(self, path: Path, manifest: Manifest, lock: int | None) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock

    @classmethod
    def open(cls, path: Path | str, *, write: bool) -> DataDirectory:
        """Open a data directory.

        For writing: create it if missing, lock it, complete or undo the work of a killed process. Raises LockedError if
        another process is writing, StorageError if the disk fails or the directory is damaged, UsageError if there is
        nothing to read (NothingCommittedError), or if the directory contains something else or a link.
        """
        path = Path(path)
        if not write:
            with storage_errors(path, "read the data directory"):
                manifest = manifests.read(path)
            if manifest is None or not manifest.checkpoint:
                raise NothingCommittedError(
                    f"{path}: there is no data directory yet; `weir apply` and `weir ingest` make one, "
                    "or name another with --data"
                )
            return cls(path, manifest, None)
        with storage_errors(path, "open the data directory"):
            require_own(path)
            make_folder(path)
            lock = lock_directory(path)
        try:
            with storage_errors(path, "open the data directory"):
                manifest = manifests.read(path) or manifests.begin(path)
                with folder(path, STAGING, create=True):
                    pass
                settle(path, manifest)
                clear_staging(path)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, manifest, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock. The directory must not be used afterwards."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def begin(self) -> Checkpoint:
        """Start the next checkpoint. Only one may be open at a time."""
        if self._lock is None:
            raise ValueError("the data directory is not open to write")
        return Checkpoint(self)

    def locate(self, entry: FileEntry) -> Path:
        """Return the path of a committed file, final or in staging. Raises VanishedError if the file is gone."""
        for path in (self.path / entry.path, staged_path(self.path, entry.path), self.path / entry.path):
            if path.is_file() and not path.is_symlink():
                return path
        raise missing(self.path, entry)

    def check(self, entry: FileEntry) -> Path:
        """Return the path of a committed file after reading all of it: its content is as it was written.

        Of a file that an older version wrote, without a digest, only the size is known. Raises StorageError if the file
        has changed, VanishedError if it is gone.
        """
        path = self.locate(entry)
        if not entry.digest:
            with storage_errors(path, "read"):
                require_size(path, path.stat().st_size, entry)
            return path
        if not is_known(entry.digest):
            raise StorageError(
                f"{path}: the manifest has a digest {entry.digest.partition(':')[0]!r}, this version of weir computes "
                f"{ALGORITHM}; use the version of weir that wrote it"
            )
        with storage_errors(path, "read"):
            try:
                found, size_bytes = file_digest(path)
            except FileNotFoundError:
                raise missing(self.path, entry) from None
        require_size(path, size_bytes, entry)
        if found != entry.digest:
            raise StorageError(
                f"{path}: the file has changed since it was written: it has the digest {found}, the manifest says "
                f"{entry.digest}; {RESTORE}"
            )
        return path

    def refresh(self) -> None:
        """Read the manifest again, so that this object shows the files that are committed now."""
        with storage_errors(self.path, "read the data directory"):
            self.manifest = manifests.read(self.path) or self.manifest

    def read(self, use: Callable[[Manifest], T], *, vanished: Callable[[Exception], bool] = lambda _: False) -> T:
        """Call `use` with the manifest, and again with a newer one if a file was replaced meanwhile.

        `vanished` returns True for an exception of `use` that a replaced file may cause; a missing file always counts.
        """
        for attempt in range(READ_ATTEMPTS):
            seen = self.manifest.checkpoint
            try:
                return use(self.manifest)
            except Exception as failure:
                if not (isinstance(failure, FileNotFoundError | VanishedError) or vanished(failure)):
                    raise
                time.sleep(READ_PAUSE_S)
                self.refresh()
                # If the newest manifest names a file that is still missing after a while, the file is lost.
                if attempt + 1 == READ_ATTEMPTS or (attempt > 5 and self.manifest.checkpoint == seen):
                    raise
        raise AssertionError("unreachable")


class NothingCommittedError(UsageError):
    """There is no data directory, or nothing has been committed in it yet."""


class Checkpoint:
    """A set of files that becomes part of the data directory as a whole or not at all; a context manager.

    Files are named by the checkpoint's number, which is the same in an undisturbed run and in one that was killed and
    repeated. `stage` may be called from several threads, for different files also at the same time.
    """

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._staged: dict[str, tuple[str, FileEntry]] = {}
        self._retired: set[str] = set()
        self._open = True
        self._committing = False
        self.number = directory.manifest.checkpoint + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self.abandon()

    def target(self, path: str) -> Path:
        """Return the path where a file of this checkpoint is written before the commit."""
        return staged_path(self._directory.path, path)

    def stage(
        self,
        group: str,
        path: str,
        write: Callable[[Path], None],
        *,
        rows: int = 0,
        facts: dict[str, int | str] | None = None,
        begun: bool = False,
    ) -> FileEntry:
        """Write one new file with `write`. It is durable on return; `commit` makes it part of `group` at `path`.

        If `begun` is True, `write` completes a file begun at `target(path)`. Raises ValueError if the file exists,
        StorageError if the disk fails; the checkpoint can then only be abandoned.
        """
        target = staged_path(self._directory.path, path)
        with storage_errors(self._directory.path / path, "write"):
            exists = os.path.lexists(target) and not begun
            if path in self._staged or exists or os.path.lexists(self._directory.path / path):
                raise ValueError(f"{path} exists; the files of a checkpoint are new")
            write(target)
            descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fchmod(descriptor, FILE_MODE)
                os.fsync(descriptor)
                digest, size_bytes = descriptor_digest(descriptor)
            finally:
                os.close(descriptor)
        entry = FileEntry(path=path, size_bytes=size_bytes, rows=rows, facts=facts or {}, digest=digest)
        self._staged[path] = (group, entry)
        return entry

    def stage_bytes(
        self, group: str, path: str, content: bytes, *, rows: int = 0, facts: dict[str, int | str] | None = None
    ) -> FileEntry:
        """Stage a file with this content."""

        def write(target: Path) -> None:
            target.write_bytes(content)

        return self.stage(group, path, write, rows=rows, facts=facts)

    def staged(self, entry: FileEntry) -> Path:
        """Return the path of a staged file before the commit."""
        return staged_path(self._directory.path, entry.path)

    def retire(self, *entries: FileEntry) -> None:
        """Leave committed files out of the next manifest. They are deleted after the commit."""
        self._retired.update(entry.path for entry in entries)

    def commit(self, meta: dict[str, Any] | None = None) -> Manifest:
        """Commit the checkpoint: all staged files become durable and visible, and all retired files are deleted.

        `meta` replaces the manifest's; None keeps it. A StorageError before the manifest is replaced leaves everything
        unchanged. After that, the next process that opens the directory for writing completes the moves.
        """
        directory, old = self._directory, self._directory.manifest
        files: dict[str, list[FileEntry]] = {}
        for group, entries in old.files.items():
            files[group] = [entry for entry in entries if entry.path not in self._retired]
        for group, entry in self._staged.values():
            files.setdefault(group, []).append(entry)
        for entries in files.values():
            entries.sort(key=lambda entry: entry.path)
        new = Manifest(
            checkpoint=self.number,
            files={group: entries for group, entries in files.items() if entries},
            retired=sorted(self._retired),
            meta=old.meta if meta is None else meta,
        )
        with storage_errors(directory.path, "commit a checkpoint"):
            manifests.sync_directory(directory.path / STAGING)
            self._committing = True
            manifests.replace(directory.path, new)
        self._open = False
        directory.manifest = new
        with storage_errors(directory.path, "move the files of a committed checkpoint to their places"):
            settle(directory.path, new, only=[entry for _, entry in self._staged.values()])
        return new

    def abandon(self) -> None:
        """Discard the staged files. The data directory stays unchanged.

        If the manifest was replaced before an interrupt, the staged files are committed: they stay, and the next
        process that opens the directory for writing moves them.
        """
        self._open = False
        if self._committing:
            committed = manifests.read(self._directory.path)
            if committed is not None and committed.checkpoint >= self.number:
                return
        clear_staging(self._directory.path)
