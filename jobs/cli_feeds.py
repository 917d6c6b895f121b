"""Commands about feed mappings: feeds list, show, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax

from jobs import feeds_check
from jobs.cli_context import Json
from jobs.console import show
from pipeline.feeds import READY_DIRECTORY, load_mapping

feeds = typer.Typer(name="feeds", help="The feed mappings: which are ready, and how a file of yours is read by one.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(feeds, no_args_is_help=True)


@feeds.command("list")
def list_feeds(as_json: Json = False) -> None:
    """The ready mappings."""
    found = feeds_check.list_feeds()
    show(found, as_json, lambda console: console.print(feeds_check.render_list(found)))


@feeds.command("show")
def show_feed(
    feed: Annotated[str, typer.Argument(metavar="NAME|FILE.toml", help="A ready mapping by name, or your own file.")],
    as_json: Json = False,
) -> None:
    """One mapping: its TOML, to copy and change."""
    mapping = load_mapping(feed)
    show(
        feeds_check.show_feed(mapping),
        as_json,
        lambda console: _print_toml(console, _file_of(feed).read_text(encoding="utf-8")),
    )


@feeds.command("check")
def check_feed(
    feed: Annotated[str, typer.Argument(metavar="NAME|FILE.toml", help="A ready mapping by name, or your own file.")],
    sample: Annotated[Path, typer.Argument(metavar="FILE", help="A file of the feed.")],
    limit: Annotated[int, typer.Option(min=1, help="Records to read at most.")] = feeds_check.DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Read a file by a mapping without ingesting it: what each column becomes, and the first rejects."""
    report = feeds_check.check(load_mapping(feed), sample, limit)
    show(report.as_dict(), as_json, lambda console: console.print(feeds_check.render_check(report)))


def _print_toml(console: Console, text: str) -> None:
    """In colours on a terminal; byte by byte as it is elsewhere, so that it can be saved and changed."""
    if console.is_terminal:
        console.print(Syntax(text, "toml", background_color="default", word_wrap=True))
    else:
        console.file.write(text)


def _file_of(feed: str) -> Path:
    ready = READY_DIRECTORY / f"{feed}.toml"
    return ready if ready.is_file() else Path(feed)
