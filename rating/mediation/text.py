"""Source text of the target fields: pick, join, default, match and map it by value, and collect its faults (F2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.mapping import CARD_TARGETS, SOURCE_ELEMENT, SOURCE_NAME, SOURCE_ROW, Field
from schemas.usage import REJECT_SCHEMA

MAX_TEXT_BYTES = 512

_SHOWN_CHARS = 60

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass
class Faults:
    """The first fault of each record of a batch of `count` records, in the order in which faults are added."""

    count: int
    taken: Flags = field(init=False)
    _parts: list[tuple[Ints, str, str, list[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.taken = np.zeros(self.count, np.bool_)

    def add(self, mask: pl.Series | Flags, reason: str, name: str, found: pl.Series | None, expected: str) -> None:
        """Add a fault to the records in `mask` (null counts as False) that have none yet.

        `reason` is a code of REASONS and `name` the field. `found` is the text of each record, None if nothing was
        found. `expected` says what would be right.
        """
        if isinstance(mask, pl.Series):
            mask = (mask.fill_null(False) if mask.null_count() else mask).to_numpy()
        rows = np.flatnonzero(mask)
        if len(rows):
            rows = rows[~self.taken[rows]]
        if not len(rows):
            return
        self.taken[rows] = True
        if found is None:
            messages = [f"found nothing; expected {expected}"] * len(rows)
        else:
            shown = found[rows].str.slice(0, _SHOWN_CHARS)  # many rows may share one long text, which would fill memory
            messages = [f"found '{text}'; expected {expected}" for text in shown]
        self._parts.append((rows, reason, name, messages))

    def missing(self, text: pl.Series | None, name: str, expected: str) -> None:
        """Add the fault `missing` to records without a value in `text`, or to all records if `text` is None."""
        if text is None:
            self.add(np.ones(self.count, np.bool_), "missing", name, None, expected)
        elif text.null_count():
            self.add(text.is_null(), "missing", name, None, expected)

    def unread(self, column: pl.Series, text: pl.Series, reason: str, name: str, expected: str) -> None:
        """Add a fault to records that have a text, but no value in the `column` read from it."""
        if column.null_count() > text.null_count():
            self.add(column.is_null() & text.is_not_null(), reason, name, text, expected)

    def frame(self, source_row: pl.Series, key: pl.Series | None) -> pl.DataFrame:
        """Return the faults as rows of REJECT_SCHEMA, in source order."""
        if not self._parts:
            return pl.DataFrame(schema=REJECT_SCHEMA)
        order = np.concatenate([rows for rows, _, _, _ in self._parts])
        faults = [(reason, name or None, text) for _, reason, name, texts in self._parts for text in texts]
        place = np.argsort(order)  # no record has two faults
        rows = order[place]
        reasons, names, messages = zip(*(faults[at] for at in place.tolist()), strict=True)
        keys = pl.Series([None], dtype=pl.String).new_from_index(0, len(rows)) if key is None else key[rows]
        columns = (source_row[rows], keys, reasons, names, messages)
        return pl.DataFrame(dict(zip(REJECT_SCHEMA, columns, strict=True)), schema_overrides=REJECT_SCHEMA)


class SourceText:
    """The raw columns of a batch. An empty text is null; an absent column is None.

    A text of more than MAX_TEXT_BYTES is a fault of its record. It is found when its column is first read.
    """

    def __init__(self, raw: pl.DataFrame, source: str, delimited: bool = False) -> None:
        self.raw = raw
        self.source = source
        self.delimited = delimited  # a CSV, whose numbers are texts
        self.faults = Faults(raw.height)
        self._known: dict[str, pl.Series | None] = {}

    @property
    def count(self) -> int:
        """Number of records in the batch."""
        return self.raw.height

    def column(self, path: str) -> pl.Series | None:
        """Return the text of one source path or pseudo path (@row), null for empty; None if absent or all null."""
        if path not in self._known:
            self._known[path] = self._read(path)
        return self._known[path]

    def constant(self, text: str | None) -> pl.Series:
        """Return a column with `text` for every record."""
        return pl.Series([text], dtype=pl.String).new_from_index(0, self.count)

    def _read(self, path: str) -> pl.Series | None:
        if path == SOURCE_NAME:
            return self.constant(self.source)
        if path == SOURCE_ROW:
            return self.raw["source_row"].cast(pl.String)
        if path not in self.raw.columns:
            return self.constant("0") if path == SOURCE_ELEMENT else None
        column = self.raw[path]
        if column.null_count() == len(column):
            return None
        lengths = self._lengths[path]
        if lengths.min() == 0:
            column = column.zip_with((lengths > 0).fill_null(False), self.constant(None))
        longest = lengths.max()
        assert isinstance(longest, int)
        if longest > MAX_TEXT_BYTES:
            self.faults.add(lengths > MAX_TEXT_BYTES, "too_long", path, column, f"at most {MAX_TEXT_BYTES} bytes")
            column = column.zip_with((lengths <= MAX_TEXT_BYTES).fill_null(False), self.constant(None))
        return column

    @cached_property
    def _lengths(self) -> pl.DataFrame:
        """Bytes of each text. Measuring all columns in one call is faster than one call per column."""
        return self.raw.select(pl.col(pl.String).str.len_bytes())

    def of(self, target: str, spec: Field) -> pl.Series | None:
        """Return the text of a target field before its pattern and values are applied; None if no record has text."""
        text = self._picked(target, spec)
        if text is not None and spec.empty:
            text = text.zip_with(~text.is_in(spec.empty).fill_null(False), self.constant(None))
        if spec.default is not None:
            text = self.constant(spec.default) if text is None else text.fill_null(spec.default)
        return text

    def _picked(self, target: str, spec: Field) -> pl.Series | None:
        if spec.value is not None:
            return self.constant(spec.value)
        columns = [self.column(path) for path in spec.paths]
        if spec.join is not None:
            parts = [column for column in columns if column is not None]
            if len(parts) < len(columns):
                return None
            if target == "plmn" and len(parts) == 2:
                parts[1] = parts[1].str.zfill(2)
            named = [part.alias(f"part_{index}") for index, part in enumerate(parts)]
            return pl.DataFrame(named).select(pl.concat_str(pl.all(), separator=spec.separator)).to_series()
        text: pl.Series | None = None
        for column in columns:
            if spec.empty and column is not None:
                column = column.zip_with(~column.is_in(spec.empty).fill_null(False), self.constant(None))
            if text is None:
                text = column
            elif column is not None and text.null_count():
                text = text.zip_with(text.is_not_null(), column)
        return text


def without_empty(text: pl.Series) -> pl.Series:
    """Return `text` with null in place of ""."""
    empty = (text == "").fill_null(False)
    return text.zip_with(~empty, pl.Series([None], dtype=pl.String)) if empty.any() else text


def match_pattern(text: pl.Series, spec: Field, faults: Faults) -> pl.Series:
    """Return the part of `text` that the field's pattern captures. A text that does not match is a fault."""
    if spec.pattern is None:
        return text
    part = text.str.extract(spec.pattern, 1 if _has_groups(spec.pattern) else 0)
    faults.unread(part, text, "bad_value", spec.label, f"text that matches {spec.pattern}")
    return without_empty(part)


@lru_cache(maxsize=64)
def _has_groups(pattern: str) -> bool:
    return bool(pl.select(pl.lit("").str.extract_groups(pattern)).to_series().struct.fields)


def map_values(text: pl.Series, spec: Field, faults: Faults, reason: str = "bad_value", target: str = "") -> pl.Series:
    """Map `text` by the field's value map. A text that is not in the map is a fault with this `reason`.

    If the map comes from a list file and `target` is a card number, the reason is `unknown_card`.
    """
    if spec.values is None:
        return text
    expected = None
    if spec.lookup is not None:
        reason = "unknown_card" if target in CARD_TARGETS else "bad_value"
        expected = f"a value that {spec.lookup.file} lists under {spec.lookup.key}"
    named = {key: value for key, value in spec.values.items() if key != "*"}
    rest = spec.values.get("*")
    if named:
        mapped = text.replace_strict(list(named), list(named.values()), default=rest, return_dtype=pl.String)
    else:
        mapped = pl.Series([rest], dtype=pl.String).new_from_index(0, len(text))
    mapped = mapped.zip_with(text.is_not_null(), pl.Series([None], dtype=pl.String))
    faults.unread(mapped, text, reason, spec.label, expected or f"one of {', '.join(named)}")
    return mapped


def to_codes(text: pl.Series, names: tuple[str, ...]) -> pl.Series:
    """Return the position in `names` (at most 255) of each text, UInt8; null for null and for any other text."""
    # An Enum contains its names as a series, which belongs to this thread. So it cannot be cached for the next batch.
    return text.cast(pl.Enum(names), strict=False).to_physical()
