"""The result of a decoder: raw columns of text, rejected lines, and the position of the next chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.feeds.decode.lines import Position
from schemas.usage import REJECT_SCHEMA


@dataclass(frozen=True)
class Chunk:
    """A consecutive part of a source, in source order.

    `raw` has one row for each source record: String columns named by the mapping's source paths (columns that the
    source lacks are absent) and `source_row`, Int64. `rejects` (REJECT_SCHEMA) are lines that could not be decoded as
    records. `raw_lines(rows)` returns the bytes of source rows of this chunk. `header` is the header line of a CSV
    source, else None. `footers` are its lines that are no records, as text. The next chunk starts at `end`.
    """

    raw: pl.DataFrame
    rejects: pl.DataFrame
    raw_lines: Callable[[list[int]], list[bytes]]
    end: Position
    header: bytes | None = None
    footers: tuple[str, ...] = ()


def reject_frame(
    rows: Sequence[int] | npt.NDArray[np.int64], reason: str, messages: str | Sequence[str] | pl.Series
) -> pl.DataFrame:
    """Return REJECT_SCHEMA rows of one reason for whole lines.

    `rows` are the row numbers. `messages` is one message for all of them, or one for each.
    """
    numbers = pl.Series("source_row", rows, dtype=pl.Int64)
    return pl.DataFrame({"source_row": numbers}).select(
        pl.col("source_row"),
        pl.lit(None, dtype=pl.String).alias("record_key"),
        pl.lit(reason, dtype=pl.String).alias("reason"),
        pl.lit(None, dtype=pl.String).alias("field"),
        (
            pl.lit(messages, dtype=pl.String) if isinstance(messages, str) else pl.Series(messages, dtype=pl.String)
        ).alias("message"),
    )


def merge_rejects(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """Concatenate reject frames in source order."""
    if not parts:
        return pl.DataFrame(schema=REJECT_SCHEMA)
    return pl.concat(parts).sort("source_row", maintain_order=True)
