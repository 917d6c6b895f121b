"""Which rated rows must be known to rate records again: those of everything that shares a total with them (P10).

Subjects share totals if they have a card, a pool or a device in common in a cycle. A session can run over several
cycles, and so can a test allowance and an add-on. The scope grows until nothing more shares anything with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from rating.apply import Compiled
from rating.catalogue.pools import DEVICE_PREFIX


@dataclass(frozen=True)
class RerateScope:
    """The rows of cards, pools and devices (`names`) in some `cycles` (labels).

    All rows of some cards and `sessions` are in the scope too. The cards in `lasting` have an allowance that spans
    cycles, so all their cycles are in the scope.
    """

    names: frozenset[str] = frozenset()
    cycles: frozenset[str] = frozenset()
    lasting: frozenset[str] = frozenset()
    sessions: frozenset[str] = frozenset()

    @property
    def first_cycle(self) -> str | None:
        """The earliest cycle whose rows can be in the scope; None if any cycle can."""
        return None if self.lasting or self.sessions else min(self.cycles, default="")

    def rows(self) -> Any:
        """Return the filter of the rows in the scope, for a dataset or a table of schemas.tables.RATED."""
        named = pc.field("iccid").isin(_texts(self.names)) | pc.field("subject").isin(_texts(self.names))
        wanted = named & own_cycle_in(self.cycles)
        if self.lasting:
            wanted |= pc.field("iccid").isin(_texts(self.lasting))
        if self.sessions:
            wanted |= pc.field("session_id").isin(_texts(self.sessions))
        return wanted

    def named(
        self, compiled: Compiled, cards: frozenset[str], pools: Collection[str], cycles: Collection[str]
    ) -> RerateScope:
        """Return the scope with these cards (ICCIDs), pools and devices, and cycles."""
        return replace(
            self,
            names=self.names | cards | {name.removeprefix(DEVICE_PREFIX) for name in pools},
            cycles=self.cycles | frozenset(cycles),
            lasting=self.lasting | lasting_cards(compiled, cards - self.lasting),
        )

    def grown(self, compiled: Compiled, rows: pa.Table) -> RerateScope:
        """Return the scope with everything that shares a total with `rows` (RATED)."""
        cards = _distinct(rows, "iccid")
        known = rows.column("adjusts_cycle").cast(pa.string())
        own = pc.coalesce(known, rows.column("cycle").cast(pa.string()))
        more = replace(self, sessions=self.sessions | _sessions(compiled, rows))
        return more.named(compiled, cards, _distinct(rows, "subject"), pc.unique(own).to_pylist())


def own_cycle_in(cycles: frozenset[str]) -> Any:
    """Return the filter of the rows (RATED) that belong to some cycles (labels)."""
    texts = _texts(cycles)
    adjusts = pc.field("adjusts_cycle").cast(pa.string())
    return pc.if_else(adjusts.is_valid(), adjusts.isin(texts), pc.field("cycle").cast(pa.string()).isin(texts))


def gathered(compiled: Compiled, scope: RerateScope, read: Callable[[RerateScope], pa.Table]) -> pa.Table:
    """Return all rated rows (RATED) that share a total with the scope. `read` returns the rows in a scope."""
    while True:
        rows = read(scope)
        more = scope.grown(compiled, rows)
        if more == scope:
            return rows
        scope = more


def lasting_cards(compiled: Compiled, iccids: frozenset[str]) -> frozenset[str]:
    """Return the cards that have an add-on or a test period, whose units span cycles."""
    directory, texts = compiled.directory, sorted(iccids)
    if not texts or not (len(compiled.addons.addons) or compiled.book.test_units.any()):
        return frozenset()
    row = directory.rows_of(pl.Series("iccid", texts, pl.String))
    lasts = np.zeros(len(texts), bool)
    known = row >= 0
    lasts[known] = compiled.addons.owned(row[known])
    if compiled.book.test_units.any():
        lasts[known] |= directory.cards["test_from"].is_not_null().to_numpy()[row[known]]
    return frozenset(text for text, one in zip(texts, lasts.tolist(), strict=True) if one)


def _sessions(compiled: Compiled, rows: pa.Table) -> frozenset[str]:
    """Return the sessions of the rows, if something is counted by session."""
    if not compiled.book.uses_sessions:
        rows = rows.filter(pc.field("reported_quantity").is_valid())
    return _distinct(rows, "session_id")


def _distinct(rows: pa.Table, name: str) -> frozenset[str]:
    return frozenset(pc.unique(rows.column(name)).to_pylist()) - {None}


def _texts(words: frozenset[str]) -> pa.Array:
    return pa.array(sorted(words), pa.string())
