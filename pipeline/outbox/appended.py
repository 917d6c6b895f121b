"""Delivery to a file, one line per message, or to standard output."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.store.directory import storage_errors
from pipeline.store.folders import FILE_MODE

STANDARD_OUTPUT: Final = "-"


@dataclass(frozen=True)
class Begun:
    """The file that the outbox began to append to last (device and inode), and its size in bytes before that."""

    device: int
    inode: int
    size_bytes: int


def append(
    path: str,
    bodies: Sequence[bytes],
    begun: Begun | None = None,
    mark: Callable[[Begun | None], None] = lambda _: None,
) -> None:
    """Append the messages to the file, synced to disk on return, or write them to standard output ("-").

    `mark` is called with what is begun before anything is written, and with None once all is written. `begun` is what
    was marked last: not None if a process was killed meanwhile. Then, if the file ends with a part of one of the
    messages, that part is cut off, and its message is delivered again. Any other incomplete last line stays and gets
    its line break. The file is opened anew each time, so it can be moved away (rotated) at any moment. A new file has
    mode 0600. Raises StorageError if the disk fails, OSError if nobody reads standard output any more.
    """
    lines = b"\n".join([*bodies, b""])
    if path == STANDARD_OUTPUT:
        sys.stdout.buffer.write(lines)
        sys.stdout.buffer.flush()
        return
    with storage_errors(Path(path), "append actions"), open(path, "ab+", buffering=0, opener=_private) as file:
        facts = os.fstat(file.fileno())
        regular = stat.S_ISREG(facts.st_mode)
        if regular:
            end = facts.st_size
            if begun is not None and (begun.device, begun.inode) == (facts.st_dev, facts.st_ino):
                end = _end_without_part(file.fileno(), begun.size_bytes, end, bodies)
                os.ftruncate(file.fileno(), end)
            if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                lines = b"\n" + lines
            mark(Begun(facts.st_dev, facts.st_ino, end))
        rest = memoryview(lines)
        while rest:
            rest = rest[file.write(rest) :]
        if regular:
            os.fsync(file.fileno())
            mark(None)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def _end_without_part(descriptor: int, start: int, end: int, bodies: Sequence[bytes]) -> int:
    """Return the size of a file without its last line, if that is part of a message and was written after `start`."""
    longest = max(map(len, bodies), default=0)
    first = max(start, end - longest - 1)
    content = os.pread(descriptor, max(0, end - first), first)
    last = content.rfind(b"\n") + 1
    part = content[last:]
    whole = last > 0 or first == start  # else the line began before what was read, and is longer than any message
    return first + last if part and whole and any(body.startswith(part) for body in bodies) else end
