"""The errors that Weir raises.

    WeirError
    |-- InputError            what the user gave is wrong; exit status 2
    |   |-- PlanError         a plan, zone or price that cannot be rated by
    |   |-- RuleError         a rule that cannot be changed or started as asked
    |   |-- CatalogueError    a catalogue file that cannot take effect (holds every finding)
    |   |-- MappingError      a feed mapping that cannot be used
    |   |-- ConfigError       a configuration file, or a secret that it names, that cannot be used
    |   `-- UsageError        an argument of a command
    `-- WorldError            the world failed; nothing was acknowledged; exit status 3
        |-- LockedError       another process holds the data directory
        |-- StorageError      the disk refused: full, read-only, no permission, damaged
        `-- SourceError       an input file cannot be read

A bad usage record is data, never an exception: see `schemas.choices.REASONS`.
"""

from __future__ import annotations

from dataclasses import dataclass


class WeirError(Exception):
    """Root of all errors that Weir raises on purpose; its text says what to do next."""


class InputError(WeirError):
    """What the user gave is wrong; nothing took effect."""


class PlanError(InputError):
    """A plan, zone or price that no record can be rated by."""


class RuleError(InputError):
    """A rule that cannot be changed or started as asked (L6)."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong in a file: where, what was found and what would be right. `line` is 1-based, 0 if unknown."""

    file: str
    line: int
    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.field}: found {self.found}; expected {self.expected}"


class CatalogueError(InputError):
    """A catalogue that cannot take effect; `findings` lists everything that is wrong with it."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        super().__init__("\n".join(str(finding) for finding in findings))


class MappingError(InputError):
    """A feed mapping that cannot be used."""


class ConfigError(InputError):
    """A configuration file, or a secret that it names, that cannot be used."""


class UsageError(InputError):
    """An argument that a command cannot act on."""


class WorldError(WeirError):
    """The world failed; what was acknowledged before still holds, and the same command can be given again."""


class LockedError(WorldError):
    """Another process holds the data directory."""


class StorageError(WorldError):
    """The disk refused: full, read-only, no permission, or damaged."""


class SourceError(WorldError):
    """An input file cannot be read."""
