"""Fees that are not usage, and proration by days (P9). Days are counted inclusively: the 14th to the 31st are 18."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from rating.errors import PlanError
from rating.money import DECIMALS, Ints, muldiv, parse_amount, round_nanos
from schemas.plans import Fee, RoundMode


class FeeDue(NamedTuple):
    """What a fee comes to in one cycle: for `days` of the cycle's `of_days`, both of_days where it is due in full."""

    days: int
    of_days: int
    amount_nanos: int


@dataclass(frozen=True)
class FeeTerms:
    """A fee read into integers."""

    name: str
    amount_nanos: int
    per: Literal["activation", "cycle"]
    prorate: bool

    @classmethod
    def compile(cls, fee: Fee) -> FeeTerms:
        """The terms of a fee; PlanError where its amount cannot be read. An amount below zero is a credit."""
        if fee.per not in ("activation", "cycle"):
            raise PlanError(f"fee {fee.name!r}, per: found {fee.per!r}; expected activation or cycle")
        try:
            amount = parse_amount(fee.amount)
        except PlanError as error:
            raise PlanError(f"fee {fee.name!r}, amount: {error}") from None
        return cls(fee.name, amount, fee.per, fee.prorate)

    def due(
        self, cycle_first: int, cycle_last: int, first: int, last: int | None, activated: int | None = None
    ) -> FeeDue | None:
        """The fee of the cycle from day `cycle_first` to `cycle_last` for a plan held from day `first` to `last`.

        All days belong to their span; `last` None is no end yet. A cycle's fee is due where the spans share a day,
        and by the shared days where it is prorated. An activation's fee is due in full in the cycle that day
        `activated` lies in, if the plan was held that day. None: not due.
        """
        of_days = cycle_last - cycle_first + 1
        days = shared_days(cycle_first, cycle_last, first, last)
        if self.per == "activation":
            held = activated is not None and cycle_first <= activated <= cycle_last and activated >= first
            if not held or (last is not None and activated is not None and activated > last):
                return None
            return FeeDue(of_days, of_days, self.amount_nanos)
        if days == 0:
            return None
        if not self.prorate:
            return FeeDue(of_days, of_days, self.amount_nanos)
        return FeeDue(days, of_days, prorate(self.amount_nanos, days, of_days))


def shared_days(cycle_first: int, cycle_last: int, first: int, last: int | None) -> int:
    """How many days two spans of days share, both ends included; `last` None is no end."""
    until = cycle_last if last is None else min(last, cycle_last)
    return max(0, until - max(first, cycle_first) + 1)


def prorate(
    amount_nanos: int, days: int, of_days: int, *, decimals: int = DECIMALS, mode: RoundMode = "half_even"
) -> int:
    """Nanos of `days` of `of_days` of an amount: exactly amount * days / of_days, rounded once.

    Raises ValueError unless 0 <= days <= of_days and of_days > 0, PlanError for rounding that there is not.
    """
    _check_days(days, of_days)
    return round_nanos(Fraction(amount_nanos * days, of_days), decimals, mode)


def prorate_units(units: int, days: int, of_days: int) -> int:
    """Whole units of `days` of `of_days` of an allowance, rounded down: shares of one cycle never exceed the whole.

    Raises ValueError unless 0 <= days <= of_days, of_days > 0 and units >= 0.
    """
    _check_days(days, of_days)
    if units < 0:
        raise ValueError(f"an allowance of {units} units cannot be prorated")
    return units * days // of_days


def prorate_units_column(units: Ints, days: Ints, of_days: Ints) -> Ints:
    """`prorate_units` of int64 columns, broadcast against each other, exact for any 64-bit allowance."""
    share, _ = muldiv(units, days, of_days)
    return share


def _check_days(days: int, of_days: int) -> None:
    if not 0 <= days <= of_days or of_days <= 0:
        raise ValueError(f"{days} of {of_days} days are no share of a cycle")
