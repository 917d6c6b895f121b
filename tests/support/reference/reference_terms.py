"""The terms of the slow model: what a rate, an increment, a band, a cycle or a session means, one value at a time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rating.units.quantity import parse_quantity
from schemas.cards import Pool
from schemas.plans import Band, Cycle, Increment, Plan, PlanVersion, Quantity, Rate
from schemas.usage import Direction

Row = dict[str, Any]
Day = dt.date

LONG_AGO, FOR_EVER = dt.date(1000, 1, 1), dt.date(9000, 1, 1)


@dataclass
class Spell:
    """A plan or pool that held for a card from one day to another, both included."""

    first: Day
    last: Day
    target: str


@dataclass
class Session:
    """What a session reported last, and what was made of it."""

    quantity: int | None = None
    up: int | None = None
    down: int | None = None
    sequence: int | None = None
    newest_sequence: int | None = None
    newest: dt.datetime | None = None
    heard: int = 0  # day of arrival; a session that was silent for more than 35 days is over
    records: int = 0
    units: int = 0
    overage: int = 0


@dataclass
class Outcome:
    """What became of a batch: rated rows, (source_row, reason) of rejects, and how many were duplicates."""

    rated: list[Row] = field(default_factory=list)
    rejects: list[tuple[int, str]] = field(default_factory=list)
    duplicates: int = 0
    gaps: list[tuple[str | None, int, int]] = field(default_factory=list)


def follow(spells: list[Spell], fresh: Spell) -> list[Spell]:
    """The history of a card once `fresh` holds: it goes on with what held already, or cuts it off."""
    for spell in spells:
        if spell.target == fresh.target and spell.first <= fresh.first <= spell.last:
            return [s for s in spells if s.first < spell.first] + [Spell(spell.first, fresh.last, spell.target)]
    kept = [spell for spell in spells if spell.first < fresh.first]
    return [Spell(s.first, min(s.last, fresh.first - dt.timedelta(days=1)), s.target) for s in kept] + [fresh]


def held(spells: list[Spell], day: Day) -> str | None:
    """What held on a day."""
    return next((spell.target for spell in spells if spell.first <= day <= spell.last), None)


def growth(session: Session, record: Row, outcome: Outcome) -> tuple[int, int | None, int | None]:
    """What a cumulative record adds to its session (F3)."""
    quantity, up, down = record["quantity"], record["volume_up_bytes"], record["volume_down_bytes"]
    sequence, used_at = record["sequence"], record["used_at"]
    earlier = session.newest is not None and used_at < session.newest
    stale = earlier
    if sequence is not None and session.newest_sequence is not None:
        again = session.newest is not None and used_at <= session.newest
        stale = sequence <= session.newest_sequence and again
    if sequence is not None:
        session.newest_sequence = max(sequence, session.newest_sequence or 0)
    session.newest = used_at if session.newest is None else max(session.newest, used_at)
    if stale:
        return 0, None if up is None else 0, None if down is None else 0
    if sequence is not None and session.sequence is not None and sequence > session.sequence + 1:
        outcome.gaps.append((record["session_id"], session.sequence, sequence))
    if session.quantity is not None and quantity < session.quantity:
        session.quantity = session.up = session.down = None
    restarted = any(
        now is not None and before is not None and now < before
        for now, before in ((up, session.up), (down, session.down))
    )

    def grown(now: int | None, before: int | None) -> int | None:
        return None if now is None else now - (0 if restarted or before is None else before)

    found = grown(quantity, session.quantity), grown(up, session.up), grown(down, session.down)
    session.quantity, session.sequence = quantity, sequence
    session.up = session.up if up is None else up
    session.down = session.down if down is None else down
    assert found[0] is not None
    return found[0], found[1], found[2]


def find_rate(version: PlanVersion, service: str, way: Direction, zone: str | None, band: str | None) -> Rate | None:
    """The most specific rate: zone before band before direction."""
    fits = [
        rate
        for rate in version.rates
        if rate.service == service
        and rate.direction in ("any", way.name.lower())
        and rate.zone in (None, zone)
        and rate.band in (None, band)
    ]
    order: Callable[[Rate], Any] = lambda r: (r.zone is not None, r.band is not None, r.direction != "any")  # noqa: E731
    return max(fits, key=order, default=None)


def band_at(version: PlanVersion, local: dt.datetime) -> str | None:
    """The band that holds at a local time: of the highest weight, then the one that starts later (P4)."""
    holiday = local.date() in version.holidays
    weekend = local.weekday() >= 5
    clock = local.strftime("%H:%M")
    best: tuple[int, str, int] | None = None
    name = None
    for place, band in enumerate(version.bands):
        days = {"all": True, "weekdays": not holiday and not weekend, "weekend": not holiday and weekend}
        if not days.get(band.days, holiday):
            continue
        for start, end in pieces(band):
            if start <= clock < end and (best is None or (band.weight, start, -place) > best):
                best, name = (band.weight, start, -place), band.name
    return name


def pieces(band: Band) -> list[tuple[str, str]]:
    """A band, or the two pieces of one that runs over midnight."""
    if band.start < band.end:
        return [(band.start, band.end)]
    return [(band.start, "24:00"), ("00:00", band.end)]


def billable(rate: Rate, version: PlanVersion, quantity: int) -> int:
    """Units that are billed for a quantity (P3): the minimum as one, then whole steps."""
    increment: Increment = rate.increment

    def units(amount: Quantity) -> int:
        return parse_quantity(amount, rate.service, version.data_base)

    if quantity == 0:
        return 0
    counted = units(increment.minimum)
    if increment.round == "none":
        return max(quantity, counted)
    while counted < quantity:
        step = units(increment.step)
        for start in increment.starts:
            if counted >= units(start.start):
                step = units(start.step)
        rest = quantity - counted
        if rest < step and (increment.round == "down" or (increment.round == "nearest" and 2 * rest < step)):
            break
        counted += step
    return counted


def meter(rate: Rate) -> str:
    """The name of the running total of a rate."""
    if rate.counter is not None:
        return rate.counter
    way = "" if rate.direction == "any" else f"/{rate.direction}"
    return rate.service + way + (f"/{rate.zone}" if rate.zone else "") + (f"@{rate.band}" if rate.band else "")


def allowance_of(version: PlanVersion, counter: str) -> int:
    """The allowance that the rates of one counter share: of the first of them that has one."""
    for rate in version.rates:
        if meter(rate) == counter:
            amounts = rate.allowance if isinstance(rate.allowance, tuple) else (rate.allowance,)
            units = sum(parse_quantity(amount, rate.service, version.data_base) for amount in amounts)
            if units:
                return units
    return 0


def fixed_size(pool: Pool, service: str) -> int | None:
    """The bought size of a pool."""
    for size in pool.size:
        if size.service == service:
            return parse_quantity(size.amount, service, pool.data_base)
    return None


def pool_rate(pool: Pool, service: str, way: Direction) -> Rate | None:
    """The price of a pool's own for its overage."""
    fits = [rate for rate in pool.overage if rate.service == service and rate.direction in ("any", way.name.lower())]
    return max(fits, key=lambda rate: rate.direction != "any", default=None)


def cycle_kind(pool: Pool | str | None, plan: Plan) -> Cycle:
    """The billing cycle that a record is charged in."""
    return pool.cycle if isinstance(pool, Pool) else plan.cycle


def cycle_days(cycle: Cycle, day: Day) -> tuple[Day, Day]:
    """First and last day of the cycle that a day lies in; cycles of several months count from January 1970 (T2)."""
    month = day.year * 12 + day.month - 1 - (day.day < cycle.anchor_day)
    number = (month - 1970 * 12) // cycle.months
    first = add_months(dt.date(1970, 1, cycle.anchor_day), number * cycle.months)
    return first, add_months(first, cycle.months) - dt.timedelta(days=1)


def cycle_name(days: tuple[Day, Day], cycle: Cycle) -> str:
    """2026-10 for a cycle that begins on the first, else its first day."""
    return days[0].strftime("%Y-%m" if cycle.anchor_day == 1 else "%Y-%m-%d")


def add_months(day: Day, months: int) -> Day:
    """The same day of a later month."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return day.replace(year=year, month=month + 1)
