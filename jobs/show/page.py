"""A page of a longer list, and how the rows of a query come to be one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from jobs.report.model import json_rows
from jobs.show.until_midnight import Reading
from rating.errors import UsageError

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Page:
    """Some rows of a longer list: `total` rows matched, `rows` begins at `offset`."""

    total: int
    offset: int
    rows: pl.DataFrame
    reading: Reading | None = None

    def as_dict(self) -> dict[str, Any]:
        """The page as JSON values."""
        about = {} if self.reading is None else self.reading.as_dict()
        return {**about, "total": self.total, "offset": self.offset, "rows": json_rows(self.rows)}


def require_page(limit: int, offset: int) -> None:
    """Raise UsageError where there is no such page."""
    if limit < 0 or offset < 0:
        raise UsageError(f"limit {limit} and offset {offset}: both must be 0 or more")


def frame_of(rows: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    """All rows of a query."""
    frame = pl.from_arrow(rows.to_arrow_table())
    assert isinstance(frame, pl.DataFrame)
    return frame
