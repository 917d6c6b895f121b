"""Mediation: convert raw text columns of a feed to usage records (F1, F2), or to rejects with field and reason (F5).

This works column by column, for a whole batch. Each rule of the mapping is applied to the source records that match its
conditions. A record with several bad fields is rejected once, for the first of them in the order key, rule, TARGETS.
"""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from rating.mediation.amounts import amount, quantity_of
from rating.mediation.country import country_of, distinct
from rating.mediation.numbers import plain_decimals, unswapped
from rating.mediation.text import Faults, Flags, SourceText, map_values, match_pattern, to_codes
from rating.mediation.time import FIRST_YEAR, LAST_YEAR, parse_times
from schemas.mapping import (
    QUANTITY_TARGETS,
    SOURCE_ELEMENT,
    SOURCE_NAME,
    SOURCE_ROW,
    TIME_TARGETS,
    Condition,
    Field,
    Mapping,
    RecordRule,
)
from schemas.usage import REJECT_SCHEMA, USAGE_REQUIRED, USAGE_SCHEMA, Direction, RecordType, Service

# Names by code: the codes of each enumeration are 0, 1, 2 …
_SERVICES = tuple(service.name.lower() for service in Service)
_DIRECTIONS = tuple(direction.name.lower() for direction in Direction)
_RECORD_TYPES = tuple(kind.name.lower() for kind in RecordType)
_OF_DATA = np.array([direction in (Direction.UP, Direction.DOWN) for direction in Direction])
_OF_CALLS = np.array([direction in (Direction.MO, Direction.MT) for direction in Direction])
_NETWORK = re.compile(r"[0-9]{5,6}")


def mediate(raw: pl.DataFrame, mapping: Mapping, source: str = "") -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the usage records of `raw` and its rejects (REJECT_SCHEMA), both in source order.

    `raw` has String columns named by source path (an absent column is empty for all records) and `source_row`, Int64,
    ascending. Usage has the required columns of USAGE_SCHEMA, and the optional ones in which a record has a value.
    `source` is the name of the file, for record keys that contain @source. Every row of `raw` gives at least one usage
    record or reject. Bad data raises no error.
    """
    usages: list[pl.DataFrame] = []
    rejects: list[pl.DataFrame] = []
    matched: pl.Series | None = None
    delimited = mapping.format.type == "csv"
    for rule in mapping.records:
        held = _holds(rule, SourceText(raw, source, delimited))
        rows = raw if held is None else raw.filter(held)
        if held is not None:
            matched = held if matched is None else matched | held
        if held is None or rows.height:
            usage, refused = _apply(rule, mapping, SourceText(rows, source, delimited))
            usages.append(usage)
            rejects.append(refused)
    if matched is not None and all(rule.conditions for rule in mapping.records) and not matched.all():
        rejects.append(_unmatched(mapping, SourceText(raw.filter(~matched), source, delimited)))
    return _in_order(usages, {name: USAGE_SCHEMA[name] for name in USAGE_REQUIRED}), _in_order(rejects, REJECT_SCHEMA)


def _in_order(parts: list[pl.DataFrame], schema: dict[str, pl.DataType]) -> pl.DataFrame:
    filled = [part for part in parts if part.height]
    if not filled:
        return pl.DataFrame(schema=schema)
    if len(filled) == 1:
        return filled[0]
    merged = pl.concat(filled, how="diagonal").sort("source_row", maintain_order=True)
    order = REJECT_SCHEMA if schema is REJECT_SCHEMA else USAGE_SCHEMA
    return merged.select([name for name in order if name in merged.columns])


def _holds(rule: RecordRule, texts: SourceText) -> pl.Series | None:
    """Return whether the rule applies to each record; None if it applies to all."""
    held: pl.Series | None = None
    for condition in rule.conditions:
        test = _test(condition, texts)
        held = test if held is None else held & test
    return held


def _test(condition: Condition, texts: SourceText) -> pl.Series:
    text = texts.column(condition.field)
    if text is None:
        text = texts.constant(None)
    test = pl.repeat(True, len(text), dtype=pl.Boolean, eager=True)
    if condition.in_ is not None:
        test &= text.is_in(condition.in_).fill_null(False)
    if condition.not_in is not None:
        test &= ~text.is_in(condition.not_in).fill_null(False)
    if condition.present is not None:
        test &= text.is_not_null() if condition.present else text.is_null()
    return test


def _unmatched(mapping: Mapping, texts: SourceText) -> pl.DataFrame:
    condition = mapping.records[0].conditions[0]
    faults = texts.faults
    found = texts.column(condition.field)
    known = sorted({value for rule in mapping.records for test in rule.conditions for value in test.in_ or ()})
    expected = f"one of {', '.join(known)}" if known else "a record that a rule of the mapping applies to"
    everything = pl.repeat(True, texts.count, dtype=pl.Boolean, eager=True)
    if found is not None:
        faults.add(found.is_not_null(), "unknown_service", condition.field, found, expected)
    faults.add(everything, "unknown_service", condition.field, None, expected)
    key = _key(mapping.records[0], texts, Faults(texts.count))
    return faults.frame(texts.raw["source_row"], key)


def _apply(rule: RecordRule, mapping: Mapping, texts: SourceText) -> tuple[pl.DataFrame, pl.DataFrame]:
    faults = texts.faults
    fields = mapping.rule_fields(rule)
    columns: dict[str, pl.Series] = {}
    key = _key(rule, texts, faults)
    if key is not None:
        columns["record_key"] = key
    service = _service(rule, fields, texts, faults)
    columns["service"] = service
    columns["direction"] = _direction(rule, fields, service, texts, faults)
    for target, spec in fields.items():
        if target in ("service", "direction"):
            continue
        column = _field(target, spec, texts, faults)
        if column is not None and column.null_count() < len(column):
            columns[target] = column
        if spec.required or target == "used_at" or (target == "session_id" and mapping.cumulative):
            faults.missing(column, spec.label, f"a value for {target}")
    _require_card(fields, columns, texts, faults)
    _require_correction(fields, columns, faults)
    columns["quantity"] = quantity_of(mapping, fields, columns, service, texts)
    if "plmn" in columns and columns.get("country") is None:
        columns["country"] = _country_by_network(columns["plmn"])
    elif "plmn" in columns and columns["country"].null_count():
        columns["country"] = columns["country"].zip_with(
            columns["country"].is_not_null(), _country_by_network(columns["plmn"])
        )
    columns["source_row"] = texts.raw["source_row"]
    rejects = faults.frame(texts.raw["source_row"], key)
    if faults.taken.all() and texts.count:
        return pl.DataFrame(schema={name: USAGE_SCHEMA[name] for name in USAGE_REQUIRED}), rejects
    usage = pl.DataFrame([columns[name].alias(name) for name in USAGE_SCHEMA if name in columns])
    if rejects.height:
        usage = usage.filter(~faults.taken)
    return usage, rejects


def _key(rule: RecordRule, texts: SourceText, faults: Faults) -> pl.Series | None:
    paths, separator = rule.key, "|"
    if not paths:
        paths, separator = (SOURCE_NAME, SOURCE_ROW), ":"
        if SOURCE_ELEMENT in texts.raw.columns:
            paths = (*paths, SOURCE_ELEMENT)
    parts: list[pl.Series] = []
    for path in paths:
        part = texts.column(path)
        faults.missing(part, path, "a part of the record key")
        if part is not None:
            parts.append(part.alias(f"part_{len(parts)}"))
    if len(parts) < len(paths):
        return None
    for path in rule.key_optional:
        part = texts.column(path)
        parts.append((texts.constant("") if part is None else part.fill_null("")).alias(f"part_{len(parts)}"))
    if rule.key_suffix:
        parts.append(texts.constant(rule.key_suffix).alias("suffix"))
    if len(parts) == 1:
        return parts[0]
    return pl.DataFrame(parts).select(pl.concat_str(pl.all(), separator=separator)).to_series()


def _service(rule: RecordRule, fields: dict[str, Field], texts: SourceText, faults: Faults) -> pl.Series:
    if rule.service is not None:
        return pl.Series([_SERVICES.index(rule.service)], dtype=pl.UInt8).new_from_index(0, texts.count)
    spec = fields["service"]
    text = texts.of("service", spec)
    if text is None:
        text = texts.constant(None)
    faults.missing(text, spec.label, "a service")
    text = map_values(match_pattern(text, spec, faults), spec, faults, "unknown_service")
    codes = to_codes(text, _SERVICES)
    faults.unread(codes, text, "unknown_service", spec.label, f"one of {', '.join(_SERVICES)}")
    return codes


def _direction(
    rule: RecordRule, fields: dict[str, Field], service: pl.Series, texts: SourceText, faults: Faults
) -> pl.Series:
    if rule.direction is not None:
        codes: pl.Series | None = pl.Series([_DIRECTIONS.index(rule.direction)], dtype=pl.UInt8).new_from_index(
            0, texts.count
        )
    else:
        codes = _named_code("direction", fields.get("direction"), _DIRECTIONS, texts, faults)
    is_data = _is(service, Service.DATA)
    if codes is None or codes.null_count():
        default = pl.Series(np.where(is_data, np.uint8(Direction.BOTH), np.uint8(Direction.MO)))
        codes = default if codes is None else codes.zip_with(codes.is_not_null(), default)
    found = codes.to_numpy()
    stray = np.where(is_data, _OF_CALLS[found], _OF_DATA[found])
    if stray.any():
        name = fields["direction"].label if "direction" in fields else "direction"
        shown = pl.Series(_DIRECTIONS).gather(codes)
        faults.add(stray, "bad_value", name, shown, "both, up, down for data; both, mo, mt for sms and voice")
    return codes


def _is(service: pl.Series, kind: Service) -> Flags:
    """Return whether each record is of a service, bool[n]; False if it has none."""
    flags: Flags = (
        (service == int(kind)).fill_null(False).to_numpy()
        if service.null_count()
        else (service.to_numpy() == int(kind))
    )
    return flags


def _named_code(
    target: str, spec: Field | None, names: tuple[str, ...], texts: SourceText, faults: Faults
) -> pl.Series | None:
    text = None if spec is None else texts.of(target, spec)
    if spec is None or text is None:
        return None
    text = map_values(match_pattern(text, spec, faults), spec, faults)
    code = to_codes(text, names)
    faults.unread(code, text, "bad_value", spec.label, f"one of {', '.join(names)}")
    return code


def _field(target: str, spec: Field, texts: SourceText, faults: Faults) -> pl.Series | None:
    """Return the typed column of one target field; None if no record has a value."""
    if target == "record_type":
        return _named_code(target, spec, _RECORD_TYPES, texts, faults)
    text = texts.of(target, spec)
    if text is None:
        if not spec.parts:
            return None
        text = texts.constant(None)
    text = map_values(match_pattern(text, spec, faults), spec, faults, target=target)
    if spec.swapped:
        digits = unswapped(text, network=target == "plmn")
        faults.unread(digits, text, "bad_value", spec.label, "digits in swapped pairs")
        text = digits
    if target == "iccid":
        return _card_number(text)
    if target == "imei":
        return text.str.replace_all(r"[-\s./]", "")  # as it is printed on a device: 35-209900-176148-1
    if target in QUANTITY_TARGETS:
        return amount(spec, text, texts, faults)
    if target in TIME_TARGETS:
        times = parse_times(text, spec.times, spec.zone)
        expected = f"a time as {' or '.join(spec.times)}, {FIRST_YEAR} to {LAST_YEAR}"
        faults.unread(times, text, "bad_time", spec.label, expected)
        return times
    if target == "sequence":
        written = text if spec.numbers is None else plain_decimals(text, spec.numbers)
        number = written.str.strip_chars().cast(pl.Int64, strict=False)
        faults.add(
            (number.is_null() | (number < 0)) & text.is_not_null(), "bad_value", spec.label, text, "a whole number"
        )
        return number
    if target == "plmn":
        return _network(spec, text, faults)
    if target == "country":
        return _country(spec, text, faults)
    return text


def _require_card(fields: dict[str, Field], columns: dict[str, pl.Series], texts: SourceText, faults: Faults) -> None:
    given = [columns[target] for target in ("iccid", "imsi", "msisdn") if target in columns]
    missing: Flags = np.ones(texts.count, np.bool_)
    for column in given:
        if not column.null_count():
            return
        missing = missing & column.is_null().to_numpy()
    name = next(fields[target].label for target in ("iccid", "imsi", "msisdn") if target in fields)
    faults.add(missing, "missing", name, None, "an ICCID, IMSI or MSISDN")


def _require_correction(fields: dict[str, Field], columns: dict[str, pl.Series], faults: Faults) -> None:
    kind = columns.get("record_type")
    if kind is None:
        return
    corrects = kind.is_in((int(RecordType.REVERSE), int(RecordType.REPLACE))).fill_null(False)
    if corrects.any():
        key = columns.get("corrects_key")
        missing = corrects if key is None else corrects & key.is_null()
        name = fields["corrects_key"].label if "corrects_key" in fields else "corrects_key"
        faults.add(missing, "missing", name, None, "the key of the record that this one corrects")


def _card_number(text: pl.Series) -> pl.Series:
    """Return ICCIDs as catalogues write them: letters in upper case, no spaces, no filler F at the end."""
    if not text.str.contains("[^0-9]").any():
        return text
    clean = text.str.replace_all(r"\s", "").str.to_uppercase()
    return clean.str.replace(r"^([0-9A-E]{18,22})F$", "$1")


def _network(spec: Field, text: pl.Series, faults: Faults) -> pl.Series:
    values, index = distinct(text)
    found = values.to_list()
    clean = [value.replace("-", "").replace(" ", "") for value in found]
    good = [_NETWORK.fullmatch(value) is not None for value in clean]
    if not all(good):
        wrong = pl.Series([not fine for fine in good]).gather(index)
        faults.add(wrong, "bad_value", spec.label, text, "MCC and MNC, 5 or 6 digits")
    elif clean == found:
        return text
    kept = [value if fine else None for value, fine in zip(clean, good, strict=True)]
    return pl.Series(kept, dtype=pl.String).gather(index)


def _country(spec: Field, text: pl.Series, faults: Faults) -> pl.Series:
    values, index = distinct(text)
    if spec.mcc:
        found = [country_of(value.strip()[:3]) for value in values.to_list()]
        return pl.Series(found, dtype=pl.String).gather(index)
    good = values.str.contains("^[A-Za-z]{2}$")
    if not good.all():
        faults.add((~good).gather(index), "bad_value", spec.label, text, "an ISO 3166 code of two letters")
    return values.str.to_uppercase().gather(index)


def _country_by_network(plmn: pl.Series) -> pl.Series:
    values, index = distinct(plmn)
    return pl.Series([country_of(value) for value in values.to_list()], dtype=pl.String).gather(index)
