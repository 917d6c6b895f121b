"""ClickHouse commands: `weir clickhouse load`, `sql` and `check`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.context import Data, Json, data_of
from rating.errors import InputError, UsageError, WorldError

if TYPE_CHECKING:
    from rich.console import Console

    from jobs.warehouse.clickhouse import Checked, Loaded
    from pipeline.clickhouse import Client
    from pipeline.config import ClickHouse

group = typer.Typer(name="clickhouse", help="Load the history into ClickHouse, query it there, and compare the two.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(group)


@group.callback(no_args_is_help=True)
def clickhouse() -> None:
    """Group the ClickHouse commands."""


@contextmanager
def _open(data: Data, config: ClickHouse, *, wait: bool = False) -> Iterator[Client]:
    from pipeline.clickhouse import connect
    from pipeline.clickhouse.client import Patience
    from pipeline.history.reader import Histories

    Histories.open(data.path).close()
    with connect(config, data.path, patience=Patience(config.patience_s if wait else 0)) as client:
        yield client


@group.command("load")
def load_history(context: typer.Context, as_json: Json = False) -> None:
    """Load committed rows that are not yet in ClickHouse. Resumes where the last run stopped."""
    from jobs.output.console import progress_bar, show
    from jobs.warehouse.clickhouse import load
    from pipeline.config import load_config

    data = data_of(context)
    config = load_config(data.config).clickhouse
    started = time.monotonic()
    with progress_bar() as bar, _open(data, config, wait=True) as client:
        task = bar.add_task("load", total=None, note="")

        def watch(name: str, done: int, rows: int) -> None:
            bar.update(task, description=f"load {name}", completed=done, total=rows)

        loaded = load(data.path, client, config.patience_s, watch)
        where, database = client.where, client.database
    seconds = time.monotonic() - started
    document = loaded.as_dict() | {"where": where, "database": database, "seconds": round(seconds, 3)}
    show(document, as_json, lambda console: _render_loaded(console, loaded, where, database, seconds))


@group.command("sql")
def sql(
    context: typer.Context,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A read-only query in ClickHouse's SQL.")],
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Query ClickHouse. Statements that write are refused."""
    from jobs.output.console import show
    from jobs.show.sql import render, rows_as_csv, rows_as_json
    from pipeline.clickhouse import require_schema
    from pipeline.clickhouse.client import PassingError
    from pipeline.config import load_config

    if as_json and as_csv:
        raise UsageError("found --json and --csv; expected one of them")
    data = data_of(context)
    with _open(data, load_config(data.config).clickhouse) as client:
        require_schema(client)
        try:
            rows = client.arrow(query, read_only=True)
        except PassingError:
            raise
        except WorldError as failure:
            raise InputError(f"the query cannot be answered: {failure}") from failure
    if as_csv:
        sys.stdout.write(rows_as_csv(rows))
    else:
        show(rows_as_json(rows) if as_json else None, as_json, lambda console: render(rows, console))


@group.command("check")
def check_history(context: typer.Context, as_json: Json = False) -> None:
    """Compare rows and sums in ClickHouse with the history. Exit status 3 if they differ."""
    from jobs.output.console import show
    from jobs.warehouse.clickhouse import check
    from pipeline.clickhouse import require_schema
    from pipeline.config import load_config

    data = data_of(context)
    with _open(data, load_config(data.config).clickhouse) as client:
        require_schema(client)
        done = check(data.path, client)
        where = client.where
    show(done.as_dict(), as_json, lambda console: _render_checked(console, done))
    if done.differences:
        raise WorldError(
            f"{where}: {len(done.differences):,} figures differ from the history, because somebody changed the tables "
            "or two processes loaded them at once; name a new database in [clickhouse] and load again"
        )


def _render_loaded(console: Console, loaded: Loaded, where: str, database: str, seconds: float) -> None:
    from rich.table import Table

    rows = sum(loaded.rows.values())
    if loaded.migrated:
        console.print(f"schema of {database} migrated to version {loaded.migrated[-1]}", highlight=False)
    if rows:
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, count in loaded.rows.items():
            if count:
                table.add_row(name, f"{count:,}")
        console.print(table)
    said = f"{rows:,} rows loaded into {where} in {seconds:,.1f} s"
    console.print(said if rows else f"no new rows for {where}", highlight=False, soft_wrap=True)


def _render_checked(console: Console, done: Checked) -> None:
    from rich.table import Table

    if done.differences:
        table = Table("of", "cycle", "figure", "history", "ClickHouse")
        for one in done.differences[:50]:
            table.add_row(one.of, one.cycle or "", one.figure, f"{one.history:,}", f"{one.clickhouse:,}")
        console.print(table)
    else:
        console.print(f"{done.figures:,} figures are the same", highlight=False)
    waiting = sum(done.waiting.values())
    if waiting:
        console.print(f"{waiting:,} rows are not loaded yet; `weir clickhouse load` loads them", highlight=False)
