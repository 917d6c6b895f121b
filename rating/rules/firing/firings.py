"""Firings of each rule as columns (L12)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Self

import numpy as np
import polars as pl

from rating.columnar.key_index import Ints

NONE: Final = np.iinfo(np.int64).min  # null in an integer column

# Which actions of a firing are withheld.
RESUMES: Final = 1  # resumes: another hold keeps the SIM suspended, or it is cancelled
NETWORK: Final = 2  # whatever the network would do: the window of the firing is over
NETWORK_ACTIONS: Final = ("suspend", "resume", "throttle", "change_status", "change_plan")


def is_withheld(action: str, withheld: int) -> bool:
    """Return whether an action of this type is not asked for."""
    return (withheld == RESUMES and action == "resume") or (withheld == NETWORK and action in NETWORK_ACTIONS)


def nothing() -> Ints:
    """int64[0]: the value of a column that does not apply to a rule."""
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Labels:
    """A dictionary-encoded text column: `names[code[i]]` is row i, with `code` int64[n].

    The text is materialised only when it leaves the engine.
    """

    names: list[str]
    code: Ints

    def __getitem__(self, at: Ints) -> Self:
        return replace(self, code=self.code[at])

    def text(self) -> pl.Series:
        """String[n]: the text of each row."""
        return pl.Series(self.names, dtype=pl.String).gather(self.code)


@dataclass(frozen=True)
class Fires:
    """The firings of one rule in one journal entry. Columns are int64[n] unless noted; NONE is null.

    `level` is the number of threshold levels that are met, `known` the number that had fired before. `threshold` is the
    highest level met, in units. `window` is the code of the window in the memory. `place` is the row in the batch. A
    column given with length 0 becomes a column of NONE.
    """

    rule: int  # number of the rule in the vocabulary
    card: Ints  # row of the card directory
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
    withheld: Ints = field(default_factory=nothing)  # which actions are not asked for: RESUMES, NETWORK; NONE: all are
    released: bool = False  # True: the suspension of the SIM ends

    def __post_init__(self) -> None:
        for one in fields(self):
            column = getattr(self, one.name)
            if isinstance(column, np.ndarray) and len(column) == 0 and len(self.card):
                object.__setattr__(self, one.name, np.full(len(self.card), NONE, np.int64))

    def __len__(self) -> int:
        return len(self.card)

    def take(self, at: Ints) -> Self:
        """Return the firings at the given indices, in that order."""
        columns: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        kinds = (np.ndarray, pl.Series, Labels)
        taken: dict[str, Any] = {name: c[at] for name, c in columns.items() if isinstance(c, kinds)}
        return replace(self, **taken)
