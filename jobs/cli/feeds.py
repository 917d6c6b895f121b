"""Feed mapping commands: `weir feeds list`, `show` and `check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.context import FeedArgument, Json
from pipeline.feeds.ready import ready_feeds

if TYPE_CHECKING:
    from rich.console import Console

feeds = typer.Typer(name="feeds", help="List and show feed mappings; check how one reads a file of yours.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(feeds, no_args_is_help=True)


@feeds.command("list")
def list_feeds(as_json: Json = False) -> None:
    """List the ready mappings."""
    from jobs.ingest import feeds_check
    from jobs.output.console import show

    found = feeds_check.list_feeds()
    show(found, as_json, lambda console: console.print(feeds_check.render_list(found)))


@feeds.command("show")
def show_feed(
    feed: FeedArgument,
    as_json: Json = False,
) -> None:
    """Show one mapping: its TOML, to copy and change."""
    from jobs.ingest import feeds_check
    from jobs.output.console import show
    from pipeline.feeds.mappings import load_mapping

    mapping = load_mapping(feed)
    show(
        feeds_check.show_feed(mapping),
        as_json,
        lambda console: _print_toml(console, _file_of(feed).read_text(encoding="utf-8")),
    )


@feeds.command("check")
def check_feed(
    feed: FeedArgument,
    sample: Annotated[Path, typer.Argument(metavar="FILE", help="A file of the feed.")],
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of records to read.")] = 10_000,
    as_json: Json = False,
) -> None:
    """Check how a mapping reads a file, without ingesting it: what each column becomes, and the first rejects."""
    from jobs.ingest import feeds_check
    from jobs.output.console import show
    from pipeline.feeds.mappings import load_mapping

    report = feeds_check.check(load_mapping(feed), sample, limit)
    show(report.as_dict(), as_json, lambda console: console.print(feeds_check.render_check(report)))


def _print_toml(console: Console, text: str) -> None:
    """Print TOML in colour on a terminal, and unchanged otherwise, so that it can be saved and edited."""
    if console.is_terminal:
        from rich.syntax import Syntax

        console.print(Syntax(text, "toml", background_color="default", word_wrap=True))
    else:
        console.file.write(text)


def _file_of(feed: str) -> Path:
    return ready_feeds().get(feed) or Path(feed)
