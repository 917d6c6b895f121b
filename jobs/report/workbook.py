"""XLSX workbook of a report, with one sheet a section."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import polars as pl
import xlsxwriter
from xlsxwriter.exceptions import FileCreateError
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from jobs.output.text import amounts_as_text
from jobs.report.files import file_stem, replacing
from jobs.report.model import SECTIONS, Column, Report, SectionPlan, telling_columns

SHEET_ROWS = 1_048_576
_HEADER_ROW = 2  # Below the title and its caption.
_SLICE = 50_000


def write_xlsx(report: Report, out: Path) -> list[Path]:
    """Write one workbook and return its path. Each amount has two columns: a number, and exact decimal text.

    Optional columns without any value are omitted. Texts are strings, never formulas or links. If a section has more
    rows than a sheet can have, its sheet refers to the CSV file instead. The same report gives the same bytes.
    """
    path = out / f"{file_stem(report)}.xlsx"
    with replacing(path) as unfinished:
        options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
        book = xlsxwriter.Workbook(str(unfinished), options)
        try:
            book.set_properties(
                {
                    "title": f"Usage {report.cycle}" + (f", {report.account}" if report.account else ""),
                    "created": report.as_of.astimezone(UTC).replace(tzinfo=None),
                }
            )
            formats = _formats(book)
            _write_about(book.add_worksheet("About"), report, formats)
            for name, plan in SECTIONS.items():
                _write_section(book.add_worksheet(plan.title[:31]), plan, report.sections[name], formats)
        finally:
            _close(book)
    return [path]


def _close(book: xlsxwriter.Workbook) -> None:
    try:
        book.close()
    except FileCreateError as error:  # The library wraps an OSError in this.
        raise OSError(str(error)) from error


def _formats(book: xlsxwriter.Workbook) -> dict[str, Format]:
    whole = "#,##0"
    return {
        "title": book.add_format({"bold": True, "font_size": 14}),
        "header": book.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "top"}),
        # The prefix keeps a text a text after somebody edits the cell, or saves the sheet as CSV and opens that.
        "text": book.add_format({"num_format": "@", "quote_prefix": True}),
        "exact": book.add_format({"num_format": "@", "align": "right"}),
        "count": book.add_format({"num_format": whole}),
        "quantity": book.add_format({"num_format": whole}),
        "percent": book.add_format({"num_format": "0.00"}),
        "amount": book.add_format({"num_format": "#,##0.00#######"}),
        "date": book.add_format({"num_format": "yyyy-mm-dd"}),
    }


def _write_about(sheet: Worksheet, report: Report, formats: dict[str, Format]) -> None:
    sheet.set_column(0, 0, 18)
    sheet.set_column(1, 1, 110)
    lines = [
        ("Cycle", f"{report.cycle}: {report.cycle_from} to {report.cycle_until}"),
        ("Account", report.account or "all accounts"),
        ("As of", report.as_of.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("State", "open, figures so far" if report.is_open else "closed"),
        (
            "Amounts",
            "a number for sums and charts (spreadsheets keep 15 digits), and next to it the exact decimal text",
        ),
        ("Quantities", "data in bytes, SMS in messages, voice in seconds"),
        *(("Note", note) for note in report.notes),
    ]
    sheet.write_string(0, 0, "Usage report", formats["title"])
    for row, (name, text) in enumerate(lines, start=2):
        sheet.write_string(row, 0, name, formats["header"])
        sheet.write_string(row, 1, text, formats["text"])


def _write_section(sheet: Worksheet, plan: SectionPlan, frame: pl.DataFrame, formats: dict[str, Format]) -> None:
    sheet.write_string(0, 0, plan.title, formats["title"])
    if frame.height > SHEET_ROWS - _HEADER_ROW - 1:
        sheet.write_string(
            1,
            0,
            f"{frame.height:,} rows are more than a sheet holds; they are in the CSV and Parquet files ({plan.name}).",
        )
        return
    sheet.write_string(1, 0, plan.caption)
    sheet.freeze_panes(_HEADER_ROW + 1, 0)
    writers: list[tuple[str, Callable[..., Any], Format]] = []
    for column in telling_columns(plan.columns, frame):
        for title, source, write, style, width in _cells(sheet, column):
            sheet.set_column(len(writers), len(writers), width)
            sheet.write_string(_HEADER_ROW, len(writers), title, formats["header"])
            writers.append((source, write, formats[style]))
    if writers:
        sheet.autofilter(_HEADER_ROW, 0, _HEADER_ROW + frame.height, len(writers) - 1)
    for start in range(0, frame.height, _SLICE):
        part = frame.slice(start, _SLICE)
        exact = amounts_as_text(part)
        columns = [
            (exact if source.endswith("!") else part)[source.removesuffix("!")].to_list() for source, _, _ in writers
        ]
        # Row by row is what a sheet in constant memory asks for.
        for row, values in enumerate(zip(*columns, strict=True), start=_HEADER_ROW + 1 + start):
            for at, (value, (_, write, style)) in enumerate(zip(values, writers, strict=True)):
                if value is not None:
                    write(row, at, value, style)


def _cells(sheet: Worksheet, column: Column) -> list[tuple[str, str, Callable[..., Any], str, int]]:
    """The sheet columns of a report column: title, source ("!": as exact text), how to write, format name, width."""
    if column.kind == "text":
        return [(column.title, column.name, sheet.write_string, "text", 22)]
    if column.kind == "date":
        return [(column.title, column.name, sheet.write_datetime, "date", 12)]
    number = (column.title, column.name, sheet.write_number, column.kind, 16)
    if column.kind == "amount":
        return [number, (f"{column.title} (exact)", f"{column.name}!", sheet.write_string, "exact", 20)]
    return [number]
