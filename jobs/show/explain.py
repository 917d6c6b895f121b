"""Explanation of a record by its key: each of its rows in the history, step by step, with a recomputed charge (P12)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import duckdb
import numpy as np
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jobs.output.printable import printable
from rating.apply import Compiled
from rating.catalogue.rates import RECORD_BASIS, SESSION_BASIS
from rating.errors import UsageError
from rating.queries.explain import explain, rates_of
from rating.units.money import format_amount

Row = dict[str, Any]


def explain_key(
    compiled: Compiled, connection: duckdb.DuckDBPyConnection, key: str, feed: str | None
) -> list[dict[str, Any]]:
    """Return the steps and the charge (decimal text) of each rated row of the key, in journal order.

    `agrees` is True if the price function, recomputed from the row, gives the stored charge. It is None if the row has
    too little data for that. Raises UsageError if no record with the key was rated (with the reason if one was
    rejected), or if several feeds have the key and `feed` is None.
    """
    found = connection.sql(
        "SELECT * FROM rated WHERE record_key = $1 AND ($2 IS NULL OR feed = $2) ORDER BY journal_offset, part",
        params=[key, feed],
    )
    rows: list[Row] = found.to_arrow_table().to_pylist()
    if not rows:
        raise UsageError(_not_found(connection, key, feed))
    feeds = sorted({row["feed"] for row in rows})
    if len(feeds) > 1:
        raise UsageError(f"record {key!r} is in several feeds; name one with --feed: {', '.join(feeds)}")
    return [_explained(compiled, connection, row, rows) for row in rows]


def _not_found(connection: duckdb.DuckDBPyConnection, key: str, feed: str | None) -> str:
    rejected = connection.sql(
        "SELECT reason::VARCHAR, message, source::VARCHAR, source_row FROM rejected "
        "WHERE record_key = $1 AND ($2 IS NULL OR feed = $2) ORDER BY received_at DESC LIMIT 1",
        params=[key, feed],
    ).fetchall()
    if rejected:
        reason, message, source, row = rejected[0]
        return f"record {key!r} was rejected as {reason} ({source} line {row}): {message}"
    of_feed = "" if feed is None else f" of feed {feed}"
    like = connection.sql(
        "SELECT DISTINCT record_key FROM rated WHERE starts_with(record_key, $1) ORDER BY 1 LIMIT 5", params=[key]
    ).fetchall()
    near = f"; there are: {', '.join(name for (name,) in like)}" if like else ""
    return f"found no record{of_feed} with key {key!r}; expected the record_key of a rated record{near}"


def _explained(compiled: Compiled, connection: duckdb.DuckDBPyConnection, row: Row, rows: list[Row]) -> dict[str, Any]:
    steps = [asdict(step) for step in explain(compiled, row)]
    agrees, text, facts = _check(compiled, connection, row, rows)
    steps.append({"step": "check", "text": text, "facts": facts})
    return {
        "record_key": row["record_key"],
        "part": row["part"],
        "kind": row["kind"],
        "charge": format_amount(row["charge_nanos"]),
        "currency": row["currency"],
        "agrees": agrees,
        "steps": steps,
    }


def _check(
    compiled: Compiled, connection: duckdb.DuckDBPyConnection, row: Row, rows: list[Row]
) -> tuple[bool | None, str, dict[str, Any]]:
    """Recompute the charge of a row.

    Return whether it equals the stored charge (None if it cannot be recomputed), a sentence, and the recomputed values.
    """
    if row["kind"] == "rerate":
        return None, "a difference between two ratings of the rows above", {}
    if row["kind"] == "reversal":
        taken = [-one["charge_nanos"] for one in rows if one["kind"] == "usage" and one["part"] == row["part"]]
        if row["charge_nanos"] in taken:
            return True, "takes back just what the record had cost", {}
    candidates = _recomputed(compiled, connection, row)
    if candidates is None:
        return None, "not computed again: the price runs over the session, or the plan is no longer known", {}
    stored = format_amount(row["charge_nanos"])
    facts: dict[str, Any] = {"recomputed": [format_amount(nanos) for nanos in candidates]}
    if row["charge_nanos"] in candidates:
        return True, f"computed again from these figures: {stored} {row['currency']}, as stored", {"recomputed": stored}
    found = " or ".join(facts["recomputed"])
    return False, f"computed again it is {found}, but {stored} {row['currency']} is stored: the plan has changed", facts


def _recomputed(compiled: Compiled, connection: duckdb.DuckDBPyConnection, row: Row) -> list[int] | None:
    """Return the possible charges of the row in nanos, or None if the row lacks the quantities that its price needs.

    There may be several, because the row does not record whether earlier usage had already entered the price, or
    whether its session had already been charged the connect fee.
    """
    book = compiled.book
    own, price = rates_of(compiled, row)
    if own is None or price is None:
        return None
    basis, overage = int(book.rates.basis[price]), row["overage"]
    plain = int(book.rates.allowance[own]) == 0 and row["subject_kind"] == "sim"
    before, after = row["overage_before"], row["overage_before"] + overage
    if book.rates.capacity[price]:
        before = _peak_before(connection, row)
        after = max(before, overage)
    elif basis == SESSION_BASIS and row["session_id"] is not None:
        return None
    elif basis in (RECORD_BASIS, SESSION_BASIS):
        before, after = 0, overage
    alone = basis in (RECORD_BASIS, SESSION_BASIS) or bool(book.rates.capacity[price])
    befores = {before} if before > 0 else {-1} if alone or not plain else {-1, 0}
    afters = {after} if after > 0 else {0} if plain and not book.rates.capacity[price] else {-1}
    limit = int(book.prices.unit_limit[price])
    fees = (0, 1) if int(book.rates.connect_fee_nanos[price]) else (0,)
    found: set[int] = set()
    for start in befores:
        for end in afters:
            for fee in fees:
                columns = ([min(start, limit)], [min(end, limit)], [fee])
                charged = book.prices.charge(np.array([price]), *(np.array(one, np.int64) for one in columns))
                found.add(int(charged[0]))
    return sorted(found)


def _peak_before(connection: duckdb.DuckDBPyConnection, row: Row) -> int:
    names = ("subject_kind", "subject", "rate", "cycle")
    peak = connection.sql(
        "SELECT coalesce(max(overage), 0) FROM rated WHERE subject_kind = $1 AND subject = $2 AND rate = $3 "
        "AND cycle = $4 AND journal_partition = $5 AND (journal_offset, part) < ($6, $7)",
        params=[*(row[name] for name in names), row["journal_partition"], row["journal_offset"], row["part"]],
    ).fetchall()
    return int(peak[0][0])


def render_explained(explained: list[dict[str, Any]], console: Console) -> None:
    """Print the steps of each row, one row after the other."""
    for row in explained:
        part = f", part {row['part']}" if row["part"] else ""
        title = Text(f"{printable(row['record_key'])} ({row['kind']}{part}): {row['charge']} {row['currency']}", "bold")
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for step in row["steps"]:
            wrong = step["step"] == "check" and row["agrees"] is False
            table.add_row(step["step"], Text(printable(step["text"]), "bold red" if wrong else ""))
        console.print(Group(title, Padding(table, (0, 0, 1, 2))))
