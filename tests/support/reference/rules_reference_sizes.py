"""Sizes of quotas and pools at a moment, in the reference model of the rules (L1 to L3, L8, P7, P9)."""

from __future__ import annotations

import datetime as dt
from typing import Any

from rating.rules.triggers import TRIGGERS
from rating.units.quantity import parse_quantity
from schemas.cards import Addon, Pool
from schemas.plans import PlanVersion
from schemas.rules import Rule
from tests.support.reference.reference import Model
from tests.support.reference.reference_terms import Day, Row, allowance_of
from tests.support.reference.rules_reference_terms import (
    asks_quota,
    distinct_meters,
    home_meters,
    pool_meters,
    service_of,
)
from tests.support.reference.rules_reference_totals import Window

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Sizes(Model):
    """The reference model of the fold with the sizes that rules need. Slow results are cached for one entry."""

    def __init__(self) -> None:
        super().__init__()
        self.at = EPOCH  # Time of arrival of the current entry.
        self._sizes: dict[Any, int] = {}
        self._owners: dict[Any, Row | None] = {}

    def forget_compiled(self) -> None:
        """Drop the caches after a change of the catalogue."""
        self._sizes, self._owners = {}, {}

    def card_of(self, record: Row) -> Row | None:
        """Return the result of Model.card_of, cached by the numbers of the record."""
        key = (record["iccid"], record["imsi"], record["msisdn"], record["used_at"])
        if key not in self._owners:
            self._owners[key] = super().card_of(record)
        return self._owners[key]

    def pool_size(self, pool: Pool | str, counter: str, service: str, cycle: tuple[Day, Day], now: Day) -> int:
        """Return the result of Model.pool_size, cached by all arguments."""
        key = (pool if isinstance(pool, str) else pool.id, isinstance(pool, str), counter, service, cycle, now)
        if key not in self._sizes:
            self._sizes[key] = super().pool_size(pool, counter, service, cycle, now)
        return self._sizes[key]

    def today_of(self, card: Row) -> Day:
        """Return the card's local day of the current entry."""
        return self.local(card["account"], self.at).date()

    def size_of(
        self, rule: Rule, card: Row, version: PlanVersion | None, cycle: Window, pool: str | None
    ) -> tuple[int | None, int]:
        """Return the size that a rule compares usage with now (None if it needs none), and the add-ons on top of it."""
        trigger = TRIGGERS[rule.trigger]
        service = service_of(trigger)
        if not asks_quota(rule) or service is None:
            return None, 0
        if trigger.kind == "pool":
            assert pool is not None
            return self.home_size(pool, service, trigger.direction, cycle, self.today_of(card)), 0
        if version is None:
            return 0, 0
        if trigger.place == "home":
            return self.included(card, version, service, cycle, home_meters(self, version, service, None)), 0
        meters = list(distinct_meters(version, service))
        included, extra = self.included(card, version, service, cycle, meters), self.bought(card, service)
        return (included, extra) if rule.measure == "hard_cut" else (included + extra, 0)

    def included(self, card: Row, version: PlanVersion, service: str, cycle: Window, meters: list[str]) -> int:
        """Return the units that a plan version includes on the counters `meters` in a cycle (P9)."""
        total = 0
        for name, rate in distinct_meters(version, service).items():
            amount = allowance_of(version, name) if name in meters else 0
            if rate.prorate_allowance and name in meters:
                whole = (cycle.first, cycle.last)
                of_owner = self.owned_by(card["iccid"], card["account"])
                amount = self.share(card["iccid"], whole, lambda one, name=name: allowance_of(one, name), of_owner)  # type: ignore[misc]
            total += amount
        return total

    def bought(self, card: Row, service: str) -> int:
        """Return the units of a card's add-ons that are in force now."""
        return sum(parse_quantity(addon.amount, service, 1024) for addon in self.acting(card, service))

    def acting(self, card: Row, service: str) -> list[Addon]:
        """Return the add-ons of a card that are in force now."""
        return [
            addon
            for addon in self.addons.values()
            if addon.iccid == card["iccid"] and addon.service == service
            and addon.purchased_at <= self.at and self.today_of(card) <= addon.expires_on
        ]  # fmt: skip

    def home_size(self, name: str, service: str, way: Any, cycle: Window, today: Day) -> int:
        """Return the current size of a pool for a service (P7)."""
        pool = self.pools[name]
        now = min(max(today, cycle.first), cycle.last)
        fixed = [size for size in pool.size if size.service == service]
        if fixed:
            return parse_quantity(fixed[0].amount, service, pool.data_base)
        meters = {
            one: None
            for plan in self.plans.values()
            for version in plan.versions
            for one in pool_meters(self, version, service, way)
        }
        return sum(self.pool_size(pool, one, service, (cycle.first, cycle.last), now) for one in meters)
