"""The manifest: the one file that lists the committed files of a data directory.

A file is committed if and only if the manifest lists it. The manifest is replaced as a whole, by rename.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from rating.errors import StorageError

FORMAT = 1
NAME = "manifest.json"
UNFINISHED = NAME + ".new"


class FileEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A committed file: path below the data directory, size, rows, and facts of its kind (offsets, days)."""

    path: str
    size_bytes: int
    rows: int = 0
    facts: dict[str, int | str] = {}


class Manifest(msgspec.Struct, frozen=True):
    """All committed files by group (`rated`, `rejected`, `gaps`, `journal`, `seen`, `state`), each in order of path.

    `retired` are files that the last checkpoint replaced, which may still be on disk. `meta` belongs to the driver.
    """

    format: int = FORMAT
    checkpoint: int = 0
    files: dict[str, list[FileEntry]] = {}
    retired: list[str] = []
    meta: dict[str, Any] = {}

    def group(self, name: str) -> list[FileEntry]:
        """Return the files of a group; empty if it was never written."""
        return self.files.get(name, [])


class _Version(msgspec.Struct):
    format: int


def decode(text: bytes, path: Path) -> Manifest:
    """Decode a manifest. Raises StorageError if it is damaged or has a format unknown to this version."""
    try:
        version = msgspec.json.decode(text, type=_Version).format
        if version != FORMAT:
            raise StorageError(
                f"{path}: the data directory has format {version}, this version of weir reads format {FORMAT}; "
                "use the version of weir that wrote it, or another --data directory"
            )
        return msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as damage:
        raise StorageError(
            f"{path}: the manifest is damaged ({damage}); restore {path.parent} from a backup, "
            "or ingest again into another --data directory"
        ) from damage


def encode(manifest: Manifest) -> bytes:
    """Encode a manifest. The same content gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"


def read(directory: Path) -> Manifest | None:
    """Read the committed manifest of a data directory; None if there is none."""
    path = directory / NAME
    try:
        return decode(path.read_bytes(), path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def replace(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest atomically and durably. After a crash the directory has either the old or the new one."""
    new = directory / UNFINISHED
    with new.open("wb") as file:
        file.write(encode(manifest))
        file.flush()
        os.fsync(file.fileno())
    new.rename(directory / NAME)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable (fsync)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
