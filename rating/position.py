"""The position of an entry in the journal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JournalPosition:
    """A partition of the journal, and the offset in it of an entry or of its first record."""

    partition: int
    offset: int
