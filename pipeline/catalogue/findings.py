"""Findings: the list of errors in catalogue files, and entries that know their file and line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.catalogue.lines import Lines, Path
from rating.errors import CatalogueError, Finding, PlanError, RuleError

SHOWN = 50  # findings that the text of an error prints
MOST = 2_000  # findings after which the search stops
_SEARCHED = 1_000  # largest number of names that are searched for a similar one
_SHOWN_CHARACTERS = 60
_LISTED = 12  # legal choices that a finding prints

T = TypeVar("T")


class FloatText(str):
    """A TOML float as it was written. Money must never become a binary float, not even to be rejected."""

    __slots__ = ()


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One table of a catalogue file, with its file and position. `name` begins the field paths of its findings."""

    value: T
    file: str
    lines: Lines
    path: Path
    name: str

    def line(self, *field: str | int) -> int:
        """Return the 1-based line of a field of this table; if the field is absent, that of what encloses it."""
        return self.lines.line(self.path + field)


class EnoughFound(Exception):
    """Raised when there are MOST findings. More would not help anybody, and would take time."""


class Findings:
    """The findings so far. Adding one raises EnoughFound when there are MOST of them."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    def add(self, entry: Entry[T], field: Path, found: object, expected: str) -> None:
        """Add a finding about one field of an entry. `found` is shown as a TOML value unless it is Text."""
        path = (entry.name, *field)
        self._append(Finding(path, shown(found), expected, file=entry.file, line=entry.line(*field)))

    def place(self, file: str, line: int, field: str, found: object, expected: str) -> None:
        """Add a finding at a location that belongs to no entry."""
        self._append(Finding((field,), shown(found), expected, file=file, line=line))

    def error(self, entry: Entry[T], field: Path, error: PlanError | RuleError) -> None:
        """Add the finding of an error about an entry. Its path is relative to `field`."""
        finding = error.finding
        self.add(entry, (*field, *finding.path), Text(finding.found), finding.expected)

    def _append(self, finding: Finding) -> None:
        self.all.append(finding)
        if len(self.all) >= MOST:
            raise EnoughFound

    def raise_any(self) -> None:
        """Raise CatalogueError with all findings, in order of file and line, if there are any."""
        if not self.all:
            return
        order = {file: place for place, file in enumerate(dict.fromkeys(finding.file for finding in self.all))}
        findings = sorted(dict.fromkeys(self.all), key=lambda finding: (order[finding.file], finding.line))
        error = CatalogueError(findings)
        text = [str(finding) for finding in findings[:SHOWN]]
        if len(findings) > SHOWN:
            more = "more findings" if len(self.all) < MOST else "more findings, and there may be others"
            text.append(f"... and {len(findings) - SHOWN} {more}")
        error.args = ("\n".join(text),)
        raise error


class Text(str):
    """A description of what was found. It is shown as is, not quoted like a value."""

    __slots__ = ()


NOTHING = Text("nothing")


def shown(value: object) -> str:
    """Return a value as TOML writes it, shortened if it is long; Text unchanged."""
    if isinstance(value, Text):
        return str(value)
    if isinstance(value, FloatText):
        text = str(value)
    elif isinstance(value, str):
        text = json.dumps(value[:_SHOWN_CHARACTERS], ensure_ascii=False)  # control characters escaped
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, (list, tuple)):
        text = f"an array of {len(value)}"
    else:
        text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def choice(found: object, legal: Iterable[str], noun: str = "one of") -> str:
    """Return the text that lists the legal choices: all, or some of many, and the name most similar to `found`."""
    if isinstance(legal, Collection) and len(legal) > _SEARCHED:
        return f"{noun} {len(legal)} names"
    distinct = set(legal)
    if not distinct:
        return f"{noun.removesuffix(': one of')}: there is none"
    names = sorted(distinct)
    near = difflib.get_close_matches(str(found), names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    if len(names) <= _LISTED:
        return f"{noun} {', '.join(names)}{hint}"
    return (
        f"{noun} {len(names)} names{hint}"
        if near
        else f"{noun} {', '.join(names[:_LISTED])}, ... ({len(names)} in all)"
    )
