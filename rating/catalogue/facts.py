"""Dated facts of cards: since when a card has its account, status, device, numbers, activation and term.

Most cards never change. So a history (FACT_SCHEMA) has rows only for the cards that changed in a fact, and these cover
all days. Every other card has the value of its row on all days. Plans and pools have histories of their own, because a
card may be without them.

A change takes effect on a local day of the account: the day that the row names, else the day of its arrival. It does
not touch the days before. A new card has its values from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rating.catalogue.cards import CardHistories, Upserted, given
from rating.catalogue.service import COUNTING_STATUSES
from rating.catalogue.spells import BEGINNING, END, SPELL_SCHEMA, add_spells, history_of, no_spells
from rating.columnar.key_index import Ints

FACTS: Final = ("account", "status", "device", "imsi", "msisdn", "activated_on", "term_months")
_TOP: Final = (1 << 30) - 1  # row of the first tenure that is not of a card's first account

_COLUMNS: Final = {"status": ("status", "status_reason")}  # of a fact that is not one column of its own name

DayOf = Callable[[pl.Series], Ints]  # the local day of an entry in each account (by id), int64[n]


def texts(cards: pl.DataFrame, fact: str) -> pl.Series:
    """Return the value of a fact of each card as text, String[n]; null if it has none.

    A status is followed by "/" and its reason, if it has one.
    """
    if fact == "status":
        text = pl.concat_str(pl.col("status").fill_null("activated"), "/" + pl.col("status_reason").fill_null(""))
        return cards.select(text=text)["text"]
    return cards[fact].cast(pl.String)


@dataclass(frozen=True)
class _Change:
    """The rows of a change, beside the cards before and after it. Columns have one element per row.

    `before` has nulls for a new card. `since` is the day that the row names, in days since 1970, and `today` the local
    day of arrival of a card in force. Both are BEGINNING for a new card that names no day.
    """

    rows: pl.DataFrame
    card: Ints
    before: pl.DataFrame
    after: pl.DataFrame
    known: npt.NDArray[np.bool_]
    stated: npt.NDArray[np.bool_]  # the row names a day
    since: Ints

    def gives(self, column: str) -> npt.NDArray[np.bool_]:
        """Return whether each row says something about a column, bool[n]."""
        return given(self.rows, column)


def follow(former: CardHistories, cards: Upserted, accounts: dict[str, str], day_of: DayOf) -> CardHistories:
    """Return the cards and their histories after a change of cards.

    `accounts` are the accounts of pools, by id. `day_of` returns the local day of arrival in accounts.
    """
    change = _change(cards, former.cards, day_of)
    facts, tenures = former.facts, former.tenures
    moved = np.zeros(len(change.card), bool)
    if change.known.any():
        for fact in FACTS:
            fresh = _fresh_facts(change, history_of(facts, fact), fact)
            if len(fresh):
                if fact == "account":
                    moved = change.known & np.isin(change.card, fresh["card"].to_numpy())
                    tenures = _with_tenures(tenures, fresh)
                facts = _with_history(facts, fact, fresh)
    return CardHistories(
        cards.cards,
        _followed(former.plans, _fresh_plans(change)),
        _followed(former.pools, _fresh_pools(change, moved, accounts)),
        facts,
        tenures,
    )


def _change(cards: Upserted, former: pl.DataFrame, day_of: DayOf) -> _Change:
    rows, card = cards.asked, cards.rows
    known = card < cards.former
    before = former[np.where(known, card, 0)] if len(former) else former.clear(len(rows))
    today = np.full(len(card), BEGINNING, np.int64)
    if known.any():
        today[known] = day_of(rows["account"].filter(pl.Series(known)))
    stated = np.zeros(len(card), bool)
    since = today
    if "from" in rows.columns and rows["from"].null_count() < len(rows):
        stated = rows["from"].is_not_null().to_numpy()
        since = np.where(stated, _days(rows["from"], BEGINNING), today)
    return _Change(rows, card, before, cards.change, known, stated, since)


def _fresh_facts(change: _Change, history: pl.DataFrame, fact: str) -> pl.DataFrame:
    """Return the spells that a change adds to the history of a fact; with the value before, for a card without one."""
    old, new = texts(change.before, fact), texts(change.after, fact)
    dated = np.isin(change.card, history["card"].unique().to_numpy()) if len(history) else np.zeros(len(new), bool)
    differs = old.ne_missing(new).to_numpy()
    again = change.stated & dated & change.gives(_COLUMNS.get(fact, (fact,))[0])
    at = np.flatnonzero(change.known & (differs | again))
    if not len(at):
        return no_spells()
    since = _since(change, fact)[at]
    first = np.flatnonzero(~dated[at])

    def spells(of: Ints, begins: Ints, target: pl.Series) -> pl.DataFrame:
        until = np.full(len(of), END, np.int64)
        frame = {"card": change.card[of], "from_day": begins, "until_day": until, "target": target}
        return pl.DataFrame(frame, schema=SPELL_SCHEMA)

    beginnings = spells(at[first], np.full(len(first), BEGINNING, np.int64), old.gather(at[first]))
    return pl.concat([beginnings, spells(at, since, new.gather(at))])


def _since(change: _Change, fact: str) -> Ints:
    """Return the first local day of the new value of a fact in each row, int64[n].

    An activation that follows an earlier one, or is the first, holds from its own day if that is past. So does the
    status of a card that it brings into service.
    """
    if fact not in ("activated_on", "status"):
        return change.since
    old, new = (_days(frame["activated_on"], END) for frame in (change.before, change.after))
    follows = ~change.stated & (new < END) & (new != old) & ((old == END) | (new > old))
    if fact == "status":
        idle, serves = (
            frame["status"].fill_null("activated").is_in(COUNTING_STATUSES).to_numpy()
            for frame in (change.before, change.after)
        )
        follows &= ~idle & serves
    return np.where(follows, np.minimum(new, change.since), change.since)


def _with_history(facts: pl.DataFrame, fact: str, fresh: pl.DataFrame) -> pl.DataFrame:
    """Return the histories with fresh spells of one fact. Those from the BEGINNING of a card come first in them."""
    first = (fresh["from_day"] == BEGINNING) & fresh["card"].is_first_distinct()
    history = add_spells(add_spells(history_of(facts, fact), fresh.filter(first)), fresh.filter(~first))
    others = facts.filter(pl.col("fact") != fact)
    return pl.concat([others, history.select(pl.lit(fact).alias("fact"), *SPELL_SCHEMA)])


def _with_tenures(tenures: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
    """Return the tenures with those of `fresh` spells of accounts. The first account of a card has the card's row."""
    owners = fresh.select("card", account="target").unique(maintain_order=True)
    owners = owners.join(tenures, on=["card", "account"], how="anti", maintain_order="left")
    first = owners["card"].is_first_distinct() & ~owners["card"].is_in(tenures["card"].implode())
    taken = int((tenures["row"] != tenures["card"]).sum())
    numbers = _TOP - taken + 1 - (~first).cum_sum().cast(pl.Int64)
    return pl.concat([tenures, owners.with_columns(row=pl.when(first).then("card").otherwise(numbers))])


def _fresh_plans(change: _Change) -> pl.DataFrame:
    """Return the spells of plans that a change adds. A target of null ends the plan."""
    rows, given_plan = change.rows, change.gives("plan")
    plan, named = rows["plan"], _days(rows["plan_from"], BEGINNING)
    has, dated = plan.is_not_null().to_numpy(), rows["plan_from"].is_not_null().to_numpy()
    differs = plan.ne_missing(change.before["plan"]).to_numpy() | ~change.known
    redated = dated & rows["plan_from"].ne_missing(change.before["plan_from"]).to_numpy()
    at = np.flatnonzero(given_plan & (has | change.known) & (differs | redated | (has & change.stated)))
    begins = np.where(dated, named, change.since)
    return _spells(change.card[at], begins[at], np.full(len(at), END, np.int64), plan.gather(at))


def _fresh_pools(change: _Change, moved: npt.NDArray[np.bool_], accounts: dict[str, str]) -> pl.DataFrame:
    """Return the spells of pools that a change adds. A target of null ends the membership.

    A card that moved to another account leaves a pool that is not of this account.
    """
    rows, given_pool = change.rows, change.gives("pool")
    pool = rows["pool"]
    has = given_pool & pool.is_not_null().to_numpy()
    redated = np.zeros(len(rows), bool)
    for name in ("pool_from", "pool_until"):
        redated |= change.gives(name) & rows[name].ne_missing(change.before[name]).to_numpy()
    differs = pool.ne_missing(change.before["pool"]).to_numpy() | ~change.known
    begins = np.where(rows["pool_from"].is_not_null().to_numpy(), _days(rows["pool_from"], BEGINNING), change.since)
    until = _days(rows["pool_until"], END)
    joins = np.flatnonzero(has & (differs | redated | change.stated))
    ends_on = change.known & change.gives("pool_until") & (until < END) & ~has
    owner = change.before["pool"].replace_strict(accounts, default=None, return_dtype=pl.String)
    astray = moved & ~has & (owner != change.after["account"]).fill_null(False).to_numpy()
    leaves = np.flatnonzero((given_pool & ~has & change.known & differs & ~ends_on) | ends_on | astray)
    left = np.where(ends_on, until + 1, change.since)
    nothing = pl.Series([None] * len(leaves), dtype=pl.String)
    return pl.concat(
        [
            _spells(change.card[joins], begins[joins], until[joins], pool.gather(joins)),
            _spells(change.card[leaves], left[leaves], np.full(len(leaves), END, np.int64), nothing),
        ]
    )


def _spells(card: Ints, from_day: Ints, until_day: Ints, target: pl.Series) -> pl.DataFrame:
    frame = {"card": card, "from_day": from_day, "until_day": until_day, "target": target}
    return pl.DataFrame(frame, schema=SPELL_SCHEMA)


def _followed(history: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
    """Return the history with fresh spells, without those that have no target."""
    after = add_spells(history, fresh)
    return after if not after["target"].null_count() else after.filter(pl.col("target").is_not_null())


def _days(column: pl.Series, missing: int) -> Ints:
    return column.to_physical().cast(pl.Int64).fill_null(missing).to_numpy()
