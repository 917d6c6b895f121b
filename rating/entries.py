"""Journal entries: everything that can change a number, as plain data. `Engine.step` folds them."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from schemas.cards import Catalogue
from schemas.commands import Command
from schemas.usage import UsageBatch


@dataclass(frozen=True)
class Usage:
    """A batch of usage. If it has corrections, `originals` are the rated rows that they touch (F6).

    These are all rows of the records that they correct, and of everything that shares a total with these records or
    with replacements (rating.usage.rerate_scope).
    """

    batch: UsageBatch
    originals: pa.Table | None = None

    @property
    def count(self) -> int:
        """By how much the entry advances the offset: one for each record."""
        return self.batch.rows.height

    @property
    def at_us(self) -> int:
        """Arrival time in microseconds since 1970 UTC."""
        return self.batch.received_at_us


@dataclass(frozen=True)
class Apply:
    """A catalogue in force from here on. It arrived at `at_us`; None means at the latest arrival before it."""

    catalogue: Catalogue
    at_us: int | None = None

    @property
    def count(self) -> int:
        """By how much the entry advances the offset: one."""
        return 1


@dataclass(frozen=True)
class Tick:
    """The clock, in microseconds since 1970 UTC."""

    now_us: int

    @property
    def count(self) -> int:
        """By how much the entry advances the offset: one."""
        return 1

    @property
    def at_us(self) -> int:
        """Arrival time in microseconds since 1970 UTC: that of the clock."""
        return self.now_us


@dataclass(frozen=True)
class Commands:
    """Commands that arrived at `at_us`.

    `baseline` has totals from the history, as in rating.rules.totals.cycle_and_day, if a rule started here is the first
    to use them; None if no rule needs them.
    """

    commands: tuple[Command, ...]
    at_us: int
    baseline: pl.DataFrame | None = None

    @property
    def count(self) -> int:
        """By how much the entry advances the offset: one for each command."""
        return len(self.commands)


@dataclass(frozen=True)
class Rerate:
    """Rate records again, asked for at `at_us` (P10).

    `rows` are all rated rows (schemas.tables.RATED) of everything that shares a total with the records
    (rating.usage.rerate_scope). `because` and `cause` are written to the adjustments.
    """

    rows: pa.Table
    at_us: int
    because: str
    cause: str | None = None

    @property
    def count(self) -> int:
        """By how much the entry advances the offset: one."""
        return 1


Entry = Usage | Apply | Tick | Commands | Rerate
