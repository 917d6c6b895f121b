"""Pools: which one a record draws on, and how large it is at that moment (P7, A1).

SIMs of one device on a plan billed by device are a pool too, named `device:<id>`, without a fixed size or prices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rating.catalogue.allowance_sizes import version_allowances
from rating.catalogue.cards import BEGINNING, END, Directory
from rating.catalogue.rates import Book
from rating.columnar.key_index import Ints
from rating.tariff.fees import prorate_units

DEVICE_PREFIX: Final = "device:"

# Network statuses (C1) of members whose allowance counts. Suspended ones do (P7); not yet activated ones do not (C3).
COUNTING_STATUSES: Final = ("activated", "suspended")


def device_pools(cards: pl.DataFrame) -> list[str]:
    """Names of the implicit pools of devices, in order of first appearance."""
    devices = cards["device"].drop_nulls().unique(maintain_order=True)
    return [DEVICE_PREFIX + device for device in devices]


@dataclass(frozen=True)
class _Members:
    """One row a membership, those of devices last."""

    card: Ints
    pool: Ints
    from_day: Ints
    until_day: Ints
    by_device: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.bool_]  # whether its allowance does


class Pools:
    """Membership and sizes, compiled from the book and the directory. Sizes are remembered for each moment asked."""

    def __init__(self, book: Book, directory: Directory, former: Pools | None = None) -> None:
        """`former` are pools of the same book whose cards are of the same devices."""
        self.book = book
        self.directory = directory
        if former is not None and "device_row" in vars(former):
            self.device_row = former.device_row
        self._allowances = version_allowances(book)
        self._sizes: dict[tuple[int, int, int], Ints] = {}

    @cached_property
    def device_row(self) -> Ints:
        """int64[cards]: the pool of each card's device, -1 where it has none."""
        device = self.directory.cards["device"]
        if device.null_count() == len(device):
            return np.full(len(device), -1, np.int64)
        names = pl.DataFrame({"pool": DEVICE_PREFIX + device})
        rows = pl.col("pool").replace_strict(self.book.vocabulary.pools.rows, default=-1, return_dtype=pl.Int64)
        return names.select(rows.fill_null(-1))["pool"].to_numpy()

    @cached_property
    def _members(self) -> _Members:
        """Made at first use: catalogues often come in many entries, one after another."""
        has_device = np.flatnonzero(self.device_row >= 0)
        spells = self.directory.pools
        card = np.concatenate([spells.card, has_device])
        status = self.directory.cards["status"].fill_null("activated").is_in(COUNTING_STATUSES).to_numpy()
        return _Members(
            card,
            np.concatenate([spells.target, self.device_row[has_device]]),
            np.concatenate([spells.from_day, np.full(len(has_device), BEGINNING)]),
            np.concatenate([spells.until_day, np.full(len(has_device), END)]),
            np.concatenate([np.zeros(len(spells.card), bool), np.ones(len(has_device), bool)]),
            status[card] if len(card) else np.zeros(0, bool),
        )

    def of(self, card: Ints, plan: Ints, service: Ints, day: Ints) -> Ints:
        """int64[n]: the pool that each record draws on, -1 where its billing entity is the SIM."""
        if not len(self._members.card):
            return np.full(len(card), -1, np.int64)
        pool = self.directory.pools.at(card, day)
        by_device = (pool < 0) & self.book.plan_per_device[plan]
        pool = np.where(by_device, self.device_row[card], pool)
        shared = self.book.pool_shares[pool, service] & (pool >= 0)
        return np.where(shared, pool, -1)

    def sizes(self, meter: int, cycle: int, start_day: int, end_day: int, now_day: int) -> Ints:
        """int64[pools]: units of every pool on a meter in the cycle of days start to end inclusive, as of `now_day`.

        A member counts from the day it joins, until its term or its membership has ended (P7); in a cycle that is
        over, as on its last day. Of several plans in the cycle the largest allowance counts: an upgrade at once and
        for the whole cycle, a downgrade from the next. `prorate` pools count a member by its days in the cycle.
        """
        now = max(min(now_day, end_day), start_day)
        key = (meter, cycle, now)
        if key not in self._sizes:
            service = int(self.book.meter_service[meter])
            self._sizes[key] = self.sizes_of(self._allowances[:, meter], service, start_day, end_day, now)
        return self._sizes[key]

    def sizes_of(self, allowance: Ints, service: int, start_day: int, end_day: int, now_day: int) -> Ints:
        """int64[pools]: as `sizes`, where `allowance[versions]` is what counts of a service; nothing is remembered."""
        directory, book = self.directory, self.book
        now = max(min(now_day, end_day), start_day)
        per_plan = self._plan_allowances(allowance, start_day, now)
        plans = directory.plans
        held = (plans.from_day <= now) & (plans.until_day >= start_day) & (plans.target >= 0)
        per_card = np.zeros(len(directory), np.int64)
        np.maximum.at(per_card, plans.card[held], per_plan[plans.target[held]])
        member = self._here(now) & (directory.term_ends[self._members.card] >= now) & self._members.counts
        card, pool = self._members.card[member], self._members.pool[member]
        units = per_card[card]
        days = end_day - start_day + 1
        stayed = end_day - np.maximum(self._members.from_day[member], start_day) + 1
        units = np.where(book.pool_prorates[pool], prorate_units(units, stayed, np.full_like(units, days)), units)
        sizes = np.zeros(len(book.pool_shares), np.int64)
        np.add.at(sizes, pool, units)
        fixed = book.pool_fixed[:, service]
        return np.where(fixed >= 0, fixed, sizes)

    def _plan_allowances(self, allowance: Ints, start_day: int, now: int) -> Ints:
        """int64[plans]: the largest allowance of the versions in force from start to now."""
        effective, version_at = self.book.effective, self.book.version_at
        largest = np.zeros(len(effective), np.int64)
        for place in range(effective.shape[1]):
            ends = effective[:, place + 1] if place + 1 < effective.shape[1] else np.full(len(effective), END)
            in_force = (effective[:, place] <= now) & (ends > start_day) & (version_at[:, place] >= 0)
            units = np.where(in_force, allowance[version_at[:, place]], 0)
            largest = np.maximum(largest, units)
        return largest

    def members(self, now_day: int) -> Ints:
        """int64[pools]: cards that are in each pool on a local day."""
        return np.bincount(self._members.pool[self._here(now_day)], minlength=len(self.book.pool_shares))

    def cards_of(self, pool: int) -> Ints:
        """The rows of all cards that are or were in a pool."""
        cards: Ints = self._members.card[self._members.pool == pool]
        return cards

    def _here(self, day: int) -> npt.NDArray[np.bool_]:
        """bool[memberships]: whether each holds on a local day; a device's where the card's usage would be its."""
        here: npt.NDArray[np.bool_] = (self._members.from_day <= day) & (self._members.until_day >= day)
        at = np.flatnonzero(self._members.by_device)
        card, days = self._members.card[at], np.full(len(at), day)
        plan = self.directory.plans.at(card, days)
        by_device = self.book.plan_per_device[plan] if len(self.book.plan_per_device) else np.zeros(len(at), bool)
        here[at] &= (plan >= 0) & by_device & (self.directory.pools.at(card, days) < 0)
        return here
