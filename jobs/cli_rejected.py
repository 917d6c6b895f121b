"""Commands about rejected records: rejected list, export, replay."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from jobs import listing, listing_text, rejected
from jobs.cli_context import Json, data_of, parse_instant
from jobs.console import err, out, show
from jobs.ingest import render_tally
from jobs.query import connect
from pipeline.feeds import load_mapping
from rating.errors import UsageError
from schemas.usage import REASONS

group = typer.Typer(name="rejected", help="Rejected records: list them, export them for correction, replay them.")

Reason = Annotated[str | None, typer.Option(metavar="CODE", help="Only this reason.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(group)


@group.callback(invoke_without_command=True)
def rejected_records(context: typer.Context, as_json: Json = False) -> None:
    """Without a further word: list."""
    if context.invoked_subcommand is None:
        list_rejected(context, as_json=as_json)


@group.command("list")
def list_rejected(
    context: typer.Context,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=0, help="Rows to show at most.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Rows to leave out first.")] = 0,
    as_json: Json = False,
) -> None:
    """Counts by reason, and the newest with what was wrong and the raw line."""
    with connect(data_of(context).path) as connection:
        found = listing.list_rejected(connection, reason=reason, limit=limit, offset=offset)
    show(found.as_dict(), as_json, lambda console: console.print(listing_text.render_rejected(found)))


@group.command("export")
def export_rejected(
    context: typer.Context,
    reason: Reason = None,
    feed: Annotated[str | None, typer.Option(metavar="NAME", help="Only this feed.")] = None,
    out_file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Standard output by default.")] = None,
) -> None:
    """Write rejected records as NDJSON; correct `raw`, then give the file to `weir rejected replay`."""
    if reason is not None and reason not in REASONS:
        raise UsageError(f"--reason: found {reason!r}; expected one of {', '.join(REASONS)}")
    with connect(data_of(context).path) as connection:
        rows = pl.from_arrow(
            connection.execute(
                "SELECT * FROM rejected WHERE ($1 IS NULL OR reason = $1) AND ($2 IS NULL OR feed = $2) "
                "ORDER BY received_at, source, source_row",
                [reason, feed],
            ).to_arrow_table()
        )
    assert isinstance(rows, pl.DataFrame)
    if out_file is None:
        rejected.export(rows, sys.stdout.buffer)
    else:
        with out_file.open("wb") as file:
            count = rejected.export(rows, file)
        err.print(f"exported {count:,} records to {out_file}", highlight=False)


@group.command("replay")
def replay_rejected(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An export, corrected.")],
    mapping: Annotated[
        list[Path] | None, typer.Option(metavar="FILE.toml", help="Your own mappings that its records came by.")
    ] = None,
    as_of: Annotated[str | None, typer.Option(metavar="TIME", help="Time of arrival; now by default.")] = None,
    as_json: Json = False,
) -> None:
    """Ingest corrected records again."""
    moment = parse_instant(as_of, "--as-of")
    started = time.monotonic()
    with data_of(context).write() as driver:
        tally = rejected.replay(driver, file, [load_mapping(path) for path in mapping or []], moment)
        seconds = time.monotonic() - started
        show(tally.to_dict() | {"seconds": round(seconds, 3)}, as_json, lambda _: render_tally(out, tally, seconds))
        sys.stdout.flush()
        driver.acknowledge()
