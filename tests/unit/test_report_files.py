"""The files of a report: each format read back, and what must never be in one (Q4)."""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import json
import re
import unicodedata
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import openpyxl
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.output.printable import UNPRINTABLE, printable
from jobs.output.text import amounts_as_text, duration_text, size_text
from jobs.report import workbook
from jobs.report.build import build_report
from jobs.report.charts import nice_step
from jobs.report.columnar import csv_frame
from jobs.report.files import file_stem
from jobs.report.model import SECTIONS, Report
from jobs.report.write import WRITERS, write_report
from rating.errors import StorageError
from rating.units.money import format_amount
from schemas.choices import ReportFormat
from tests.support.rated_rows import history, rated_table, reject_table, rule_tables, small_events, small_views

OPEN = dt.datetime(2026, 10, 21, 9, 30, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of the small history, its cycle still open."""
    rated, rejects = rated_table(small_events()), reject_table([{}])
    connection = history(tmp_path_factory.mktemp("history"), rated, rejects, **rule_tables())
    return build_report(connection, small_views(), "2026-10", None, OPEN)


@pytest.fixture(scope="module")
def files(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the report in every format."""
    out = tmp_path_factory.mktemp("out") / "made" / "for it"
    write_report(report, out)
    return out


class Page(HTMLParser):
    """What a test asks of a page: its tags with attributes, and the values in its data elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_write_report_names_what_it_wrote(report: Report, tmp_path: Path) -> None:
    """Every path that is returned exists, and nothing else does; a format asked for twice is written once."""
    paths = write_report(report, tmp_path, ["html", "csv", "html"])
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert ["usage-2026-10.html", "usage-2026-10-totals.csv"] == [path.name for path in paths[:2]]
    assert 1 + len(SECTIONS) == len(paths)


def test_every_format_has_a_writer() -> None:
    """The formats that the command line offers are those that can be written."""
    assert list(ReportFormat) == list(WRITERS)


@pytest.mark.parametrize("format_name", ReportFormat)
def test_same_report_gives_same_bytes(report: Report, files: Path, tmp_path: Path, format_name: str) -> None:
    """Written again, every file is the same to the byte."""
    for path in write_report(report, tmp_path, [format_name]):
        first = hashlib.sha256((files / path.name).read_bytes()).hexdigest()
        assert first == hashlib.sha256(path.read_bytes()).hexdigest(), path.name


@pytest.mark.parametrize("format_name", ReportFormat)
def test_refusing_disk_is_a_storage_error(report: Report, tmp_path: Path, format_name: str) -> None:
    """Where the directory cannot be made the error names the file, and nothing half done stays behind."""
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(StorageError, match="usage-2026-10"):
        write_report(report, tmp_path / "out", [format_name])
    assert ["out"] == [path.name for path in tmp_path.iterdir()]


def test_parquet_holds_exact_types(report: Report, files: Path) -> None:
    """Parquet has quantities as int64 and amounts as decimals, and gives back what the report holds."""
    table = pq.read_table(files / "usage-2026-10-sims.parquet")
    assert pa.decimal128(38, 9) == table.schema.field("total").type
    assert pa.int64() == table.schema.field("used").type
    assert pa.string() == table.schema.field("iccid").type
    read_back = pl.from_arrow(table)
    assert isinstance(read_back, pl.DataFrame)
    assert report.sections["sims"].rows() == read_back.rows()


def test_csv_amounts_are_exact_text(files: Path) -> None:
    """CSV has plain decimal text, the same sums as the totals, and whole quantities."""
    with (files / "usage-2026-10-accounts.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    euros = sum((Decimal(row["total"]) for row in rows if row["currency"] == "EUR"), Decimal())
    with (files / "usage-2026-10-totals.csv").open(newline="", encoding="utf-8") as file:
        totals = {row["currency"]: row["total"] for row in csv.DictReader(file)}
    assert {"EUR": format_amount(int(euros.scaleb(9))), "USD": "0.007340032"} == totals


def test_csv_guards_against_formulas(files: Path) -> None:
    """Texts that a spreadsheet would run begin with an apostrophe; negative numbers stay numbers."""
    with (files / "usage-2026-10-accounts.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["currency"] == "USD")
    assert ("'=globex", '\'=HYPERLINK("x")') == (row["account_id"], row["name"])
    frame = pl.DataFrame({"text": ["+1", "-1", "@a", "\tx", "\r", "a=b", "", None], "number": [-1] * 8})
    guarded = csv_frame(frame)
    assert ["'+1", "'-1", "'@a", "'\tx", "'\r", "a=b", "", None] == guarded["text"].to_list()
    assert [-1] * 8 == guarded["number"].to_list()


def test_workbook_has_numbers_and_exact_text(report: Report, files: Path) -> None:
    """XLSX has a sheet a section, real numbers, exact amounts as text, frozen headers, filters and no formula."""
    book = openpyxl.load_workbook(files / "usage-2026-10.xlsx")
    assert ["About", *(plan.title for plan in SECTIONS.values())] == book.sheetnames
    assert dt.datetime(2026, 10, 21, 9, 30) == book.properties.created
    sheet = book["Totals"]
    header = [cell.value for cell in sheet[3]]
    euro = dict(zip(header, [cell.value for cell in sheet[4]], strict=True))
    assert (5, 7) == (euro["SIMs"], euro["Records"])
    assert ("23.416105525", 23.416105525) == (euro["Total (exact)"], euro["Total"])
    assert ("A4", "A3:K5") == (sheet.freeze_panes, sheet.auto_filter.ref)
    assert {"s", "n", "d"} >= {cell.data_type for each in book for row in each.iter_rows() for cell in row}
    names = [row[0].value for row in book["Accounts"].iter_rows(min_row=4)]
    assert "=globex" in names
    assert report.sections["sims"].height == book["SIMs"].max_row - 3
    assert isinstance(book["Days"].cell(4, 1).value, dt.datetime)


def test_sheet_that_would_not_fit_points_to_the_csv(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A section with more rows than a sheet takes says so and where they are; the others are written."""
    monkeypatch.setattr(workbook, "SHEET_ROWS", 11)
    write_report(report, tmp_path, ["xlsx"])
    book = openpyxl.load_workbook(tmp_path / "usage-2026-10.xlsx")
    assert (
        "9 rows are more than a sheet holds; they are in the CSV and Parquet files (sims)." == book["SIMs"]["A2"].value
    )
    assert 11 == book["Days"].max_row


def test_page_refers_to_nothing_outside(files: Path) -> None:
    """The page loads nothing: no address, no import, no script, and a policy that forbids all loading."""
    text = (files / "usage-2026-10.html").read_text(encoding="utf-8")
    for word in ("http:", "https:", "//", "url(", "@import", "<script", "<link", "<img", "<iframe", "javascript:"):
        assert word not in text, word
    page = Page(text)
    assert "default-src 'none'; style-src 'unsafe-inline'" in [attributes.get("content") for _, attributes in page.tags]
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "data", "action", "background"} & set(attributes), tag
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]


def test_page_shows_the_same_totals(report: Report, files: Path) -> None:
    """Every amount of the totals and every account's total stands on the page, exactly."""
    page = Page((files / "usage-2026-10.html").read_text(encoding="utf-8"))
    shown = {attributes.get("value") for tag, attributes in page.tags if tag == "data"}
    for name in ("totals", "accounts", "plans"):
        for row in amounts_as_text(report.sections[name]).to_dicts():
            assert {row["charge"], row["adjustments"], row["fees"], row["total"]} <= shown | {"0"}, name
    assert {"188744680 bytes", "3 messages", "95 seconds"} <= shown
    assert "120.00 %" in shown


def test_page_escapes_what_the_data_says(report: Report, tmp_path: Path) -> None:
    """Markup and control characters in names become text."""
    accounts = report.sections["accounts"].with_columns(
        name=pl.lit('<b>\x1b[31m\u202e & "x"\'</b>'), parent=pl.lit("\x00")
    )
    hostile = replace(report, sections={**report.sections, "accounts": accounts}, account="<script>alert(1)</script>")
    (path,) = write_report(hostile, tmp_path, ["html"])
    text = path.read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "<script" not in text
    assert "&lt;b&gt;\\x1b[31m\\u202e &amp; &#34;x&#34;&#39;&lt;/b&gt;" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_page_can_be_read_without_seeing_it(files: Path) -> None:
    """Every chart has a description, every table a caption and scoped headers, headings go down in order."""
    page = Page((files / "usage-2026-10.html").read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.tags]
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert charts
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts)
    assert tags.count("table") == tags.count("caption") > 5
    assert {"col", "row"} == {attributes.get("scope") for tag, attributes in page.tags if tag == "th"}
    assert ["h1", "h2"] == [tag for tag in tags if re.fullmatch(r"h\d", tag)][:2]
    assert ("html", {"lang": "en"}) in page.tags
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    assert {attributes["href"] for tag, attributes in page.tags if tag == "a"} <= {f"#{name}" for name in identifiers}


def test_page_says_that_an_open_cycle_is_open(report: Report, files: Path, tmp_path: Path) -> None:
    """An open cycle is marked, with what the forecasts rest on; a closed one shows neither."""
    text = (files / "usage-2026-10.html").read_text(encoding="utf-8")
    assert "20.47 of 31 days elapsed" in text
    assert "Forecast" in text
    no_forecast = {
        name: frame.with_columns(
            pl.lit(None, pl.Int64).alias(column) for column in frame.columns if column == "forecast"
        )
        for name, frame in report.sections.items()
    }
    sections = no_forecast | {
        "pools": no_forecast["pools"].with_columns(forecast_percent=pl.lit(None, pl.Decimal(38, 2)))
    }
    closed = replace(report, is_open=False, elapsed_days=None, sections=sections, notes=())
    (path,) = write_report(closed, tmp_path, ["html"])
    assert "orecast" not in path.read_text(encoding="utf-8")


def test_account_names_the_files_safely(report: Report) -> None:
    """Accounts whose ids are no file names get different, harmless ones."""
    assert "usage-2026-10-acme" == file_stem(replace(report, account="acme"))
    stems = {file_stem(replace(report, account=account)) for account in ("../x", "..\\x", "a/b", "a:b", "a" * 300, ".")}
    assert 6 == len(stems)
    assert all(re.fullmatch(r"usage-2026-10-[A-Za-z0-9._-]{1,75}", stem) for stem in stems)


def test_json_is_json(report: Report) -> None:
    """The report as a dictionary is plain JSON, amounts as text and quantities as whole numbers."""
    read = json.loads(json.dumps(report.as_dict()))
    assert "23.416105525" == read["totals"][0]["total"]
    assert 188744680 == read["services"][0]["used"]
    assert "2026-10-03" == read["days"][0]["day"]
    assert "sims" not in read


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_amount_text_is_that_of_money(nanos: int) -> None:
    """The text of a decimal column is what format_amount says of its nanos."""
    frame = pl.DataFrame({"x": [Decimal(nanos).scaleb(-9)]}, schema={"x": pl.Decimal(38, 9)})
    assert format_amount(nanos) == amounts_as_text(frame)["x"][0]


@given(st.text())
def test_printable_keeps_terminals_safe(text: str) -> None:
    """Nothing that steers a terminal survives, and what is printable stays as it is."""
    shown = printable(text)
    assert not UNPRINTABLE & {unicodedata.category(character) for character in shown}
    assert text == shown or not text.isprintable()


@given(st.fractions(min_value=0, max_value=10**18), st.sampled_from([10, 1024]))
def test_axis_has_a_handful_of_ticks(span: Fraction, base: int) -> None:
    """Whatever the span of a chart, its axis has at most eight steps."""
    assert 0 < nice_step(span, base)
    assert span / nice_step(span, base) <= 8


def test_sizes_and_durations_read_well() -> None:
    """Sizes take the largest unit of 1024 that leaves one; durations are hours, minutes, seconds."""
    expected = {
        0: "0 bytes",
        1023: "1023 bytes",
        1024: "1.00 KB",
        1048575: "1.00 MB",
        1610612736: "1.50 GB",
        -2048: "-2.00 KB",
    }
    assert expected == {volume: size_text(volume) for volume in expected}
    assert ["0:00:00", "1:02:05", "1,000:00:00", "-0:01:01"] == [duration_text(s) for s in (0, 3725, 3_600_000, -61)]
