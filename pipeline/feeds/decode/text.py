"""Decodes the text lines of a block to valid UTF-8, and rejects lines that cannot be decoded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.feeds.decode.chunk import reject_frame
from pipeline.feeds.decode.lines import LineBlock

Ints = npt.NDArray[np.int64]


class TextLines:
    """The lines of a block in UTF-8 without NUL bytes. It has as many lines as the block; rejected lines are blank."""

    def __init__(self, data: bytes, rejects: tuple[pl.DataFrame, ...], newlines: Ints | None = None) -> None:
        self.data = data
        self.rejects = rejects
        self.bytes_view: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8)
        self.newlines: Ints = np.flatnonzero(self.bytes_view == 10) if newlines is None else newlines
        self.starts: Ints = np.concatenate([np.zeros(1, np.int64), self.newlines[:-1] + 1])

    @cached_property
    def lengths(self) -> Ints:
        """Number of bytes of each line, including its newline."""
        return self.newlines - self.starts + 1

    def has(self, character: str) -> bool:
        """Return True if `character` (one ASCII character, or "") occurs in the lines."""
        return bool(character) and character.encode() in self.data

    def without(self, left_out: Ints) -> bytes:
        """Return the bytes of all lines except those with these numbers (0-based, ascending)."""
        return b"".join(_spans(self.data, self.starts[left_out], self.newlines[left_out] + 1))

    def split(self) -> list[bytes]:
        """Return each line without its line end."""
        return [line[:-1] if line.endswith(b"\r") else line for line in self.data.split(b"\n")[:-1]]


def decode_lines(block: LineBlock, encoding: str) -> TextLines:
    """Decode the lines of `block` to UTF-8. Lines that contain NUL or are not `encoding` are rejected.

    `block` must not be one with a too long line.
    """
    data = block.data
    newlines: Ints | None = None
    rejects: list[pl.DataFrame] = []
    if b"\0" in data:
        places = np.flatnonzero(block.bytes_view == 0)
        within = np.searchsorted(block.newlines, places)  # ascending
        bad = within[np.diff(within, prepend=-1) > 0]
        rejects.append(reject_frame(bad + block.first_row, "malformed", "found a NUL byte; expected text"))
        data = _blanked(block, data, bad)
    if not (block.is_utf8 if encoding == "utf-8" else data.isascii()):
        newlines = block.newlines if data is block.data else None
        whole = None if encoding == "utf-8" and newlines is not None else _decode_all(data, encoding)
        if whole is None:
            data, newlines, bad = _decode_each(data, newlines, encoding)
            rejects.append(reject_frame(bad + block.first_row, "encoding", f"found bytes that are not {encoding}"))
        else:
            data, newlines = whole, None
    return TextLines(data, tuple(rejects), block.newlines if data is block.data else newlines)


def _blanked(block: LineBlock, data: bytes, bad: Ints) -> bytes:
    return b"".join(_spans(data, block.starts[bad], block.newlines[bad]))


def _spans(data: bytes, starts: Ints, ends: Ints) -> Iterator[memoryview]:
    """Yield the parts of `data` between the ranges from `starts` to `ends`, which are ascending and do not overlap."""
    view = memoryview(data)
    at = 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield view[at:start]
        at = end
    yield view[at:]


def _decode_all(data: bytes, encoding: str) -> bytes | None:
    """Return the text in UTF-8, or None if some of it is not `encoding`."""
    try:
        return data.decode(encoding).encode("utf-8")
    except UnicodeDecodeError:
        return None


def _decode_each(data: bytes, newlines: Ints | None, encoding: str) -> tuple[bytes, Ints, Ints]:
    """Decode lines one by one.

    Returns their UTF-8 bytes, the end of each line, and the numbers of the undecodable lines. Undecodable lines are
    left blank. Lines that are ASCII are copied without decoding.
    """
    view = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(view == 10) if newlines is None else newlines
    within = np.searchsorted(newlines, np.flatnonzero(view >= 128))  # ascending
    lines = within[np.diff(within, prepend=-1) > 0]
    starts = np.where(lines > 0, newlines[lines - 1] + 1, 0)
    bad: list[int] = []
    pieces: list[bytes | memoryview] = []
    longer = np.zeros(len(newlines), np.int64)
    for line, untouched, start, end in zip(
        lines.tolist(), _spans(data, starts, newlines[lines]), starts.tolist(), newlines[lines].tolist(), strict=False
    ):
        text = b""
        try:
            text = data[start:end].decode(encoding).encode("utf-8")
        except UnicodeDecodeError:
            bad.append(line)
        pieces += (untouched, text)
        longer[line] = len(text) - (end - start)
    pieces.append(memoryview(data)[int(newlines[lines[-1]]) if len(lines) else 0 :])
    return b"".join(pieces), newlines + np.cumsum(longer), np.array(bad, np.int64)
