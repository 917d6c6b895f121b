"""Text lines of a block as valid UTF-8, with the lines that are none set aside."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.decode.chunk import reject_frame
from pipeline.decode.lines import LineBlock


class TextLines:
    """Lines of a block in UTF-8 without NUL bytes: as many as the block has, a refused one left blank."""

    def __init__(self, data: bytes, rejects: tuple[pl.DataFrame, ...]) -> None:
        self.data = data
        self.rejects = rejects
        self.bytes_view: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8)
        self.newlines: npt.NDArray[np.int64] = np.flatnonzero(self.bytes_view == 10)
        self.starts: npt.NDArray[np.int64] = np.concatenate([np.zeros(1, np.int64), self.newlines[:-1] + 1])

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Bytes of each line, its newline included."""
        return self.newlines - self.starts + 1

    def has(self, character: str) -> bool:
        """Whether `character` (one ASCII character, or "") is anywhere in the lines."""
        return bool(character) and character.encode() in self.data

    def split(self) -> list[bytes]:
        """Each line without its line end."""
        return [line[:-1] if line.endswith(b"\r") else line for line in self.data.split(b"\n")[:-1]]


def decode_lines(block: LineBlock, encoding: str) -> TextLines:
    """The lines of `block` (not a too long one) in UTF-8; lines that hold NUL or are not `encoding` are rejected."""
    data = block.data
    rejects: list[pl.DataFrame] = []
    if b"\0" in data:
        places = np.flatnonzero(block.bytes_view == 0)
        within = np.searchsorted(block.newlines, places)  # ascending
        bad = within[np.diff(within, prepend=-1) > 0]
        rejects.append(reject_frame(bad + block.first_row, "malformed", "found a NUL byte; expected text"))
        data = _blanked(block, data, bad)
    if not data.isascii():
        try:
            text = data.decode(encoding)
            data = data if encoding == "utf-8" else text.encode("utf-8")
        except UnicodeDecodeError:
            data, bad = _decode_each(data, encoding)
            rejects.append(reject_frame(bad + block.first_row, "encoding", f"found bytes that are not {encoding}"))
    return TextLines(data, tuple(rejects))


def _blanked(block: LineBlock, data: bytes, bad: npt.NDArray[np.int64]) -> bytes:
    keep = np.ones(block.lines, np.bool_)
    keep[bad] = False
    kept = np.repeat(keep, block.newlines - block.starts + 1)
    kept[block.newlines] = True
    return block.bytes_view[kept].tobytes()


def _decode_each(data: bytes, encoding: str) -> tuple[bytes, npt.NDArray[np.int64]]:
    lines = data.split(b"\n")[:-1]
    bad: list[int] = []
    for index, line in enumerate(lines):
        if line.isascii():
            continue
        try:
            lines[index] = (
                line if line.decode(encoding) and encoding == "utf-8" else line.decode(encoding).encode("utf-8")
            )
        except UnicodeDecodeError:
            bad.append(index)
            lines[index] = b""
    return b"\n".join(lines) + b"\n", np.array(bad, np.int64)
