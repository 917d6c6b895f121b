"""All prices at once: cumulative cost and charges of whole columns of records, exact to the last digit.

The plain version: find the segment of each record in a loop, and compute `Segment.cost` with Fraction. That takes 15 µs
per record, and the whole engine has 1 µs; here a million records over 300 prices take 0.10 s
(docs/decisions/0010-prices-as-segments.md). tests/property/test_tariff.py compares charges with a slow reference.

All prices have the same number of segments, a power of two, some of them padding. So a few comparisons find the segment
of each row, whatever the mix of prices. Cost is whole nanos and a remainder over the common denominator L of the price.
A product steps * (a + b/L) is split as steps*a + (steps // L)*b + (steps % L)*b/L. With L up to MAX_DENOMINATOR no
intermediate value leaves 64 bits, for units up to the `unit_limit` of the price. Rows beyond that are computed one by
one with Fraction. Only currencies of very small units reach so many.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np
import numpy.typing as npt

from rating.errors import Finding, PlanError
from rating.tariff.compile import LEAST_UNITS, price_segments, record_limit, unit_limit
from rating.tariff.segments import PriceSpec, Segment
from rating.units.money import DECIMALS, MAX_NANOS, ROUND_MODES, Ints, round_nanos, rounding_unit

PriceIndex = npt.NDArray[np.integer]

MAX_DENOMINATOR = 3_000_000_000  # its square plus itself is below 2**63
_NEVER = np.iinfo(np.int64).max
_CHUNK = 1 << 14  # rows per pass, so that the working columns stay in the CPU cache


@dataclass(frozen=True)
class PriceBook:
    """Prices compiled by `compile`. A price is identified by its position in the list given there. Immutable."""

    specs: tuple[PriceSpec, ...]
    segments: tuple[tuple[Segment, ...], ...]
    connect_fee_nanos: Ints  # due once per record, or with the first partial of a session
    denominator: Ints  # L of each price
    unit_limit: Ints  # most units up to which F of each price stays within 64 bits
    record_limit: Ints  # most units of one record whose charge stays within 64 bits, wherever the counter is
    _stride: int
    _above: Ints
    _origin: Ints
    _size: Ints
    _base: Ints
    _base_part: Ints
    _step: Ints
    _step_part: Ints
    _unit: Ints  # nanos of one unit in the last decimal kept
    _raise_from: Ints  # a rest of at least this many L-ths of a nano is rounded up
    _tie: Ints  # a rest of exactly this many L-ths is rounded to the even neighbour, -1: never
    _by_record: npt.NDArray[np.bool_]

    @classmethod
    def compile(cls, specs: Sequence[PriceSpec]) -> PriceBook:
        """Compile `specs`, in their order.

        Raises PlanError naming the field if a price contradicts its model, a number cannot be read, a price is too
        fine to be exact in 64 bits, or so high that the cost of everyday usage (LEAST_UNITS) would leave 64 bits.
        """
        segments = [price_segments(spec) for spec in specs]
        limits = [_checked_limit(spec, own) for spec, own in zip(specs, segments, strict=True)]
        denominators = [_denominator(own) for own in segments]
        longest = max((len(own) for own in segments), default=1)
        stride = 1 << (longest - 1).bit_length()
        size = len(specs) * stride
        above, origin, sizes = np.full(size, _NEVER), np.zeros(size, np.int64), np.ones(size, np.int64)
        base, base_part, step, step_part = (np.zeros(size, np.int64) for _ in range(4))
        for number, own in enumerate(segments):
            scale = denominators[number]
            for place, segment in enumerate(own, number * stride):
                if segment.above >= limits[number]:
                    break  # the segment is never reached, so its numbers need not fit
                above[place], origin[place], sizes[place] = segment.above, segment.origin, segment.size
                base[place], base_part[place] = divmod(int(segment.base * scale), scale)
                step[place], step_part[place] = divmod(int(segment.step * scale), scale)
        units = [rounding_unit(spec.rounding.decimals) for spec in specs]
        thresholds = [
            _thresholds(spec.rounding.mode, unit * scale)
            for spec, unit, scale in zip(specs, units, denominators, strict=True)
        ]
        return cls(
            specs=tuple(specs),
            segments=tuple(tuple(own) for own in segments),
            connect_fee_nanos=_column([_connect_fee(spec) for spec in specs]),
            denominator=_column(denominators),
            unit_limit=_column(limits),
            record_limit=_column([_checked_record_limit(own) for own in segments]),
            _stride=stride,
            _above=above,
            _origin=origin,
            _size=sizes,
            _base=base,
            _base_part=base_part,
            _step=step,
            _step_part=step_part,
            _unit=_column(units),
            _raise_from=_column([raise_from for raise_from, _ in thresholds]),
            _tie=_column([tie for _, tie in thresholds]),
            _by_record=np.array([spec.rounding.at == "record" for spec in specs], bool),
        )

    def __len__(self) -> int:
        return len(self.specs)

    def cumulative(self, price: PriceIndex, units: Ints) -> tuple[Ints, Ints]:
        """Return F(units) of each row before rounding, as whole nanos and a rest in parts of `denominator[price]`.

        Units below zero mean that the price is not entered: F is 0. Raises OverflowError if a row is above its
        `unit_limit`.
        """
        place = price.astype(np.int64)
        self._refuse_excess(place, units)
        return self._evaluate(place, units)

    def charge(self, price: PriceIndex, before: Ints, after: Ints, connects: Ints | None = None) -> Ints:
        """Return the charge of each row in nanos, int64[n], as its counter moves from `before` to `after` (P3).

        The charge is rounded once. With R for the rounding of the price, rounding at the cycle gives
        R(F(after)) - R(F(before)), so that charges sum to R(F(total)) in any split. Rounding at the record gives
        R(F(after) - F(before)). Units below zero mean that the price is not entered: F is 0. If `after` < `before`, the
        row is a reversal and costs exactly the opposite. `connects` (1 due, -1 taken back, 0 none) adds the connect
        fee: before rounding if the record is rounded, unrounded if the cycle is rounded.

        `price` is any integer column, the others are int64, all of length n. F may be of any size. Raises OverflowError
        if a single charge leaves 64 bits, which no record of up to `record_limit` units does.
        """
        charged = np.zeros(len(price), np.int64)
        moved = before != after
        if connects is not None:
            moved |= connects != 0
        rows = np.flatnonzero(moved)
        whole = len(rows) == len(price)
        for start in range(0, len(rows), _CHUNK):
            part: slice | npt.NDArray[np.intp] = slice(start, start + _CHUNK) if whole else rows[start : start + _CHUNK]
            due = None if connects is None else connects[part]
            charged[part] = self._charge(price[part].astype(np.int64), before[part], after[part], due)
        return charged

    def _charge(self, price: Ints, before: Ints, after: Ints, connects: Ints | None) -> Ints:
        nanos_before, part_before = self._evaluate(price, before)
        nanos_after, part_after = self._evaluate(price, after)
        fee = np.zeros_like(price) if connects is None else self.connect_fee_nanos[price] * connects
        charged = fee + self._round(price, nanos_after, part_after) - self._round(price, nanos_before, part_before)
        rows = np.flatnonzero(self._by_record[price])
        if len(rows):
            nanos = fee + nanos_after - nanos_before
            charged[rows] = self._round_signed(price[rows], nanos[rows], (part_after - part_before)[rows])
        beyond = np.flatnonzero(np.maximum(before, after) > self.unit_limit[price])
        for row in beyond.tolist():
            charged[row] = self._charge_beyond(int(price[row]), int(before[row]), int(after[row]), int(fee[row]))
        return charged

    def _charge_beyond(self, price: int, before: int, after: int, fee: int) -> int:
        """Return the charge of one row as `charge` does, with integers of any size."""
        rounding = self.specs[price].rounding
        ends = [self._exact(price, units) for units in (before, after)]
        if rounding.at == "record":
            return round_nanos(fee + ends[1] - ends[0], rounding.decimals, rounding.mode)
        rounded = [round_nanos(end, rounding.decimals, rounding.mode) for end in ends]
        return fee + rounded[1] - rounded[0]

    def _exact(self, price: int, units: int) -> Fraction:
        if units < 0:
            return Fraction(0)
        own = self.segments[price]
        return own[max(bisect_left([segment.above for segment in own], units) - 1, 0)].cost(units)

    def _round_signed(self, price: Ints, nanos: Ints, part: Ints) -> Ints:
        """Return R(nanos + part / L), for any sign and symmetric about zero."""
        negative = (nanos < 0) | ((nanos == 0) & (part < 0))
        sign = np.where(negative, np.int64(-1), np.int64(1))
        nanos, part = nanos * sign, part * sign
        borrow = part < 0
        nanos -= borrow
        part += borrow * self.denominator[price]
        return self._round(price, nanos, part) * sign

    def _evaluate(self, price: Ints, units: Ints) -> tuple[Ints, Ints]:
        place = price * self._stride
        jump = self._stride >> 1
        while jump:
            place += jump * (units > self._above[place + jump])
            jump >>= 1
        steps = -((self._origin[place] - units) // self._size[place])
        denominator = self.denominator[price]
        laps, rest = np.divmod(steps, denominator)
        part_of_step = self._step_part[place]
        carry, part = np.divmod(rest * part_of_step + self._base_part[place], denominator)
        nanos = self._base[place] + steps * self._step[place] + laps * part_of_step + carry
        absent = units < 0
        if absent.any():
            nanos[absent] = 0
            part[absent] = 0
        return nanos, part

    def _round(self, price: Ints, nanos: Ints, part: Ints) -> Ints:
        """Return R(nanos + part / L), both zero or more."""
        unit = self._unit[price]
        over = nanos % unit
        rest = over * self.denominator[price] + part
        lifted = rest >= self._raise_from[price]
        ties = np.flatnonzero(rest == self._tie[price])
        if len(ties):
            lifted[ties] |= (nanos[ties] // unit[ties]) % 2 == 1
        return nanos - over + lifted * unit

    def _refuse_excess(self, price: Ints, units: Ints) -> None:
        if not len(units) or units.max() <= self.unit_limit.min():
            return
        excess = np.flatnonzero(units > self.unit_limit[price])
        if len(excess):
            row = excess[0]
            raise OverflowError(
                f"price {price[row]} can rate {self.unit_limit[price[row]]} units in 64 bits, not {units[row]}"
            )


def _column(values: Sequence[int]) -> Ints:
    return np.array(values, np.int64)


def _checked_limit(spec: PriceSpec, segments: Sequence[Segment]) -> int:
    limit, least = unit_limit(segments), LEAST_UNITS[spec.service]
    if limit < least:
        found = f"a cost above {MAX_NANOS // 10**DECIMALS} after {limit + 1} units of {spec.service}"
        raise PlanError(Finding(("price",), found, f"a price by which {least} units can be charged"))
    return limit


def _checked_record_limit(segments: Sequence[Segment]) -> int:
    limit = record_limit(segments)
    if limit < 1:
        found = f"a cost that jumps by more than {MAX_NANOS // 10**DECIMALS} from one unit to the next"
        raise PlanError(Finding(("price",), found, "fees of tiers below that"))
    return limit


def _denominator(segments: Sequence[Segment]) -> int:
    scale = lcm(*(figure.denominator for segment in segments for figure in (segment.base, segment.step)))
    if scale > MAX_DENOMINATOR:
        found = f"figures that need parts of 1/{scale} nano"
        raise PlanError(Finding(("price",), found, "prices with fewer decimals, or a smaller `per`"))
    return scale


def _connect_fee(spec: PriceSpec) -> int:
    fee = spec.nanos(spec.price.connect_fee, ("connect_fee",))
    rounding = spec.rounding
    kept = rounding_unit(rounding.decimals if rounding.at == "cycle" else DECIMALS)
    if fee > MAX_NANOS // 2 or fee % kept:
        decimals = rounding.decimals if rounding.at == "cycle" else DECIMALS
        expected = (
            f"at most {decimals} decimals (if cost is rounded by the {rounding.at}) "
            f"and at most {MAX_NANOS // 2 // 10**DECIMALS}"
        )
        raise PlanError(Finding(("connect_fee",), repr(spec.price.connect_fee), expected))
    return int(fee)


def _thresholds(mode: str, whole: int) -> tuple[int, int]:
    """Return the smallest rest of `whole` that is rounded up, and the rest that is rounded to even (-1: never)."""
    if mode == "up":
        return 1, -1
    if mode == "down":
        return _NEVER, -1
    if mode == "half_up":
        return -(-whole // 2), -1
    if mode == "half_even":
        return whole // 2 + 1, whole // 2 if whole % 2 == 0 else -1
    raise PlanError(Finding(("rounding", "mode"), repr(mode), f"one of {', '.join(ROUND_MODES)}"))
