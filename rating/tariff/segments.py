"""A price as segments: the cumulative price function F in the form that PriceBook evaluates.

F(u) is the total cost in nanos of the first u units. In the segment that u falls into,
F(u) = base + ceil((u - origin) / size) * step. A linear price has size 1, and its step may be a fraction of a nano.
Started packages have the size of a package. A segment applies to u > above, up to and including the next segment's
`above`. So the `to` of a tier belongs to the tier. The first segment applies from u = 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from rating.errors import FieldPath, Finding, PlanError
from rating.units.money import NANOS, parse_decimal
from rating.units.quantity import units_of_field
from schemas.plans import Amount, Price, Quantity, Rounding, Tier

BEFORE_FIRST_UNIT = -1  # `above` of a first segment. As a number of units, -1 means that the price is not entered


class Segment(NamedTuple):
    """F(u) = base + ceil((u - origin) / size) * step for u > above. Base and step are exact, in nanos."""

    above: int
    origin: int
    size: int
    base: Fraction
    step: Fraction

    def cost(self, units: int) -> Fraction:
        """Return F(units) in nanos, for units that fall into this segment."""
        return self.base - ((self.origin - units) // self.size) * self.step


@dataclass(frozen=True)
class PriceSpec:
    """A price of a plan, with its rounding, and the service and data base by which its quantities are read."""

    price: Price
    rounding: Rounding = field(default_factory=Rounding)
    service: str = "data"
    data_base: int = 1024

    def nanos(self, text: Amount, path: FieldPath) -> Fraction:
        """Return the amount at `path` in nanos. Raises PlanError if it is not a decimal number or below zero."""
        try:
            value = parse_decimal(text) * NANOS
        except PlanError as error:
            raise PlanError(error.finding.under(*path)) from None
        if value < 0:
            raise PlanError(Finding(path, repr(text), "an amount of zero or more"))
        return value

    def units(self, quantity: Quantity, path: FieldPath, at_least: int = 0) -> int:
        """Return the quantity at `path` in whole units. Raises PlanError if it is invalid or below `at_least`."""
        return units_of_field(quantity, path, self.service, self.data_base, at_least)


class TierTerms(NamedTuple):
    """A tier for units above `start` up to and including `to` (None: no end).

    A step of `size` units costs `step` nanos. `flat` is the flat fee in nanos.
    """

    start: int
    to: int | None
    size: int
    step: Fraction
    flat: Fraction


def tier_terms(spec: PriceSpec) -> list[TierTerms]:
    """Return the tiers of a price. Raises PlanError unless there is a tier, and each ends above the one before."""
    if not spec.price.tiers:
        raise PlanError(Finding(("tiers",), "none", f"at least one tier for model {spec.price.model!r}"))
    terms: list[TierTerms] = []
    start: int | None = 0
    for number, tier in enumerate(spec.price.tiers):
        path: FieldPath = ("tiers", number)
        if start is None:
            raise PlanError(Finding(path, "a tier after one without an end", "`to` in every tier but the last"))
        to = None if tier.to is None else spec.units(tier.to, (*path, "to"))
        if to is not None and to <= start:
            expected = f"more than {start}, the end of the tier before it"
            raise PlanError(Finding((*path, "to"), repr(tier.to), expected))
        size, step = tier_step(spec, tier, path)
        terms.append(TierTerms(start, to, size, step, spec.nanos(tier.flat, (*path, "flat"))))
        start = to
    return terms


def tier_step(spec: PriceSpec, tier: Tier, path: FieldPath) -> tuple[int, Fraction]:
    """Return the size and cost in nanos of one step in a tier: a started package of `per` units, or a single unit."""
    price, per = spec.nanos(tier.price, (*path, "price")), spec.units(tier.per, (*path, "per"), at_least=1)
    return (per, price) if tier.package else (1, price / per)


def constant(above: int, base: Fraction) -> Segment:
    """Return a segment in which further units cost nothing."""
    return Segment(above, max(above, 0), 1, base, Fraction(0))


def shifted(segments: Sequence[Segment], free_units: int) -> list[Segment]:
    """Return the segments of F(u - free_units), with F(0) for the free units themselves."""
    if free_units == 0:
        return list(segments)
    moved = [
        segment._replace(above=segment.above + free_units, origin=segment.origin + free_units) for segment in segments
    ]
    moved[0] = moved[0]._replace(above=free_units)
    return [constant(BEFORE_FIRST_UNIT, segments[0].cost(0)), *moved]


def bounded(segments: Sequence[Segment], minimum: Fraction | None, maximum: Fraction | None) -> list[Segment]:
    """Return the segments of max(minimum, min(maximum, F)). A segment is cut at the point where it crosses a bound."""
    pieces: list[Segment] = []
    for segment, following in _pairs(segments):
        end = None if following is None else following.above
        pieces.extend(_bounded_one(segment, end, minimum, maximum))
    return pieces


def _bounded_one(
    segment: Segment, end: int | None, minimum: Fraction | None, maximum: Fraction | None
) -> Iterator[Segment]:
    if segment.step == 0:
        base = segment.base if minimum is None else max(segment.base, minimum)
        yield segment._replace(base=base if maximum is None else min(base, maximum))
        return
    above = segment.above
    if minimum is not None:
        steps = (minimum - segment.base) // segment.step  # last step whose cost is at most the minimum
        reaches = segment.origin + steps * segment.size
        if reaches > above:
            yield constant(above, minimum)
            above = reaches
            if end is not None and above >= end:
                return
    if maximum is not None:
        steps = -((segment.base - maximum) // segment.step)  # first step whose cost is the maximum or more
        capped = max(above, segment.origin + (steps - 1) * segment.size)
        if end is None or capped < end:
            if capped > above:
                yield segment._replace(above=above)
            yield constant(capped, maximum)
            return
    yield segment._replace(above=above)


def _pairs(segments: Sequence[Segment]) -> Iterator[tuple[Segment, Segment | None]]:
    return zip(segments, [*segments[1:], None], strict=True)
