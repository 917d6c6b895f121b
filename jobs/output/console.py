"""Output of every command: tables and text for people, one JSON document with `--json`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jobs.output.printable import printable

_PIPED_CELLS = 200  # A pipe has no width of its own. Tables take at most so many cells, and longer texts wrap.

# Names and texts of users are printed as they are: without Rich's markup and names of emoji.
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPED_CELLS, markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)


def show(document: Any, as_json: bool, render: Callable[[Console], None]) -> None:
    """Print `document` as JSON if `as_json` is true; otherwise call `render` with the console."""
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=2).decode())
        sys.stdout.write("\n")
    else:
        render(out)


def printable_lines(text: str) -> str:
    """Return `text` with its line breaks, and with all other control characters escaped."""
    return "\n".join(printable(line) for line in text.split("\n"))


def progress_bar() -> Progress:
    """Return a progress bar on standard error that disappears when done.

    The bar draws nothing if standard error is not a terminal.
    """
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
    """Return a path as a person would type it in the working directory: relative if that is shorter."""
    try:
        relative = str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
    return relative if len(relative) < len(str(path)) else str(path)
