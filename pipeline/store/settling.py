"""From staging to their places: the files of a checkpoint once it is committed.

Before each step the folders on the way are opened without following links. Only the owner may change them (mode 0700).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pipeline.store import manifest as manifests
from pipeline.store.folders import empty_folder, folder
from pipeline.store.manifest import FileEntry, Manifest
from rating.errors import StorageError

STAGING: Final = "staging"
RESTORE: Final = "restore the data directory from a backup, or ingest again into another --data directory"


class VanishedError(StorageError):
    """A file in the manifest is missing: it was replaced meanwhile, or is lost."""


def staged_path(directory: Path, path: str) -> Path:
    """Return the path of a file until its checkpoint is committed."""
    return directory / STAGING / quote(path, safe="=")


def settle(directory: Path, manifest: Manifest, only: list[FileEntry] | None = None) -> None:
    """Delete retired files and move staged ones, folder by folder. Repeating it is harmless.

    Within a folder files are deleted first. Someone who reads the folder by a glob may miss rows for a moment, but
    never counts rows twice.
    """
    entries = [entry for group in manifest.files.values() for entry in group] if only is None else only
    retired: dict[str, list[str]] = {}
    for path in manifest.retired:
        retired.setdefault(os.path.dirname(path), []).append(path)
    arriving: dict[str, list[FileEntry]] = {}
    for entry in entries:
        if only is not None or not _in_place(directory, entry):
            arriving.setdefault(os.path.dirname(entry.path), []).append(entry)
    for parent in sorted(retired.keys() | arriving.keys()):
        for path in retired.get(parent, []):
            with suppress(FileNotFoundError), folder(directory, parent):
                (directory / path).unlink()
        if parent in arriving:
            with folder(directory, STAGING), folder(directory, parent, create=True):
                for entry in arriving[parent]:
                    staged = staged_path(directory, entry.path)
                    if not os.path.lexists(staged):
                        raise missing(directory, entry)
                    staged.rename(directory / entry.path)
    for parent in sorted(retired.keys() - arriving.keys()):
        _remove_empty(directory, parent)


def _in_place(directory: Path, entry: FileEntry) -> bool:
    try:
        size_bytes = (directory / entry.path).lstat().st_size
    except FileNotFoundError:
        return False
    require_size(directory / entry.path, size_bytes, entry)
    return True


def require_size(path: Path, size_bytes: int, entry: FileEntry) -> None:
    """Raise StorageError if the size of a file is not the one in the manifest."""
    if size_bytes != entry.size_bytes:
        raise StorageError(f"{path}: the file has {size_bytes} bytes, the manifest says {entry.size_bytes}; {RESTORE}")


def _remove_empty(directory: Path, parent: str) -> None:
    while parent:
        try:
            (directory / parent).rmdir()
        except OSError:
            return
        parent = os.path.dirname(parent)


def clear_staging(directory: Path) -> None:
    """Delete everything in staging, and what is left of a manifest."""
    (directory / manifests.UNFINISHED).unlink(missing_ok=True)
    empty_folder(directory, STAGING)


def missing(directory: Path, entry: FileEntry) -> VanishedError:
    """Return the error for a committed file that is gone."""
    return VanishedError(f"{directory / entry.path}: the file is gone although the manifest names it; {RESTORE}")
