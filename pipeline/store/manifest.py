"""The manifest: the one file that lists the committed files of a data directory.

A file is committed if and only if the manifest lists it. The manifest is replaced as a whole, by rename. Its last
member is a digest of the text before it, so a bit that rots in the manifest itself is noticed as well.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.store.digests import digest_of, is_known
from pipeline.store.folders import create_file
from rating.errors import StorageError, UsageError

FORMAT = 1
NAME = "manifest.json"
UNFINISHED = NAME + ".new"


class FileEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A committed file: path below the data directory, size, rows, and facts of its kind (offsets, days).

    `digest` is that of the file (pipeline/store/digests.py), or empty if a version without digests wrote it.
    """

    path: str
    size_bytes: int
    rows: int = 0
    facts: dict[str, int | str] = {}
    digest: str = ""


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


_END: Final = re.compile(rb',\n "digest": "([^"\n]*)"\n\}\n\Z')


def decode(text: bytes, path: Path) -> Manifest:
    """Decode a manifest.

    Raises UsageError if it is not one of Weir, StorageError if it is damaged or has a format unknown to this version.
    """
    try:
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        if "format" not in members:
            raise UsageError(
                f"{path}: found a manifest of something else, without a format; expected that of a Weir data "
                "directory: choose another with --data"
            )
        version = msgspec.json.decode(text, type=_Version).format
    except (msgspec.MsgspecError, UnicodeDecodeError) as damage:
        raise _damaged(path, str(damage)) from damage
    if version != FORMAT:
        raise StorageError(
            f"{path}: the data directory has format {version}, this version of weir reads format {FORMAT}; "
            "use the version of weir that wrote it, or another --data directory"
        )
    _require_digest(text, path)
    if lacking := {"checkpoint", "files", "meta"} - members.keys():
        raise _damaged(path, f"it has no {', '.join(sorted(lacking))}")
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as damage:
        raise _damaged(path, str(damage)) from damage
    for name in [*manifest.retired, *(entry.path for entries in manifest.files.values() for entry in entries)]:
        if not is_inside(name):
            raise _damaged(path, f"it names the file {name!r}, which is not below the data directory")
    return manifest


def is_inside(path: str) -> bool:
    """Return whether a path of a manifest names a file in a folder below the data directory."""
    parts = path.split("/")
    return len(parts) > 1 and not {"", ".", ".."} & {*parts} and "\0" not in path


def _require_digest(text: bytes, path: Path) -> None:
    """Require that the text has its digest, if it says one. A version without digests says none."""
    found = _END.search(text)
    if found is None:
        return
    said = found[1].decode(errors="replace")
    if is_known(said) and digest_of(text[: found.start()]) != said:
        raise _damaged(path, "its digest is another")


def _damaged(path: Path, how: str) -> StorageError:
    return StorageError(
        f"{path}: the manifest is damaged ({how}); restore {path.parent} from a backup, "
        "or ingest again into another --data directory"
    )


def encode(manifest: Manifest) -> bytes:
    """Encode a manifest. The same content gives the same bytes."""
    text = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1)
    text = text.removesuffix(b"\n}")
    return text + f',\n "digest": "{digest_of(text)}"\n}}\n'.encode()


def read(directory: Path) -> Manifest | None:
    """Read the committed manifest of a data directory; None if there is none."""
    path = directory / NAME
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        return decode(file.read(), path)


def begin(directory: Path) -> Manifest:
    """Write the first manifest, which lists nothing, and return it. From now on the directory is one of Weir."""
    first = Manifest()
    _write(directory, first)
    return first


def replace(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest atomically and durably. After a crash the directory has either the old or the new one."""
    _write(directory, manifest)


def _write(directory: Path, manifest: Manifest) -> None:
    new = directory / UNFINISHED
    with os.fdopen(create_file(new, os.O_TRUNC), "wb") as file:
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
