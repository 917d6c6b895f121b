"""Histories of the facts of cards: which plan, pool, account, status or number a card had on which local days."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import polars as pl

from rating.columnar.key_index import Ints

BEGINNING: Final = -(1 << 30)  # a local day before all others
END: Final = 1 << 30  # a local day after all others

# One row per spell: a card (its row) has the value `target` (a plan, a pool, an account, ...) from `from_day` to
# `until_day`, inclusive, in days since 1970.
SPELL_SCHEMA: Final = {"card": pl.Int64(), "from_day": pl.Int64(), "until_day": pl.Int64(), "target": pl.String()}

# Histories of facts other than plans and pools. Only cards that changed in a fact have rows; they cover all days.
FACT_SCHEMA: Final = {"fact": pl.String()} | SPELL_SCHEMA

# A tenure is the time in which one account owns a card. Under `row` the counters of that account count the card: the
# row of the card for its first account, a number from the top of the rows for any other. Only cards that changed
# their account have tenures.
TENURE_SCHEMA: Final = {"card": pl.Int64(), "account": pl.String(), "row": pl.Int64()}

_EPOCH: Final = dt.date(1970, 1, 1)
_MOST_CHUNKS: Final = 64  # a frame of more chunks is copied into one, because many chunks slow down every access


def no_spells() -> pl.DataFrame:
    """Return an empty history."""
    return pl.DataFrame(schema=SPELL_SCHEMA)


def no_facts() -> pl.DataFrame:
    """Return the histories of cards that never changed."""
    return pl.DataFrame(schema=FACT_SCHEMA)


def no_tenures() -> pl.DataFrame:
    """Return the tenures of cards that never changed their account."""
    return pl.DataFrame(schema=TENURE_SCHEMA)


def history_of(facts: pl.DataFrame, fact: str) -> pl.DataFrame:
    """Return the history of one fact (SPELL_SCHEMA)."""
    return facts.filter(pl.col("fact") == fact).drop("fact") if len(facts) else no_spells()


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
        return few_chunks(pl.concat([history, fresh]))
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
        pl.col("target").eq_missing(pl.col("target_new"))
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


def day_number(text: str | None) -> int:
    """Return the day since 1970 that a history says in words (ISO 8601); END for none."""
    return END if text is None else (dt.date.fromisoformat(text) - _EPOCH).days


class Spells:
    """A history compiled for look-ups of the target (such as the row of the plan) of a card on a day."""

    def __init__(self, history: pl.DataFrame, cards: int, targets: dict[str, int], nothing: int = -1) -> None:
        ordered = history if _is_sorted(history) else history.sort("card", "from_day")
        self.card = ordered["card"].to_numpy()
        self.from_day = ordered["from_day"].to_numpy()
        self.until_day = ordered["until_day"].to_numpy()
        self.target = (
            ordered["target"].replace_strict(targets, default=nothing, return_dtype=pl.Int64).to_numpy()
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

    @property
    def changes(self) -> bool:
        """Whether the target of any card begins or ends on some day."""
        return self._always is None

    def in_turn(self, card: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Yield (positions in `card`, the spell of each of these cards): first spells, then second ones and so on."""
        for further in range(int(self._count[card].max(initial=0))):
            at = np.flatnonzero(self._count[card] > further)
            yield at, self._first[card[at]] + further

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


class Dated:
    """A fact that each card has on all days: a value for most cards, a history for those whose value changed.

    `latest` (int64[cards]) is the value of a card without a history. `history` (SPELL_SCHEMA) covers all days of the
    other cards.
    """

    def __init__(self, latest: Ints, history: pl.DataFrame, value_of: Callable[[str | None], int]) -> None:
        self.latest = latest
        self.spells: Spells | None = None
        if len(history):
            texts = history["target"].unique(maintain_order=True).to_list()
            values = {text: value_of(text) for text in texts if text is not None}
            self.spells = Spells(history, len(latest), values, value_of(None))
            self.changed = np.zeros(len(latest), bool)
            self.changed[self.spells.card] = True

    def at(self, card: Ints, day: Ints) -> Ints:
        """Return the value of each card on each local day, int64[n]."""
        value: Ints = self.latest[card]
        if self.spells is not None:
            where = np.flatnonzero(self.changed[card])
            value[where] = self.spells.at(card[where], day[where])
        return value


def few_chunks(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame, copied into one chunk if it has many."""
    return frame.rechunk() if frame.n_chunks() > _MOST_CHUNKS else frame


def _is_sorted(history: pl.DataFrame) -> bool:
    card, day = np.diff(history["card"].to_numpy()), np.diff(history["from_day"].to_numpy())
    return not ((card < 0) | ((card == 0) & (day < 0))).any()


def texts_on(history: pl.DataFrame, latest: pl.Series, card: Ints, day: Ints) -> pl.Series:
    """Return the value of a fact of cards on local days as text, String[n].

    `latest` is the value now of each of these cards, String[n]. It holds on all days for a card without a history.
    """
    if history.is_empty():
        return latest
    texts = history["target"].unique().drop_nulls()
    rows = dict(zip(texts.to_list(), range(len(texts)), strict=True))
    spells = Spells(history, int(max(history["card"].max(), card.max(initial=0))) + 1, rows)
    place = spells.at(card, day)
    found = pl.concat([texts, pl.Series(texts.name, [None], dtype=pl.String)]).gather(
        np.where(place < 0, len(texts), place)
    )
    dated = np.isin(card, history["card"].to_numpy())
    return found.zip_with(pl.Series(dated), latest)
