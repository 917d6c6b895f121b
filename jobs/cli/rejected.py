"""Rejected record commands: `weir rejected list`, `export` and `replay`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from jobs.context import Force, Json, Limit, Offset, data_of, feed_names, parse_instant
from rating.errors import UsageError
from schemas.choices import RejectReason

group = typer.Typer(
    name="rejected", help="List rejected records, export them for correction, replay them. Without a command: list."
)

Reason = Annotated[RejectReason | None, typer.Option(metavar="CODE", help="Only records rejected for this reason.")]
Feed = Annotated[str | None, typer.Option(metavar="NAME", help="Only records of this feed.", autocompletion=feed_names)]
Open = Annotated[
    bool, typer.Option("--open", help="Only records that were not rated later, by key or by row of the source.")
]
Mappings = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE.toml", help="Your own mapping of a feed of these records; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(group)


@group.callback(invoke_without_command=True)
def rejected_records(context: typer.Context, as_json: Json = False) -> None:
    """List rejected records if no command follows. Raises UsageError if `--json` stands before a command."""
    if context.invoked_subcommand is None:
        list_rejected(context, as_json=as_json)
    elif as_json:
        raise UsageError(f"found --json before {context.invoked_subcommand}; expected it after")


@group.command("list")
def list_rejected(
    context: typer.Context,
    reason: Reason = None,
    feed: Feed = None,
    only_open: Open = False,
    limit: Limit = 20,
    offset: Offset = 0,
    as_json: Json = False,
) -> None:
    """List counts by reason, and the newest records with their error and their raw line."""
    from jobs.ingest import rejected
    from jobs.output.console import show
    from jobs.show import listing, listing_text
    from jobs.show.sql import connect

    with connect(data_of(context).path) as connection:
        table = rejected.table_of(connection, only_open)
        found = listing.list_rejected(connection, reason=reason, feed=feed, limit=limit, offset=offset, table=table)
    document = {"only_open": only_open} | found.as_dict()
    show(document, as_json, lambda console: console.print(listing_text.render_rejected(found, only_open=only_open)))


@group.command("export")
def export_rejected(
    context: typer.Context,
    reason: Reason = None,
    feed: Feed = None,
    only_open: Open = False,
    mapping: Mappings = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to write. Default: standard output.")
    ] = None,
) -> None:
    """Write rejected records as NDJSON. Correct `raw` and give the file to `weir rejected replay`."""
    from jobs.ingest import rejected
    from jobs.output.console import err
    from jobs.show import listing
    from jobs.show.sql import connect
    from pipeline.feeds.mappings import load_mapping

    own = [load_mapping(path) for path in mapping or []]
    with connect(data_of(context).path) as connection:
        listing.require_feed(connection, feed)
        rows = rejected.select(connection, reason=reason, feed=feed, only_open=only_open)
    if out_file is None:
        exported = rejected.export(rows, sys.stdout.buffer, own)
    else:
        with out_file.open("wb") as file:
            exported = rejected.export(rows, file, own)
        err.print(rejected.render_exported(exported, out_file), highlight=False, soft_wrap=True)
    note = rejected.unread_note(exported)
    if note is not None:
        err.print(note, highlight=False, soft_wrap=True)


@group.command("replay")
def replay_rejected(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A corrected export.")],
    mapping: Mappings = None,
    as_of: Annotated[str | None, typer.Option(metavar="TIME", help="Time of arrival (ISO 8601). Default: now.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Ingest the records of a corrected export."""
    from jobs.ingest import rejected
    from jobs.ingest.ingest import render_tally
    from jobs.output.console import out, show
    from pipeline.feeds.mappings import load_mapping

    moment = parse_instant(as_of, "--as-of")
    started = time.monotonic()
    with data_of(context).write(force=force) as driver:
        tally = rejected.replay(driver, file, [load_mapping(path) for path in mapping or []], moment)
        seconds = time.monotonic() - started
        show(tally.to_dict() | {"seconds": round(seconds, 3)}, as_json, lambda _: render_tally(out, tally, seconds))
        sys.stdout.flush()
        driver.acknowledge()
