"""Pages of longer lists, and the conversion of query results to frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from jobs.output.text import json_rows
from jobs.show.until_midnight import ShownUsage
from rating.errors import UsageError

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Page:
    """A page of a list: `total` rows match, and `rows` starts at row `offset` of them."""

    total: int
    offset: int
    rows: pl.DataFrame
    reading: ShownUsage | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the page as JSON values."""
        about = {} if self.reading is None else self.reading.as_dict()
        return {**about, "total": self.total, "offset": self.offset, "rows": json_rows(self.rows)}


def require_page(limit: int, offset: int) -> None:
    """Raise UsageError if `limit` or `offset` is negative."""
    if limit < 0 or offset < 0:
        raise UsageError(f"limit {limit} and offset {offset}: both must be 0 or more")


def frame_of(rows: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    """Return all rows of a query as a frame."""
    frame = pl.from_arrow(rows.to_arrow_table())
    assert isinstance(frame, pl.DataFrame)
    return frame
