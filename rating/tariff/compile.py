"""Compile a price of a catalogue to segments: the table of price models, and the fields that each allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from rating.errors import Finding, PlanError
from rating.tariff.block import block
from rating.tariff.capacity import capacity
from rating.tariff.flat import flat
from rating.tariff.free import free
from rating.tariff.graduated import graduated
from rating.tariff.once import once
from rating.tariff.package import package
from rating.tariff.segments import PriceSpec, Segment, bounded, shifted
from rating.tariff.volume import volume
from rating.units.money import MAX_NANOS

MODELS: dict[str, Callable[[PriceSpec], list[Segment]]] = {
    "flat": flat,
    "package": package,
    "block": block,
    "once": once,
    "graduated": graduated,
    "volume": volume,
    "capacity": capacity,
    "free": free,
}
_TIERED = frozenset({"graduated", "volume", "capacity"})
MAX_UNITS_RATED = 2**62
# Every price must be able to rate at least this many units. A price that cannot is a typing error.
LEAST_UNITS = {"data": 10**6, "sms": 10**5, "voice": 10**5}


def price_segments(spec: PriceSpec) -> list[Segment]:
    """Return the segments of F in ascending order of `above`, starting at unit 0. Bounds and free units are applied.

    F(u) is `cost(u)` of the last segment with above < u. Raises PlanError naming the field if the price contradicts its
    model or a number cannot be read.
    """
    price = spec.price
    if price.model not in MODELS:
        raise PlanError(Finding(("model",), repr(price.model), f"one of {', '.join(MODELS)}"))
    _check_fields(spec)
    minimum = None if price.minimum is None else spec.nanos(price.minimum, ("minimum",))
    maximum = None if price.maximum is None else spec.nanos(price.maximum, ("maximum",))
    if minimum is not None and maximum is not None and minimum > maximum:
        raise PlanError(Finding(("minimum",), repr(price.minimum), f"at most the maximum, {price.maximum!r}"))
    segments = bounded(MODELS[price.model](spec), minimum, maximum)
    return shifted(segments, spec.units(price.free_units, ("free_units",)))


def unit_limit(segments: Sequence[Segment]) -> int:
    """Return the most units (up to MAX_UNITS_RATED) to which F never exceeds MAX_NANOS; -1 if F(0) exceeds it."""
    for segment, following in pairwise([*segments, None]):
        assert segment is not None
        end = MAX_UNITS_RATED if following is None else following.above
        if segment.base > MAX_NANOS:
            return segment.above
        if segment.step > 0:
            steps = (MAX_NANOS - segment.base) // segment.step
            reaches = segment.origin + steps * segment.size
            if reaches < end:
                return max(reaches, segment.above)
    return MAX_UNITS_RATED


def record_limit(segments: Sequence[Segment]) -> int:
    """Return the most units, up to MAX_UNITS_RATED, by which F never rises or falls by more than MAX_NANOS.

    The result is a lower bound: it adds up the steepest segment and all jumps between segments.
    """
    jumps = sum(
        (
            abs(following.cost(following.above + 1) - segment.cost(following.above))
            for segment, following in pairwise(segments)
        ),
        segments[0].base,
    )
    steepest = max(segment.step / segment.size for segment in segments)
    rest = MAX_NANOS - jumps - max(segment.step for segment in segments)
    if rest < 0:
        return 0
    return min(MAX_UNITS_RATED, int(rest / steepest)) if steepest else MAX_UNITS_RATED


def _check_fields(spec: PriceSpec) -> None:
    price = spec.price
    if price.model in _TIERED:
        if price.price != "0" or price.per != 1:
            found = f"{price.price!r} beside tiers"
            raise PlanError(Finding(("price",), found, f"{price.model} to price by its tiers"))
        return
    if price.tiers:
        raise PlanError(Finding(("tiers",), str(len(price.tiers)), f"none for model {price.model!r}"))
    if price.model == "free" and price.price != "0":
        raise PlanError(Finding(("price",), repr(price.price), "none for model 'free'"))
    if price.model in ("once", "free") and price.per != 1:
        raise PlanError(Finding(("per",), repr(price.per), f"none for model {price.model!r}"))
