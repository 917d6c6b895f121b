"""The table of rates: all plan versions, compiled so that a whole batch finds its rates by indexing.

Each plan version is a row. The rate of a record is `rate_at[version, service, direction, zone, band]`. This is the most
specific rate of the plan: the zone counts more than the band, and the band more than the direction. The overage rates
of pools are in the same table.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from rating.calendars.bands import bands_in_use
from rating.calendars.calendar import CycleCalendar, ZoneCalendar
from rating.catalogue.account_tree import AccountTree
from rating.catalogue.vocabulary import Vocabulary
from rating.columnar.key_index import Ints
from rating.errors import Finding, PlanError
from rating.tariff import PriceBook, PriceSpec
from rating.tariff.increments import IncrementBook, IncrementSpec
from rating.units.quantity import parse_quantity
from schemas.cards import Catalogue, Pool
from schemas.plans import Cycle, Plan, PlanVersion, Rate, Zone
from schemas.usage import Direction, Service

SERVICES: Final = {"data": Service.DATA, "sms": Service.SMS, "voice": Service.VOICE}
DIRECTIONS: Final = {"up": Direction.UP, "down": Direction.DOWN, "mo": Direction.MO, "mt": Direction.MT}
MOST_METERS: Final = 4000
NO_CAP: Final = np.iinfo(np.int64).max

CYCLE_BASIS: Final = 0
RECORD_BASIS: Final = 1
SESSION_BASIS: Final = 2
_BASES: Final = {"cycle": CYCLE_BASIS, "record": RECORD_BASIS, "session": SESSION_BASIS}


def meter_name(rate: Rate) -> str:
    """Return the name of the meter (running total) of a rate: its `counter`, or service/direction/zone@band."""
    if rate.counter is not None:
        return rate.counter
    parts: list[str] = [rate.service]
    if rate.direction != "any":
        parts.append(rate.direction)
    if rate.zone is not None:
        parts.append(rate.zone)
    return "/".join(parts) + (f"@{rate.band}" if rate.band is not None else "")


def allowance_units(rate: Rate, data_base: int) -> int:
    """Return the allowance of a rate in units of its service. Several amounts add up, as they are used one by one."""
    amounts = rate.allowance if isinstance(rate.allowance, tuple) else (rate.allowance,)
    return sum(parse_quantity(amount, rate.service, data_base) for amount in amounts)


@dataclass(frozen=True)
class RateColumns:
    """The rates of plan versions and pools, one row per rate."""

    meter: Ints
    service: Ints
    allowance: Ints  # units; all rates of a version on one meter share it
    prorate: np.ndarray  # bool: the allowance of the first cycle is prorated by days (P9)
    sim_cap: Ints  # units that one SIM may use from its pool in a cycle, NO_CAP: no cap (P8)
    basis: Ints  # CYCLE_BASIS, RECORD_BASIS or SESSION_BASIS: the total that the price accumulates over
    capacity: np.ndarray  # bool: priced by the peak
    per_session: np.ndarray  # bool: increments apply to the total of the session (P3)
    connect_fee_nanos: Ints


class _Rates:
    """The rates collected while plans and pools are compiled."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.rows: list[tuple[int, int, int, bool, int, int, bool, bool]] = []
        self.places: list[str] = []  # the plan or pool and the meter of each rate, for error messages
        self.prices: list[PriceSpec] = []
        self.increments: list[IncrementSpec] = []

    def add(self, where: str, rate: Rate, allowance: int, data_base: int) -> int:
        """Append one rate and return its row."""
        cap = NO_CAP if rate.sim_cap is None else parse_quantity(rate.sim_cap, rate.service, data_base)
        self.rows.append(
            (
                self.vocabulary.meters.row(meter_name(rate)),
                int(SERVICES[rate.service]),
                allowance,
                rate.prorate_allowance,
                cap,
                _BASES[rate.price.basis],
                rate.price.model == "capacity",
                rate.increment.per == "session",
            )
        )
        self.places.append(where)
        self.prices.append(PriceSpec(rate.price, rate.rounding, rate.service, data_base))
        self.increments.append(IncrementSpec(rate.increment, rate.service, data_base))
        return len(self.rows) - 1

    def compile(self) -> tuple[PriceBook, IncrementBook]:
        """Compile prices and increments. Raises PlanError naming the first rate that cannot be used."""
        try:
            return PriceBook.compile(self.prices), IncrementBook.compile(self.increments)
        except PlanError:
            for where, price, increment in zip(self.places, self.prices, self.increments, strict=True):
                try:
                    PriceBook.compile([price])
                    IncrementBook.compile([increment])
                except PlanError as error:
                    raise PlanError(replace(error.finding, subject=where)) from None
            raise

    def columns(self, book: PriceBook) -> RateColumns:
        """Return all rates as columns."""
        table = np.array(self.rows, np.int64).reshape(-1, 8)
        return RateColumns(
            meter=table[:, 0].copy(),
            service=table[:, 1].copy(),
            allowance=table[:, 2].copy(),
            prorate=table[:, 3].astype(bool),
            sim_cap=table[:, 4].copy(),
            basis=table[:, 5].copy(),
            capacity=table[:, 6].astype(bool),
            per_session=table[:, 7].astype(bool),
            connect_fee_nanos=np.asarray(book.connect_fee_nanos, np.int64),
        )


# Most units of a single record: 32 TiB of data, 1,048,576 SMS or 2**25 seconds of voice (more than a year). More is a
# fault of the feed.
MOST_UNITS: Final = np.array([1 << 45, 1 << 20, 1 << 25], np.int64)


@dataclass(frozen=True)
class ZoneKey:
    """How a plan version finds the zone of a record: its zones in order, and the zone for all other countries."""

    zones: tuple[Zone, ...]
    default_zone: str | None

    def slot(self, plmn: str, country: str, named: str) -> int:
        """Return 1 + the position of the zone, 0 for no zone (P5).

        A zone named by the feed comes first, then a zone with the PLMN, then a zone with the country, then the default.
        """
        for place, zone in enumerate(self.zones, 1):
            if named and zone.name == named:
                return place
        for place, zone in enumerate(self.zones, 1):
            if plmn and plmn in zone.plmns:
                return place
        for place, zone in enumerate(self.zones, 1):
            if country and country in zone.countries:
                return place
        for place, zone in enumerate(self.zones, 1):
            if zone.name == self.default_zone:
                return place
        return 0


class Book:
    """All plan versions and pool rates of a catalogue, compiled. Raises PlanError if one of them is invalid.

    `effective[plan, n]` is the first local day (days since 1970) of the plan's n-th version, and `version_at[plan, n]`
    the row of that version.
    """

    def __init__(self, catalogue: Catalogue, vocabulary: Vocabulary) -> None:
        # Cards are left out, because the table of rates outlives changes of cards.
        self.catalogue = replace(catalogue, cards=catalogue.cards.clear())
        self.vocabulary = vocabulary
        for account in catalogue.accounts:
            vocabulary.accounts.row(account.id)
        for plan in catalogue.plans:
            vocabulary.plans.row(plan.id)
        for pool in catalogue.pools:
            vocabulary.pools.row(pool.id)
        for service in SERVICES:
            vocabulary.meters.row(service)  # usage of a pool of fixed size counts on the meter of the service
        self.account_tree: AccountTree = AccountTree({account.id: account.parent for account in catalogue.accounts})
        self.time_zones, self.account_zone = self._zones_of_accounts()
        self.grace_us = np.array([account.grace_hours * 3_600_000_000 for account in catalogue.accounts], np.int64)
        self.versions: list[tuple[Plan, PlanVersion]] = []
        rates = _Rates(vocabulary)
        self._compile_plans(rates)
        self._compile_pools(rates)
        self.prices, self.increments = rates.compile()
        self.rates = rates.columns(self.prices)
        self.meter_service = np.zeros(len(vocabulary.meters), np.int64)
        self.meter_service[: len(SERVICES)] = list(SERVICES.values())
        self.meter_service[self.rates.meter] = self.rates.service
        self.price_specs = rates.prices
        self.increment_specs = rates.increments
        self.uses_sessions = bool(
            (self.rates.per_session | (self.rates.basis == SESSION_BASIS) | (self.rates.connect_fee_nanos > 0)).any()
        )
        self._places: dict[tuple[str, str, str], Ints] = {}
        self.cycle_calendars = [_calendar(name) for name in vocabulary.cycles.names]
        self.most_units = self._most_units()
        if len(vocabulary.meters) > MOST_METERS:
            found, most = f"{len(vocabulary.meters)} counters", f"at most {MOST_METERS}: let rates share `counter`"
            raise PlanError(Finding((), found, most))

    def _zones_of_accounts(self) -> tuple[list[ZoneCalendar], Ints]:
        names: dict[str, int] = {}
        zone = [names.setdefault(account.time_zone, len(names)) for account in self.catalogue.accounts]
        return [ZoneCalendar(name) for name in names], np.array(zone, np.int64)

    def _compile_plans(self, rates: _Rates) -> None:
        plans = self.catalogue.plans
        zone_sets = {zone_set.id: zone_set for zone_set in self.catalogue.zones}
        most = max((len(plan.versions) for plan in plans), default=1)
        never = np.iinfo(np.int64).max
        self.effective = np.full((len(plans), most), never, np.int64)
        self.version_at = np.full((len(plans), most), -1, np.int64)
        self.plan_cycle = np.array([self._cycle_row(plan.cycle) for plan in plans], np.int64)
        self.plan_stops = np.array([plan.after_term == "reject" for plan in plans], bool)
        self.plan_per_device = np.array([plan.entity == "device" for plan in plans], bool)
        self.zone_keys: list[ZoneKey] = []
        zone_rows: dict[ZoneKey, int] = {}
        ordered: list[tuple[int, Plan, PlanVersion]] = []
        for plan in plans:
            ordered.extend(
                (self.vocabulary.versions.row(f"{plan.id}@{version.version}"), plan, version)
                for version in sorted(plan.versions, key=lambda version: version.effective)
            )
        ordered.sort(key=lambda entry: entry[0])
        self.versions = [(plan, version) for _, plan, version in ordered]
        rows = {(plan.id, version.version): row for row, plan, version in ordered}
        currencies = self.vocabulary.currencies
        self.currency_of_version = np.array([currencies.row(plan.currency) for plan, _ in self.versions], np.int64)
        for row, plan in enumerate(plans):
            for place, version in enumerate(sorted(plan.versions, key=lambda version: version.effective)):
                self.effective[row, place] = (version.effective - _EPOCH).days
                self.version_at[row, place] = rows[plan.id, version.version]
        self.version_zone_key = np.zeros(len(self.versions), np.int64)
        for row, (_, version) in enumerate(self.versions):
            zones = zone_sets[version.zones].zones if version.zones is not None else ()
            key = ZoneKey(zones, version.default_zone)
            self.version_zone_key[row] = zone_rows.setdefault(key, len(zone_rows))
        self.zone_keys = list(zone_rows)
        zone_slots = 1 + max((len(key.zones) for key in self.zone_keys), default=0)
        band_slots = 1 + max((len(version.bands) for _, version in self.versions), default=0)
        shape = (len(self.versions), len(Service), len(Direction), zone_slots, band_slots)
        self.rate_at = np.full(shape, -1, np.int64)
        self.banded = np.zeros((len(self.versions), len(Service)), bool)
        self.split_directions = np.zeros(len(self.versions), bool)
        self.test_units = np.zeros(len(self.versions), np.int64)
        self.test_months = np.zeros(len(self.versions), np.int64)
        for row, (plan, version) in enumerate(self.versions):
            self._compile_version(row, plan, version, rates)
        # True if there is a rate in any band. A data record in both directions may also be rated by up and down.
        self.rated_at: np.ndarray = np.any(self.rate_at >= 0, axis=4)
        self.rated_whole = self.rated_at.copy()
        both_ways = self.rated_at[:, Service.DATA, Direction.UP] & self.rated_at[:, Service.DATA, Direction.DOWN]
        self.rated_at[:, Service.DATA, Direction.BOTH] |= both_ways

    def _compile_version(self, row: int, plan: Plan, version: PlanVersion, rates: _Rates) -> None:
        zones = {zone.name: place for place, zone in enumerate(self.zone_keys[self.version_zone_key[row]].zones, 1)}
        bands = {band.name: place for place, band in enumerate(version.bands, 1)}
        shared: dict[str, int] = {}
        for rate in version.rates:
            units = allowance_units(rate, version.data_base)
            shared[meter_name(rate)] = shared.get(meter_name(rate)) or units
        # Write the least specific rate first, so that more specific ones overwrite it.
        for rate in sorted(version.rates, key=lambda r: (r.zone is not None, r.band is not None, r.direction != "any")):
            where = f"plan {plan.id} version {version.version}, {meter_name(rate)}"
            if rate.zone is not None and rate.zone not in zones:
                raise PlanError(Finding((), f"zone {rate.zone!r}", f"one of {sorted(zones)}", where))
            if rate.band is not None and rate.band not in bands:
                raise PlanError(Finding((), f"band {rate.band!r}", f"one of {sorted(bands)}", where))
            try:
                number = rates.add(where, rate, shared[meter_name(rate)], version.data_base)
            except PlanError as error:
                raise PlanError(replace(error.finding, subject=where)) from error
            direction = slice(None) if rate.direction == "any" else DIRECTIONS[rate.direction]
            zone = slice(None) if rate.zone is None else zones[rate.zone]
            band = slice(None) if rate.band is None else bands[rate.band]
            service = SERVICES[rate.service]
            self.rate_at[row, service, direction, zone, band] = number
            self.banded[row, service] |= rate.band is not None
            if rate.service == "data" and rate.direction != "any":
                self.split_directions[row] = True
        if self.banded[row].any():
            self._check_bands(row, plan, version)
        if version.test is not None:
            self.test_units[row] = parse_quantity(version.test.amount, "data", version.data_base)
            self.test_months[row] = version.test.months

    def _check_bands(self, row: int, plan: Plan, version: PlanVersion) -> None:
        """Raise PlanError if there is a rate in some bands, but not at all times of all days."""
        slots = sorted(band + 1 for band in bands_in_use(version.bands, version.holidays))
        rated = self.rate_at[row][..., slots] >= 0
        halves = np.argwhere(rated.any(axis=-1, keepdims=True) & ~rated)
        if not len(halves):
            return
        service, _, _, slot = halves[0]
        missing = slots[slot]
        when = f"in band {version.bands[missing - 1].name!r}" if missing else "outside its bands"
        found = f"rates for {list(SERVICES)[service]} in some bands and none {when}"
        expected = "a rate there, or one without a band for all other times"
        raise PlanError(Finding(("bands",), found, expected, f"plan {plan.id} version {version.version}"))

    def _compile_pools(self, rates: _Rates) -> None:
        names = self.vocabulary.pools.names
        declared = {pool.id: pool for pool in self.catalogue.pools}
        accounts = self.vocabulary.accounts.rows
        self.pools: list[Pool | None] = [declared.get(name) for name in names]  # None: the pool of a device
        self.pool_rate = np.full((len(names), len(Service), len(Direction)), -1, np.int64)
        self.pool_shares = np.ones((len(names), len(Service)), bool)
        self.pool_fixed = np.full((len(names), len(Service)), -1, np.int64)
        self.pool_prorates = np.zeros(len(names), bool)
        self.pool_cycle = np.full(len(names), -1, np.int64)  # -1: the cycle of the plan
        self.pool_account = np.full(len(names), -1, np.int64)  # -1: the account of the card
        for row, pool in enumerate(self.pools):
            if pool is None:
                continue
            self.pool_cycle[row] = self._cycle_row(pool.cycle)
            self.pool_account[row] = accounts[pool.account]
            self.pool_prorates[row] = pool.joining == "prorate"
            self.pool_shares[row] = [name in pool.services for name in SERVICES]
            for size in pool.size:
                self.pool_fixed[row, SERVICES[size.service]] = parse_quantity(size.amount, size.service, pool.data_base)
            for rate in sorted(pool.overage, key=lambda rate: rate.direction != "any"):
                where = f"pool {pool.id}, overage {meter_name(rate)}"
                try:
                    number = rates.add(where, rate, 0, pool.data_base)
                except PlanError as error:
                    raise PlanError(replace(error.finding, subject=where)) from error
                direction = slice(None) if rate.direction == "any" else DIRECTIONS[rate.direction]
                self.pool_rate[row, SERVICES[rate.service], direction] = number

    def _most_units(self) -> Ints:
        """Return the most units that one record of each plan version and service may have, int64[versions, services].

        The last row is for records without a version.
        """
        most = np.tile(MOST_UNITS, (len(self.versions) + 1, 1))
        limit = np.append(self.prices.record_limit, np.iinfo(np.int64).max)  # -1: no rate, and no limit
        for service in range(len(Service)):
            shared = limit[self.pool_rate[:, service]].min(initial=MOST_UNITS[service])
            for row, (plan, _) in enumerate(self.versions):
                own = limit[self.rate_at[row, service]].min(initial=MOST_UNITS[service])
                most[row, service] = own if plan.type == "single" else min(own, shared)
        return most

    def _cycle_row(self, cycle: Cycle) -> int:
        return self.vocabulary.cycles.row(f"{cycle.months}/{cycle.anchor_day}")

    def version_of(self, plan: Ints, day: Ints) -> Ints:
        """Return the version of each plan (row; -1: no plan) in force on each local day, int64[n]; -1: none (P1)."""
        version = np.full(len(plan), -1, np.int64)
        for place in range(self.effective.shape[1]):
            reached = (plan >= 0) & (day >= self.effective[plan, place])
            version = np.where(reached, self.version_at[plan, place], version)
        return version

    def zone_slots(self, places: list[tuple[str, str, str]]) -> Ints:
        """Return the zone slot of each (PLMN, country, zone named by the feed), int64[zone keys, places]."""
        for place in places:
            if place not in self._places:
                self._places[place] = np.array([key.slot(*place) for key in self.zone_keys], np.int64)
        return np.stack([self._places[place] for place in places], axis=1)

    def zone_name(self, version: int, slot: int) -> str | None:
        """Return the name of a zone slot of a plan version; None for no zone."""
        zones = self.zone_keys[self.version_zone_key[version]].zones
        return zones[slot - 1].name if slot else None


_EPOCH: Final = dt.date(1970, 1, 1)


def _calendar(name: str) -> CycleCalendar:
    months, anchor = name.split("/")
    return CycleCalendar(Cycle(months=int(months), anchor_day=int(anchor)))
