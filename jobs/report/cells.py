"""Tables of the HTML page: the columns of a section that it shows, and each cell as text with its exact value."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import polars as pl

from jobs.output.printable import printable
from jobs.output.text import amounts_as_text, quantity_text
from jobs.report.model import SECTIONS, Column, telling_columns

TABLE_ROWS = 100

SERVICE_NAMES = {"data": "Data", "sms": "SMS", "voice": "Voice", "fees": "Fees"}


@dataclass(frozen=True)
class Cell:
    """One cell. The page shows `text`, then `faint` (digits past the second decimal). `exact` is the exact value."""

    kind: str
    text: str
    faint: str = ""
    exact: str = ""
    share: str = ""  # Width of the bar of a percentage, 0 to 100.
    over: bool = False


@dataclass(frozen=True)
class PageTable:
    """A table of the page. `more` is the number of rows that it omits."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: list[list[Cell]]
    more: int


def table(
    section: str,
    frame: pl.DataFrame,
    columns: str,
    *,
    name: str = "",
    title: str = "",
    caption: str = "",
    limit: int = TABLE_ROWS,
) -> PageTable:
    """Return the first `limit` rows of a section as a table of the given columns.

    `columns` are names separated by spaces. Optional columns without any value are omitted.
    """
    plan = SECTIONS[section]
    known = {column.name: column for column in plan.columns}
    kept = telling_columns([known[column] for column in columns.split()], frame)
    shown = frame.head(limit)
    cells = [_cells(shown, column) for column in kept]
    return PageTable(
        name=name or section,
        title=title or plan.title,
        caption=caption or plan.caption,
        columns=kept,
        rows=[list(row) for row in zip(*cells, strict=True)],
        more=frame.height - shown.height,
    )


def _cells(frame: pl.DataFrame, column: Column) -> list[Cell]:
    values = frame[column.name].to_list()
    if column.kind == "amount":
        return _amount_cells(amounts_as_text(frame.select(column.name)).to_series().to_list())
    if column.kind == "quantity":
        services = (
            frame["service"].to_list()
            if "service" in frame.columns
            else [_SERVICE_OF.get(column.name, "data")] * len(values)
        )
        return [_quantity_cell(value, service) for value, service in zip(values, services, strict=True)]
    if column.kind == "percent":
        return [_percent_cell(value) for value in values]
    return [_plain_cell(column, value) for value in values]


_SERVICE_OF = {"data_used_bytes": "data", "data_overage_bytes": "data", "voice_used_s": "voice"}


def _plain_cell(column: Column, value: Any) -> Cell:
    if value is None:
        return Cell("none", "–")
    if column.kind == "count":
        return Cell("number", f"{value:,}", exact=str(value))
    if isinstance(value, dt.date):
        return Cell("text", value.isoformat())
    if column.name == "service":
        return Cell("text", SERVICE_NAMES.get(value, value))
    return Cell("code" if column.name in ("iccid", "subject") else "text", printable(str(value)))


def _quantity_cell(value: int | None, service: str) -> Cell:
    if value is None or service == "fees":
        return Cell("none", "–")
    unit = {"data": "bytes", "sms": "messages", "voice": "seconds"}.get(service, "")
    return Cell("number", quantity_text(value, service), exact=f"{value} {unit}".strip())


def _percent_cell(value: Decimal | None) -> Cell:
    if value is None:
        return Cell("none", "–")
    tenths = value.quantize(Decimal("0.1"), ROUND_HALF_UP)
    share = str(max(Decimal(0), min(Decimal(100), tenths)))
    return Cell("percent", f"{tenths:,} %", exact=f"{value} %", share=share, over=value >= 100)


def _amount_cells(texts: list[str | None]) -> list[Cell]:
    """Format the amounts of a column with the same number of decimals (at least two), so that the points line up."""
    decimals = max([2, *(len(text.partition(".")[2]) for text in texts if text)])
    return [Cell("none", "–") if text is None else amount_cell(text, decimals) for text in texts]


def amount_cell(text: str, decimals: int = 2) -> Cell:
    """Format an amount with thousands commas, without rounding. Digits past the second decimal go into `faint`.

    Figure spaces pad the amount to `decimals` decimals.
    """
    whole, _, fraction = text.removeprefix("-").partition(".")
    padded = fraction.ljust(2, "0").ljust(decimals, "\u2007")
    sign = "-" if text.startswith("-") else ""
    return Cell("amount", f"{sign}{int(whole):,}.{padded[:2]}", faint=padded[2:], exact=text)
