"""The directory of cards: who a record belongs to, and which plan and pool held at the time of use.

A card's row is its place in order of first appearance and never changes, so counters can name it for ever. Plans and
pools are kept as histories: a record is rated by what held on its own local day (P1), not by what holds now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from rating.dedupe import digest
from rating.index import Ints, KeyIndex, Words
from rating.prints import Prints
from schemas.cards import CARD_SCHEMA

BEGINNING: Final = -(1 << 30)  # a local day before all days
END: Final = 1 << 30  # a local day after all days

# One row a spell: `card` row, days `from_day` to `until_day` inclusive, `target` the id of the plan or pool.
SPELL_SCHEMA: Final = {"card": pl.Int64(), "from_day": pl.Int64(), "until_day": pl.Int64(), "target": pl.String()}


def no_spells() -> pl.DataFrame:
    """An empty history."""
    return pl.DataFrame(schema=SPELL_SCHEMA)


def add_spells(history: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
    """Spells with the `fresh` ones in force.

    A fresh spell ends an earlier one of its card on the day before it begins, replaces one that begins the same day
    or later, and counts as nothing new where the card is already on that target then. Sorted by card and day.
    """
    if fresh.is_empty():
        return history
    if history.is_empty():
        return fresh.sort("card", "from_day")
    touched = history.join(fresh, on="card", suffix="_new")
    same = (
        (pl.col("target") == pl.col("target_new"))
        & (pl.col("from_day") <= pl.col("from_day_new"))
        & (pl.col("until_day") >= pl.col("from_day_new"))
    )
    continued = touched.filter(same).select("card", pl.col("from_day").alias("since"), "until_day_new")
    changed = fresh.join(continued, on="card", how="anti")
    kept = (
        history.join(continued, on="card", how="left")
        .filter(pl.col("since").is_null() | (pl.col("from_day") <= pl.col("since")))
        .with_columns(
            until_day=pl.when(pl.col("from_day") == pl.col("since")).then("until_day_new").otherwise("until_day")
        )
        .drop("since", "until_day_new")
        .join(changed.select("card", pl.col("from_day").alias("cut")), on="card", how="left")
        .filter(pl.col("cut").is_null() | (pl.col("from_day") < pl.col("cut")))
        .with_columns(until_day=pl.min_horizontal("until_day", pl.col("cut") - 1))
        .drop("cut")
    )
    return pl.concat([kept, changed]).sort("card", "from_day")


class Spells:
    """A history compiled for look-ups: which target held for a card on a day."""

    def __init__(self, history: pl.DataFrame, cards: int, targets: dict[str, int]) -> None:
        ordered = history.sort("card", "from_day")
        self.card = ordered["card"].to_numpy()
        self.from_day = ordered["from_day"].to_numpy()
        self.until_day = ordered["until_day"].to_numpy()
        self.target = (
            ordered["target"].replace_strict(targets, default=-1, return_dtype=pl.Int64).to_numpy()
            if len(ordered)
            else np.zeros(0, np.int64)
        )
        self._first = np.searchsorted(self.card, np.arange(cards))
        self._count = np.bincount(self.card, minlength=cards)
        self._always: Ints | None = None
        if (self.from_day == BEGINNING).all() and (self.until_day == END).all() and self._count.max(initial=0) <= 1:
            # Most fleets: no card ever changed, so that a look-up is one step and not five.
            self._always = np.full(cards, -1, np.int64)
            self._always[self.card] = self.target

    def at(self, card: Ints, day: Ints) -> Ints:
        """int64[n]: the target that held for each card on each local day, -1 where none did."""
        if self._always is not None:
            return self._always[card]
        place = np.minimum(self._first[card], len(self.card) - 1)
        count = self._count[card]
        for further in range(1, int(count.max(initial=0))):
            later = np.flatnonzero(count > further)
            candidate = self._first[card[later]] + further
            reached = self.from_day[candidate] <= day[later]
            place[later[reached]] = candidate[reached]
        held = (count > 0) & (self.from_day[place] <= day) & (day <= self.until_day[place])
        return np.where(held, self.target[place], -1)


@dataclass
class CardIndex:
    """Finds cards by one of their numbers: 128-bit digest to row of the card."""

    index: KeyIndex
    high: np.ndarray
    card: Ints

    @classmethod
    def of(cls, name: str, numbers: pl.Series) -> CardIndex:
        """Index the non-null numbers of all cards, in row order; the last card with a number has it."""
        present = numbers.is_not_null().to_numpy().nonzero()[0]
        high, low = digest(name, numbers.gather(present))
        # A number given to another card later belongs to that card.
        _, last = np.unique(low[::-1], return_index=True)
        newest = np.sort(len(low) - 1 - last)
        return cls(KeyIndex(low[newest]), high[newest], present[newest])

    def find(self, high: Words, low: Words) -> Ints:
        """int64[n]: the card of each number by its digest, -1 where there is none."""
        if not len(self.index):
            return np.full(len(low), -1, np.int64)
        row = self.index.find(low)
        found = (row >= 0) & (self.high[row] == high)
        return np.where(found, self.card[row], -1)


class Directory:
    """Cards compiled for whole columns; `len()` cards, rows in order of first appearance."""

    def __init__(
        self,
        cards: pl.DataFrame,
        plan_history: pl.DataFrame,
        pool_history: pl.DataFrame,
        accounts: dict[str, int],
        plans: dict[str, int],
        pools: dict[str, int],
        plan_months: dict[str, int] | None = None,
    ) -> None:
        self.cards = cards
        self.account = (
            cards["account"].replace_strict(accounts, return_dtype=pl.Int64).to_numpy() if len(cards) else _no()
        )
        self.plans = Spells(plan_history, len(cards), plans)
        self.pools = Spells(pool_history, len(cards), pools)
        self.term_ends = term_ends(cards, plan_months or {})
        self.test_from = _days(cards["test_from"], END)
        self.activated_on = _days(cards["activated_on"], END)
        self._numbers: dict[str, CardIndex] = {}

    def __len__(self) -> int:
        return len(self.cards)

    def _index(self, name: str) -> CardIndex:
        """The index of one card number, made when a feed first names cards by it."""
        if name not in self._numbers:
            self._numbers[name] = CardIndex.of(name, self.cards[name])
        return self._numbers[name]

    def row_of(self, iccid: str) -> int:
        """The row of the card with this ICCID, -1 where there is none."""
        return int(self.rows_of(pl.Series([iccid], dtype=pl.String))[0])

    def rows_of(self, iccids: pl.Series) -> Ints:
        """int64[n]: the row of the card of each ICCID, -1 where there is none."""
        return self._index("iccid").find(*digest("iccid", iccids))

    def resolve(self, prints: Prints) -> Ints:
        """int64[n]: the card of each usage record by ICCID, else IMSI, else MSISDN (F1); -1: unknown.

        The first number that a record carries decides: one with an unknown ICCID stays unknown whatever its IMSI.
        """
        card = np.full(len(prints), -1, np.int64)
        unnamed = np.ones(len(prints), bool)
        for name, number in prints.numbers.items():
            if number.present is None and unnamed.all():
                return self._index(name).find(number.high, number.low)
            at = np.flatnonzero(unnamed if number.present is None else unnamed & number.present)
            card[at] = self._index(name).find(number.high[at], number.low[at])
            unnamed[at] = False
        return card


def _no() -> Ints:
    return np.zeros(0, np.int64)


def _days(column: pl.Series, missing: int) -> Ints:
    return column.to_physical().cast(pl.Int64).fill_null(missing).to_numpy()


def term_ends(cards: pl.DataFrame, plan_months: dict[str, int]) -> Ints:
    """int64[cards]: the last local day of each card's term (T3); END where nothing sets one.

    The term is the card's `term_months`, else that of its plan in `plan_months`, from the month of activation on.
    """
    months = pl.coalesce(
        pl.col("term_months").cast(pl.Int64),
        pl.col("plan").replace_strict(plan_months, default=None, return_dtype=pl.Int64),
    )
    ends = cards.select(
        end=(pl.col("activated_on").dt.month_start().dt.offset_by(months.cast(pl.String) + "mo") - pl.duration(days=1))
    )["end"]
    return _days(ends, END)


def upsert_cards(cards: pl.DataFrame, change: pl.DataFrame) -> pl.DataFrame:
    """Cards with those of `change` in the place of their former rows, new ones after all others, in order."""
    if cards.is_empty():
        return change.select(*CARD_SCHEMA)
    merged = cards.select("iccid").join(change, on="iccid", how="left", maintain_order="left").select(*CARD_SCHEMA)
    replaced = cards["iccid"].is_in(change["iccid"].implode())
    kept = cards.select(
        pl.when(~replaced).then(pl.col(name)).otherwise(merged[name]).alias(name) for name in CARD_SCHEMA
    )
    return pl.concat([kept, change.join(cards, on="iccid", how="anti", maintain_order="left").select(*CARD_SCHEMA)])
