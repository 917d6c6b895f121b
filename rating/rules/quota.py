"""Quotas of SIMs and sizes of pools, at the time when a rule is evaluated (L1 to L3, L8, P7, P9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from rating.catalogue.allowance_sizes import CycleDays, sizes_at
from rating.catalogue.cards import Directory
from rating.catalogue.pools import MeterUnits, Pools
from rating.catalogue.rates import Book
from rating.columnar.key_index import Flags, Ints
from rating.usage.allowances import Addons
from schemas.usage import Direction, Service

_NO_HOME: Final = -1


@dataclass(frozen=True)
class _Share:
    """Allowance of plan versions over some of their meters.

    `whole` (int64[versions]) is the sum in units of the allowances that count in full. `by_day` has the meters on which
    the allowances of some versions count by days, with a mask of these versions, bool[versions] (P9).
    """

    whole: Ints
    by_day: tuple[tuple[int, Flags], ...]

    @classmethod
    def of(cls, allowances: Ints, prorates: Flags, counting: Flags) -> _Share:
        """Return the share of the meters that the mask `counting` marks; all are [versions, meters].

        The mask `prorates` marks the allowances that count by days.
        """
        by_day = prorates & counting
        meters = np.flatnonzero(by_day.any(axis=0)).tolist()
        return cls((allowances * (counting & ~by_day)).sum(axis=1), tuple((one, by_day[:, one]) for one in meters))


class Quota:
    """Quotas and pool sizes for whole columns. A cycle is given by its first and last local day, inclusive."""

    def __init__(self, book: Book, directory: Directory, pools: Pools, addons: Addons) -> None:
        self._book = book
        self._directory = directory
        self._pools = pools
        self._addons = addons
        self._allowances = pools.allowances
        self._prorates = pools.prorates
        self._shares: dict[Service | None, _Share] = {}
        self._home_slot: Ints | None = None
        self._pool_sizes: dict[tuple[Service, Direction | None, int, int], Ints] = {}

    def sim(self, service: Service, card: Ints, version: Ints, days: CycleDays, now_us: int) -> Ints:
        """int64[n]: the quota of each SIM on a service: its plan's allowance and the add-ons that act (C5).

        An add-on acts at the moment `now_us`, of which `days.today` is the local day of each. 0 for version -1.
        """
        allowance = self.allowance(service, card, version, days.start_day, days.end_day)
        return np.where(version >= 0, allowance + self.addons(service, card, now_us, days.today), 0)

    def addons(self, service: Service, card: Ints, now_us: int, day: Ints) -> Ints:
        """int64[n]: units of the add-ons of each SIM for a service that are valid at `now_us`, used up or not (C5)."""
        return self._addons.bought(card, service, now_us, day)

    def allowance(self, service: Service, card: Ints, version: Ints, cycle_start: Ints, cycle_end: Ints) -> Ints:
        """int64[n]: the allowance of the plan version of each SIM for a service in a cycle, over all zones and bands.

        It counts by days of service if the rate says so (P9). 0 for version -1.
        """
        if service not in self._shares:
            counting = np.broadcast_to(self._book.meter_service == service, self._allowances.shape)
            self._shares[service] = _Share.of(self._allowances, self._prorates, counting)
        return self._units(self._shares[service], card, version, cycle_start, cycle_end)

    def has_one_counter(self, service: Service) -> Flags:
        """bool[versions]: whether the plan version has at most one counter with an allowance for the service."""
        meters = self._book.meter_service == service
        one: Flags = np.count_nonzero(self._allowances[:, meters], axis=1) <= 1
        return one

    def home(self, card: Ints, version: Ints, cycle_start: Ints, cycle_end: Ints) -> Ints:
        """int64[n]: like `allowance`, for data on the meters of the home zone."""
        if None not in self._shares:
            self._shares[None] = _Share.of(self._allowances, self._prorates, self.home_meters(Service.DATA, None))
        return self._units(self._shares[None], card, version, cycle_start, cycle_end)

    def _units(self, share: _Share, card: Ints, version: Ints, cycle_start: Ints, cycle_end: Ints) -> Ints:
        """int64[n]: the units of each version in a cycle, for its card; 0 for version -1."""
        if not len(share.whole):
            return np.zeros(len(version), np.int64)
        size = np.where(version >= 0, share.whole[version], 0)
        for meter, versions in share.by_day:
            at = np.flatnonzero((version >= 0) & versions[version])
            units = self._allowances[:, meter]
            account = self._directory.account[card[at]]
            size[at] += self._pools.service.shares(units, card[at], account, cycle_start[at], cycle_end[at])
        return size

    def pool(self, service: Service, direction: Direction | None, pool: Ints, days: CycleDays) -> Ints:
        """int64[n]: the size of each pool for a service and direction (None: all) (P7).

        The size is that on the day `days.today`: the fixed size of a static pool; for any other pool, the sum over the
        counters of `pool_meters` of its members' plans.
        """
        home = self.pool_meters(service, direction)
        counting = np.flatnonzero((home & (self._allowances > 0)).any(axis=0)).tolist()

        def sizes(_: int, code: int, start_day: int, end_day: int, now_day: int) -> Ints:
            key = (service, direction, code, max(min(now_day, end_day), start_day))
            if key not in self._pool_sizes:
                fixed = self._book.pool_fixed[:, service]
                size = np.zeros(len(fixed), np.int64)
                for meter in counting:
                    units = MeterUnits(self._allowances[:, meter] * home[:, meter], self._prorates[:, meter])
                    size += self._pools.sizes_of(units, service, start_day, end_day, now_day)
                self._pool_sizes[key] = np.where(fixed >= 0, fixed, size)
            return self._pool_sizes[key]

        return sizes_at(sizes, pool, np.zeros_like(pool), days)

    def home_slot(self) -> Ints:
        """int64[versions]: the zone slot of the home zone; 0 if the version has no zones, -1 if none is home."""
        if self._home_slot is None:
            slots = []
            for key in self._book.zone_keys:
                homes = [slot for slot, zone in enumerate(key.zones, 1) if zone.home]
                slots.append(homes[0] if homes else _NO_HOME if key.zones else 0)
            self._home_slot = np.array(slots, np.int64)[self._book.version_zone_key]
        return self._home_slot

    def all_pool_meters(self) -> Flags:
        """bool[versions, meters]: the meters of `pool_meters` for all services."""
        meters: Flags = np.logical_or.reduce([self.pool_meters(service, None) for service in Service])
        return meters

    def pool_meters(self, service: Service, direction: Direction | None) -> Flags:
        """bool[versions, meters]: the meters whose usage pool rules compare with the size of a pool (L8).

        They are the meters of the home zone, with all usage on them, wherever it was: a meter that counts other zones
        too is used up by them. If no zone of a plan is its home, all its meters count.
        """
        book, meters = self._book, self.home_meters(service, direction)
        for version, slot in enumerate(self.home_slot().tolist()):
            if slot == _NO_HOME:
                ways = slice(None) if direction is None else direction
                rates = np.unique(book.rate_at[version, service, ways])
                meters[version, book.rates.meter[rates[rates >= 0]]] = True
        return meters

    def home_meters(self, service: Service, direction: Direction | None) -> Flags:
        """bool[versions, meters]: the meters that count home-zone usage of a service and direction (None: all)."""
        book = self._book
        meters = np.zeros((len(book.versions), len(book.vocabulary.meters)), bool)
        for version, slot in enumerate(self.home_slot().tolist()):
            if slot != _NO_HOME:
                ways = slice(None) if direction is None else direction
                rates = np.unique(book.rate_at[version, service, ways, slot])
                meters[version, book.rates.meter[rates[rates >= 0]]] = True
        return meters
