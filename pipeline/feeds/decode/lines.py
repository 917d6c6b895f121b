"""Cuts a text source into blocks of whole physical lines. Reading can resume at the end of any block.

A physical line ends in a newline; the last line may lack it. The ends of blocks depend only on the bytes, the start and
`chunk_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.feeds.decode.stream import ByteStream

MAX_LINE_BYTES = 1 << 20
MAX_BLOCK_LINES = 1 << 18
KEPT_LINE_BYTES = 64 << 10
MAX_RECORD_LINES = 64  # lines that a quoted line break may join to one record
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Position:
    """A position in a source: the number of uncompressed bytes before it, and the 1-based number of the next row."""

    offset: int = 0
    row: int = 1


@dataclass(frozen=True)
class LineBlock:
    """Whole lines, each ending in a newline. `end` is the position of the next block.

    A line longer than MAX_LINE_BYTES is a block of its own: `too_long` is True and `data` has its first
    KEPT_LINE_BYTES.
    """

    data: bytes
    first_row: int
    lines: int
    end: Position
    too_long: bool = False
    bytes_view: npt.NDArray[np.uint8] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes_view", np.frombuffer(self.data, np.uint8))

    @cached_property
    def is_utf8(self) -> bool:
        """True if the bytes are UTF-8 text."""
        if self.data.isascii():
            return True
        try:
            self.data.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True

    @cached_property
    def newlines(self) -> npt.NDArray[np.int64]:
        """Positions of the newlines, int64[lines]."""
        return np.flatnonzero(self.bytes_view == 10)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Positions of the first byte of each line, int64[lines]."""
        starts = np.empty_like(self.newlines)
        starts[:1] = 0
        starts[1:] = self.newlines[:-1] + 1
        return starts

    def line(self, index: int) -> bytes:
        """Return the bytes of line `index` (0-based) without its line end."""
        if self.too_long:
            return self.data
        text = self.data[self.starts[index] : self.newlines[index]]
        return text[:-1] if text.endswith(b"\r") else text

    def raw_lines(self, rows: list[int]) -> list[bytes]:
        """Return the bytes of the lines with the row numbers `rows`, without line ends."""
        return [self.line(row - self.first_row) for row in rows]


def cut_lines(stream: ByteStream, row: int, chunk_bytes: int, quote: str = "") -> Iterator[LineBlock]:
    """Yield the lines of `stream` from its current offset on, in blocks of about `chunk_bytes`.

    The first line has number `row`. Lines of one record, which a `quote` that is still open joins, stay together. Keeps
    at most one block, or a few MAX_LINE_BYTES, in memory. Raises SourceError from the stream.
    """
    wanted = chunk_bytes
    while True:
        window = stream.peek(wanted)
        if not window:
            return
        cut = len(window) if len(window) < wanted else window.rfind(b"\n") + 1
        if not cut:
            window = stream.peek(MAX_LINE_BYTES + 1)
            cut = window.find(b"\n") + 1 or (len(window) if len(window) <= MAX_LINE_BYTES else 0)
        if cut:
            cut = _before_long_line(window, cut)
        if quote and cut and (cut < len(window) or len(window) == wanted):
            together = _before_open_quote(window, cut, quote.encode())
            if not together and wanted < chunk_bytes + 2 * MAX_LINE_BYTES:
                wanted *= 2
                continue
            cut = together or cut
        wanted = chunk_bytes
        if not cut:
            yield _skip_long_line(stream, window[:KEPT_LINE_BYTES], row)
            row += 1
            continue
        data = window[:cut]
        if not data.endswith(b"\n"):
            data += b"\n"
        lines = int(np.count_nonzero(np.frombuffer(data, np.uint8) == 10))
        if lines > MAX_BLOCK_LINES:
            lines = MAX_BLOCK_LINES
            cut = int(np.flatnonzero(np.frombuffer(data, np.uint8) == 10)[lines - 1]) + 1
            if quote:
                cut = _before_open_quote(data, cut, quote.encode()) or cut
                lines = data.count(b"\n", 0, cut)
            data = data[:cut]
        stream.skip(min(cut, len(window)))
        yield LineBlock(data, row, lines, Position(stream.offset, row + lines))
        row += lines


def _before_open_quote(window: bytes, cut: int, quote: bytes) -> int:
    """Return the end of the line before a line near the end of window[:cut] whose quote is still open; else `cut`."""
    start = cut
    for _ in range(2 * MAX_RECORD_LINES):
        if not start:
            break
        start = window.rfind(b"\n", 0, start - 1) + 1
    if quote not in window[start:cut]:
        return cut
    opened: int | None = None
    number = since = 0
    at = start
    while at < cut:
        end = window.find(b"\n", at, cut) + 1 or cut
        number += 1
        if opened is not None and number - since >= MAX_RECORD_LINES:
            opened = None  # a stray quote, which joins no lines
        if window.count(quote, at, end) % 2:
            opened, since = (at, number) if opened is None else (None, since)
        at = end
    return cut if opened is None else opened


def _before_long_line(window: bytes, cut: int) -> int:
    """Return the end of the line before the first too long line of window[:cut]; `cut` if no line is too long."""
    start = 0
    while cut - start > MAX_LINE_BYTES:
        newline = window.rfind(b"\n", start, min(cut, start + MAX_LINE_BYTES + 1))
        if newline < 0:
            return start
        start = newline + 1
    return cut


def _skip_long_line(stream: ByteStream, kept: bytes, row: int) -> LineBlock:
    while block := stream.peek(MAX_LINE_BYTES):
        newline = block.find(b"\n")
        stream.skip(newline + 1 if newline >= 0 else len(block))
        if newline >= 0:
            break
    return LineBlock(kept, row, 1, Position(stream.offset, row + 1), too_long=True)
