"""Reads files that are no plain bytes: the one data file in a ZIP archive, and text in UTF-16, which becomes UTF-8."""

from __future__ import annotations

import codecs
import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from rating.errors import SourceError

UNPACK_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError)

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_WORKBOOK = "[Content_Types].xml"
_DATA = frozenset((".csv", ".txt", ".tsv", ".dat", ".json", ".ndjson", ".jsonl", ".parquet", ".arrow"))
_UTF_16 = re.compile(rb"\xff\xfe(?!\x00\x00)|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]", re.DOTALL)

# What a file is that has no place in a feed, by its first bytes.
_KINDS = {
    b"%PDF": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (.xls): save it as CSV",
    b"7z\xbc\xaf": "a 7-Zip archive: unpack it, or pack it with gzip, zstd or ZIP",
    b"Rar!": "a RAR archive: unpack it, or pack it with gzip, zstd or ZIP",
    b"BZh": "a file packed with bzip2: unpack it, or pack it with gzip, zstd or ZIP",
    b"\xfd7zXZ": "a file packed with xz: unpack it, or pack it with gzip, zstd or ZIP",
    b"SQLite format 3": "an SQLite database",
    b"PAR1": 'a Parquet file: its mapping has type = "parquet"',
    b"ARROW1": 'an Arrow file: its mapping has type = "arrow"',
    b"<!doctype html": "an HTML page, as a portal sends it instead of the file if the login has ended",
    b"<html": "an HTML page, as a portal sends it instead of the file if the login has ended",
    b"<?xml": "an XML document",
}


class Readable(Protocol):
    """Bytes that can be read in order."""

    def read(self, count: int, /) -> bytes:
        """Return at most `count` bytes, and none at the end only."""

    def close(self) -> None:
        """Close the file."""


def kind_of(head: bytes) -> str | None:
    """Return what a file with these first bytes is, if it is none that a feed of text can be."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:32]
    for magic, kind in _KINDS.items():
        if start.startswith(magic) or start.lower().startswith(magic):
            return kind
    return None


def is_zip(head: bytes) -> bool:
    """Return True if the first four bytes are those of a ZIP archive."""
    return head.startswith(_ZIP)


def is_utf_16(head: bytes) -> bool:
    """Return True if the first four bytes are text in UTF-16, with a byte order mark or without."""
    return _UTF_16.match(head) is not None


class ArchiveMember:
    """The one data file in a ZIP archive. Raises SourceError if the archive has none, several, or is a workbook."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        try:
            self._file: IO[bytes] = self._archive.open(self._chosen(path))
        except BaseException:
            self._archive.close()
            raise

    def _chosen(self, path: Path) -> str:
        names = [name for name in self._archive.namelist() if not name.endswith("/")]
        if _WORKBOOK in names:
            raise SourceError(f"{path}: found an Excel workbook (.xlsx); expected a feed file: save it as CSV")
        names = [name for name in names if not name.startswith("__MACOSX/") and PurePosixPath(name).name[0] != "."]
        data = [name for name in names if PurePosixPath(name).suffix.lower() in _DATA]
        if len(names) != 1 and len(data) != 1:
            shown = ", ".join(names[:5]) or "none"
            raise SourceError(f"{path}: found {len(names)} files in the archive ({shown}); expected one: unpack it")
        return names[0] if len(names) == 1 else data[0]

    def read(self, count: int, /) -> bytes:
        """Return at most `count` bytes of the file, and none at its end only."""
        return self._file.read(count)

    def close(self) -> None:
        """Close the file and the archive."""
        self._file.close()
        self._archive.close()


class Utf16:
    """Text in UTF-16 as UTF-8, without its byte order mark.

    `head` are its first four bytes. `taken` are those that were read from the source already: all of them, or none.
    """

    def __init__(self, source: Readable, head: bytes, taken: bytes) -> None:
        self._source = source
        self._head = taken
        big = head.startswith(b"\xfe\xff") or (head[:1] == b"\0" and not head.startswith(b"\xff\xfe"))
        self._decoder = codecs.getincrementaldecoder("utf-16-be" if big else "utf-16-le")()
        self._begun = self._ended = False

    def read(self, count: int, /) -> bytes:
        """Return some text in UTF-8, about `count` bytes, and none at the end only."""
        while not self._ended:
            data = self._head or self._source.read(count)
            self._head = b""
            self._ended = not data
            text = self._decoder.decode(data, final=self._ended)
            if text and not self._begun:
                self._begun = True
                text = text.removeprefix("\ufeff")
            if text:
                return text.encode("utf-8")
        return b""

    def close(self) -> None:
        """Close the source."""
        self._source.close()
