"""Tables for a terminal of any width.

Every value passes through `printable` and is never interpreted as markup, so it cannot control the terminal.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from jobs.output.printable import printable
from jobs.output.text import quantity_text
from jobs.show.page import Page

# Headings of columns whose texts wrap, and the minimum width of such a column.
_FOLDING = {"Tags", "Meaning", "What", "Line", "Source", "Levels", "Threshold", "Parameters", "Message", "Values"}
_FOLDED_CELLS = 16


def safe(value: object, style: str = "") -> Text:
    """Return any value as text that is safe to print; a dash for None."""
    if value is None:
        return Text("–", style="dim")
    if isinstance(value, dt.datetime):
        value = value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Text(
        printable(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)), style
    )


def range_text(page: Page) -> Text:
    """Return which rows of how many the page shows."""
    if not page.rows.height:
        return Text(f"none of {page.total:,}" if page.total else "none")
    return Text(f"{page.offset + 1:,} to {page.offset + page.rows.height:,} of {page.total:,}", style="dim")


def spaced(parts: Sequence[RenderableType]) -> Group:
    """Return the parts with an empty line between them."""
    return Group(*[each for part in parts for each in (Text(""), part)][1:])


def pairs_table(title: str, pairs: Iterable[tuple[str, object]]) -> Table:
    """Return a table of names and values, one pair a line."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(safe(name), safe(value))
    return table


@dataclass
class Listing:
    """A table that omits columns, the least important first, if the terminal is too narrow for all of them."""

    title: str
    headings: tuple[tuple[str, Literal["left", "right"]], ...]
    give_way: tuple[str, ...]  # Headings in the order in which they are omitted.
    rows: list[tuple[Text, ...]] = field(default_factory=list)

    def add_row(self, *cells: Text) -> None:
        """Add a row with a cell for each heading."""
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = {heading: len(heading) for heading, _ in self.headings}
        for row in self.rows:
            for (heading, _), cell in zip(self.headings, row, strict=True):
                widths[heading] = max(widths[heading], cell.cell_len)
        for heading in _FOLDING & widths.keys():
            widths[heading] = min(widths[heading], _FOLDED_CELLS)
        left_out: list[str] = []
        for heading in self.give_way:
            if sum(widths.values()) + 2 * (len(widths) - 1) <= options.max_width:
                break
            del widths[heading]
            left_out.append(heading)
        table = Table(
            title=Text(printable(self.title)), title_justify="left", title_style="bold", box=None, pad_edge=False
        )
        for heading, justify in self.headings:
            if heading in widths:
                folds = heading in _FOLDING
                table.add_column(heading, justify=justify, no_wrap=not folds, overflow="fold" if folds else "ellipsis")
        for row in self.rows:
            table.add_row(*(cell for (heading, _), cell in zip(self.headings, row, strict=True) if heading in widths))
        yield table
        if left_out:
            yield Text(f"no room for: {', '.join(left_out)}; widen the terminal or use --json", style="dim")


def listing_table(title: str, *headings: str, give_way: str = "") -> Listing:
    """Return an empty table. Each of `headings` is a group of headings, separated by spaces.

    The first group and every second one after it are aligned left, the others right. `give_way` has the headings that
    are omitted if space is short, the first one first.
    """
    sides = ("left", "right")
    named = tuple((heading, sides[at % 2]) for at, group in enumerate(headings) for heading in group.split())
    return Listing(title, named, tuple(give_way.split()))  # type: ignore[arg-type]


def quantity_cell(value: int | None, service: str, style: str = "") -> Text:
    """Format a quantity of a service; a dash for None."""
    return safe(None) if value is None else Text(quantity_text(value, service), style=style)
