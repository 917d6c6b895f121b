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

from rating.catalogue.allowance_sizes import version_allowances, version_prorates
from rating.catalogue.cards import Directory
from rating.catalogue.rates import Book
from rating.catalogue.service import ServiceDays, Stretches
from rating.catalogue.spells import END, Dated
from rating.columnar.key_index import Ints

DEVICE_PREFIX: Final = "device:"


def device_pools(cards: pl.DataFrame) -> list[str]:
    """Return the names of the implicit pools of devices, in order of first appearance."""
    devices = cards["device"].drop_nulls().unique(maintain_order=True)
    return [DEVICE_PREFIX + device for device in devices]


@dataclass(frozen=True)
class MeterUnits:
    """The allowance of plan versions on a meter, int64[versions], and whether each counts by days, bool[versions]."""

    units: Ints
    by_day: npt.NDArray[np.bool_]


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
        self.allowances = version_allowances(book)
        self.prorates = version_prorates(book)
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
    def devices(self) -> Dated:
        """The pool of each card's device by day, -1 if the card has no device."""
        rows = self.book.vocabulary.pools.rows
        history = self.directory.history("device")
        return Dated(self.device_row, history, lambda text: -1 if text is None else rows.get(DEVICE_PREFIX + text, -1))

    @cached_property
    def service(self) -> ServiceDays:
        """The days of service of all cards."""
        return ServiceDays(self.book, self.directory, self.devices)

    @cached_property
    def _any(self) -> bool:
        """Whether any card is or was in a pool or device."""
        devices = self.devices.spells is not None or bool((self.device_row >= 0).any())
        return devices or bool(len(self.directory.pools.card))

    def of(self, card: Ints, plan: Ints, service: Ints, day: Ints) -> Ints:
        """Return the pool that each record draws on, int64[n]; -1 if its billing entity is the SIM."""
        if not self._any:
            return np.full(len(card), -1, np.int64)
        pool = self.directory.pools.at(card, day)
        by_device = (pool < 0) & self.book.plan_per_device[plan]
        pool = np.where(by_device, self.devices.at(card, day), pool)
        shared = self.book.pool_shares[pool, service] & (pool >= 0)
        return np.where(shared, pool, -1)

    def sizes(self, meter: int, cycle: int, start_day: int, end_day: int, now_day: int) -> Ints:
        """Return the size of every pool in units on a meter, int64[pools], as of `now_day` (P7).

        The cycle lasts from `start_day` to `end_day`, inclusive; all days are local, in days since 1970. The size of a
        cycle that is over is that of its last day. A member counts on its days of service in the pool. If it has had
        several plans in the cycle, the largest allowance counts. So an upgrade counts at once and for the whole cycle,
        and a downgrade from the next cycle on. If the pool prorates, a member brings its allowances by its days of
        service in the pool; if a rate prorates, by its days of service on the plan.
        """
        now = max(min(now_day, end_day), start_day)
        key = (meter, cycle, now)
        if key not in self._sizes:
            service = int(self.book.meter_service[meter])
            units = MeterUnits(self.allowances[:, meter], self.prorates[:, meter])
            self._sizes[key] = self.sizes_of(units, service, start_day, end_day, now)
        return self._sizes[key]

    def sizes_of(self, allowance: MeterUnits, service: int, start_day: int, end_day: int, now_day: int) -> Ints:
        """Return sizes like `sizes`, for the allowance of one service, without the cache."""
        directory, book = self.directory, self.book
        now = max(min(now_day, end_day), start_day)
        whole, by_day = np.where(allowance.by_day, 0, allowance.units), np.where(allowance.by_day, allowance.units, 0)
        per_plan = self._plan_allowances(whole, start_day, now)
        plans = directory.plans
        here = (plans.from_day <= now) & (plans.until_day >= start_day) & (plans.target >= 0)
        per_card = np.zeros(len(directory), np.int64)
        np.maximum.at(per_card, plans.card[here], per_plan[plans.target[here]])
        if by_day.any():
            per_card = np.maximum(per_card, self._shares(by_day, start_day, end_day))
        present = self.service.within(now, now)
        present = present.take(present.pool >= 0)
        card, pool = present.card, present.pool
        units = per_card[card]
        prorates = book.pool_prorates[pool]
        if prorates.any():
            in_pool = self._shares(allowance.units, start_day, end_day, present)
            units = np.where(prorates, in_pool[card], units)
        sizes = np.zeros(len(book.pool_shares), np.int64)
        np.add.at(sizes, pool, units)
        fixed = book.pool_fixed[:, service]
        return np.where(fixed >= 0, fixed, sizes)

    def _shares(self, units: Ints, start_day: int, end_day: int, present: Stretches | None = None) -> Ints:
        """Return the allowance of each card by its days of service in a cycle, for its latest account, int64[cards].

        If `present` is given, only the days in the pool that each card is in there count.
        """
        part = self.service.within(start_day, end_day)
        if present is None:
            part = part.take(part.account == self.directory.account[part.card])
        else:
            pool = np.full(len(self.directory), -1, np.int64)
            pool[present.card] = present.pool
            part = part.take((part.pool >= 0) & (part.pool == pool[part.card]))
        place, version, days = self.service.by_version(part)
        of_days = np.full(len(self.directory), end_day - start_day + 1, np.int64)
        return self.service.add_shares(units, part.card[place], version, days, of_days)

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
        card = np.arange(len(self.directory))
        day = np.full(len(card), now_day, np.int64)
        pool = self.directory.pools.at(card, day)
        if len(card):
            plan = self.directory.plans.at(card, day)
            by_device = (pool < 0) & (plan >= 0)
            by_device[by_device] = self.book.plan_per_device[plan[by_device]]
            pool = np.where(by_device, self.devices.at(card, day), pool)
        return np.bincount(pool[pool >= 0], minlength=len(self.book.pool_shares))
