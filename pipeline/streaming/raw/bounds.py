"""How much a message of `usage.raw` may leave, so that every output of every stage fits a message (F5).

A reject carries its raw bytes, the header line of its file and texts of the record. A rated row carries the texts of
the record.
"""

from __future__ import annotations

import functools
import operator
from typing import Final

import polars as pl

from pipeline.feeds.decode.chunk import reject_frame
from pipeline.feeds.decode.lines import KEPT_LINE_BYTES
from schemas.usage import REJECT_SCHEMA

MOST_RAW_BYTES: Final = 640 << 10  # of a reject: with its header line and texts it fits a message of LIMIT_BYTES
MOST_TEXT_BYTES: Final = 32 << 10  # of all texts of a record, and of each text of a reject
_REPEATED_HEADER_BYTES: Final = 32 << 20  # of the header lines that the rejects of a message carry, together
_MOST_MESSAGE_CHARACTERS: Final = 2000


def kept_line(value: bytes) -> bytes:
    """Return the bytes of a single record for a rejected record: without line end, and cut if it is too long."""
    line = value.removesuffix(b"\n").removesuffix(b"\r")
    return line if len(line) <= MOST_RAW_BYTES else line[:KEPT_LINE_BYTES]


def without_long(usage: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the records whose texts fit every message that carries them, and rejects of the others."""
    texts = [column for column in usage.iter_columns() if column.dtype == pl.String]
    if usage.is_empty() or not texts:
        return usage, pl.DataFrame(schema=REJECT_SCHEMA)
    longest = pl.DataFrame([column.str.len_bytes() for column in texts]).max()
    if sum(length or 0 for length in longest.row(0)) <= MOST_TEXT_BYTES:
        return usage, pl.DataFrame(schema=REJECT_SCHEMA)
    lengths = [column.str.len_bytes().fill_null(0).cast(pl.Int64) for column in texts]
    fits = functools.reduce(operator.add, lengths) <= MOST_TEXT_BYTES
    rows = usage.filter(~fits)["source_row"].unique(maintain_order=True).to_list()
    why = f"found a record with more than {MOST_TEXT_BYTES:,} bytes of text; expected less"
    return usage.filter(fits), reject_frame(rows, "too_long", why)


def short_rejects(rejects: pl.DataFrame) -> pl.DataFrame:
    """Return rejects without keys that are too long for a message, and with the begin of messages that are."""
    if not len(rejects):
        return rejects
    key, said = pl.col("record_key"), pl.col("message")
    fits = key.str.len_bytes() <= MOST_TEXT_BYTES
    return rejects.with_columns(record_key=pl.when(fits).then(key), message=said.str.slice(0, _MOST_MESSAGE_CHARACTERS))


def cut_lines_of(lines: list[bytes]) -> list[bytes]:
    """Cut lines that no journal message could carry to KEPT_LINE_BYTES."""
    return [line if len(line) <= MOST_RAW_BYTES else line[:KEPT_LINE_BYTES] for line in lines]


def repeatable(header: bytes | None, rows: int) -> bytes | None:
    """Return the header line for the rejects of a message; None if all its rows together would carry too much."""
    return None if header is None or len(header) * rows > _REPEATED_HEADER_BYTES else header
