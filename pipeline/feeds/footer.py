"""Footers of CSV files: the totals at the end of a file, checked against its records before any is rated (F2, F5)."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from pipeline.feeds.decode import open_source
from rating.errors import SourceError
from rating.mediation.amounts import amount
from rating.mediation.text import SourceText, map_values, match_pattern
from schemas.mapping import QUANTITY_TARGETS, Field, Mapping


def require_footer(path: Path, mapping: Mapping) -> None:
    """Raise SourceError if the mapping has a footer, and the file lacks it or has other totals than it says.

    This reads the file once more. A file without a header, so without anything, has nothing to check. If a value cannot
    be read, its record will be rejected, and the total is compared as far as the others go.
    """
    if mapping.format.footer is None:
        return
    pattern = re.compile(mapping.format.footer)
    targets = [name for name in pattern.groupindex if name in QUANTITY_TARGETS]
    rows = records = 0
    sums, unread = dict.fromkeys(targets, 0), dict.fromkeys(targets, 0)
    footers: list[str] = []
    anything = False
    for chunk in open_source(path, mapping):
        anything = True
        footers += chunk.footers
        records += len(chunk.raw) + len(chunk.rejects)
        rows += len(chunk.raw)
        for target in targets:
            units = _units(chunk.raw, mapping, target)
            sums[target] += int(units.sum())
            unread[target] += units.null_count() + len(chunk.rejects)
    if not anything:
        return
    if not footers:
        raise SourceError(f"{path}: found no line that matches {mapping.format.footer}; is the file cut off?")
    for footer in footers:
        match = pattern.search(footer)
        assert match is not None
        told = {name: text for name, text in match.groupdict().items() if text is not None}
        if told.get("records", str(records)).strip() != str(records):
            raise SourceError(f"{path}: found {records} records; expected {told['records']}, as the footer says")
        for target in targets:
            if target in told:
                _require_total(path, mapping, target, told[target], (sums[target], unread[target], rows))


def _require_total(path: Path, mapping: Mapping, target: str, text: str, found: tuple[int, int, int]) -> None:
    total, unread, rows = found
    label = _field(mapping, target).label
    units = _units(pl.DataFrame({label: [text]}).with_columns(source_row=pl.lit(1)), mapping, target)
    if units.null_count():
        raise SourceError(f"{path}: found {text!r} as total of {label}; expected a number as in its column")
    one = _units(pl.DataFrame({label: ["1"]}).with_columns(source_row=pl.lit(1)), mapping, target)[0] or 1
    places = re.search(r"[.,]([0-9]*)\D*$", text)
    # Each record is rounded to whole units, and the total to its last place.
    slack = 0 if one == 1 else one // 10 ** len(places.group(1) if places else "") + rows
    expected = int(units[0])
    if total > expected + slack or (not unread and total < expected - slack):
        raise SourceError(f"{path}: found {total} units of {label} in all; expected {expected}, as the footer says")


def _field(mapping: Mapping, target: str) -> Field:
    return mapping.rule_fields(mapping.records[0])[target]


def _units(raw: pl.DataFrame, mapping: Mapping, target: str) -> pl.Series:
    """Return the whole units of a quantity of each record, Int64; null if it cannot be read."""
    spec = _field(mapping, target)
    texts = SourceText(raw, "", delimited=True)
    text = texts.of(target, spec)
    if text is None:
        return pl.Series([None], dtype=pl.Int64).new_from_index(0, len(raw))
    text = map_values(match_pattern(text, spec, texts.faults), spec, texts.faults)
    return amount(spec, text, texts, texts.faults)
