"""The errors that Weir raises.

    WeirError
    |-- InputError            the user's input is wrong; exit status 2
    |   |-- PlanError         a plan, zone or price cannot rate a record
    |   |-- RuleError         a rule cannot be changed, activated or deactivated as requested
    |   |-- CatalogueError    a catalogue file is invalid (lists every finding)
    |   |-- MappingError      a feed mapping cannot be used
    |   |-- ConfigError       a configuration file, or a secret that it names, cannot be used
    |   `-- UsageError        an argument of a command is wrong
    `-- WorldError            the environment failed; nothing was acknowledged; exit status 3
        |-- LockedError       another process has locked the data directory
        |-- StorageError      the disk failed: full, read-only, no permission, damaged
        `-- SourceError       an input file cannot be read

A bad usage record is data, never an exception: see `schemas.choices.REASONS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


class WeirError(Exception):
    """Root of all errors that Weir raises on purpose. The text says what to do next."""


class InputError(WeirError):
    """The user's input is wrong. Nothing took effect."""


FieldPath = tuple[str | int, ...]  # names of fields, and positions in lists counted from 0: ("tiers", 0, "to")


@dataclass(frozen=True)
class Finding:
    """One fault of an input: the field, what was found there and what would be right.

    `path` leads from the subject to the field; () is the subject as a whole. `subject` names what was examined, such as
    "plan eu version 1" or "rule cap"; "" if the caller knows it. `file` and `line` (1-based) are "" and 0 if unknown.
    """

    path: FieldPath
    found: str
    expected: str
    subject: str = ""
    file: str = ""
    line: int = 0

    @property
    def field(self) -> str:
        """The path as text: tiers[0].to."""
        return dotted(self.path)

    def under(self, *outer: str | int) -> Finding:
        """Return the same finding with `outer` before its path."""
        return replace(self, path=(*outer, *self.path))

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        field = ", ".join(part for part in (self.subject, self.field) if part)
        about = "".join(f"{part}: " for part in (place, field) if part)
        return f"{about}found {self.found}; expected {self.expected}"


def dotted(path: FieldPath) -> str:
    """Return the path of a field as text: plans.eu.versions[0].rates[2].price."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


class PlanError(InputError):
    """A plan, zone or price cannot rate a record. `finding` says why, and is the text of the error."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)
        self.finding = finding


class RuleError(InputError):
    """A rule cannot be changed, activated or deactivated as requested (L6). `finding` says why, and is the text."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)
        self.finding = finding


class CatalogueError(InputError):
    """A catalogue is invalid. `findings` lists everything that is wrong with it."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        super().__init__("\n".join(str(finding) for finding in findings))


class MappingError(InputError):
    """A feed mapping cannot be used."""


class ConfigError(InputError):
    """A configuration file, or a secret that it names, cannot be used."""


class UsageError(InputError):
    """An argument of a command is wrong."""


class WorldError(WeirError):
    """The environment failed. Everything acknowledged before is safe, and the same command can be run again."""


class LockedError(WorldError):
    """Another process has locked the data directory."""


class StorageError(WorldError):
    """The disk failed: full, read-only, no permission, or damaged."""


class SourceError(WorldError):
    """An input file cannot be read."""
