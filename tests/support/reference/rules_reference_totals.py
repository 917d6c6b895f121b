"""Totals by window and the memory of firings, in the reference model of the rules."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from rating.rules.triggers import TRIGGERS
from schemas.plans import PlanVersion
from schemas.rules import Rule
from schemas.usage import Direction
from tests.support.reference.reference_terms import FOR_EVER, LONG_AGO, Day
from tests.support.reference.rules_reference_terms import service_of

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_QUARTERS = 96  # Number of quarters of an hour in 24 hours.
_SLICES = {(one.service, one.direction, one.place, one.window, one.unit) for one in TRIGGERS.values()}


@dataclass(frozen=True)
class Window:
    """The window of a total: name, first and last local day. A window without days has a number instead."""

    name: str | None
    first: Day = LONG_AGO
    last: Day = FOR_EVER
    number: int = 0
    term: bool = False  # The window is a term. It ends when the card is in another term.

    @property
    def span(self) -> tuple[bool, Day, Day]:
        """Sort key that puts windows in order of time."""
        return self.term, self.last, self.first


@dataclass(frozen=True)
class Fact:
    """The facts of a record that rules need."""

    iccid: str
    account: str
    version: PlanVersion
    service: str
    way: Direction
    zone: str | None
    country: str | None
    used_at: dt.datetime
    day: Day
    today: Day
    pool: str | None
    cycle: Window
    units: int
    home_units: int
    pool_units: int
    overage: int
    started: bool
    stopped: bool
    session_id: str | None
    rat: str | None
    cell_id: str | None
    imei: str | None
    key: str


@dataclass
class Fired:
    """Firings of a rule for a SIM in a window: highest level, last day, and whether they keep the SIM suspended."""

    window: Window
    level: int = 0
    day: Day = LONG_AGO
    held: bool = False


class Memory:
    """Firings by rule, SIM and window (L10)."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, Window | None], Fired] = {}

    def forget(self, rule: str) -> None:
        """Forget the firings of a rule. Suspensions are kept, because they still need a resume."""
        self.rows = {key: row for key, row in self.rows.items() if key[0] != rule or row.held}
        for key, row in self.rows.items():
            if key[0] == rule:
                row.level, row.day = 0, LONG_AGO

    def admit(self, rule: Rule, iccid: str, window: Window, level: int, today: Day, holds: bool = True) -> int | None:
        """Decide whether a rule fires now. Return the number of levels that fired before, or None if it stays quiet.

        A firing updates the memory. Without `holds` it suspends nobody, because its window is over.
        """
        key = (rule.id, iccid, None if rule.repetition == "once" else window)
        row = self.rows.setdefault(key, Fired(window))
        known = row.level
        fires = {"always": True, "daily": today > row.day}.get(rule.repetition, level > known)
        if not fires:
            return None
        row.level, row.day = max(level, known), today
        if holds and any(one.type == "suspend" and one.until != "released" for one in rule.actions):
            row.held = True
        return known


def quarter_of(moment: dt.datetime) -> int:
    """Return the number of the quarter of an hour of a moment, counted from 1970 UTC."""
    return (moment - _EPOCH) // dt.timedelta(minutes=15)


class Totals:
    """Units by SIM or pool, slice and window.

    For the rolling 24 hours, the amounts of all records are kept and summed each time.
    """

    def __init__(self) -> None:
        self.units: dict[tuple[Any, ...], int] = defaultdict(int)
        self.quarters: dict[tuple[Any, ...], list[tuple[int, int]]] = defaultdict(list)
        self.over: dict[tuple[Any, ...], int] = defaultdict(int)  # What rating priced, by SIM, slice and cycle.
        self.counted = True  # Whether the current record counts in its day.
        self.floor = 0

    def add(self, fact: Fact, in_day: bool, oldest: dt.datetime) -> None:
        """Count a record. `oldest` is the oldest time of use that the rolling 24 hours still accept."""
        self.counted = in_day
        self.floor = quarter_of(oldest) - (_QUARTERS - 1)
        self._add(fact, in_day)

    def _add(self, fact: Fact, in_day: bool) -> None:
        for trigger in _SLICES:
            service, direction, place, window, unit = trigger
            amount = self._amount(fact, service, direction, place, unit)
            if amount is None or window is None:
                continue
            if window == "cycle":
                self.units[(*_subject(fact, place), *trigger, fact.cycle)] += amount
                self.over[(fact.iccid, *trigger, fact.cycle)] += fact.overage
                if place == "home" and fact.pool is not None:
                    self.units[("pool", fact.pool, *trigger, fact.cycle)] += fact.pool_units
            else:
                if in_day:
                    self.units[("sim", fact.iccid, *trigger, fact.day)] += amount
                if quarter_of(fact.used_at) >= self.floor:
                    self.quarters["sim", fact.iccid, *trigger].append((quarter_of(fact.used_at), amount))

    def add_session(self, iccid: str, day: Day, used_at: dt.datetime, in_day: bool, oldest: dt.datetime) -> None:
        """Count a data session that the network reported. It is counted as a record is, and adds to nothing else."""
        self.counted = in_day
        self.floor = quarter_of(oldest) - (_QUARTERS - 1)
        for trigger in _SLICES:
            if trigger[4] != "sessions":
                continue
            if in_day:
                self.units[("sim", iccid, *trigger, day)] += 1
            if quarter_of(used_at) >= self.floor:
                self.quarters["sim", iccid, *trigger].append((quarter_of(used_at), 1))

    @staticmethod
    def _amount(fact: Fact, service: Any, direction: Any, place: str, unit: str | None) -> int | None:
        """Return the amount that a record adds to a slice, or None if it does not belong to the slice."""
        if service is None or fact.service != service.name.lower() or direction not in (None, fact.way):
            return None
        if unit == "sessions":
            return int(fact.started)
        return fact.home_units if place == "home" else fact.units

    def take_back(self, fact: Fact, in_day: bool, in_rolling: bool) -> None:
        """Subtract a record from the totals, except the session that it started (F6)."""
        gone = replace(
            fact, units=-fact.units, home_units=-fact.home_units, pool_units=-fact.pool_units, overage=-fact.overage,
            started=False,
        )  # fmt: skip
        floor, self.floor = self.floor, 0 if in_rolling else 1 << 62
        counted = self.counted
        self._add(gone, in_day)
        self.floor, self.counted = floor, counted

    def moved(self, rule: Rule, fact: Fact) -> tuple[int, int, Window] | None:
        """Return a rule's total before and after the record just counted, and its window.

        Return None if the record added nothing to the total.
        """
        trigger = TRIGGERS[rule.trigger]
        if fact.service != service_of(trigger) or trigger.direction not in (None, fact.way):
            return None
        one = (trigger.service, trigger.direction, trigger.place, trigger.window, trigger.unit)
        amount = self._amount(fact, *one[:3], trigger.unit)
        if rule.country not in (None, fact.country) or rule.zone not in (None, fact.zone):
            return None
        if trigger.kind == "pool":
            if fact.pool is None or not fact.pool_units or (rule.pools and fact.pool not in rule.pools):
                return None
            now = self.units["pool", fact.pool, *one, fact.cycle]
            return now - fact.pool_units, now, fact.cycle
        if not amount:
            return None
        if trigger.window == "cycle":
            now = self.units[(*_subject(fact, trigger.place), *one, fact.cycle)]
            return now - amount, now, fact.cycle
        day = Window(fact.day.isoformat(), fact.day, fact.day)
        if rule.window == "day":
            now = self.units["sim", fact.iccid, *one, fact.day]
            return (now - amount, now, day) if self.counted else None
        heard = self.quarters["sim", fact.iccid, *one]
        quarter = quarter_of(fact.used_at)
        latest = max((number for number, _ in heard), default=quarter)
        if quarter < self.floor or quarter <= latest - _QUARTERS:
            return None
        now = _rolling(heard, latest, self.floor)
        return now - amount, now, day

    def priced(self, rule: Rule, iccid: str, window: Window) -> int:
        """Return the units in a rule's total that rating priced."""
        trigger = TRIGGERS[rule.trigger]
        return self.over[iccid, trigger.service, trigger.direction, trigger.place, trigger.window, trigger.unit, window]

    def standing(self, rule: Rule, iccid: str, window: Window, clock: dt.datetime) -> int:
        """Return the current total of a SIM or of a pool in a window."""
        trigger = TRIGGERS[rule.trigger]
        one = (trigger.service, trigger.direction, trigger.place, trigger.window, trigger.unit)
        if trigger.window == "cycle":
            if trigger.kind == "pool":
                return self.units["pool", iccid, *one, window]
            place = {"country": (rule.country,), "zone": (rule.zone,)}.get(trigger.place, ())
            return self.units["sim", iccid, *place, *one, window]
        if rule.window == "day":
            return self.units["sim", iccid, *one, window.first]
        # Usage may be up to an hour ahead of the clock. Then the window ends with this usage.
        heard = self.quarters["sim", iccid, *one]
        return _rolling(heard, max(quarter_of(clock), *(number for number, _ in heard), 0), 0)


def _subject(fact: Fact, place: str) -> tuple[Any, ...]:
    return ("sim", fact.iccid, *{"country": (fact.country,), "zone": (fact.zone,)}.get(place, ()))


def _rolling(heard: list[tuple[int, int]], latest: int, floor: int) -> int:
    return sum(units for number, units in heard if max(latest - _QUARTERS + 1, floor) <= number <= latest)
