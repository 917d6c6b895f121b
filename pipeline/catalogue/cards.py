"""Reading of cards from [[cards]] tables and CSV files into one frame that keeps the origin of each row."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import polars as pl

from pipeline.catalogue.files import decode
from pipeline.catalogue.findings import Entry, Findings, Text, choice, shown
from schemas.cards import CARD_SCHEMA, CHANGE_SCHEMA

# Origin of a row: `source` is an index into the sources, `row` the row in that source.
ORIGIN_SCHEMA: dict[str, pl.DataType] = {"source": pl.UInt32(), "row": pl.UInt32()}
MOST_LIKE_IT = 1000  # findings of one kind that are reported one by one

_HEADERS = [name for name in CHANGE_SCHEMA if name != "given"]
_DATES = [name for name, kind in CHANGE_SCHEMA.items() if kind == pl.Date()]
_DELIMITERS = ",;\t"
_MOST_COLUMNS = 500


class CardEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """One [[cards]] table. Its fields are those of CARD_SCHEMA, and the first day on which the table holds.

    A field that is not there keeps its value, if the card exists. Empty text, or nothing in an array or table, is no
    value.
    """

    iccid: str
    account: str
    from_: dt.date | None = msgspec.field(default=None, name="from")
    imsi: str | None = None
    msisdn: str | None = None
    eid: str | None = None
    imei: str | None = None
    carrier: str | None = None
    plan: str | None = None
    plan_from: dt.date | None = None
    pool: str | None = None
    pool_from: dt.date | None = None
    pool_until: dt.date | None = None
    device: str | None = None
    status: str | None = None
    status_reason: str | None = None
    activated_on: dt.date | None = None
    test_from: dt.date | None = None
    term_months: int | None = None
    tags: tuple[str, ...] | None = None
    custom: dict[str, str | int | bool] | None = None


@dataclass
class CardSource:
    """A file of cards: its name, a function from row to line, and the CSV headers by field."""

    file: str
    line: Callable[[int], int]
    headers: dict[str, str] = field(default_factory=dict)


class CardSet:
    """The cards of a set of files, with their origins."""

    def __init__(self) -> None:
        self.sources: list[CardSource] = []
        self._frames: list[pl.DataFrame] = []

    def frame(self) -> pl.DataFrame:
        """Return all rows in order of file and row, with the columns of CHANGE_SCHEMA and ORIGIN_SCHEMA."""
        return pl.concat([pl.DataFrame(schema=CHANGE_SCHEMA | ORIGIN_SCHEMA), *self._frames])

    def add(self, source: CardSource, rows: pl.DataFrame) -> None:
        """Add the rows of a source. They have the columns of CHANGE_SCHEMA and `row`."""
        origin = pl.lit(len(self.sources), dtype=pl.UInt32).alias("source")
        self.sources.append(source)
        self._frames.append(rows.with_columns(origin).select(*CHANGE_SCHEMA, *ORIGIN_SCHEMA))

    def report(
        self, bad: pl.DataFrame, column: str, expected: str | Callable[[Any], str] | None, findings: Findings
    ) -> None:
        """Add a finding for each row of `bad`, whose value of `column` is wrong.

        If `bad` has a column `found`, the finding shows its text instead of the value. `expected` is a text, a function
        of the value, or None; then the column `expected` of `bad` says what would be right. After MOST_LIKE_IT
        findings, one more finding gives the number of the others.
        """
        in_words = "found" in bad.columns
        columns = ["source", "row", "found" if in_words else column]
        words = bad["expected"].head(MOST_LIKE_IT).to_list() if expected is None else []
        for place, (source, row, value) in enumerate(bad.head(MOST_LIKE_IT).select(columns).iter_rows()):
            origin = self.sources[source]
            found = Text("nothing") if value is None else Text(value) if in_words else value
            right = words[place] if expected is None else expected if isinstance(expected, str) else expected(value)
            findings.place(origin.file, origin.line(row), origin.headers.get(column, column), found, right)
        if bad.height > MOST_LIKE_IT:
            source, row = bad.select("source", "row").row(MOST_LIKE_IT)
            origin = self.sources[source]
            more = Text(f"{bad.height - MOST_LIKE_IT} more cards like this, from here on")
            findings.place(
                origin.file, origin.line(row), column, more, expected if isinstance(expected, str) else "as above"
            )


def add_toml_cards(entries: list[Entry[CardEntry]], cards: CardSet) -> None:
    """Add the [[cards]] tables of one file. The row of a card is its index in `entries`."""
    if not entries:
        return
    columns: dict[str, list[Any]] = {
        name: [getattr(entry.value, name) or None for entry in entries] for name in CARD_SCHEMA
    }
    columns["term_months"] = [entry.value.term_months for entry in entries]
    columns["custom"] = [
        msgspec.json.encode(entry.value.custom).decode() if entry.value.custom else None for entry in entries
    ]
    columns["tags"] = [list(entry.value.tags or ()) or None for entry in entries]
    columns["from"] = [entry.value.from_ for entry in entries]
    columns["given"] = [
        ",".join(name for name in CARD_SCHEMA if getattr(entry.value, name) is not None) for entry in entries
    ]
    frame = pl.DataFrame(columns, schema=CHANGE_SCHEMA).with_row_index("row")
    cards.add(CardSource(entries[0].file, lambda row: entries[row].line()), frame)


def add_card_list(data: bytes, file: str, cards: CardSet, findings: Findings) -> None:
    """Add the cards of a CSV file, and findings about text that cannot be read."""
    text = decode(data, file, findings)
    if text is None:
        return
    data = text.encode()  # without the byte order mark
    delimiter = max(_DELIMITERS, key=text[: text.find("\n")].count)
    try:
        headers = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error as error:
        findings.place(file, 1, "header", Text(f"what is not CSV ({error})"), f"a header of {', '.join(_HEADERS)}")
        return
    before = len(findings.all)
    if len(headers) > _MOST_COLUMNS:
        findings.place(file, 1, "header", Text(f"{len(headers)} columns"), f"at most {_MOST_COLUMNS}")
        return
    names = _names(headers, file, findings)
    if len(findings.all) > before:
        return
    columns = [str(place) for place in range(len(headers))]
    try:
        raw = pl.read_csv(
            io.BytesIO(data), new_columns=columns, separator=delimiter, infer_schema=False, truncate_ragged_lines=False
        )
    except pl.exceptions.PolarsError as error:
        _malformed(text, file, delimiter, len(headers), str(error), findings)
        return
    cells = raw.select(pl.all().str.strip_chars()).select(
        pl.when(pl.all() != "").then(pl.all()).name.keep()  # an empty cell is null
    )
    rows = cells.with_row_index("row").filter(~pl.all_horizontal(pl.col(columns).is_null()))
    source = CardSource(
        file,
        _line_of(text, delimiter),
        {name: header for name, header in zip(names, headers, strict=True) if name in CHANGE_SCHEMA},
    )
    cards.add(source, _typed(rows, names, source, findings))


def _names(headers: list[str], file: str, findings: Findings) -> list[str]:
    """Return for each header its field, or "custom:" and the name of its custom field; add findings about others."""
    names: list[str] = []
    if not headers:
        findings.place(file, 1, "header", Text("an empty file"), f"a header of {', '.join(_HEADERS)}")
    for header in headers:
        name = header.strip()
        if name.lower() in _HEADERS:
            name = name.lower()
        elif name.lower().endswith("custom"):
            name = f"custom:{name[: -len('custom')].strip(' _-')}"
        else:
            expected = f'{choice(name.lower(), _HEADERS)}; or a header that ends in "custom"'
            findings.place(file, 1, "header", header, expected)
        if name in names:
            findings.place(file, 1, "header", header, "each column once")
        names.append(name)
    for required in ("iccid", "account"):
        if headers and required not in names:
            findings.place(file, 1, "header", Text(f"no column {required}"), "the columns iccid and account at least")
    if "custom" in names and any(name.startswith("custom:") for name in names):
        expected = 'either a column "custom" of JSON objects, or headers that end in "custom"'
        findings.place(file, 1, "header", Text("both kinds of custom columns"), expected)
    return names


def _typed(rows: pl.DataFrame, names: list[str], source: CardSource, findings: Findings) -> pl.DataFrame:
    """Convert text cells to the columns of CHANGE_SCHEMA. A cell that cannot be read becomes null and a finding.

    A column that the list has is given in each row, even if a cell is empty.
    """
    place = {name: str(index) for index, name in enumerate(names)}
    columns: list[pl.Expr] = [pl.col("row").cast(pl.UInt32)]
    given = [name for name in CARD_SCHEMA if name in place or (name == "custom" and any(":" in one for one in place))]
    for name, kind in CHANGE_SCHEMA.items():
        if name == "given":
            columns.append(pl.lit(",".join(given)).alias(name))
            continue
        if name not in place:
            columns.append(pl.lit(None, dtype=kind).alias(name))
            continue
        cell = pl.col(place[name])
        if name in _DATES:
            cell = cell.str.to_date("%Y-%m-%d", strict=False)
        elif name == "term_months":
            cell = cell.cast(pl.Int32, strict=False)
        elif name == "tags":
            cell = cell.str.split(";").list.eval(pl.element().str.strip_chars().filter(pl.element() != ""))
        columns.append(cell.alias(name))
    custom = {name.removeprefix("custom:"): at for name, at in place.items() if name.startswith("custom:")}
    if custom:
        columns = [column for column in columns if column.meta.output_name() != "custom"]
        columns.append(_custom(custom).alias("custom"))
    typed = rows.select(columns)
    only = CardSet()
    only.sources.append(source)
    for name, expected in [*((name, "a day such as 2026-10-01") for name in _DATES), ("term_months", "a whole number")]:
        if name in place:
            unread = typed.with_columns(found='"' + rows[place[name]] + '"', source=pl.lit(0)).filter(
                pl.col("found").is_not_null() & pl.col(name).is_null()
            )
            only.report(unread, name, expected, findings)
    if "custom" in place:
        written = typed["custom"].drop_nulls().unique()
        wrong = [text for text in written if not _is_object(text)]
        unread = typed.filter(pl.col("custom").is_in(wrong)).with_columns(source=pl.lit(0))
        only.report(unread, "custom", 'a JSON object such as {"site": "Kiel"}', findings)
    return typed


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, RecursionError):
        return False


def _custom(columns: dict[str, str]) -> pl.Expr:
    """Return an expression for the JSON object of the custom columns that have a value; null if none has."""
    members = [
        pl.when(pl.col(at).is_not_null()).then(
            # Polars escapes the value. Cut off the braces of its one-member object.
            pl.struct(pl.col(at).alias(name)).struct.json_encode().str.head(-1).str.slice(1)
        )
        for name, at in columns.items()
    ]
    joined = pl.concat_str(members, separator=",", ignore_nulls=True)
    return pl.when(joined != "").then(pl.lit("{") + joined + pl.lit("}"))


def _malformed(text: str, file: str, delimiter: str, width: int, said: str, findings: Findings) -> None:
    """Add findings, line by line, about a file that the Polars reader rejected."""
    before = len(findings.all)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if len(cells) > width and len(findings.all) - before < MOST_LIKE_IT:
                found = Text(f"{len(cells)} columns, the last {shown(cells[-1])}")
                findings.place(
                    file, line, "row", found, f"{width} columns as in the header; quote text with {delimiter!r}"
                )
            line = reader.line_num + 1
    except csv.Error as error:
        findings.place(file, line, "row", Text(f"what is not CSV ({error})"), "quotes in pairs, doubled within text")
    if len(findings.all) == before:
        findings.place(file, 0, "file", Text(f"what is not CSV ({said.splitlines()[0]})"), "a CSV card list")


def _line_of(text: str, delimiter: str) -> Callable[[int], int]:
    """Return a function from row to 1-based line.

    Quoted text may contain line breaks. If the file has quotes, the first call counts the lines of all rows.
    """
    if '"' not in text:
        return lambda row: row + 2
    ends: list[int] = []  # the last line of the header and of each row

    def line(row: int) -> int:
        if not ends:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            with suppress(csv.Error):  # a cell is too long for the reader; only the rows before it are counted
                ends.extend(reader.line_num for _ in reader)
        return ends[min(row, len(ends) - 1)] + 1

    return line
