"""Source text of the target fields: picked, joined, defaulted, matched, mapped by value (F2); and its faults."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.mapping import CARD_TARGETS, SOURCE_ELEMENT, SOURCE_NAME, SOURCE_ROW, Field
from schemas.usage import REJECT_SCHEMA

MAX_TEXT_BYTES = 512

_SHOWN_CHARS = 60


@dataclass
class Faults:
    """The first fault of each record of a batch of `count`, in the order in which they are added."""

    count: int
    taken: npt.NDArray[np.bool_] = field(init=False)
    _parts: list[tuple[npt.NDArray[np.int64], str, str, pl.Series]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.taken = np.zeros(self.count, np.bool_)

    def add(self, mask: pl.Series, reason: str, name: str, found: pl.Series | None, expected: str) -> None:
        """Records under `mask` (nulls do not count) that have no fault yet get this one."""
        rows = np.flatnonzero(mask.fill_null(False).to_numpy() & ~self.taken)
        if not len(rows):
            return
        self.taken[rows] = True
        if found is None:
            message = pl.repeat(f"found nothing; expected {expected}", len(rows), dtype=pl.String, eager=True)
        else:
            shown = found.gather(rows).str.slice(0, _SHOWN_CHARS)
            message = pl.select(pl.format("found '{}'; expected {}", shown, pl.lit(expected))).to_series()
        self._parts.append((rows, reason, name, message))

    def frame(self, source_row: pl.Series, key: pl.Series | None) -> pl.DataFrame:
        """The faults as REJECT_SCHEMA rows, in source order."""
        if not self._parts:
            return pl.DataFrame(schema=REJECT_SCHEMA)
        parts = []
        for rows, reason, name, message in self._parts:
            keys = pl.Series([None], dtype=pl.String).new_from_index(0, len(rows)) if key is None else key.gather(rows)
            parts.append(
                pl.DataFrame(
                    {"order": rows, "source_row": source_row.gather(rows), "record_key": keys.alias("record_key")}
                ).with_columns(
                    pl.lit(reason).alias("reason"),
                    pl.lit(name or None, dtype=pl.String).alias("field"),
                    message.alias("message"),
                )
            )
        return pl.concat(parts).sort("order").select(*REJECT_SCHEMA)


class SourceText:
    """The raw columns of a batch; an empty text is null, an absent column is None.

    A text of more than MAX_TEXT_BYTES is a fault of its record, found as its column is first read.
    """

    def __init__(self, raw: pl.DataFrame, source: str) -> None:
        self.raw = raw
        self.source = source
        self.faults = Faults(raw.height)
        self._known: dict[str, pl.Series | None] = {}

    @property
    def count(self) -> int:
        """Records in the batch."""
        return self.raw.height

    def column(self, path: str) -> pl.Series | None:
        """The text of one source path, or pseudo path, with null for empty."""
        if path not in self._known:
            self._known[path] = self._read(path)
        return self._known[path]

    def constant(self, text: str | None) -> pl.Series:
        """`text` once for each record."""
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
        lengths = column.str.len_bytes()
        if lengths.min() == 0:
            column = column.zip_with((lengths > 0).fill_null(False), self.constant(None))
        if (lengths > MAX_TEXT_BYTES).any():
            self.faults.add(lengths > MAX_TEXT_BYTES, "too_long", path, column, f"at most {MAX_TEXT_BYTES} bytes")
            column = column.zip_with((lengths <= MAX_TEXT_BYTES).fill_null(False), self.constant(None))
        return column

    def of(self, target: str, spec: Field) -> pl.Series | None:
        """The text of a target field before its pattern and values are applied; None where no record has any."""
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
    """`text` with null for ""."""
    empty = (text == "").fill_null(False)
    return text.zip_with(~empty, pl.Series([None], dtype=pl.String)) if empty.any() else text


def match_pattern(text: pl.Series, spec: Field, faults: Faults) -> pl.Series:
    """The part of `text` that the field's pattern names; a text that does not match is a fault."""
    if spec.pattern is None:
        return text
    groups = pl.select(pl.lit("").str.extract_groups(spec.pattern)).to_series().struct.fields
    part = text.str.extract(spec.pattern, 1 if groups else 0)
    faults.add(part.is_null() & text.is_not_null(), "bad_value", spec.label, text, f"text that matches {spec.pattern}")
    return without_empty(part)


def map_values(text: pl.Series, spec: Field, faults: Faults, reason: str = "bad_value", target: str = "") -> pl.Series:
    """`text` through the field's value map; a text that it does not name is a fault of `reason`.

    A card that the field's list does not hold is an unknown card.
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
    unknown = mapped.is_null() & text.is_not_null()
    faults.add(unknown, reason, spec.label, text, expected or f"one of {', '.join(named)}")
    return mapped


def to_codes(text: pl.Series, codes: dict[str, int]) -> pl.Series:
    """UInt8 codes of the names in `text`; null for null and for any other text."""
    for name, code in codes.items():
        if bool((text == name).all()) and not text.null_count():
            return pl.Series([code], dtype=pl.UInt8).new_from_index(0, len(text))
    return text.replace_strict(list(codes), list(codes.values()), default=None, return_dtype=pl.UInt8)
