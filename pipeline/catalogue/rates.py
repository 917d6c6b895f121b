"""Validation of rates: readable figures, prices that compile, and at most one rate for each record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.catalogue.findings import Entry, Findings, Text, choice
from pipeline.catalogue.lines import Path
from rating.catalogue.rates import allowance_units, meter_name
from rating.errors import PlanError
from rating.tariff import PriceBook, PriceSpec
from rating.tariff.increments import IncrementBook, IncrementSpec
from rating.units.money import DECIMALS, parse_amount, parse_decimal
from rating.units.quantity import parse_quantity
from schemas.plans import Amount, Fee, Quantity, Rate, Rounding

T = TypeVar("T")

_DIRECTIONS = {"data": ("any", "up", "down"), "sms": ("any", "mo", "mt"), "voice": ("any", "mo", "mt")}


@dataclass(frozen=True)
class RateContext(Generic[T]):
    """The entry of a list of rates, and the names that its rates may use.

    `zones` or `bands` None: the rates may not name any. `no_zones` and `no_bands` are the words for that finding.
    """

    entry: Entry[T]
    data_base: int
    zones: frozenset[str] | None
    bands: frozenset[str] | None
    no_zones: str
    no_bands: str


def check_rates(context: RateContext[T], field: Path, rates: tuple[Rate, ...], findings: Findings) -> None:
    """Add findings about the rates at `field`."""
    seen: dict[tuple[str, str, str | None, str | None], int] = {}
    allowances: dict[str, tuple[int, int]] = {}
    for index, rate in enumerate(rates):
        where = (*field, index)
        _check_one(context, where, rate, findings)
        key = (rate.service, rate.direction, rate.zone, rate.band)
        first = seen.setdefault(key, index)
        if first != index:
            words = f"service {rate.service}, direction {rate.direction}"
            words += f", zone {rate.zone}" if rate.zone else ""
            words += f", band {rate.band}" if rate.band else ""
            line = context.entry.line(*field, first)
            findings.add(
                context.entry,
                where,
                Text(f"a second rate for {words} (the first: line {line})"),
                "one rate for each service, direction, zone and band",
            )
        _check_shared(context, where, rate, allowances, findings)


def check_fees(entry: Entry[T], field: Path, fees: tuple[Fee, ...], findings: Findings) -> None:
    """Add findings about a list of fees: amounts, and names that occur twice. A negative fee is a credit."""
    names: set[str] = set()
    for index, fee in enumerate(fees):
        check_amount(entry, (*field, index, "amount"), fee.amount, findings, least=None)
        if fee.name in names or not fee.name.strip():
            findings.add(entry, (*field, index, "name"), fee.name, "a name of its own for each fee")
        names.add(fee.name)


def check_amount(entry: Entry[T], field: Path, amount: Amount, findings: Findings, least: int | None = 0) -> int | None:
    """Return an amount in nanos; add a finding and return None if it is unreadable or below `least` (None: any)."""
    try:
        nanos = parse_amount(amount)
    except PlanError as error:
        findings.error(entry, field, error)
        return None
    if least is not None and nanos < least:
        findings.add(entry, field, amount, "an amount of zero or more")
        return None
    return nanos


def check_quantity(
    entry: Entry[T], field: Path, quantity: Quantity, service: str, data_base: int, findings: Findings, least: int = 0
) -> int | None:
    """Return a quantity in units; add a finding and return None if it is unreadable or below `least`."""
    try:
        units = parse_quantity(quantity, service, data_base)
    except PlanError as error:
        findings.error(entry, field, error)
        return None
    if units < least:
        findings.add(entry, field, quantity, f"{least} or more")
        return None
    return units


def _check_one(context: RateContext[T], field: Path, rate: Rate, findings: Findings) -> None:
    entry = context.entry
    if rate.direction not in _DIRECTIONS[rate.service]:
        expected = choice(rate.direction, _DIRECTIONS[rate.service], f"for {rate.service} one of")
        findings.add(entry, (*field, "direction"), rate.direction, expected)
    _check_name(entry, (*field, "zone"), rate.zone, context.zones, context.no_zones, findings)
    _check_name(entry, (*field, "band"), rate.band, context.bands, context.no_bands, findings)
    if rate.counter is not None and not rate.counter.strip():
        findings.add(entry, (*field, "counter"), rate.counter, "a name, or no field")
    amounts = rate.allowance if isinstance(rate.allowance, tuple) else (rate.allowance,)
    for index, amount in enumerate(amounts):
        place = (*field, "allowance", index) if isinstance(rate.allowance, tuple) else (*field, "allowance")
        check_quantity(entry, place, amount, rate.service, context.data_base, findings)
    for name in ("hard_limit", "sim_cap"):
        limit = getattr(rate, name)
        if limit is not None:
            check_quantity(entry, (*field, name), limit, rate.service, context.data_base, findings)
    _check_compiled(context, field, rate, findings)


def _check_name(
    entry: Entry[T], field: Path, name: str | None, legal: frozenset[str] | None, none: str, findings: Findings
) -> None:
    if name is None:
        return
    if legal is None:
        findings.add(entry, field, name, none)
    elif name not in legal:
        findings.add(entry, field, name, choice(name, legal))


def _check_compiled(context: RateContext[T], field: Path, rate: Rate, findings: Findings) -> None:
    """Check price and increment: first each figure, then, if all are readable, whether they compile."""
    entry, data_base = context.entry, context.data_base
    before = len(findings.all)
    _check_price(context, (*field, "price"), rate, findings)
    readable = len(findings.all) == before
    rounding = rate.rounding
    if not 0 <= rounding.decimals <= DECIMALS:
        findings.add(entry, (*field, "rounding", "decimals"), rounding.decimals, f"0 to {DECIMALS}")
        rounding = Rounding()
    if readable:
        try:
            PriceBook.compile([PriceSpec(rate.price, rounding, rate.service, data_base)])
        except PlanError as error:
            findings.error(entry, (*field, "price"), error)
    increment = rate.increment
    before = len(findings.all)
    check_quantity(entry, (*field, "increment", "minimum"), increment.minimum, rate.service, data_base, findings)
    check_quantity(entry, (*field, "increment", "step"), increment.step, rate.service, data_base, findings, least=1)
    for index, start in enumerate(increment.starts):
        place = (*field, "increment", "starts", index)
        check_quantity(entry, (*place, "start"), start.start, rate.service, data_base, findings)
        check_quantity(entry, (*place, "step"), start.step, rate.service, data_base, findings, least=1)
    if len(findings.all) == before:
        try:
            IncrementBook.compile([IncrementSpec(increment, rate.service, data_base)])
        except PlanError as error:
            findings.error(entry, (*field, "increment"), error)


def _check_price(context: RateContext[T], field: Path, rate: Rate, findings: Findings) -> None:
    entry, price, service, data_base = context.entry, rate.price, rate.service, context.data_base
    for name in ("price", "connect_fee", "minimum", "maximum"):
        _check_unit_price(entry, (*field, name), getattr(price, name), findings)
    check_quantity(entry, (*field, "per"), price.per, service, data_base, findings, least=1)
    check_quantity(entry, (*field, "free_units"), price.free_units, service, data_base, findings)
    last: int | None = 0
    for index, tier in enumerate(price.tiers):
        place = (*field, "tiers", index)
        _check_unit_price(entry, (*place, "price"), tier.price, findings)
        _check_unit_price(entry, (*place, "flat"), tier.flat, findings)
        check_quantity(entry, (*place, "per"), tier.per, service, data_base, findings, least=1)
        if tier.to is None:
            if index < len(price.tiers) - 1:
                expected = "the end of the tier: only the last one may be open"
                findings.add(entry, (*place, "to"), Text("no end"), expected)
            continue
        to = check_quantity(entry, (*place, "to"), tier.to, service, data_base, findings, least=1)
        if to is not None and last is not None and to <= last:
            findings.add(entry, (*place, "to"), tier.to, f"more than {last}, where the tier before it ends")
        last = to if to is not None else last


def _check_unit_price(entry: Entry[T], field: Path, amount: Amount | None, findings: Findings) -> None:
    """Check a unit price. Unlike a charge, it may have more than nine decimals."""
    if amount is None:
        return
    try:
        negative = parse_decimal(amount) < 0
    except PlanError as error:
        findings.error(entry, field, error)
        return
    if negative:
        findings.add(entry, field, amount, "an amount of zero or more")


def _check_shared(
    context: RateContext[T], field: Path, rate: Rate, allowances: dict[str, tuple[int, int]], findings: Findings
) -> None:
    """Add a finding if two rates on one counter write different allowances: a counter has only one."""
    try:
        units = allowance_units(rate, context.data_base)
    except PlanError:
        return  # already found
    if not units:
        return
    meter = meter_name(rate)
    line = context.entry.line(*field)
    first, first_line = allowances.setdefault(meter, (units, line))
    if first != units:
        found = Text(f"{units} units for the counter {meter}, which has {first} (line {first_line})")
        expected = "the same allowance, or none here, or another counter"
        findings.add(context.entry, (*field, "allowance"), found, expected)
