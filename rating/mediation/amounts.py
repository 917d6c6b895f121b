"""Quantities of records: whole units of the text of a field, and the total of a record that gives only parts (F2)."""

from __future__ import annotations

import msgspec
import numpy as np
import polars as pl

from rating.mediation.numbers import CLOCKS, clock_seconds, plain_decimals, split_units, two_readings
from rating.mediation.quantity import LIMIT, Scaled, scale, unit_factor
from rating.mediation.text import Faults, SourceText
from schemas.mapping import QUANTITY_TARGETS, SOURCE_CELL, Field, Mapping, Numbers
from schemas.usage import RecordType, Service

VOLUMES = ("volume_up_bytes", "volume_down_bytes")
_ONE_READING = "a number with one reading; say in [numbers] of the mapping how this feed writes numbers"


def amount(spec: Field, text: pl.Series, texts: SourceText, faults: Faults) -> pl.Series:
    """Return the whole units (Int64) of the text of a quantity field, its further parts added; null for a fault."""
    units = _measured(spec, text, texts, faults)
    for part in spec.parts:
        added = texts.column(part.from_)
        if added is None:
            continue
        number = _scaled(msgspec.structs.replace(spec, from_=part.from_), added, (part.times, 1), texts, faults)
        alone = (number > 0) & text.is_null()
        faults.add(alone, "missing", spec.label, None, f"a number, as {part.from_} has one")
        units = units + number.fill_null(0)
    return units


def _measured(spec: Field, text: pl.Series, texts: SourceText, faults: Faults) -> pl.Series:
    """Return the whole units of the text in its unit: a constant, that of another field, or that in the cell."""
    if spec.unit in CLOCKS:
        seconds = clock_seconds(text, spec.unit)
        faults.unread(seconds, text, "bad_value", spec.label, f"a duration as {spec.unit}")
        return seconds
    if spec.unit_from == SOURCE_CELL:
        text, named = split_units(text)
        if spec.unit is None:
            unknown = named.is_null() & text.is_not_null()
            faults.add(unknown, "bad_value", spec.label, text, "a number and its unit, such as 12.5 MB")
        named = named.fill_null(spec.unit or "B")
    else:
        column = texts.column(spec.unit_from) if spec.unit_from is not None else None
        if column is None:
            return _scaled(spec, text, unit_factor(spec.unit or "B", spec.base), texts, faults)
        named = column.fill_null(spec.unit or "B")
    units = pl.Series([None], dtype=pl.Int64).new_from_index(0, len(text))
    for unit in named.unique(maintain_order=True).to_list():
        part = text.zip_with(named == unit, pl.Series([None], dtype=pl.String))
        factor = unit_factor(unit, spec.base)
        if factor is None:
            name = spec.label if spec.unit_from == SOURCE_CELL else spec.unit_from or ""
            faults.add(part.is_not_null(), "bad_value", name, named, "a unit: B, KB, MB, GB or TB")
            continue
        units = units.fill_null(_scaled(spec, part, factor, texts, faults))
    return units


def _scaled(
    spec: Field, text: pl.Series, factor: tuple[int, int] | None, texts: SourceText, faults: Faults
) -> pl.Series:
    numerator, denominator = factor or (1, 1)
    if spec.numbers is None:
        unclear = two_readings(text, texts.delimited)
        faults.add(unclear, "bad_value", spec.label, text, _ONE_READING)
        number = text.zip_with(~unclear.fill_null(False), pl.Series([None], dtype=pl.String))
    else:
        number = plain_decimals(text, spec.numbers)
        faults.unread(number, text, "bad_value", spec.label, f"a number that is written {_written(spec.numbers)}")
    scaled: Scaled = scale(number, numerator, denominator)
    if scaled.negative is not None:
        faults.add(scaled.negative, "negative", spec.label, text, "a quantity of zero or more")
    if scaled.bad is not None:
        faults.add(
            scaled.bad, "bad_value", spec.label, text, f"a decimal number such as 12.5, of at most {LIMIT} units"
        )
    return scaled.units


def _written(numbers: Numbers) -> str:
    if numbers.radix == 16:
        return "in hexadecimal digits"
    thousands = " or ".join(f"'{separator}'" for separator in numbers.separators)
    return f"with '{numbers.decimal}' before decimals" + (f" and {thousands} between thousands" if thousands else "")


def quantity_of(
    mapping: Mapping, fields: dict[str, Field], columns: dict[str, pl.Series], service: pl.Series, texts: SourceText
) -> pl.Series:
    """Return the quantity of each record, Int64, and report records without one as missing.

    It is the total if the feed gives one. Otherwise it is up + down for data, 1 for SMS, 0 for a reversal, and 0 for
    the start or stop of a session of running totals. A total that is not the sum of its parts is a fault. If it
    differs by no more than the places to which the three are rounded, the larger of the parts in `columns` is changed
    so that they sum up to it.
    """
    total = columns.get("quantity")
    if total is not None:
        _require_sum(mapping, fields, columns, total, texts)
        if not total.null_count():
            return total
    inputs = {name: columns[name] for name in (*QUANTITY_TARGETS, "record_type") if name in columns}
    choices = [pl.col("quantity")] if "quantity" in inputs else []
    volumes = [pl.col(name) for name in VOLUMES if name in inputs]
    if volumes:
        volume = volumes[0]
        if len(volumes) > 1:
            up, down = volumes
            volume = pl.when(up.is_not_null() | down.is_not_null()).then(up.fill_null(0) + down.fill_null(0))
        choices.append(pl.when(service=int(Service.DATA)).then(volume))
    choices.append(pl.when(service=int(Service.SMS)).then(pl.lit(1, pl.Int64)))
    if "record_type" in inputs:
        choices.append(pl.when(record_type=int(RecordType.REVERSE)).then(pl.lit(0, pl.Int64)))
        if mapping.cumulative:
            bounds = pl.col("record_type").is_in((int(RecordType.START), int(RecordType.STOP)))
            choices.append(pl.when(bounds).then(pl.lit(0, pl.Int64)))
    total = pl.DataFrame(inputs | {"service": service}).select(pl.coalesce(choices)).to_series()
    named = [fields[target].label for target in ("quantity", *QUANTITY_TARGETS) if target in fields]
    texts.faults.missing(total, named[0] if named else "quantity", "a quantity")
    return total


def _require_sum(
    mapping: Mapping, fields: dict[str, Field], columns: dict[str, pl.Series], total: pl.Series, texts: SourceText
) -> None:
    """Add a fault to records whose total is not the sum of up and down, or less than the one that is given."""
    given = [columns[name] for name in VOLUMES if name in columns]
    if not given:
        return
    up, down = (columns.get(name, texts.constant(None).cast(pl.Int64)) for name in VOLUMES)
    whole = up.is_not_null() & down.is_not_null()
    difference = total - up.fill_null(0) - down.fill_null(0)
    if mapping.volumes.counter_bits == 32:  # each of the three counters begins again by itself
        difference = difference % (1 << 32)
    off = ((difference != 0) & whole | (difference < 0)).fill_null(False)
    if not off.any():
        return
    specs = [(name, fields[name]) for name in ("quantity", *VOLUMES) if name in columns]
    slack = pl.DataFrame([_resolution(*one, texts).alias(one[0]) for one in specs]).sum_horizontal() // 2
    larger = pl.DataFrame([up.alias("up"), down.alias("down")]).max_horizontal() + difference
    rounded = (off & (difference.abs() <= slack) & (larger >= 0)).fill_null(False)
    shown = total.cast(pl.String)
    texts.faults.add(off & ~rounded, "bad_value", fields["quantity"].label, shown, "the sum of up and down")
    changed = rounded & whole
    to_down = changed & (down >= up)
    columns[VOLUMES[1]] = down.zip_with(~to_down.fill_null(False), down + difference)
    columns[VOLUMES[0]] = up.zip_with((~changed | to_down).fill_null(True), up + difference)


def _resolution(target: str, spec: Field, texts: SourceText) -> pl.Series:
    """Return the whole units of the last place that is written of each number, Int64; 0 for whole bytes."""
    text = texts.of(target, spec)
    nothing = pl.Series([0], dtype=pl.Int64).new_from_index(0, texts.count)
    if text is None or spec.unit in CLOCKS:
        return nothing
    named = texts.constant(spec.unit or "B")
    if spec.unit_from == SOURCE_CELL:
        text, in_cell = split_units(text)
        named = in_cell.fill_null(spec.unit or "B")
    elif spec.unit_from is not None:
        column = texts.column(spec.unit_from)
        named = named if column is None else column.fill_null(spec.unit or "B")
    units = named.unique(maintain_order=True).to_list()
    factors = [(unit_factor(unit, spec.base) or (0, 1))[0] for unit in units]
    factor = named.replace_strict(units, factors, return_dtype=pl.Int64)
    decimal = "," if spec.numbers is not None and spec.numbers.decimal == "," else "."
    places = text.str.extract(rf"[{decimal}]([0-9]{{0,18}})\s*$").str.len_bytes().fill_null(0).cast(pl.Int64)
    last = factor.to_numpy() // 10 ** places.to_numpy()
    return pl.Series(np.where((factor.to_numpy() == 1) & (places.to_numpy() == 0), 0, np.maximum(last, 1)))
