"""Feed mappings as TOML files: loads a mapping, checks it as a whole, lists the built-in ones (F2).

A wrong mapping is rejected before any record is read. The MappingError names file, field, found and expected.
"""

from __future__ import annotations

import re
import tomllib
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from pipeline.feeds.ready import ready_feeds
from rating.errors import MappingError
from rating.mediation.numbers import CLOCKS
from schemas.mapping import (
    DOCUMENT_PREFIX,
    PSEUDO_SOURCES,
    QUANTITY_TARGETS,
    SOURCE_CELL,
    SWAPPED_TARGETS,
    TARGETS,
    TIME_TARGETS,
    Field,
    Mapping,
    Numbers,
    RecordRule,
)
from schemas.usage import Direction, RecordType, Service

UNITS = ("B", "KB", "MB", "GB", "TB", "s", "min", "h", "ms", *CLOCKS)
_ISO_TIMES = ("iso", "epoch_s", "epoch_ms", "epoch_us")
_MOST_TIMES = 1 << 40
_MOST_SKIPPED = 100
_MAX_MAPPING_BYTES = 1 << 20
_CODES: dict[str, frozenset[str]] = {
    "service": frozenset(s.name.lower() for s in Service),
    "direction": frozenset(d.name.lower() for d in Direction),
    "record_type": frozenset(t.name.lower() for t in RecordType),
}


def load_mapping(name_or_path: str | Path) -> Mapping:
    """Load the mapping of a built-in feed by name, or of a TOML file by path (F2).

    Raises MappingError, naming file, field, found and expected, if there is none or it is invalid.
    """
    text = str(name_or_path)
    ready = ready_feeds()
    if text in ready:
        return _load_file(ready[text])
    path = Path(text)
    if path.suffix == ".toml" or path.is_file():
        return _load_file(path)
    names = ", ".join(ready)
    raise MappingError(f"feed {text!r} is not a ready mapping; expected one of {names}, or the path of a .toml file")


def ready_mappings() -> list[Mapping]:
    """Return the mappings that ship with Weir, ordered by name."""
    return [_load_file(path) for path in ready_feeds().values()]


def parse_mapping(text: str, file: str = "mapping") -> Mapping:
    """Parse a mapping from TOML text and check it as load_mapping does. `file` names it in errors."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise MappingError(f"{file}: not valid TOML: {error}") from None
    try:
        mapping = msgspec.convert(document, Mapping)
    except (msgspec.ValidationError, RecursionError) as error:
        raise MappingError(f"{file}: {_located(str(error), document)}") from None
    problems = list(_problems(mapping))
    if problems:
        raise MappingError("\n".join(f"{file}: {problem}" for problem in problems))
    return mapping


def _load_file(path: Path) -> Mapping:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_MAPPING_BYTES + 1)
    except OSError as error:
        raise MappingError(
            f"{path}: cannot be read ({error.strerror or error}); expected a mapping file in TOML"
        ) from None
    if len(data) > _MAX_MAPPING_BYTES:
        raise MappingError(f"{path}: found more than {_MAX_MAPPING_BYTES} bytes; expected a mapping file in TOML")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MappingError(f"{path}: byte {error.start} is not UTF-8; expected a mapping file in TOML") from None
    return parse_mapping(text, str(path))


def _located(message: str, document: Any) -> str:
    """Rewrite a validation message that has a `$.path` as `field: found X; expected Y`."""
    match = re.fullmatch(r"(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?", message, re.DOTALL)
    what, path = (match.group(1), match.group(2) or "") if match else (message, "")
    if "[...]" in path:
        path = _named_key(path, document)
    found: Any = document
    for step in re.findall(r"[^.\[\]]+", path):
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return f"{path}: {what}"
    unknown = re.search(r"unknown field `(.*)`", what)
    if unknown:
        place = f"{path}.{unknown.group(1)}" if path else unknown.group(1)
        return f"{place}: found an unknown key; expected a key of the mapping language"
    shown = "a table" if isinstance(found, dict) else "a list" if isinstance(found, list) else repr(found)
    return f"{path or 'mapping'}: found {shown}; expected: {what}"


def _named_key(path: str, document: Any) -> str:
    """Return `path` with its "[...]" replaced by the name of the field table that is wrong."""
    before, _, after = path.partition("[...]")
    fields: Any = document
    for step in re.findall(r"[^.\[\]]+", before):
        fields = fields[int(step)] if isinstance(fields, list) else fields[step]
    for name, value in fields.items():
        try:
            msgspec.convert(value, Field)
        except msgspec.ValidationError:
            return f"{before}.{name}{after}"
    return path


def _problems(mapping: Mapping) -> Iterator[str]:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", mapping.name):
        yield f"name: found {mapping.name!r}; expected letters, digits, '-', '_' or '.'"
    yield from _format_problems(mapping)
    for target, field in mapping.fields.items():
        yield from _field_problems(f"fields.{target}", target, field)
    yield from _number_problems("numbers", mapping.numbers)
    if mapping.volumes.counter_bits is not None and not mapping.cumulative:
        yield 'volumes.counter_bits: found it beside deltas; expected it only with mode = "cumulative"'
    if not mapping.records:
        yield "records: found none; expected at least one [[records]] table"
    for number, rule in enumerate(mapping.records):
        yield from _rule_problems(f"records[{number}]", mapping, rule)
    suffixes = [(rule.key, rule.key_optional, rule.key_suffix) for rule in mapping.records]
    exclusive = all(rule.conditions for rule in mapping.records)
    if len(set(suffixes)) < len(suffixes) and not exclusive:
        yield "records: found blocks with the same key; expected a key_suffix that tells their records apart"
    yield from _path_problems(mapping)


def _format_problems(mapping: Mapping) -> Iterator[str]:
    form = mapping.format
    if form.type == "csv":
        if len(form.delimiter) != 1 or not form.delimiter.isascii() or form.delimiter in '\r\n\0"':
            yield f"format.delimiter: found {form.delimiter!r}; expected one ASCII character"
        if form.quote and (len(form.quote) != 1 or not form.quote.isascii() or form.quote in "\r\n\0" + form.delimiter):
            yield f"format.quote: found {form.quote!r}; expected one ASCII character, or '' for none"
        if not form.header and not form.columns:
            yield "format.columns: found none; expected the column names of a file without header"
        if form.header and form.columns:
            yield "format.columns: found names; expected none where the file has a header"
        if len(set(form.columns)) < len(form.columns):
            yield f"format.columns: found {list(form.columns)}; expected each name once"
        if not 0 <= form.skip_lines <= _MOST_SKIPPED:
            yield f"format.skip_lines: found {form.skip_lines}; expected 0 to {_MOST_SKIPPED}"
        if form.explode:
            yield f"format.explode: found {form.explode!r}; expected none, a CSV record has no arrays"
    yield from _footer_problems(mapping)
    if form.records and form.type != "json":
        yield f'format.records: found {form.records!r}; expected it only with type = "json"'
    if form.skip_lines and form.type != "csv":
        yield f'format.skip_lines: found {form.skip_lines}; expected it only with type = "csv"'
    if form.binary != "text" and form.type not in ("parquet", "arrow"):
        yield f"format.binary: found {form.binary!r}; expected it only with Parquet and Arrow"
    for name, path in (("records", form.records), ("explode", form.explode)):
        if path and not all(path.split(".")):
            yield f"format.{name}: found {path!r}; expected names joined with dots"


def _footer_problems(mapping: Mapping) -> Iterator[str]:
    footer = mapping.format.footer
    if footer is None:
        return
    if mapping.format.type != "csv":
        yield 'format.footer: found one; expected it only with type = "csv"'
    try:
        pattern = re.compile(footer)
    except re.error as error:
        yield f"format.footer: found {footer!r} ({error}); expected a regular expression"
        return
    if pattern.search(""):
        yield f"format.footer: found {footer!r}, which an empty line matches; expected one that a footer alone matches"
    totals = [name for name in pattern.groupindex if name != "records"]
    known = [name for name in QUANTITY_TARGETS if mapping.records and name in mapping.rule_fields(mapping.records[0])]
    for name in totals:
        if name not in known:
            yield f"format.footer: found the group {name!r}; expected one of records, {', '.join(known)}"
    if totals and len(mapping.records) > 1:
        yield "format.footer: found a total and several [[records]]; expected one block, whose field the total is of"


def _rule_problems(place: str, mapping: Mapping, rule: RecordRule) -> Iterator[str]:
    fields = mapping.rule_fields(rule)
    for target, field in rule.fields.items():
        yield from _field_problems(f"{place}.fields.{target}", target, field)
    if (rule.service is None) == ("service" not in fields):
        yield f"{place}.service: found {'both' if rule.service else 'none'}; expected a constant or fields.service"
    if rule.key_optional and not rule.key:
        yield f"{place}.key: found none beside key_optional; expected at least one path that always has a value"
    if rule.direction is not None and "direction" in fields:
        yield f"{place}.direction: found both; expected a constant or fields.direction"
    for condition in rule.conditions:
        if condition.in_ is None and condition.not_in is None and condition.present is None:
            yield f"{place}.when: found no test of {condition.field!r}; expected in, not_in or present"
    if "used_at" not in fields:
        yield f"{place}.fields.used_at: found none; expected the field that holds the time of use"
    if not {"iccid", "imsi", "msisdn"} & fields.keys():
        yield f"{place}.fields: found none of iccid, imsi, msisdn; expected at least one"
    if not set(QUANTITY_TARGETS) & fields.keys() and rule.service != "sms":
        yield f"{place}.fields: found no quantity; expected quantity, volume_up_bytes or volume_down_bytes"
    if mapping.cumulative and "session_id" not in fields:
        yield f"{place}.fields.session_id: found none; expected the session that cumulative volumes run over"


def _field_problems(place: str, target: str, field: Field) -> Iterator[str]:
    if target not in TARGETS:
        yield f"{place}: found an unknown field; expected one of {', '.join(TARGETS)}"
        return
    given = [
        name
        for name, value in (("from", field.from_), ("join", field.join), ("value", field.value))
        if value is not None
    ]
    if len(given) != 1 or (field.value is None and not field.paths):
        yield f"{place}: found {' and '.join(given) or 'no source'}; expected exactly one of from, join, value"
    if (field.unit or field.unit_from or field.base != 1024) and target not in QUANTITY_TARGETS:
        yield f"{place}.unit: found on {target}; expected only on {', '.join(QUANTITY_TARGETS)}"
    if field.unit is not None and field.unit not in UNITS:
        yield f"{place}.unit: found {field.unit!r}; expected one of {', '.join(UNITS)}"
    yield from _number_problems(f"{place}.numbers", field.numbers)
    if field.numbers is not None and target not in (*QUANTITY_TARGETS, "sequence"):
        yield f"{place}.numbers: found on {target}; expected only on {', '.join(QUANTITY_TARGETS)}, sequence"
    if field.swapped and target not in SWAPPED_TARGETS:
        yield f"{place}.swapped: found on {target}; expected only on {', '.join(SWAPPED_TARGETS)}"
    if field.parts and target not in QUANTITY_TARGETS:
        yield f"{place}.plus: found on {target}; expected only on {', '.join(QUANTITY_TARGETS)}"
    for part in field.parts:
        if not 1 <= part.times <= _MOST_TIMES:
            yield f"{place}.plus.times: found {part.times}; expected 1 to {_MOST_TIMES}"
    if field.unit_from == SOURCE_CELL and (field.unit in CLOCKS or (field.numbers and field.numbers.radix == 16)):
        yield f"{place}.unit_from: found '@cell' beside a clock or hexadecimal numbers; expected one of the two"
    if (field.time != "iso" or field.zone != "UTC") and target not in TIME_TARGETS:
        yield f"{place}.time: found on {target}; expected only on {', '.join(TIME_TARGETS)}"
    for form in field.times:
        if form not in _ISO_TIMES and not _can_parse_times(form):
            yield f"{place}.time: found {form!r}; expected iso, epoch_s, epoch_ms, epoch_us or a strptime format"
    if not field.times:
        yield f"{place}.time: found an empty list; expected at least one format"
    if not _is_zone(field.zone):
        yield f"{place}.zone: found {field.zone!r}; expected an IANA time zone such as 'Europe/Berlin'"
    if field.mcc and target != "country":
        yield f"{place}.mcc: found on {target}; expected only on country"
    if field.lookup is not None:
        if field.values is not None:
            yield f"{place}.lookup: found values as well; expected one of the two"
        if Path(field.lookup.file).name != field.lookup.file:
            yield f"{place}.lookup.file: found {field.lookup.file!r}; expected a file name without a folder"
    if field.pattern is not None:
        try:
            pl.Series([""]).str.extract(field.pattern, 0)
        except pl.exceptions.PolarsError:
            yield f"{place}.pattern: found {field.pattern!r}; expected a regular expression (no look-around)"
    if target in _CODES and field.values is not None:
        for value in field.values.values():
            if value not in _CODES[target]:
                yield f"{place}.values: found {value!r}; expected one of {', '.join(sorted(_CODES[target]))}"


def _number_problems(place: str, numbers: Numbers | None) -> Iterator[str]:
    if numbers is None:
        return
    if numbers.decimal in numbers.separators:
        yield f"{place}.thousands: found {numbers.decimal!r} for decimals as well; expected two different characters"
    if numbers.radix == 16 and (numbers.separators or numbers.decimal != "."):
        yield f"{place}.radix: found 16 beside separators; expected hexadecimal numbers without any"


def _path_problems(mapping: Mapping) -> Iterator[str]:
    form = mapping.format
    for path, required in mapping.sources().items():
        if path.startswith("@"):
            yield f"source {path!r}: found an unknown pseudo field; expected one of {', '.join(PSEUDO_SOURCES)}"
        elif form.type == "csv":
            if form.columns and required and path not in form.columns:
                yield f"source {path!r}: found no such column in format.columns; expected one of {list(form.columns)}"
        elif path.startswith(DOCUMENT_PREFIX) and form.type != "json":
            yield f'source {path!r}: found a path of the document; expected it only with type = "json"'
        elif not all(path.split(".")):
            yield f"source {path!r}: found an empty step; expected names joined with dots"


def _can_parse_times(form: str) -> bool:
    if "%" not in form:
        return False
    try:
        pl.Series(["2026-01-01T00:00:00"]).str.to_datetime(form, strict=False, time_unit="us")
    except pl.exceptions.PolarsError:
        return False
    return True


def _is_zone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
