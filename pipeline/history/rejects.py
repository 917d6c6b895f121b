"""Builds rows of rejected records with their raw bytes, for export, correction and replay (F5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import polars as pl
import pyarrow as pa

from pipeline.feeds.source_file import Source
from schemas.tables import REJECTED

_NO_ROWS = REJECTED.empty_table()


class RawLines(Protocol):
    """The raw lines of a part of a source, as in pipeline.feeds.decode.Chunk."""

    @property
    def raw_lines(self) -> Callable[[list[int]], list[bytes]]:
        """A function from row numbers of the source to the bytes of the rows."""

    @property
    def header(self) -> bytes | None:
        """The header line of a CSV source, else None."""


def reject_table(rejects: pl.DataFrame, lines: RawLines, feed: str, source: Source, received_at_us: int) -> pa.Table:
    """Return rows of schemas.tables.REJECTED for rejects (REJECT_SCHEMA), with raw bytes and source row."""
    count = len(rejects)
    if not count:
        return _NO_ROWS
    rows = rejects["source_row"].to_list()
    raw = pa.array(lines.raw_lines(rows), pa.binary())
    columns: dict[str, pa.Array] = {
        "reject_id": pa.array(
            [
                f"{source.fingerprint}:{row}" if key is None else f"{source.fingerprint}:{row}:{key}"
                for row, key in zip(rows, rejects["record_key"], strict=True)
            ],
            pa.string(),
        ),
        "feed": pa.array([feed] * count, pa.string()),
        "source": pa.array([source.name] * count, pa.string()),
        "source_row": pa.array(rows, pa.int64()),
        "received_at": pa.array([received_at_us] * count, pa.timestamp("us", "UTC")),
        "reason": rejects["reason"].to_arrow().cast(pa.string()),
        "field": rejects["field"].to_arrow().cast(pa.string()),
        "message": rejects["message"].to_arrow().cast(pa.string()),
        "record_key": rejects["record_key"].to_arrow().cast(pa.string()),
        "raw": raw,
        "raw_header": pa.array([lines.header] * count, pa.binary()),
    }
    for name in ("feed", "source", "reason", "field"):
        columns[name] = columns[name].dictionary_encode()
    return pa.table(columns, schema=REJECTED)
