"""Lines of a source in a file of their own, with the rows that they have in the source.

A rejected record keeps its row when it is replayed. Empty lines before it would do, but row 400,000,000 would need
400 MB of them. So the rows are in a file beside the lines: int64, little-endian, ascending, one for each line after the
header.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.feeds.decode.chunk import Chunk
from rating.errors import SourceError


def rows_of(path: Path) -> npt.NDArray[np.int64]:
    """Return the rows of the lines of a file. Raises SourceError if they cannot be read."""
    try:
        return np.fromfile(path, "<i8").astype(np.int64)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}; replay the export again") from error


def renumbered(chunks: Iterator[Chunk], rows: npt.NDArray[np.int64], first: int) -> Iterator[Chunk]:
    """Yield the chunks with the rows of the source. `first` is the row of the first line in the file of lines."""
    for chunk in chunks:

        def numbered(frame: pl.DataFrame) -> pl.DataFrame:
            return frame.with_columns(pl.Series("source_row", rows[frame["source_row"].to_numpy() - first], pl.Int64))

        def raw_lines(wanted: list[int], chunk: Chunk = chunk) -> list[bytes]:
            return chunk.raw_lines((np.searchsorted(rows, wanted) + first).tolist())

        yield replace(chunk, raw=numbered(chunk.raw), rejects=numbered(chunk.rejects), raw_lines=raw_lines)
