"""Delivery to a file, one line per message, or to standard output."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.store.directory import storage_errors

STANDARD_OUTPUT: Final = "-"
_PIECE: Final = 1 << 16


def append(path: str, bodies: Sequence[bytes]) -> None:
    """Append the messages to the file, synced to disk on return, or write them to standard output ("-").

    An incomplete last line, which a killed process left, is cut off first; its message is delivered again. The file is
    opened anew each time, so it can be moved away (rotated) at any moment. Raises StorageError if the disk fails,
    OSError if nobody reads standard output any more.
    """
    lines = b"\n".join([*bodies, b""])
    if path == STANDARD_OUTPUT:
        sys.stdout.buffer.write(lines)
        sys.stdout.buffer.flush()
        return
    with storage_errors(Path(path), "append actions"), open(path, "ab+", buffering=0) as file:
        regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        if regular:
            os.ftruncate(file.fileno(), _end_of_lines(file.fileno()))
        rest = memoryview(lines)
        while rest:
            rest = rest[file.write(rest) :]
        if regular:
            os.fsync(file.fileno())


def _end_of_lines(descriptor: int) -> int:
    """Return the offset after the last complete line of a file."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _PIECE)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
