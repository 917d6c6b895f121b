"""`weir feeds list|show|check`: list and show feed mappings, and check one against a sample file (F2).

`check` reads and mediates a sample. It reports what each column became and which records were rejected, and stores
nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jobs.output.printable import printable
from pipeline.feeds.decode import Chunk, open_source
from pipeline.feeds.footer import require_footer
from pipeline.feeds.lookups import with_lists
from pipeline.feeds.mappings import ready_mappings
from rating.mediation.records import mediate
from schemas.choices import REASONS
from schemas.mapping import QUANTITY_TARGETS, TIME_TARGETS, Field, Mapping, RecordRule
from schemas.usage import Direction, RecordType, Service

DEFAULT_LIMIT = 10_000
SHOWN_REJECTS = 10

_CHECK_CHUNK_BYTES = 1 << 20
_SHOWN_BYTES = 200
_PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "title_justify": "left", "title_style": "bold"}
_NAMES: dict[str, dict[int, str]] = {
    "service": {int(code): code.name.lower() for code in Service},
    "direction": {int(code): code.name.lower() for code in Direction},
    "record_type": {int(code): code.name.lower() for code in RecordType},
}


@dataclass(frozen=True)
class ColumnCheck:
    """One field of a mapping rule: its source, how it is read, and a sample value before and after."""

    rule: int
    field: str
    source: str
    reading: str
    sample_in: str | None
    sample_out: str | None
    filled: int


@dataclass(frozen=True)
class RejectCheck:
    """One rejected record: its row, the reason, and its raw text (of at most 200 bytes)."""

    row: int
    reason: str
    field: str | None
    message: str
    raw: str


@dataclass(frozen=True)
class CheckReport:
    """Result of a check of the first `source_records` records of a file."""

    feed: str
    file: str
    format: str
    cumulative: bool
    source_records: int
    usage_records: int
    rejected: dict[str, int]
    complete: bool
    columns: tuple[ColumnCheck, ...]
    unread: tuple[str, ...]
    rejects: tuple[RejectCheck, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


def check(mapping: Mapping, path: Path, limit: int = DEFAULT_LIMIT) -> CheckReport:
    """Mediate the first `limit` source records of the file at `path` with `mapping`, and return a report (F2).

    Raises SourceError if the file cannot be read, and MappingError if it lacks a column that the mapping requires.
    """
    mapping = with_lists(mapping, path.parent)
    require_footer(path, mapping)
    records = usage_count = 0
    reasons: Counter[str] = Counter()
    rejects: list[RejectCheck] = []
    samples: dict[tuple[int, str], ColumnCheck] = {}
    unread: tuple[str, ...] = ()
    complete = True
    for chunk in open_source(path, mapping, chunk_bytes=_CHECK_CHUNK_BYTES):
        if records >= limit:
            complete = False
            break
        raw, broken, cut = _first(chunk, limit - records)
        complete = complete and not cut
        usage, refused = mediate(raw, mapping, path.name)
        records += raw["source_row"].n_unique() + broken.height
        usage_count += usage.height
        bad = pl.concat([broken, refused]).sort("source_row", maintain_order=True)
        reasons.update(bad["reason"].to_list())
        rejects += _reject_checks(chunk, bad.head(max(0, SHOWN_REJECTS - len(rejects))))
        _add_samples(samples, mapping, raw, path.name)
        if chunk.header is not None and not unread:
            unread = _unread_columns(mapping, chunk.header)
    return CheckReport(
        feed=mapping.name,
        file=str(path),
        format=mapping.format.type,
        cumulative=mapping.cumulative,
        source_records=records,
        usage_records=usage_count,
        rejected={reason: reasons[reason] for reason in REASONS if reasons[reason]},
        complete=complete,
        columns=tuple(samples.values()),
        unread=unread,
        rejects=tuple(rejects),
    )


def list_feeds() -> list[dict[str, Any]]:
    """Return name, title, format, volume mode and services of each ready mapping, in order of name."""
    return [
        {
            "name": mapping.name,
            "title": mapping.title,
            "format": mapping.format.type,
            "volumes": mapping.volumes.mode,
            "services": sorted({service for rule in mapping.records for service in _services(mapping, rule)}),
        }
        for mapping in ready_mappings()
    ]


def show_feed(mapping: Mapping) -> dict[str, Any]:
    """Return the mapping as JSON values with the keys of its file.

    Defaults are omitted, and the common fields are merged into each record rule.
    """
    document: dict[str, Any] = msgspec.to_builtins(mapping)
    document["records"] = [
        msgspec.to_builtins(msgspec.structs.replace(rule, fields=mapping.rule_fields(rule))) for rule in mapping.records
    ]
    document.pop("fields", None)
    return document


def render_check(report: CheckReport) -> Group:
    """Format the report for display: a table of columns, the counts, and the first rejected records."""
    columns = Table(title=Text(printable(f"{report.feed}: {report.file}")), **_PLAIN)
    for name in ("Field", "Source"):
        columns.add_column(name, overflow="fold", no_wrap=name == "Field")
    for name in ("Read as", "Found", "Became"):
        columns.add_column(name, overflow="fold")
    columns.add_column("Filled", justify="right", no_wrap=True)
    rules = {column.rule for column in report.columns}
    for column in report.columns:
        label = f"{column.rule + 1}. {column.field}" if len(rules) > 1 else column.field
        became = "the same" if column.sample_out == column.sample_in else column.sample_out
        cells = (label, column.source, column.reading, column.sample_in or "–", became or "–")
        columns.add_row(*(Text(printable(cell)) for cell in cells), f"{column.filled:,}")
    rejected = sum(report.rejected.values())
    extent = "" if report.complete else ", the first of the file"
    lines = [f"{report.source_records} records read{extent}: {report.usage_records} usage records, {rejected} rejected"]
    lines += [f"  {count} x {reason}: {REASONS[reason]}" for reason, count in report.rejected.items()]
    if report.cumulative:
        lines.append("Quantities are running totals of their session; usage is the difference to the record before.")
    if report.unread:
        lines.append(f"Columns that the mapping does not read: {', '.join(report.unread)}")
    parts: list[Any] = [columns, Text("\n".join(lines))]
    if report.rejects:
        parts.append(Text("\nFirst rejects", "bold italic"))
        for reject in report.rejects:
            about = f"{reject.reason} {reject.field}" if reject.field else reject.reason
            row = Text(f"row {reject.row}: ", "bold")
            line = Text(printable(reject.raw), "dim", no_wrap=True, overflow="ellipsis")
            parts.append(Text.assemble(row, (printable(about), "red"), ": ", printable(reject.message)))
            parts.append(Padding(line, (0, 0, 0, 2), expand=False))
    return Group(*parts)


def render_list(feeds: list[dict[str, Any]]) -> Table:
    """Format the ready mappings for display."""
    table = Table(**_PLAIN)
    for name in ("Name", "Title", "Format", "Volumes", "Services"):
        table.add_column(name, no_wrap=name == "Name")
    for feed in feeds:
        cells = (feed["name"], feed["title"], feed["format"], feed["volumes"], ", ".join(feed["services"]))
        table.add_row(*map(Text, cells))
    return table


def _services(mapping: Mapping, rule: RecordRule) -> list[str]:
    if rule.service is not None:
        return [rule.service]
    values = mapping.rule_fields(rule)["service"].values
    return [name.name.lower() for name in Service] if values is None else list(values.values())


def _first(chunk: Chunk, count: int) -> tuple[pl.DataFrame, pl.DataFrame, bool]:
    """Return the first `count` source records of a chunk and the rejected lines among them.

    The third value is True if the chunk has more records.
    """
    rows = pl.concat([chunk.raw["source_row"], chunk.rejects["source_row"]]).unique().sort()
    if len(rows) <= count:
        return chunk.raw, chunk.rejects, False
    last = rows[count - 1]
    within = pl.col("source_row") <= last
    return chunk.raw.filter(within), chunk.rejects.filter(within), True


def _reject_checks(chunk: Chunk, bad: pl.DataFrame) -> list[RejectCheck]:
    raws = chunk.raw_lines(bad["source_row"].to_list()) if bad.height else []
    return [
        RejectCheck(
            row["source_row"],
            row["reason"],
            row["field"],
            row["message"],
            raw[:_SHOWN_BYTES].decode("utf-8", "backslashreplace"),
        )
        for row, raw in zip(bad.iter_rows(named=True), raws, strict=True)
    ]


def _add_samples(samples: dict[tuple[int, str], ColumnCheck], mapping: Mapping, raw: pl.DataFrame, source: str) -> None:
    """Add the filled values of each field of each rule to its count, and take a sample if it has none yet."""
    numbered = raw.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("source_row"))
    for number, rule in enumerate(mapping.records):
        usage, _ = mediate(numbered, msgspec.structs.replace(mapping, records=(rule,)), source)
        fields = mapping.rule_fields(rule)
        for target in ("record_key", "service", "direction", *[f for f in fields if f not in ("service", "direction")]):
            spec = fields.get(target)
            before = samples.get((number, target))
            values = usage[target] if target in usage.columns else usage["quantity"].clear()
            filled = (values.len() - values.null_count()) + (before.filled if before else 0)
            sample_in, sample_out = (before.sample_in, before.sample_out) if before else (None, None)
            if sample_out is None and values.null_count() < len(values):
                at = int(values.is_not_null().arg_max() or 0)
                sample_out = _shown(target, values[at])
                paths = (*rule.key, *rule.key_optional) if target == "record_key" else spec.paths if spec else ()
                row = usage["source_row"][at]
                found = [raw[path][row] for path in paths if path in raw.columns]
                sample_in = " ".join(text for text in found if text is not None) or None
            elif sample_in is None and spec is not None:
                sample_in = next((text for path in spec.paths if (text := _any_text(raw, path))), None)
            samples[number, target] = ColumnCheck(
                number, target, _source(rule, target, spec), _reading(target, spec), sample_in, sample_out, filled
            )


def _any_text(raw: pl.DataFrame, path: str) -> str | None:
    found = raw[path].drop_nulls() if path in raw.columns else pl.Series([], dtype=pl.String)
    return found[0] if len(found) else None


def _source(rule: RecordRule, target: str, spec: Field | None) -> str:
    if target == "record_key":
        suffix = (repr(rule.key_suffix),) if rule.key_suffix else ()
        return " | ".join((*rule.key, *rule.key_optional, *suffix)) or "file and row"
    if spec is None:
        return f"constant {rule.service if target == 'service' else rule.direction or '(by service)'}"
    if spec.value is not None:
        return f"constant {spec.value!r}"
    return (" + " if spec.join is not None else " or ").join(spec.paths)


def _reading(target: str, spec: Field | None) -> str:
    if spec is None:
        return "text"
    notes: list[str] = []
    if target in QUANTITY_TARGETS:
        unit = f"unit of {spec.unit_from}" if spec.unit_from else spec.unit or "whole units"
        notes.append(f"{unit} (base {spec.base})" if spec.unit_from or (spec.unit or "B") != "B" else unit)
    elif target in TIME_TARGETS:
        notes.append(f"time {' or '.join(spec.times)}, {spec.zone}")
    elif target == "sequence":
        notes.append("number")
    else:
        notes.append("MCC" if spec.mcc else "text")
    if spec.pattern is not None:
        notes.append(f"pattern {spec.pattern}")
    if spec.lookup is not None:
        notes.append(f"{spec.lookup.key} to {spec.lookup.value} by {spec.lookup.file}")
    elif spec.values is not None:
        notes.append(", ".join(f"{key}={value}" for key, value in spec.values.items()))
    if spec.default is not None:
        notes.append(f"default {spec.default!r}")
    return "; ".join(notes)


def _shown(target: str, value: Any) -> str:
    if target in _NAMES:
        return _NAMES[target][value]
    if target in TIME_TARGETS:
        return str(value.isoformat().replace("+00:00", "Z"))
    return str(value)


def _unread_columns(mapping: Mapping, header: bytes) -> tuple[str, ...]:
    text = header.decode("utf-8", "replace").lstrip("\ufeff")
    names = [name.strip().strip(mapping.format.quote or " ") for name in text.split(mapping.format.delimiter)]
    read = mapping.sources()
    return tuple(name for name in names if name not in read)
