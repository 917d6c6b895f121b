"""Lists beside a feed file (F2): a CSV, named by the mapping, that maps a carrier's own card id to ours."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec

from rating.errors import MappingError
from schemas.mapping import Field, Lookup, Mapping

_MAX_LIST_BYTES = 64 << 20


def with_lists(mapping: Mapping, folder: Path) -> Mapping:
    """Return the mapping with the values of its looked-up fields read from the lists in `folder`.

    A mapping without lookups, or with its lists already filled in, is returned unchanged. Raises MappingError, naming
    file, line, found and expected, if a list is missing, lacks a column, or has a key twice with different values.
    """
    if not any(field.lookup is not None and field.values is None for field in _fields(mapping)):
        return mapping
    known = {lookup: _read(folder / lookup.file, lookup, mapping.name) for lookup in mapping.lookups}

    def filled(fields: dict[str, Field]) -> dict[str, Field]:
        return {
            target: field if field.lookup is None else msgspec.structs.replace(field, values=known[field.lookup])
            for target, field in fields.items()
        }

    rules = tuple(msgspec.structs.replace(rule, fields=filled(rule.fields)) for rule in mapping.records)
    return msgspec.structs.replace(mapping, fields=filled(mapping.fields), records=rules)


def _fields(mapping: Mapping) -> list[Field]:
    return [field for rule in mapping.records for field in mapping.rule_fields(rule).values()]


def _read(path: Path, lookup: Lookup, feed: str) -> dict[str, str]:
    wanted = f"a CSV with the columns {lookup.key} and {lookup.value}"
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise MappingError(f"{path}: found more than {_MAX_LIST_BYTES} bytes; feed {feed} expects {wanted}")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MappingError(
            f"{path}: cannot be read ({error.strerror or error}); feed {feed} expects {wanted} beside the feed file"
        ) from None
    except UnicodeDecodeError as error:
        raise MappingError(f"{path}: byte {error.start} is not UTF-8; feed {feed} expects {wanted}") from None
    reader = csv.DictReader(text.splitlines())
    names = reader.fieldnames or []
    if lookup.key not in names or lookup.value not in names:
        raise MappingError(f"{path}:1: found the columns {', '.join(names)}; feed {feed} expects {wanted}")
    found: dict[str, str] = {}
    for row in reader:
        key, value = (row[lookup.key] or "").strip(), (row[lookup.value] or "").strip()
        if not key or not value or key == "*":
            continue
        if found.setdefault(key, value) != value:
            raise MappingError(
                f"{path}:{reader.line_num}: {lookup.key}: found {key!r} again with another {lookup.value}; "
                f"expected each once"
            )
    return found
