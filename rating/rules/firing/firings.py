"""Firings: what each rule found, as columns, and the tables of firings and actions that leave the engine (L10, L12)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Self

import numpy as np
import polars as pl

from rating.columnar.key_index import Ints

NONE: Final = np.iinfo(np.int64).min  # null in an integer column


def nothing() -> Ints:
    """int64[0]: the column of what a rule does not have."""
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Labels:
    """Names by code, `code` int64[n]: a column of text that is written out only where it leaves."""

    names: list[str]
    code: Ints

    def __getitem__(self, at: Ints) -> Self:
        return replace(self, code=self.code[at])

    def text(self) -> pl.Series:
        """String[n]."""
        return pl.Series(self.names, dtype=pl.String).gather(self.code)


@dataclass(frozen=True)
class Fires:
    """The firings of one rule over one entry of the journal; int64[n] unless noted, NONE is null.

    `level` is how many levels of the threshold hold, `known` how many had fired before. `threshold` is the highest one
    that holds, in units. `window` is the code that the memory knows it by. `place` is the row of the batch.
    """

    rule: int  # number of the rule in the vocabulary
    card: Ints
    offset: Ints  # journal offset
    window: Ints
    level: Ints
    known: Ints
    before: Ints = field(default_factory=nothing)
    now: Ints = field(default_factory=nothing)
    size: Ints = field(default_factory=nothing)
    threshold: Ints = field(default_factory=nothing)
    pool: Ints = field(default_factory=nothing)
    used_us: Ints = field(default_factory=nothing)
    place: Ints = field(default_factory=nothing)
    from_value: pl.Series | None = None  # String[n]
    to_value: pl.Series | None = None
    label: pl.Series | Labels | None = None  # String[n]: name of the window; None: no window
    released: bool = False  # the condition that suspended the SIM is over

    def __post_init__(self) -> None:
        for one in fields(self):
            column = getattr(self, one.name)
            if isinstance(column, np.ndarray) and len(column) == 0 and len(self.card):
                object.__setattr__(self, one.name, np.full(len(self.card), NONE, np.int64))

    def __len__(self) -> int:
        return len(self.card)

    def take(self, at: Ints) -> Self:
        """The firings at the places given, in that order."""
        columns: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        kinds = (np.ndarray, pl.Series, Labels)
        taken: dict[str, Any] = {name: c[at] for name, c in columns.items() if isinstance(c, kinds)}
        return replace(self, **taken)
