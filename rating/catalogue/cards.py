"""The card directory: the card that a record belongs to, and the card's plan and pool at the time of use.

The row of a card is its position in order of first appearance. It never changes, so counters can refer to it forever.
Plans and pools are kept as histories of spells. A record is rated by the plan and pool of its own local day (P1), not
by the current ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rating.catalogue.former_numbers import FormerNumbers
from rating.catalogue.spells import END, Dated, Spells, day_number, few_chunks, history_of, no_facts, no_tenures
from rating.columnar.key_index import Ints, KeyIndex, Words
from rating.dedupe.digests import Prints
from rating.dedupe.seen import digest
from schemas.cards import CARD_SCHEMA

_ACCOUNT_BITS: Final = 32


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

    `cards` are all cards, `change` the upserted ones, `asked` the rows of the change as they came. `rows` (int64) is
    the row in `cards` of each row of `change`. `former` is the number of cards before. `columns` are the columns in
    which a card that existed has changed.
    """

    cards: pl.DataFrame
    change: pl.DataFrame
    asked: pl.DataFrame
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
    """All cards (CARD_SCHEMA), histories of plans and pools (SPELL_SCHEMA) and of other facts, and tenures."""

    cards: pl.DataFrame
    plans: pl.DataFrame
    pools: pl.DataFrame
    facts: pl.DataFrame = field(default_factory=no_facts)  # FACT_SCHEMA
    tenures: pl.DataFrame = field(default_factory=no_tenures)  # TENURE_SCHEMA


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

    def history(self, fact: str) -> pl.DataFrame:
        """Return the history of a fact of cards that changed in it (SPELL_SCHEMA)."""
        return history_of(self._histories.facts, fact)

    @cached_property
    def accounts(self) -> Dated:
        """The account of each card by day of this account, as a row in the vocabulary."""
        accounts = self._targets.accounts
        return Dated(self.account, self.history("account"), lambda text: -1 if text is None else accounts[text])

    @cached_property
    def activations(self) -> Dated:
        """The day of activation that each card has by day; END for none."""
        return Dated(self.activated_on, self.history("activated_on"), day_number)

    @cached_property
    def term_months(self) -> Dated:
        """The term of each card itself by day, in months; -1: as its plan says."""
        latest = self.cards["term_months"].cast(pl.Int64).fill_null(-1).to_numpy()
        return Dated(latest, self.history("term_months"), lambda text: -1 if text is None else int(text))

    def billed_as(self, card: Ints, account: Ints) -> Ints:
        """Return the row under which the counters of an account count each card, int64[n].

        It is the row of the card, unless the card had another account before this one.
        """
        keys, rows = self._tenures
        if not len(keys):
            return card
        key = card << _ACCOUNT_BITS | account
        place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        return np.where(keys[place] == key, rows[place], card)

    def tenant(self, row: Ints) -> tuple[Ints, Ints]:
        """Return the card and the account (-1: the latest) of rows that `billed_as` returned, int64[n] each."""
        card, account = row.copy(), np.full(len(row), -1, np.int64)
        keys, rows = self._tenures
        if len(keys):
            order = np.argsort(rows)
            place = np.minimum(np.searchsorted(rows[order], row), len(rows) - 1)
            known = np.flatnonzero(rows[order][place] == row)
            key = keys[order][place[known]]
            card[known], account[known] = key >> _ACCOUNT_BITS, key & ((1 << _ACCOUNT_BITS) - 1)
        return card, account

    @cached_property
    def _tenures(self) -> tuple[Ints, Ints]:
        """The keys of tenures (card and account), ascending, and their rows; int64[tenures] each."""
        tenures = self._histories.tenures
        if tenures.is_empty():
            return _no(), _no()
        account = _accounts(tenures, self._targets.accounts)
        key = tenures["card"].to_numpy() << _ACCOUNT_BITS | account
        order = np.argsort(key)
        return key[order], tenures["row"].to_numpy()[order]

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

    def resolve(self, prints: Prints, day_of: Callable[[Ints, Ints], Ints] | None = None) -> Ints:
        """Return the card of each usage record by ICCID, else IMSI, else MSISDN, int64[n]; -1 if unknown (F1).

        The first of these numbers that a record carries decides. If its ICCID is unknown, the card is unknown, whatever
        the IMSI. An IMSI or MSISDN names the card that had it on the day of use: `day_of` returns the local day of use
        of records (positions) for cards. Without it the number names the card that has it now.
        """
        card = np.full(len(prints), -1, np.int64)
        unnamed = np.ones(len(prints), bool)
        for name, number in prints.numbers.items():
            whole = number.present is None and unnamed.all()
            at = np.flatnonzero(unnamed if number.present is None else unnamed & number.present)
            high, low = (number.high, number.low) if whole else (number.high[at], number.low[at])
            found = self._index(name).find(high, low)
            former = self._former_numbers.get(name)
            if former is not None and day_of is not None:
                former.put(found, high, low, lambda cards, some, at=at: day_of(cards, at[some]))  # type: ignore[misc]
            if whole:
                return found
            card[at] = found
            unnamed[at] = False
        return card

    @cached_property
    def _former_numbers(self) -> dict[str, FormerNumbers]:
        histories = {name: self.history(name) for name in ("imsi", "msisdn")}
        return {name: FormerNumbers(name, one, self.cards[name]) for name, one in histories.items() if len(one)}


def _no() -> Ints:
    return np.zeros(0, np.int64)


def _accounts(cards: pl.DataFrame, accounts: dict[str, int]) -> Ints:
    return cards["account"].replace_strict(accounts, return_dtype=pl.Int64).to_numpy() if len(cards) else _no()


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


def upserted(cards: pl.DataFrame, asked: pl.DataFrame) -> Upserted:
    """Upsert cards like `upsert_cards`. Returns the cards with a description of the change.

    A card that exists keeps its values in the columns that its row does not give (CHANGE_SCHEMA).
    """
    change = asked.select(*CARD_SCHEMA)
    if cards.is_empty() or change.is_empty():
        whole = change if cards.is_empty() else cards
        return Upserted(whole, change, asked, np.arange(len(change)), len(cards), frozenset())
    known = change.select("iccid").with_row_index("place").join(cards.select("iccid").with_row_index("row"), on="iccid")
    place, row = known["place"].to_numpy(), known["row"].to_numpy()
    rows = np.full(len(change), -1, np.int64)
    rows[place] = row
    fresh = rows < 0
    rows[fresh] = len(cards) + np.arange(fresh.sum())
    former = len(cards)
    was = cards[row]
    now = merged(was, asked[place])
    columns = frozenset(name for name in CARD_SCHEMA if not was[name].equals(now[name], null_equal=True))
    if len(place):
        change = pl.concat([change.filter(fresh), now])[np.argsort(np.concatenate([np.flatnonzero(fresh), place]))]
    if columns:
        source = np.arange(len(cards))
        source[row] = len(cards) + np.arange(len(row))
        cards = cards.with_columns(pl.concat([cards[name], now[name]]).gather(source) for name in sorted(columns))
    whole = few_chunks(pl.concat([cards, change.filter(fresh)])) if fresh.any() else cards
    return Upserted(whole, change, asked, rows, former, columns)


# Columns that belong to another one: if that one gets another value, these have what the row says, or nothing.
_BELONGS: Final = {
    "plan_from": "plan", "pool_from": "pool", "pool_until": "pool", "status_reason": "status",
}  # fmt: skip


def given(rows: pl.DataFrame, column: str) -> npt.NDArray[np.bool_]:
    """Return whether each row of a change says something about a column of CARD_SCHEMA, bool[n]."""
    owner = _BELONGS.get(column, column)
    whole = rows[owner].is_not_null().to_numpy() if owner in ("plan", "pool") else np.ones(len(rows), bool)
    if "given" not in rows.columns or rows["given"].null_count() == len(rows):
        return whole
    found = {text: column in text.split(",") for text in rows["given"].drop_nulls().unique()}
    answers = rows["given"].replace_strict(found, default=None, return_dtype=pl.Boolean)
    return np.where(answers.is_null().to_numpy(), whole, answers.fill_null(False).to_numpy())


def merged(was: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of cards that exist after a change (CARD_SCHEMA), from their values before and what was asked."""
    columns = []
    for name in CARD_SCHEMA:
        takes = given(asked, name)
        owner = _BELONGS.get(name)
        if owner is not None:
            takes = takes | (given(asked, owner) & asked[owner].ne_missing(was[owner]).to_numpy())
        columns.append(asked[name] if takes.all() else asked[name].zip_with(pl.Series(takes), was[name]))
    return pl.DataFrame(columns)
