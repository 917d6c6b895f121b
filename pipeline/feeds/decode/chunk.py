"""What a decoder hands on: raw columns of text, the lines that are no records, and where to go on."""

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
    """A stretch of a source, in source order.

    `raw` has one row a source record: String columns named by the mapping's source paths (a column that the source
    lacks is absent) and `source_row`, Int64. `rejects` (REJECT_SCHEMA) are the lines that are not even records.
    `raw_lines(rows)` gives the bytes of source rows of this chunk; `header` is the header line of a CSV source. The
    next chunk starts at `end`.
    """

    raw: pl.DataFrame
    rejects: pl.DataFrame
    raw_lines: Callable[[list[int]], list[bytes]]
    end: Position
    header: bytes | None = None


def reject_frame(
    rows: Sequence[int] | npt.NDArray[np.int64], reason: str, messages: str | Sequence[str] | pl.Series
) -> pl.DataFrame:
    """REJECT_SCHEMA rows of one reason for whole lines: row numbers, and a message each or one for all."""
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
    """The reject frames as one, in source order."""
    if not parts:
        return pl.DataFrame(schema=REJECT_SCHEMA)
    return pl.concat(parts).sort("source_row", maintain_order=True)
