"""SQL over the history: DuckDB reads the committed Parquet files in place (Q5).

A connection reads a snapshot: for each partition, the files that the manifest lists when the connection is made. Later
writes do not change it. It reaches these files and nothing else of the machine (docs/decisions/0142).
"""

from __future__ import annotations

import csv
import datetime as dt
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.output.formulas import defused
from jobs.output.printable import printable
from pipeline.history.reader import Histories, no_state
from pipeline.store.directory import DataDirectory
from rating.columnar.arrow import plain_type
from rating.errors import InputError, UsageError
from rating.queries.schemas import StateViews
from schemas.tables import TABLES

SHOWN_ROWS = 100
_VIEWS = {"daily": ("rated",), "cycles": ("rated",), "action_states": ("actions", "results")}  # of views.sql
STATE_TABLES = ("accounts", "cards", "counters", "pools", "fees", "rules")


@contextmanager
def connect(
    data: Path | DataDirectory | Histories, state: StateViews | None = None, *, check: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a DuckDB connection with the tables and views of the history that docs/tables.md describes.

    It has what is committed now, of all partitions. If `state` is given, it also has the tables of STATE_TABLES. A
    table without rows still has its columns. Times are shown in UTC. With `check`, all files of the history are first
    compared with their digests. Raises UsageError if there is no data directory, and StorageError if it is damaged.
    """
    checked = TABLES if check else ()
    with (
        _opened(data) as histories,
        histories.read(lambda: _connect(histories, state, checked, trusted=True)) as connection,
    ):
        yield connection


@contextmanager
def _opened(data: Path | DataDirectory | Histories) -> Iterator[Histories]:
    if isinstance(data, Histories):
        yield data
    else:
        with Histories.open(data) as histories:
            yield histories


def _connect(
    histories: Histories, state: StateViews | None, checked: Iterable[str] = (), *, trusted: bool = False
) -> duckdb.DuckDBPyConnection:
    """Return a connection to the history. `checked` are tables whose files are compared with their digests.

    Unless it is `trusted`, the connection reads no other file, opens no network connection and writes nothing. No query
    can change that.
    """
    # DuckDB must not download extensions, and a query must not read Python variables as tables.
    options: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    connection = duckdb.connect(config=options)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")  # it is printed on stdout, between the rows of the answer
    allowed: list[str] = []
    for name, schema in TABLES.items():
        # DuckDB does not verify the checksums of Parquet pages, so the whole file is checked if sums must be true.
        files = histories.files(name, check=name in checked)
        allowed += [form(file) for file in files for form in (_quoted, _literal)]  # DuckDB asks for both
        if files:
            listed = ", ".join(_literal(file) for file in files)
            connection.execute(
                f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{listed}], hive_partitioning = false)"
            )
        else:
            plain = pa.schema([(field.name, plain_type(field.type)) for field in schema])
            connection.register(name, plain.empty_table())
    connection.execute(resources.files("jobs.show").joinpath("views.sql").read_text())
    if state is not None:
        for name in STATE_TABLES:
            connection.register(name, getattr(state, name).to_arrow())
    if not trusted:
        connection.execute(f"SET allowed_paths = [{', '.join(allowed)}]")
        for setting in ("temp_directory = ''", "enable_external_access = false", "lock_configuration = true"):
            connection.execute(f"SET {setting}")
    return connection


def _literal(path: Path) -> str:
    """Return a path as an SQL string literal, escaped so that DuckDB does not treat it as a glob."""
    text = str(path.absolute()).replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
    return "'" + text.replace("'", "''") + "'"


def _quoted(path: Path) -> str:
    """Return a path as an SQL string literal, as it is."""
    return "'" + str(path.absolute()).replace("'", "''") + "'"


def run_sql(
    data: Path | DataDirectory | Histories,
    sql: str,
    state: StateViews | None = None,
    *,
    trusted: bool = False,
    check: bool = True,
) -> pa.Table:
    """Run one statement that only reads (SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE) and return its rows.

    Unless it is `trusted`, the statement reaches nothing of the machine but the tables and views. With `check`, the
    files of the tables that it names are first compared with their digests.

    If a compaction replaces files meanwhile, the statement runs again over the new files. Raises InputError with
    DuckDB's message if the statement is invalid. Raises UsageError if there is not exactly one statement, if it does
    not only read, or if it names a table of the state and streaming workers have the state. Raises StorageError if a
    file has changed since it was written.
    """
    _require_reading(sql)
    checked = _named(sql) if check else ()
    with _opened(data) as histories:

        def run() -> pa.Table:
            with _connect(histories, state, checked, trusted=trusted) as connection:
                relation = connection.sql(sql)
                return relation.to_arrow_table() if relation is not None else pa.table({})

        def vanished(failure: Exception) -> bool:
            # DuckDB looks for a folder where a file is gone, which it may not.
            refused = isinstance(failure, duckdb.PermissionException) and str(histories.path) in str(failure)
            return refused or isinstance(failure, duckdb.IOException)

        try:
            return histories.read(run, vanished=vanished)
        except duckdb.PermissionException as failure:
            raise InputError(
                f"the query reaches beyond the tables and views of the history, which only --trust lets it: {failure}"
            ) from failure
        except duckdb.Error as failure:
            missing = [name for name in STATE_TABLES if f"Table with name {name} does not exist" in str(failure)]
            if histories.streaming and missing:
                raise no_state(histories.path, f"the table {missing[0]}") from failure
            raise InputError(f"the query cannot be answered: {failure}") from failure


def _named(sql: str) -> Iterable[str]:
    """Return the tables of the history whose files a statement may read: those whose names are in it, or in a view."""
    words = {*re.findall(r"\w+", sql.lower())}
    for view, tables in _VIEWS.items():
        if view in words:
            words.update(tables)
    return words & TABLES.keys()


def _require_reading(sql: str) -> None:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as failure:
        raise InputError(f"the query cannot be read: {failure}") from failure
    if len(statements) != 1:
        raise UsageError(f'found {len(statements)} statements; give one, such as "select * from cycles limit 10"')
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        raise UsageError(
            f"found {kind.name} statement; the history is only read: give a SELECT, FROM, WITH, DESCRIBE, SHOW or "
            "SUMMARIZE, and redirect the output of --csv to export"
        )


def rows_as_json(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows as JSON values: decimals as text, dates and times in ISO 8601, bytes as text.

    Decimals without decimal places become integers. If columns have the same name, a number distinguishes them.
    """
    names = _unique(table.column_names)
    columns = [[_json_value(value) for value in column.to_pylist()] for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _unique(names: list[str]) -> list[str]:
    taken: set[str] = set()
    unique = []
    for name in names:
        candidate, number = name, 1
        while candidate in taken or (number > 1 and candidate in names):
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate)
        unique.append(candidate)
    return unique


def _json_value(value: Any) -> Any:
    if isinstance(value, Decimal):
        if value.as_tuple().exponent == 0:
            return int(value)
        text = format(value, "f")
        return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
    if isinstance(value, dt.datetime):
        if value.tzinfo is None:
            return value.isoformat()
        return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def rows_as_csv(table: pa.Table) -> str:
    """Return rows as CSV with a header line, empty fields for null, and times in ISO 8601.

    A text or name that a spreadsheet would evaluate as a formula gets a leading apostrophe; numbers never do.
    """
    lines = _CsvLines()
    writer = csv.writer(lines)
    writer.writerow([defused(name) for name in table.column_names])
    columns = [
        [_json_value(value) if _is_number(column.type) else _csv_cell(value) for value in column.to_pylist()]
        for column in table.columns
    ]
    writer.writerows(zip(*columns, strict=True))
    return "".join(lines.written)


class _CsvLines:
    """Takes rows of CSV that end in CR LF, so that a cell with either is quoted, and keeps them ending in LF."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, row: str) -> None:
        """Take one row."""
        self.written.append(row.removesuffix("\r\n") + "\n")


def _csv_cell(value: Any) -> Any:
    """Return a value that is no number as a cell of CSV."""
    cell = _json_value(value)
    return cell if cell is None or isinstance(cell, bool | int | float) else defused(str(cell))


def render(table: pa.Table, console: Console, shown_rows: int = SHOWN_ROWS) -> None:
    """Print the first `shown_rows` rows and the number of all rows.

    The rows are a table, or one value a line if a table is too wide for the console.
    """
    shown = table.slice(0, shown_rows)
    names = [printable(name) for name in shown.column_names]
    columns = [[_cell(_json_value(value)) for value in column.to_pylist()] for column in shown.columns]
    widths = [
        max([cell_len(name), *(cell.cell_len for cell in cells)]) for name, cells in zip(names, columns, strict=True)
    ]
    if sum(widths) + 2 * (len(widths) - 1) <= console.width or len(names) == 1:
        drawn = Table(box=None, header_style="bold", pad_edge=False)
        for name, field in zip(names, table.schema, strict=True):
            drawn.add_column(Text(name), justify="right" if _is_number(field.type) else "left", overflow="fold")
        for row in zip(*columns, strict=True):
            drawn.add_row(*row)
        console.print(drawn)
    else:
        for number, row in enumerate(zip(*columns, strict=True), 1):
            drawn = Table(box=None, show_header=False, pad_edge=False, title=f"row {number:,}", title_justify="left")
            drawn.add_column(style="dim", no_wrap=True)
            drawn.add_column(overflow="fold")
            for name, cell in zip(names, row, strict=True):
                drawn.add_row(Text(name), cell)
            console.print(drawn)
    if table.num_rows > shown_rows:
        console.print(f"{shown_rows:,} of {table.num_rows:,} rows; all of them with --csv or --json", highlight=False)
    else:
        console.print(f"{table.num_rows:,} {'row' if table.num_rows == 1 else 'rows'}", highlight=False)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _cell(value: Any) -> Text:
    if value is None:
        return Text("–", style="dim")
    return Text(printable(str(value)))
