"""Terms of the reference model of the fold: rate, increment, band, cycle, session and others, one value at a time."""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rating.units.quantity import parse_quantity
from schemas.cards import Pool
from schemas.plans import Band, Cycle, Increment, Plan, PlanVersion, Quantity, Rate
from schemas.usage import Direction, RecordType

Row = dict[str, Any]
Day = dt.date

LONG_AGO, FOR_EVER = dt.date(1000, 1, 1), dt.date(9000, 1, 1)


@dataclass
class Spell:
    """A period in which a card had a plan or a pool, with its first and its last day (inclusive)."""

    first: Day
    last: Day
    target: str


class Report(NamedTuple):
    """A report of a session: what a record says of its running totals. None is unknown."""

    used_at: dt.datetime
    sequence: int | None
    quantity: int
    up: int | None
    down: int | None
    start: dt.datetime | None
    stop: bool


@dataclass
class Session:
    """A session: its newest reports in order of use, how many there were, and its totals so far."""

    reports: list[Report] = field(default_factory=list)
    count: int = 0
    heard: int = 0  # Latest day of arrival. A session that is silent for more than 35 days has ended.
    units: int = 0
    overage: int = 0


@dataclass
class Outcome:
    """Result of a batch: rated rows, (source_row, reason) of rejects, the number of duplicates, and sequence gaps."""

    rated: list[Row] = field(default_factory=list)
    rejects: list[tuple[int, str]] = field(default_factory=list)
    duplicates: int = 0
    gaps: list[tuple[str | None, int | None, int | None, int]] = field(default_factory=list)


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


REMEMBERED = 4  # newest reports of a session that a late one can be placed among


def growth(
    session: Session, record: Row, outcome: Outcome, counter_bits: int = 0
) -> tuple[int, int | None, int | None]:
    """Return how much a cumulative record adds to its session (F3): quantity, volume up, volume down.

    It is what the totals of the session are with the record at its place, less what they were without it.
    """
    told = Report(
        record["used_at"], record["sequence"], record["quantity"], record["volume_up_bytes"],
        record["volume_down_bytes"], record["started_at"], record["record_type"] == RecordType.STOP,
    )  # fmt: skip
    at = next((n for n in range(len(session.reports), 0, -1) if not precedes(told, session.reports[n - 1])), 0)
    report = completed(told, session.reports[at - 1]) if at else told
    later = session.reports[at] if at < len(session.reports) else None
    forgotten = at == 0 and session.count > REMEMBERED
    if forgotten and later is not None:
        found, missing = [0, 0, 0], 0 if not another(report, later) and report.quantity <= later.quantity else 1
    else:
        reports = [*session.reports[:at], report, *session.reports[at:]]
        then, now = totals(session.reports, counter_bits), totals(reports, counter_bits)
        found = [max(after - before, 0) for after, before in zip(now[:3], then[:3], strict=True)]
        missing = now[3] - then[3]
        session.reports = reports[-REMEMBERED:]
        session.count += 1
    if missing:
        since = told.sequence if later is not None and missing > 0 else reports[at - 1].sequence if at else None
        until = told.sequence if later is None else later.sequence
        outcome.gaps.append((record["session_id"], since, until, missing))
    return found[0], None if told.up is None else found[1], None if told.down is None else found[2]


def precedes(report: Report, other: Report) -> bool:
    """Return whether a report belongs before another: by number and time, or by time alone."""
    numbered = report.sequence is not None and other.sequence is not None
    if report.used_at == other.used_at and (not numbered or report.sequence == other.sequence):
        if None not in (report.start, other.start) and report.start != other.start:
            return bool(report.start < other.start)  # type: ignore[operator]
        return not other.stop and report.quantity < other.quantity
    if numbered:
        return bool(report.sequence <= other.sequence and report.used_at <= other.used_at)  # type: ignore[operator]
    return report.used_at < other.used_at


def another(before: Report, report: Report) -> bool:
    """Return whether a report belongs to another session than the one before it."""
    return before.stop or (None not in (before.start, report.start) and before.start != report.start)


def completed(report: Report, before: Report) -> Report:
    """Return the report with what it leaves out and what still holds from the one before it."""
    report = report._replace(start=before.start if report.start is None else report.start)
    if another(before, report) or report.quantity < before.quantity:
        return report
    up, down = (before.up if report.up is None else report.up), (before.down if report.down is None else report.down)
    return report._replace(up=up, down=down)


def totals(reports: list[Report], counter_bits: int) -> list[int]:
    """Return quantity, up and down of a session by all its reports in order of use, and its missing partials."""
    sums = [0, 0, 0, 0]
    before: Report | None = None
    for report in reports:
        if before is None or another(before, report):
            grown = [report.quantity, report.up or 0, report.down or 0, 0]
        else:
            grown = [climb(before.quantity, report.quantity, counter_bits)]
            grown += [climb(before.up, report.up, counter_bits), climb(before.down, report.down, counter_bits)]
            if all(None not in (one.up, one.down) and one.quantity == one.up + one.down for one in (before, report)):  # type: ignore[operator]
                grown[0] = grown[1] + grown[2]
            numbered = None not in (before.sequence, report.sequence)
            grown += [max(report.sequence - before.sequence - 1, 0) if numbered else 0]  # type: ignore[operator]
        sums = [one + other for one, other in zip(sums, grown, strict=True)]
        before = report
    return sums


def climb(before: int | None, now: int | None, counter_bits: int) -> int:
    """Return how far a counter went up; one that fell has restarted, unless it was full and began again at 0."""
    if now is None or before is None or now >= before:
        return (now or 0) - (0 if now is None else before or 0)
    full = 2**32 if counter_bits == 32 else 0
    return now + full - before if before < full and now + full - before < full // 2 else now


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
    best: tuple[int, bool, str, int] | None = None
    name = None
    for place, band in enumerate(version.bands):
        days = {"all": True, "weekdays": not weekend, "weekend": weekend}
        if not days.get(band.days, holiday):
            continue
        first = not holiday or band.days in ("all", "holidays")
        for start, end in pieces(band):
            if start <= clock < end and (best is None or (band.weight, first, start, -place) > best):
                best, name = (band.weight, first, start, -place), band.name
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
        step, until = units(increment.step), quantity
        for start in increment.starts:
            if counted >= units(start.start):
                step = units(start.step)
            else:
                until = min(until, units(start.start))
        rest = quantity - counted
        if rest < step and (increment.round == "down" or (increment.round == "nearest" and 2 * rest < step)):
            break
        # Take all steps that end before the step changes at once, because a counter may leap by 2^32 units.
        counted += max(1, (until - counted) // step) * step
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
    anchored = dt.date(1970, 1, cycle.anchor_day)
    months = (day.year - 1970) * 12 + day.month - 1
    number = (months - (day < add_months(anchored, months))) // cycle.months
    first, after = (add_months(anchored, count * cycle.months) for count in (number, number + 1))
    return first, after - dt.timedelta(days=1)


def cycle_name(days: tuple[Day, Day], cycle: Cycle) -> str:
    """Return the label of a cycle: 2026-10 if cycles begin on the first of the month, else its first day."""
    return days[0].strftime("%Y-%m" if cycle.anchor_day == 1 else "%Y-%m-%d")


def add_months(day: Day, months: int) -> Day:
    """Return the same day of the month, `months` months later; the last day if that month is too short."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return day.replace(year=year, month=month + 1, day=min(day.day, calendar.monthrange(year, month + 1)[1]))
