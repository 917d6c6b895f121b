"""Who owns a directory, its lock, and changes in it that never follow a link.

Usage records are personal data: folders are made with mode 0700 and files with 0600, whatever the umask.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from rating.errors import LockedError, UsageError

LOCK: Final = "lock"
FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_OWN_LOCK: Final = re.compile(rb"\d{0,19}\n?")  # a process id, or what a process that was killed left of it


def make_folder(path: Path) -> None:
    """Create a folder of mode 0700 if it is missing, with its parents. Afterwards only its owner may enter it.

    A folder that belongs to another user keeps its mode. Raises OSError if the folder cannot be made.
    """
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    facts = path.stat()
    if facts.st_mode & 0o077 and facts.st_uid == os.geteuid():
        path.chmod(FOLDER_MODE)


def create_file(path: Path, flags: int = 0) -> int:
    """Open a file to write, created with mode 0600 if it is missing, and return the descriptor.

    Raises OSError if that fails or `path` is a link.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flags, FILE_MODE)


def lock_directory(path: Path) -> int:
    """Lock a directory until the returned descriptor is closed.

    Raises LockedError if another process has the lock, UsageError if its file `lock` is not one of Weir.
    """
    with _no_links(path / LOCK):
        descriptor = create_file(path / LOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip() or "another process"
            raise LockedError(
                f"{path}: in use by process {holder}; wait until it has finished, or stop it, then give the command "
                "again"
            ) from held
        if not is_own_lock(descriptor):
            raise UsageError(
                f"{path / LOCK}: found a file of something else; expected a process id, as Weir writes it: name "
                "another directory"
            )
        os.fchmod(descriptor, FILE_MODE)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_own_lock(descriptor: int) -> bool:
    """Return whether an open file can be a lock of Weir: a regular file with a process id, or empty."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode) and _OWN_LOCK.fullmatch(os.pread(descriptor, 64, 0)) is not None


@contextmanager
def folder(root: Path, relative: str, *, create: bool = False) -> Iterator[int]:
    """Yield a descriptor of the folder `relative` below `root`. No part of `relative` may be a link.

    `relative` may be "" for `root` itself. Missing folders are created with mode 0700 if `create` is True. Raises
    UsageError if a part is a link, OSError (FileNotFoundError if it is missing) for everything else.
    """
    at = root
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for step in [part for part in relative.split("/") if part]:
            at = at / step
            if create:
                with suppress(FileExistsError):
                    os.mkdir(step, FOLDER_MODE, dir_fd=descriptor)
            with _no_links(at):
                inner = os.open(step, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def empty_folder(root: Path, relative: str) -> None:
    """Delete everything in the folder `relative` below `root`. Links in it are deleted, not followed."""
    with folder(root, relative) as descriptor, os.scandir(descriptor) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.name, dir_fd=descriptor)
            else:
                os.unlink(entry.name, dir_fd=descriptor)


@contextmanager
def _no_links(path: Path) -> Iterator[None]:
    """Turn the error of the system for a link at `path` into a UsageError."""
    try:
        yield
    except OSError as error:
        # O_NOFOLLOW answers ELOOP, and with O_DIRECTORY ENOTDIR.
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink():
            raise UsageError(
                f"{path}: found a link, which a data directory does not follow; expected the folder or file itself: "
                "move what the link points to here (a whole data directory may lie behind a link)"
            ) from error
        raise
