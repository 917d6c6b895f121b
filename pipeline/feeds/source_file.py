"""A file of usage records that is to be read, recognised again by its size, its beginning and its end."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from rating.errors import SourceError

_SAMPLE_BYTES = 1 << 20


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file to ingest: path, name as shown in rows, size, and a fingerprint of its size, beginning and end.

    `rows` is the path of the rows of its lines (pipeline.embedded.renumbered), or empty if they count from one.
    """

    path: str
    name: str
    size_bytes: int
    fingerprint: str
    rows: str = ""

    @classmethod
    def of(cls, path: Path, rows: Path | None = None) -> Source:
        """Inspect a file. Raises SourceError if it cannot be read."""
        try:
            size_bytes = path.stat().st_size
            with path.open("rb") as file:
                sample = file.read(_SAMPLE_BYTES)
                file.seek(max(0, size_bytes - _SAMPLE_BYTES))
                sample += file.read(_SAMPLE_BYTES)
            if rows is not None:
                sample += hashlib.blake2b(rows.read_bytes()).digest()
        except IsADirectoryError as error:
            raise SourceError(f"{path}: found a directory; expected a file of usage records") from error
        except OSError as error:
            raise SourceError(
                f"{path}: cannot be read: {error.strerror}; check the path and its permissions"
            ) from error
        digest = hashlib.blake2b(sample + size_bytes.to_bytes(8, "big"), digest_size=16)
        return cls(
            str(path.absolute()),
            path.name,
            size_bytes,
            digest.hexdigest(),
            "" if rows is None else str(rows.absolute()),
        )
