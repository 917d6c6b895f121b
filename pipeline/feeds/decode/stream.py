"""The uncompressed bytes of a source file, in bounded memory.

A file may be plain, gzip, zstd, or a ZIP archive with one data file, recognised by magic number. Text in UTF-16 is read
as UTF-8.

A stream is read by looking ahead (`peek`) and consuming (`skip`), so that a reader can cut at line ends without keeping
the whole file in memory.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from pipeline.feeds.decode.unpacked import UNPACK_ERRORS, ArchiveMember, Readable, Utf16, is_utf_16, is_zip
from rating.errors import SourceError

BOMB_FLOOR_BYTES = 256 << 20
BOMB_RATIO = 100

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # a frame without content, which pzstd writes before each other
_READ_BYTES = 1 << 20


def compression_of(head: bytes) -> str | None:
    """Return the compression that the first four bytes of a file indicate: "gzip", "zstd" or None."""
    if head.startswith(_GZIP):
        return "gzip"
    return "zstd" if head.startswith(_ZSTD) or _SKIPPABLE.match(head) else None


class ByteStream:
    """The uncompressed bytes of a file from `offset` on. Raises SourceError if they cannot be read.

    A compressed file that grows beyond both BOMB_RATIO times its size and BOMB_FLOOR_BYTES is rejected.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = 0
        self._buffer = b""
        self._fd = -1
        self._inflate: Readable | None = None
        self.is_utf_16 = False
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            facts = os.fstat(self._fd)
            if not stat.S_ISREG(facts.st_mode):
                raise SourceError(f"{path}: is not a regular file; expected a feed file")
            self._size = facts.st_size
            self._open(os.pread(self._fd, 4, 0))
        except (OSError, pa.ArrowException, *UNPACK_ERRORS) as error:
            self.close()
            raise self._failed(error) from None
        except SourceError:
            self.close()
            raise
        if offset:
            self._seek(offset)

    def _open(self, head: bytes) -> None:
        """Choose how the file is read by its first four bytes, and by those of what is packed in it."""
        self.compression: str | None = "zip" if is_zip(head) else compression_of(head)
        if self.compression == "zip":
            self._inflate = ArchiveMember(self.path)
        elif self.compression is not None:
            self._inflate = pa.CompressedInputStream(pa.OSFile(str(self.path)), self.compression)
        if self._inflate is not None:
            head = self._buffer = self._inflate.read(4)
        if is_utf_16(head):
            self.is_utf_16 = True
            source = self._inflate or self.path.open("rb")
            self._inflate = Utf16(source, head, self._buffer)
            self._buffer = b""
            self.compression = self.compression or "UTF-16"

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes without consuming them; fewer only at the end of the stream."""
        if self._inflate is None:
            return self._read_plain(count)
        if len(self._buffer) < count:
            self._buffer = b"".join([self._buffer, *self._read_compressed(count - len(self._buffer))])
        return self._buffer[:count]

    def skip(self, count: int) -> None:
        """Consume `count` bytes, which must have been peeked."""
        self.offset += count
        if self._inflate is not None:
            self._buffer = self._buffer[count:]

    def read_all(self, limit: int) -> bytes:
        """Return and consume all remaining bytes. Raises SourceError if there are more than `limit`."""
        data = self.peek(limit + 1)
        if len(data) > limit:
            raise SourceError(f"{self.path}: holds more than {limit} bytes in one document; split it, or use NDJSON")
        self.skip(len(data))
        return data

    def close(self) -> None:
        """Close the file. The stream cannot be read any more."""
        if self._inflate is not None:
            self._inflate.close()
            self._inflate = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _seek(self, offset: int) -> None:
        if self._inflate is None:
            if offset > self._size:
                raise SourceError(
                    f"{self.path}: ends before byte {offset}, where reading stopped; the file has changed"
                )
            self.offset = offset
            return
        while self.offset < offset:
            count = len(self.peek(min(_READ_BYTES, offset - self.offset)))
            if not count:
                raise SourceError(
                    f"{self.path}: ends before byte {offset}, where reading stopped; the file has changed"
                )
            self.skip(count)

    def _read_plain(self, count: int) -> bytes:
        try:
            data = os.pread(self._fd, count, self.offset)
            if len(data) == count or self.offset + len(data) >= self._size:
                return data
            blocks = [data]
            got = len(data)
            while got < count:
                block = os.pread(self._fd, count - got, self.offset + got)
                if not block:
                    break
                blocks.append(block)
                got += len(block)
        except OSError as error:
            raise self._failed(error) from None
        return b"".join(blocks)

    def _read_compressed(self, count: int) -> list[bytes]:
        blocks: list[bytes] = []
        assert self._inflate is not None
        while count > 0:
            try:
                block = self._inflate.read(min(count, _READ_BYTES))
            except (OSError, pa.ArrowException, *UNPACK_ERRORS) as error:
                raise self._failed(error) from None
            if not block:
                break
            blocks.append(block)
            count -= len(block)
        total = self.offset + len(self._buffer) + sum(map(len, blocks))
        if total > max(BOMB_FLOOR_BYTES, BOMB_RATIO * self._size):
            raise SourceError(
                f"{self.path}: {self._size} bytes of {self.compression} grew to more than {total} bytes; "
                "this looks like a decompression bomb, unpack it by hand if it is not"
            )
        return blocks

    def _failed(self, error: BaseException) -> SourceError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if "too much memory" in reason:  # how libzstd says that the window is larger than 128 MiB
            reason += "; pack it with a window of at most 128 MiB (zstd --long=27, or without --long)"
        return SourceError(f"{self.path}: cannot be read: {reason}")
