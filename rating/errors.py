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

from dataclasses import dataclass


class WeirError(Exception):
    """Root of all errors that Weir raises on purpose. The text says what to do next."""


class InputError(WeirError):
    """The user's input is wrong. Nothing took effect."""


class PlanError(InputError):
    """A plan, zone or price cannot rate a record."""


class RuleError(InputError):
    """A rule cannot be changed, activated or deactivated as requested (L6)."""


@dataclass(frozen=True)
class Finding:
    """One fault in a file: its place, what was found and what would be right. `line` is 1-based, 0 if unknown."""

    file: str
    line: int
    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.field}: found {self.found}; expected {self.expected}"


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
