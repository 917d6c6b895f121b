"""Terms of the reference model of the fold: rate, increment, band, cycle, session and others, one value at a time."""

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
    """A period in which a card had a plan or a pool, with its first and its last day (inclusive)."""

    first: Day
    last: Day
    target: str


@dataclass
class Session:
    """A session: its last reported values, and its totals so far."""

    quantity: int | None = None
    up: int | None = None
    down: int | None = None
    sequence: int | None = None
    newest_sequence: int | None = None
    newest: dt.datetime | None = None
    heard: int = 0  # Latest day of arrival. A session that is silent for more than 35 days has ended.
    records: int = 0
    units: int = 0
    overage: int = 0


@dataclass
class Outcome:
    """Result of a batch: rated rows, (source_row, reason) of rejects, the number of duplicates, and sequence gaps."""

    rated: list[Row] = field(default_factory=list)
    rejects: list[tuple[int, str]] = field(default_factory=list)
    duplicates: int = 0
    gaps: list[tuple[str | None, int, int]] = field(default_factory=list)


def follow(spells: list[Spell], fresh: Spell) -> list[Spell]:
    """Return a card's spells after the new spell `fresh`.

    If `fresh` begins within a spell of the same target, it extends that spell. Otherwise it ends the earlier spells and
    replaces the later ones.
    """
    for spell in spells:
        if spell.target == fresh.target and spell.first <= fresh.first <= spell.last:
            return [s for s in spells if s.first < spell.first] + [Spell(spell.first, fresh.last, spell.target)]
    kept = [spell for spell in spells if spell.first < fresh.first]
    return [Spell(s.first, min(s.last, fresh.first - dt.timedelta(days=1)), s.target) for s in kept] + [fresh]


def held(spells: list[Spell], day: Day) -> str | None:
    """Return the target of the spell on a day, or None."""
    return next((spell.target for spell in spells if spell.first <= day <= spell.last), None)


def growth(session: Session, record: Row, outcome: Outcome) -> tuple[int, int | None, int | None]:
    """Return how much a cumulative record adds to its session (F3): quantity, volume up, volume down."""
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
    """Return the most specific matching rate, or None. A zone counts more than a band, a band more than a direction."""
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
    """Return the band in force at a local time, or None: the highest weight wins, then the latest start (P4)."""
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
    """Return start and end of a band, in two pieces if it crosses midnight."""
    if band.start < band.end:
        return [(band.start, band.end)]
    return [(band.start, "24:00"), ("00:00", band.end)]


def billable(rate: Rate, version: PlanVersion, quantity: int) -> int:
    """Return the billable units of a quantity (P3): the minimum, then whole steps."""
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
    """Return the name of a rate's meter, its running total."""
    if rate.counter is not None:
        return rate.counter
    way = "" if rate.direction == "any" else f"/{rate.direction}"
    return rate.service + way + (f"/{rate.zone}" if rate.zone else "") + (f"@{rate.band}" if rate.band else "")


def allowance_of(version: PlanVersion, counter: str) -> int:
    """Return the allowance of a counter: that of the first of its rates with an allowance, or 0."""
    for rate in version.rates:
        if meter(rate) == counter:
            amounts = rate.allowance if isinstance(rate.allowance, tuple) else (rate.allowance,)
            units = sum(parse_quantity(amount, rate.service, version.data_base) for amount in amounts)
            if units:
                return units
    return 0


def prorates(version: PlanVersion, counter: str) -> bool:
    """Return whether the allowance of a counter counts by days, as the first of its rates says (P9)."""
    return next((rate.prorate_allowance for rate in version.rates if meter(rate) == counter), False)


def fixed_size(pool: Pool, service: str) -> int | None:
    """Return the fixed size of a pool for a service, or None if it has none."""
    for size in pool.size:
        if size.service == service:
            return parse_quantity(size.amount, service, pool.data_base)
    return None


def pool_rate(pool: Pool, service: str, way: Direction) -> Rate | None:
    """Return the pool's own overage rate for a service and direction, or None."""
    fits = [rate for rate in pool.overage if rate.service == service and rate.direction in ("any", way.name.lower())]
    return max(fits, key=lambda rate: rate.direction != "any", default=None)


def cycle_kind(pool: Pool | str | None, plan: Plan) -> Cycle:
    """Return the definition of the billing cycle of a record: the pool's, else the plan's."""
    return pool.cycle if isinstance(pool, Pool) else plan.cycle


def cycle_days(cycle: Cycle, day: Day) -> tuple[Day, Day]:
    """Return the first and the last day of the cycle that contains a day (T2).

    Cycles of several months are counted from January 1970.
    """
    month = day.year * 12 + day.month - 1 - (day.day < cycle.anchor_day)
    number = (month - 1970 * 12) // cycle.months
    first = add_months(dt.date(1970, 1, cycle.anchor_day), number * cycle.months)
    return first, add_months(first, cycle.months) - dt.timedelta(days=1)


def cycle_name(days: tuple[Day, Day], cycle: Cycle) -> str:
    """Return the label of a cycle: 2026-10 if cycles begin on the first of the month, else its first day."""
    return days[0].strftime("%Y-%m" if cycle.anchor_day == 1 else "%Y-%m-%d")


def add_months(day: Day, months: int) -> Day:
    """Return the same day of the month, `months` months later."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return day.replace(year=year, month=month + 1)
