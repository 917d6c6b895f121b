"""Explain a record by its key: every row that it left in the history, step by step (P12)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table

from jobs.report.text import printable
from rating.apply import Compiled
from rating.errors import UsageError
from rating.explain import explain
from rating.money import format_amount


def explain_key(
    compiled: Compiled, connection: duckdb.DuckDBPyConnection, key: str, feed: str | None
) -> list[dict[str, Any]]:
    """For each rated row of the key, its steps and its charge as decimal text, in journal order.

    Raises UsageError where no record with that key was rated; it says whether one was rejected.
    """
    where = "record_key = $1" + (" AND feed = $2" if feed is not None else "")
    found = connection.execute(
        f"SELECT * FROM rated WHERE {where} ORDER BY journal_offset, part", [key, *([feed] if feed is not None else [])]
    )
    rows = found.to_arrow_table().to_pylist()
    if not rows:
        rejected = connection.execute(
            "SELECT reason::VARCHAR, message FROM rejected WHERE record_key = $1 ORDER BY received_at DESC LIMIT 1",
            [key],
        ).fetchone()
        if rejected is not None:
            raise UsageError(f"record {key!r} was rejected as {rejected[0]}: {rejected[1]}")
        raise UsageError(f"found no record with key {key!r}; expected the record_key of a rated record")
    return [
        {
            "record_key": row["record_key"],
            "part": row["part"],
            "kind": row["kind"],
            "charge": format_amount(row["charge_nanos"]),
            "currency": row["currency"],
            "steps": [asdict(step) for step in explain(compiled, row)],
        }
        for row in rows
    ]


def render_explained(explained: list[dict[str, Any]], console: Console) -> None:
    """Draw the steps as a table for each row."""
    for row in explained:
        part = f", part {row['part']}" if row["part"] else ""
        title = f"{printable(row['record_key'])} ({row['kind']}{part}): {row['charge']} {row['currency']}"
        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column()
        for step in row["steps"]:
            table.add_row(step["step"], printable(step["text"]))
        console.print(table)
