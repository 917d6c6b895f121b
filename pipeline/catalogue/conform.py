"""Check whether a TOML table has the shape of a msgspec struct.

`msgspec.convert` stops at the first error. This check finds all errors.
"""

from __future__ import annotations

import datetime as dt
import functools
from typing import Any

import msgspec
from msgspec import inspect

from pipeline.catalogue.findings import NOTHING, Entry, Findings, FloatText, choice
from pipeline.catalogue.lines import Path


def conform(entry: Entry[dict[str, Any]], kind: type[msgspec.Struct], findings: Findings) -> dict[str, Any] | None:
    """Add a finding for each reason why the table of the entry is not a `kind`; return the repaired table, or None.

    Some errors have an obvious repair: an unknown field is removed, and a number in place of text becomes text. The
    table is returned if all errors are of this sort, so that later checks can find further errors in the same run.
    """
    shape = _Shape(entry, findings)
    repaired = shape.check(entry.value, _shape_of(kind), ())
    return repaired if shape.clear else None


@functools.cache
def _shape_of(kind: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(kind)


class _Shape:
    def __init__(self, entry: Entry[dict[str, Any]], findings: Findings) -> None:
        self._entry = entry
        self._findings = findings
        self.clear = True  # every error so far could be repaired

    def check(self, value: Any, kind: inspect.Type, path: Path) -> Any:
        """Return the value, with obvious errors repaired."""
        if isinstance(kind, inspect.StructType):
            return self._table(value, kind, path)
        if isinstance(kind, inspect.DictType):
            return self._mapping(value, kind, path)
        if isinstance(kind, inspect.VarTupleType):
            return self._array(value, kind, path)
        if isinstance(kind, inspect.UnionType):
            return self._union(value, kind, path)
        if isinstance(kind, inspect.LiteralType):
            if value not in kind.values or isinstance(value, bool):
                self._wrong(path, value, choice(value, map(str, kind.values)))
            return value
        if not _fits(value, kind):
            return self._misfit(value, (kind,), path)
        return value

    def _wrong(self, path: Path, value: object, expected: str) -> None:
        self.clear = False
        self._findings.add(self._entry, path, value, expected)

    def _misfit(self, value: Any, kinds: tuple[inspect.Type, ...], path: Path) -> Any:
        is_number = isinstance(value, (FloatText, int)) and not isinstance(value, bool)
        if is_number and any(isinstance(kind, inspect.StrType) for kind in kinds):
            expected = f'text: write "{value}", in quotes, so that no digit is lost'
            self._findings.add(self._entry, path, value, expected)
            return str(value)
        self._wrong(path, value, _wanted(kinds))
        return value

    def _table(self, value: Any, kind: inspect.StructType, path: Path) -> Any:
        if not isinstance(value, dict):
            self._wrong(path, value, f"a table with {', '.join(field.encode_name for field in kind.fields)}")
            return value
        fields = {field.encode_name: field for field in kind.fields}
        repaired = {}
        for name, inner in value.items():
            if name in fields:
                repaired[name] = self.check(inner, fields[name].type, (*path, name))
            else:
                legal = [other for other in fields if other not in value]
                expected = choice(name, legal, "no field of this name, but one of")
                self._findings.add(self._entry, (*path, name), inner, expected)
        for name, field in fields.items():
            if field.required and name not in value:
                self._wrong((*path, name), NOTHING, _wanted((field.type,)))
        return repaired

    def _mapping(self, value: Any, kind: inspect.DictType, path: Path) -> Any:
        if not isinstance(value, dict):
            self._wrong(path, value, "a table")
            return value
        return {name: self.check(inner, kind.value_type, (*path, name)) for name, inner in value.items()}

    def _array(self, value: Any, kind: inspect.VarTupleType, path: Path) -> Any:
        if not isinstance(value, list):
            self._wrong(path, value, "an array")
            return value
        return [self.check(item, kind.item_type, (*path, index)) for index, item in enumerate(value)]

    def _union(self, value: Any, kind: inspect.UnionType, path: Path) -> Any:
        members = tuple(member for member in kind.types if not isinstance(member, inspect.NoneType))
        for member in members:
            if len(members) == 1 or _fits(value, member):
                return self.check(value, member, path)
        return self._misfit(value, members, path)


def _fits(value: object, kind: inspect.Type) -> bool:
    """Return whether the outermost type is right. The caller checks what is inside."""
    if isinstance(kind, inspect.StrType):
        return isinstance(value, str) and not isinstance(value, FloatText)
    if isinstance(kind, inspect.IntType):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(kind, inspect.BoolType):
        return isinstance(value, bool)
    if isinstance(kind, inspect.DateTimeType):
        return isinstance(value, dt.datetime)
    if isinstance(kind, inspect.DateType):
        return isinstance(value, dt.date) and not isinstance(value, dt.datetime)
    if isinstance(kind, inspect.VarTupleType):
        return isinstance(value, list)
    return False


def _wanted(kinds: tuple[inspect.Type, ...]) -> str:
    words = [_WORDS[type(kind)] for kind in kinds if type(kind) in _WORDS]
    words += [choice(None, map(str, kind.values)) for kind in kinds if isinstance(kind, inspect.LiteralType)]
    return " or ".join(words) or "a table"


_WORDS: dict[type[inspect.Type], str] = {
    inspect.StrType: "text in quotes",
    inspect.IntType: "a whole number",
    inspect.BoolType: "true or false",
    inspect.DateType: "a date such as 2026-10-01, without quotes",
    inspect.DateTimeType: "a time with its offset such as 2026-10-01T08:00:00Z, without quotes",
    inspect.VarTupleType: "an array",
    inspect.StructType: "a table",
}
