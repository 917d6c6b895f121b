"""The card directory: the card that a record belongs to, and the card's plan and pool at the time of use.

The row of a card is its position in order of first appearance. It never changes, so counters can refer to it forever.
Plans and pools are kept as histories of spells. A record is rated by the plan and pool of its own local day (P1), not
by the current ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import polars as pl

from rating.columnar.key_index import Ints, KeyIndex, Words
from rating.dedupe.digests import Prints
from rating.dedupe.seen import digest
from schemas.cards import CARD_SCHEMA

BEGINNING: Final = -(1 << 30)  # a local day before all others
END: Final = 1 << 30  # a local day after all others

# One row per spell: a card (its row) is on a plan or in a pool (the id `target`) from `from_day` to `until_day`,
# inclusive, in days since 1970.
SPELL_SCHEMA: Final = {"card": pl.Int64(), "from_day": pl.Int64(), "until_day": pl.Int64(), "target": pl.String()}

_MOST_CHUNKS: Final = 64  # a frame of more chunks is copied into one, because many chunks slow down every access


def no_spells() -> pl.DataFrame:
    """Return an empty history."""
    return pl.DataFrame(schema=SPELL_SCHEMA)


def add_spells(history: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
    """Return the history with the `fresh` spells added, sorted by card and day.

    A fresh spell ends an earlier spell of its card on the day before it begins. It replaces spells that begin on the
    same day or later. If the card is already on that target on the first day, the existing spell is extended or cut to
    the last day of the fresh one instead.
    """
    if fresh.is_empty():
        return history
    fresh = fresh.sort("card", "from_day")
    if history.is_empty():
        return fresh
    if fresh["card"][0] > history["card"][-1]:
        return _few_chunks(pl.concat([history, fresh]))
    # Most changes touch few cards. The spells of all other cards are not processed.
    named = np.zeros(max(history["card"][-1], fresh["card"][-1]) + 1, bool)
    named[fresh["card"].to_numpy()] = True
    touched = pl.Series(named[history["card"].to_numpy()])
    before = history.filter(touched)
    after = _followed(before, fresh)
    return history if after.equals(before) else history.filter(~touched).merge_sorted(after, "card")


def _followed(history: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
    """Return the spells of the cards in `fresh` with the fresh spells added, sorted by card and day."""
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
    """A history compiled for look-ups of the target (row of the plan or pool) of a card on a day."""

    def __init__(self, history: pl.DataFrame, cards: int, targets: dict[str, int]) -> None:
        ordered = history if _is_sorted(history) else history.sort("card", "from_day")
        self.card = ordered["card"].to_numpy()
        self.from_day = ordered["from_day"].to_numpy()
        self.until_day = ordered["until_day"].to_numpy()
        self.target = (
            ordered["target"].replace_strict(targets, default=-1, return_dtype=pl.Int64).to_numpy()
            if len(ordered)
            else np.zeros(0, np.int64)
        )
        self._count = np.bincount(self.card, minlength=cards)
        self._first = np.cumsum(self._count) - self._count
        self._always: Ints | None = None
        if (self.from_day == BEGINNING).all() and (self.until_day == END).all() and self._count.max(initial=0) <= 1:
            # In most fleets no card ever changed. A look-up is then one step, not five.
            self._always = np.full(cards, -1, np.int64)
            self._always[self.card] = self.target

    def at(self, card: Ints, day: Ints) -> Ints:
        """Return the target of each card on each local day, int64[n]; -1 if there is none."""
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


@dataclass(frozen=True)
class CardIndex:
    """Index of cards by one of their numbers: from the 128-bit digest of the number to the row of the card.

    The index covers the first `cards` cards. The earlier ones of these are in the index `older`, if there is one.
    """

    index: KeyIndex
    high: np.ndarray
    card: Ints
    cards: int
    older: CardIndex | None = None

    @classmethod
    def of(cls, name: str, numbers: pl.Series, start: int = 0) -> CardIndex:
        """Index the non-null numbers of the cards from row `start` on. The last card with a number owns it."""
        numbers = numbers.slice(start)
        present = numbers.is_not_null().to_numpy().nonzero()[0]
        high, low = digest(name, numbers.drop_nulls())
        card = present + start
        ordered = np.sort(low)
        if (ordered[1:] == ordered[:-1]).any():
            # If several cards have the same number, it belongs to the last one.
            _, last = np.unique(low[::-1], return_index=True)
            newest = np.sort(len(low) - 1 - last)
            high, low, card = high[newest], low[newest], card[newest]
        return cls(KeyIndex(low), high, card, start + len(numbers))

    def grown(self, name: str, numbers: pl.Series) -> CardIndex:
        """Return an index of all `numbers`. This index, which covers the first of them, does not change."""
        first = self if self.older is None else self.older
        if len(numbers) > 2 * first.cards:
            return CardIndex.of(name, numbers)
        return replace(CardIndex.of(name, numbers, first.cards), older=first)

    def find(self, high: Words, low: Words) -> Ints:
        """Return the card of each number, given its digest, int64[n]; -1 if no card has the number."""
        card = np.full(len(low), -1, np.int64)
        if len(self.index):
            row = self.index.find(low)
            found = (row >= 0) & (self.high[row] == high)
            card = np.where(found, self.card[row], -1)
        if self.older is not None:
            # Look in the older index only for numbers that no later card has.
            at = np.flatnonzero(card < 0)
            card[at] = self.older.find(high[at], low[at])
        return card


@dataclass(frozen=True)
class Upserted:
    """Cards after an upsert, and a description of the change.

    `cards` are all cards, `change` the upserted ones. `rows` (int64) is the row in `cards` of each row of `change`.
    `former` is the number of cards before. `columns` are the columns in which a card that existed has changed.
    """

    cards: pl.DataFrame
    change: pl.DataFrame
    rows: Ints
    former: int
    columns: frozenset[str]

    @cached_property
    def replaced(self) -> Ints:
        """int64[k]: rows of the cards that existed before and that the change upserts, ascending."""
        return np.sort(self.rows[self.rows < self.former])

    def keeps(self, column: str) -> bool:
        """Return True if no card was added and no card changed in this column."""
        return len(self.cards) == self.former and column not in self.columns


@dataclass(frozen=True)
class CardHistories:
    """All cards (CARD_SCHEMA), and the histories of their plans and pools (SPELL_SCHEMA)."""

    cards: pl.DataFrame
    plans: pl.DataFrame
    pools: pl.DataFrame


@dataclass(frozen=True)
class Targets:
    """The rows of accounts, plans and pools in the vocabulary, by id."""

    accounts: dict[str, int]
    plans: dict[str, int]
    pools: dict[str, int]


class Directory:
    """All cards, compiled for look-ups of whole columns. Rows are in order of first appearance.

    `former` is the directory before a change, with the change. Columns that the change does not touch are not compiled
    again. Parts that need all cards are compiled at first use, because a catalogue often arrives in many entries, one
    after another.
    """

    def __init__(
        self,
        histories: CardHistories,
        targets: Targets,
        plan_months: dict[str, int] | None = None,
        former: tuple[Directory, Upserted] | None = None,
    ) -> None:
        cards = histories.cards
        self.cards = cards
        self._histories = histories
        self._targets = targets
        self._plan_months = plan_months or {}
        self._numbers: dict[str, CardIndex] = {}

        held = None if former is None else former[0]
        same_terms = held is not None and held._plan_months == self._plan_months

        def follow(column: Ints | None, find: Callable[[pl.DataFrame], Ints]) -> Ints:
            if former is None or column is None:
                return find(cards)
            followed = np.empty(len(cards), np.int64)
            followed[: len(column)] = column
            followed[former[1].rows] = find(former[1].change)
            return followed

        self.account: Ints = follow(
            None if held is None else held.account, lambda some: _accounts(some, targets.accounts)
        )
        self.term_ends: Ints = follow(
            held.term_ends if held is not None and same_terms else None,
            lambda some: term_ends(some, self._plan_months),
        )
        self.test_from: Ints = follow(
            None if held is None else held.test_from, lambda some: _days(some["test_from"], END)
        )
        self.activated_on: Ints = follow(
            None if held is None else held.activated_on, lambda some: _days(some["activated_on"], END)
        )
        if former is not None:
            changed = former[1].columns
            self._numbers = {name: one for name, one in former[0]._numbers.items() if name not in changed}

    @cached_property
    def plans(self) -> Spells:
        """The plan of each card by day."""
        return Spells(self._histories.plans, len(self), self._targets.plans)

    @cached_property
    def pools(self) -> Spells:
        """The pool of each card by day, without the pools of devices."""
        return Spells(self._histories.pools, len(self), self._targets.pools)

    def __len__(self) -> int:
        return len(self.cards)

    def _index(self, name: str) -> CardIndex:
        """Return the index of one kind of card number. It is made when it is first needed."""
        index = self._numbers.get(name)
        if index is None:
            index = CardIndex.of(name, self.cards[name])
        elif index.cards < len(self):
            index = index.grown(name, self.cards[name])
        self._numbers[name] = index
        return index

    def row_of(self, iccid: str) -> int:
        """Return the row of the card with this ICCID, -1 if there is none."""
        return int(self.rows_of(pl.Series([iccid], dtype=pl.String))[0])

    def rows_of(self, iccids: pl.Series) -> Ints:
        """Return the row of the card with each ICCID, int64[n]; -1 if there is none."""
        return self._index("iccid").find(*digest("iccid", iccids))

    def resolve(self, prints: Prints) -> Ints:
        """Return the card of each usage record by ICCID, else IMSI, else MSISDN, int64[n]; -1 if unknown (F1).

        The first of these numbers that a record carries decides. If its ICCID is unknown, the card is unknown, whatever
        the IMSI.
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


def _accounts(cards: pl.DataFrame, accounts: dict[str, int]) -> Ints:
    return cards["account"].replace_strict(accounts, return_dtype=pl.Int64).to_numpy() if len(cards) else _no()


def _is_sorted(history: pl.DataFrame) -> bool:
    card, day = np.diff(history["card"].to_numpy()), np.diff(history["from_day"].to_numpy())
    return not ((card < 0) | ((card == 0) & (day < 0))).any()


def _few_chunks(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.rechunk() if frame.n_chunks() > _MOST_CHUNKS else frame


def _days(column: pl.Series, missing: int) -> Ints:
    return column.to_physical().cast(pl.Int64).fill_null(missing).to_numpy()


def term_ends(cards: pl.DataFrame, plan_months: dict[str, int]) -> Ints:
    """Return the last local day of each card's term, int64[cards], days since 1970; END if it has no term (T3).

    The term is the card's `term_months`, else that of its plan in `plan_months`. The month of activation is the first
    of these months.
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
    """Return the cards after an upsert: changed cards keep their rows, new cards follow in the order of `change`."""
    return upserted(cards, change).cards


def upserted(cards: pl.DataFrame, change: pl.DataFrame) -> Upserted:
    """Upsert cards like `upsert_cards`. Returns the cards with a description of the change."""
    change = change.select(*CARD_SCHEMA)
    if cards.is_empty() or change.is_empty():
        whole = change if cards.is_empty() else cards
        return Upserted(whole, change, np.arange(len(change)), len(cards), frozenset())
    known = change.select("iccid").with_row_index("place").join(cards.select("iccid").with_row_index("row"), on="iccid")
    place, row = known["place"].to_numpy(), known["row"].to_numpy()
    rows = np.full(len(change), -1, np.int64)
    rows[place] = row
    fresh = rows < 0
    rows[fresh] = len(cards) + np.arange(fresh.sum())
    was, now = cards[row], change[place]
    columns = frozenset(name for name in CARD_SCHEMA if not was[name].equals(now[name], null_equal=True))
    if columns:
        source = np.arange(len(cards))
        source[row] = len(cards) + np.arange(len(row))
        cards = cards.with_columns(pl.concat([cards[name], now[name]]).gather(source) for name in sorted(columns))
    whole = _few_chunks(pl.concat([cards, change.filter(fresh)])) if fresh.any() else cards
    return Upserted(whole, change, rows, len(cards), columns)
