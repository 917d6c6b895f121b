"""What every command prints through: tables and sentences for eyes, one JSON document for machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jobs.cli.printable import printable

_PIPED_CELLS = 200  # a pipe has no width of its own: tables take what they need, long texts go over several lines

out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPED_CELLS)
err = Console(stderr=True)


def show(document: Any, as_json: bool, render: Callable[[Console], None]) -> None:
    """Print `document` as JSON, or have `render` draw it for people."""
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=2).decode())
        sys.stdout.write("\n")
    else:
        render(out)


def printable_lines(text: str) -> str:
    """`text` with its line breaks, and nothing else that could steer a terminal."""
    return "\n".join(printable(line) for line in text.split("\n"))


def progress_bar() -> Progress:
    """A progress bar on standard error, gone when done; it draws nothing where that is no terminal."""
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def shown_path(path: Path) -> str:
    """A path as a person would type it here: relative where that is shorter."""
    try:
        relative = str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
    return relative if len(relative) < len(str(path)) else str(path)
