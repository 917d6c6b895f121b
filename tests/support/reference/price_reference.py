"""Reference implementation of the price models: exact fractions, tier by tier, slow, and without segments."""

from __future__ import annotations

from fractions import Fraction

from rating.tariff import PriceSpec
from rating.units.quantity import parse_quantity
from schemas.plans import Quantity, Tier


def reference_cost(spec: PriceSpec, units: int) -> Fraction:
    """Return F(units) of a price as exact nanos. Units below zero mean that no usage has entered the price: F is 0."""
    price = spec.price
    if units < 0:
        return Fraction(0)
    priced = max(0, units - _units(spec, price.free_units))
    if price.model == "flat":
        cost = Fraction(price.price) * priced / _units(spec, price.per)
    elif price.model in ("package", "block"):
        cost = Fraction(price.price) * _started(priced, _units(spec, price.per))
    elif price.model == "once":
        cost = Fraction(price.price if priced else 0)
    elif price.model == "free":
        cost = Fraction(0)
    elif price.model == "graduated":
        cost = _graduated(spec, priced)
    else:
        cost = _reached(spec, priced)
    if price.minimum is not None:
        cost = max(cost, Fraction(price.minimum))
    if price.maximum is not None:
        cost = min(cost, Fraction(price.maximum))
    return cost * 10**9


def _graduated(spec: PriceSpec, units: int) -> Fraction:
    cost, start = Fraction(0), 0
    for number, tier in enumerate(spec.price.tiers):
        if number and units <= start:
            break
        to = _end(spec, number)
        inside = units - start if to is None else min(units, to) - start
        cost += Fraction(tier.flat) + _tier_cost(spec, tier, inside)
        start = units if to is None else to
    return cost


def _reached(spec: PriceSpec, units: int) -> Fraction:
    for number, tier in enumerate(spec.price.tiers):
        to = _end(spec, number)
        if to is None or units <= to:
            return Fraction(tier.flat) + _tier_cost(spec, tier, units)
    return Fraction(tier.flat) + _tier_cost(spec, tier, _units(spec, tier.to or 0))


def _tier_cost(spec: PriceSpec, tier: Tier, units: int) -> Fraction:
    per = _units(spec, tier.per)
    return Fraction(tier.price) * (_started(units, per) if tier.package else Fraction(units, per))


def _end(spec: PriceSpec, number: int) -> int | None:
    """Return the last unit of a tier, or None if it has no end: no `to`, or the last tier with last_tier "extend"."""
    tier = spec.price.tiers[number]
    last = number == len(spec.price.tiers) - 1
    if tier.to is None or (last and spec.price.last_tier == "extend"):
        return None
    return _units(spec, tier.to)


def _started(units: int, size: int) -> int:
    return (units + size - 1) // size


def _units(spec: PriceSpec, quantity: Quantity) -> int:
    return parse_quantity(quantity, spec.service, spec.data_base)
