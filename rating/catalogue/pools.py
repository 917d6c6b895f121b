"""Pools: the pool that a record draws on, and its size at that moment (P7, A1).

The SIMs of one device on a plan billed by device are a pool too. It is named `device:<id>` and has neither a fixed size
nor prices of its own.
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

# Network statuses (C1) of members whose allowance counts. Suspended members count (P7), members that are not activated
# yet do not (C3).
COUNTING_STATUSES: Final = ("activated", "suspended")


def device_pools(cards: pl.DataFrame) -> list[str]:
    """Return the names of the implicit pools of devices, in order of first appearance."""
    devices = cards["device"].drop_nulls().unique(maintain_order=True)
    return [DEVICE_PREFIX + device for device in devices]


@dataclass(frozen=True)
class _Members:
    """The memberships of cards in pools, one row each. Those in pools of devices come last."""

    card: Ints
    pool: Ints
    from_day: Ints
    until_day: Ints
    by_device: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.bool_]  # True if the status of the card lets its allowance count


class Pools:
    """Membership and sizes of pools, compiled from rates and cards. Sizes are cached per meter, cycle and day."""

    def __init__(self, book: Book, directory: Directory, former: Pools | None = None) -> None:
        """Compile the pools.

        `former` are pools compiled from the same table of rates, with every card in the same device. Their column of
        devices is reused.
        """
        self.book = book
        self.directory = directory
        if former is not None and "device_row" in vars(former):
            self.device_row = former.device_row
        self._allowances = version_allowances(book)
        self._sizes: dict[tuple[int, int, int], Ints] = {}

    @cached_property
    def device_row(self) -> Ints:
        """int64[cards]: the pool of each card's device, -1 if the card has no device."""
        device = self.directory.cards["device"]
        if device.null_count() == len(device):
            return np.full(len(device), -1, np.int64)
        names = pl.DataFrame({"pool": DEVICE_PREFIX + device})
        rows = pl.col("pool").replace_strict(self.book.vocabulary.pools.rows, default=-1, return_dtype=pl.Int64)
        return names.select(rows.fill_null(-1))["pool"].to_numpy()

    @cached_property
    def _members(self) -> _Members:
        """All memberships. Made at first use, because a catalogue often arrives in many entries, one after another."""
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
        """Return the pool that each record draws on, int64[n]; -1 if its billing entity is the SIM."""
        if not len(self._members.card):
            return np.full(len(card), -1, np.int64)
        pool = self.directory.pools.at(card, day)
        by_device = (pool < 0) & self.book.plan_per_device[plan]
        pool = np.where(by_device, self.device_row[card], pool)
        shared = self.book.pool_shares[pool, service] & (pool >= 0)
        return np.where(shared, pool, -1)

    def sizes(self, meter: int, cycle: int, start_day: int, end_day: int, now_day: int) -> Ints:
        """Return the size of every pool in units on a meter, int64[pools], as of `now_day` (P7).

        The cycle lasts from `start_day` to `end_day`, inclusive; all days are local, in days since 1970. The size of a
        cycle that is over is that of its last day. A member counts from the day it joins until its term or its
        membership ends. If it has had several plans in the cycle, the largest allowance counts. So an upgrade counts
        at once and for the whole cycle, and a downgrade from the next cycle on. If the pool prorates, a member counts
        by its days in the cycle.
        """
        now = max(min(now_day, end_day), start_day)
        key = (meter, cycle, now)
        if key not in self._sizes:
            service = int(self.book.meter_service[meter])
            self._sizes[key] = self.sizes_of(self._allowances[:, meter], service, start_day, end_day, now)
        return self._sizes[key]

    def sizes_of(self, allowance: Ints, service: int, start_day: int, end_day: int, now_day: int) -> Ints:
        """Return sizes like `sizes`, for the allowance column of one service (int64[versions]), without the cache."""
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
        """Return the largest allowance of each plan's versions in force from `start_day` to `now`, int64[plans]."""
        effective, version_at = self.book.effective, self.book.version_at
        largest = np.zeros(len(effective), np.int64)
        for place in range(effective.shape[1]):
            ends = effective[:, place + 1] if place + 1 < effective.shape[1] else np.full(len(effective), END)
            in_force = (effective[:, place] <= now) & (ends > start_day) & (version_at[:, place] >= 0)
            units = np.where(in_force, allowance[version_at[:, place]], 0)
            largest = np.maximum(largest, units)
        return largest

    def members(self, now_day: int) -> Ints:
        """Return the number of cards in each pool on a local day, int64[pools]."""
        return np.bincount(self._members.pool[self._here(now_day)], minlength=len(self.book.pool_shares))

    def _here(self, day: int) -> npt.NDArray[np.bool_]:
        """Return whether each membership is in force on a local day, bool[memberships].

        Membership in the pool of a device is in force if the card is on a plan billed by device and in no other pool.
        """
        here: npt.NDArray[np.bool_] = (self._members.from_day <= day) & (self._members.until_day >= day)
        at = np.flatnonzero(self._members.by_device)
        card, days = self._members.card[at], np.full(len(at), day)
        plan = self.directory.plans.at(card, days)
        by_device = self.book.plan_per_device[plan] if len(self.book.plan_per_device) else np.zeros(len(at), bool)
        here[at] &= (plan >= 0) & by_device & (self.directory.pools.at(card, days) < 0)
        return here
