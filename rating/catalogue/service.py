"""Days of service: the local days on which a card owes fees, has an allowance and counts in its pool (P7, P9).

A card is in service on a day if it was activated or suspended at any time of that day, on or after its day of
activation, and within its term. So the day on which it is deactivated or cancelled still counts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rating.catalogue.cards import Directory
from rating.catalogue.rates import Book
from rating.catalogue.spells import BEGINNING, END, Dated, Spells
from rating.columnar.key_index import Ints
from rating.tariff.fees import prorate_units

# Network statuses (C1) of cards in service. Suspended cards count (P7); cards that are not activated yet, deactivated
# or cancelled do not (C3).
COUNTING_STATUSES: Final = ("activated", "suspended")
ENDED_STATUSES: Final = ("deactivated", "cancelled")

_DAY_BITS: Final = 32
_LEAST: Final = BEGINNING - 1  # below every day, so that a day and a card can be one number


@dataclass(frozen=True)
class Stretches:
    """Stretches of days on which a card was in service on one plan and nothing else changed; int64 columns.

    They are ordered by card and day. `pool` is the pool or the device that the card shares, -1 for none. `activated_on`
    is END for a card without a day of activation.
    """

    card: Ints
    from_day: Ints
    until_day: Ints
    account: Ints
    plan: Ints
    pool: Ints
    activated_on: Ints

    def take(self, at: npt.NDArray[np.generic]) -> Self:
        """Return these stretches: positions, or a mask."""
        return type(self)(**{one.name: getattr(self, one.name)[at] for one in fields(self)})

    def between(self, first: Ints | int, last: Ints | int) -> Self:
        """Return each stretch cut to the local days from `first` to `last`, inclusive, which it must touch."""
        return replace(self, from_day=np.maximum(self.from_day, first), until_day=np.minimum(self.until_day, last))


class ServiceDays:
    """The days of service of all cards. Everything is compiled at first use."""

    def __init__(self, book: Book, directory: Directory, devices: Dated) -> None:
        """`devices` is the pool of each card's device by day, -1 for none."""
        self.book = book
        self.directory = directory
        self.devices = devices
        months = [-1 if plan.term_months is None else plan.term_months for plan in book.catalogue.plans]
        self.plan_months = np.array(months or [-1], np.int64)

    def _flag(self, statuses: tuple[str, ...], lags: bool) -> Dated:
        """Return whether the status of each card is one of these by day (0 or 1).

        A change to the value `lags` holds from the next day on.
        """
        latest = self.directory.cards["status"].fill_null("activated").is_in(statuses).to_numpy().astype(np.int64)
        history = self.directory.history("status")
        if len(history):
            flag = pl.col("target").str.split("/").list.first().is_in(statuses)
            next_day = (pl.col("from_day").shift(-1).over("card") - 1).fill_null(END)
            history = (
                history.sort("card", "from_day")
                .with_columns(flag=flag)
                .with_columns(
                    late=(pl.col("flag") == lags) & pl.col("flag").shift(1).over("card").ne(lags).fill_null(False)
                )
                .with_columns(from_day=pl.col("from_day") + pl.col("late").cast(pl.Int64))
                .with_columns(until_day=next_day)
                .filter(pl.col("from_day") <= pl.col("until_day"))
                .select("card", "from_day", "until_day", target=pl.col("flag").cast(pl.Int64).cast(pl.String))
            )
        return Dated(latest, history, lambda text: int(text or 0))

    @cached_property
    def counting(self) -> Dated:
        """Whether the status of each card counts by day (1 or 0). On the day on which it ends it still does."""
        return self._flag(COUNTING_STATUSES, lags=False)

    @cached_property
    def stopped(self) -> Dated:
        """Whether each card was deactivated or cancelled before a day (1 or 0)."""
        return self._flag(ENDED_STATUSES, lags=True)

    @cached_property
    def _ends(self) -> bool:
        """Whether the contract of any card ends."""
        return bool(
            (self.directory.term_ends < END).any()
            or self.directory.activations.spells is not None
            or self.directory.term_months.spells is not None
            or self.stopped.spells is not None
            or self.stopped.latest.any()
        )

    @cached_property
    def _constant_terms(self) -> bool:
        """Whether no card ever changed its plan, activation or term."""
        directory = self.directory
        return not directory.plans.changes and directory.activations.spells is directory.term_months.spells is None

    def term_ended(self, card: Ints, plan: Ints, day: Ints) -> npt.NDArray[np.bool_]:
        """Return whether the term of each card was over on a local day, on its plan of that day, bool[n] (T3)."""
        if not self._ends:
            return np.zeros(len(card), bool)
        if self._constant_terms:
            ends = self.directory.term_ends[card]
        else:
            ends = self.term_ends(card, plan, day, self.directory.activations.at(card, day))
        over: npt.NDArray[np.bool_] = day > ends
        return over

    def ended(self, card: Ints, plan: Ints, day: Ints) -> npt.NDArray[np.bool_]:
        """Return whether each card has no allowance on a local day, because its term is over or it was stopped."""
        if not self._ends:
            return np.zeros(len(card), bool)
        over: npt.NDArray[np.bool_] = self.term_ended(card, plan, day) | (self.stopped.at(card, day) == 1)
        return over

    def term_ends(self, card: Ints, plan: Ints, day: Ints, activated: Ints) -> Ints:
        """Return the last day of the term that each card has on a day; END for none."""
        own = self.directory.term_months.at(card, day)
        months = np.where(own >= 0, own, np.where(plan >= 0, self.plan_months[plan], -1))
        ends = np.full(len(card), END, np.int64)
        at = np.flatnonzero((months >= 0) & (activated < END))
        month = activated[at].astype("datetime64[D]").astype("datetime64[M]")
        ends[at] = (month + months[at]).astype("datetime64[D]").astype(np.int64) - 1
        return ends

    @cached_property
    def stretches(self) -> Stretches:
        """All stretches of all cards."""
        directory = self.directory
        plans, pools = directory.plans, directory.pools
        card, begins = plans.card, plans.from_day
        dated = (directory.accounts, directory.activations, directory.term_months, self.devices, self.counting)
        changes = [one.spells for one in dated if one.spells is not None] + ([pools] if len(pools.card) else [])
        until = plans.until_day
        if changes or (np.diff(card) <= 0).any():
            card, begins, until = _cut(plans, changes)
        plan = plans.at(card, begins)
        on = np.flatnonzero((plan >= 0) & (self.counting.at(card, begins) == 1))
        card, begins, until, plan = card[on], begins[on], until[on], plan[on]
        activated = directory.activations.at(card, begins)
        from_day = np.where(activated < END, np.maximum(begins, activated), begins)
        until_day = np.minimum(until, self.term_ends(card, plan, begins, activated))
        pool = pools.at(card, begins) if len(pools.card) else np.full(len(card), -1, np.int64)
        by_device = (pool < 0) & self.book.plan_per_device[plan] if len(plan) else np.zeros(0, bool)
        pool = np.where(by_device, self.devices.at(card, begins), pool)
        found = Stretches(card, from_day, until_day, directory.accounts.at(card, begins), plan, pool, activated)
        return found.take(from_day <= until_day)

    @cached_property
    def _of_card(self) -> tuple[Ints, Ints]:
        """The first stretch of each card, and the number of its stretches; int64[cards] each."""
        count = np.bincount(self.stretches.card, minlength=len(self.directory))
        return np.cumsum(count) - count, count

    def within(self, first: int, last: int) -> Stretches:
        """Return the parts of all stretches that lie between two local days, inclusive."""
        part = self.stretches
        return part.take((part.from_day <= last) & (part.until_day >= first)).between(first, last)

    def by_version(self, part: Stretches) -> tuple[Ints, Ints, Ints]:
        """Return the days of stretches by plan version: the position in `part`, the version and the days, int64[n]."""
        book, found = self.book, []
        for place in range(book.effective.shape[1]):
            begins, version = book.effective[part.plan, place], book.version_at[part.plan, place]
            further = place + 1 < book.effective.shape[1]
            ends = book.effective[part.plan, place + 1] - 1 if further else np.full(len(version), END)
            days = np.minimum(part.until_day, ends) - np.maximum(part.from_day, begins) + 1
            at = np.flatnonzero((version >= 0) & (days > 0))
            found.append((at, version[at], days[at]))
        return tuple(np.concatenate(column) for column in zip(*found, strict=True))  # type: ignore[return-value]

    def shares(self, units: Ints, card: Ints, account: Ints, start_day: Ints, end_day: Ints) -> Ints:
        """Return the allowance of each card by its days of service in a cycle, for one account, int64[n] (P9).

        `units` (int64[versions]) is the whole allowance. Cycles last from `start_day` to `end_day`, inclusive. The
        shares of all plan versions of a cycle add up.
        """
        stretches, (first, count) = self.stretches, self._of_card
        asked, rows = [], []
        for further in range(int(count[card].max(initial=0))):
            at = np.flatnonzero(count[card] > further)
            row = first[card[at]] + further
            here = (
                (stretches.account[row] == account[at])
                & (stretches.from_day[row] <= end_day[at])
                & (stretches.until_day[row] >= start_day[at])
            )
            asked.append(at[here])
            rows.append(row[here])
        if not asked:
            return np.zeros(len(card), np.int64)
        at = np.concatenate(asked)
        part = stretches.take(np.concatenate(rows)).between(start_day[at], end_day[at])
        place, version, days = self.by_version(part)
        return self.add_shares(units, at[place], version, days, end_day - start_day + 1)

    def add_shares(self, units: Ints, owner: Ints, version: Ints, days: Ints, of_days: Ints) -> Ints:
        """Return the sum of the shares of each owner, int64[owners]. Days of one version are counted together.

        `owner`, `version` and `days` are parallel; `of_days` (int64[owners]) are the days of the cycle.
        """
        total = np.zeros(len(of_days), np.int64)
        keys, inverse = np.unique(owner * len(self.book.versions) + version, return_inverse=True)
        served = np.zeros(len(keys), np.int64)
        np.add.at(served, inverse.reshape(-1), days)
        whose, which = keys // max(len(self.book.versions), 1), keys % max(len(self.book.versions), 1)
        np.add.at(total, whose, prorate_units(units[which], served, of_days[whose]))
        return total


def _cut(plans: Spells, changes: list[Spells]) -> tuple[Ints, Ints, Ints]:
    """Return the stretches between any two changes: card, first and last day, int64[n], by card and day."""
    keys = []
    for spells in (plans, *changes):
        keys.append(spells.card << _DAY_BITS | (spells.from_day - _LEAST))
        ends = np.flatnonzero(spells.until_day < END)
        keys.append(spells.card[ends] << _DAY_BITS | (spells.until_day[ends] + 1 - _LEAST))
    key = np.unique(np.concatenate(keys))
    card, begins = key >> _DAY_BITS, (key & ((1 << _DAY_BITS) - 1)) + _LEAST
    until = np.full(len(key), END, np.int64)
    same = np.flatnonzero(card[1:] == card[:-1])
    until[same] = begins[same + 1] - 1
    return card, begins, until
