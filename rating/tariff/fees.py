"""Fees beside usage, and proration by days. Days are counted inclusively: the 14th to the 31st are 18 days (P9)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np

from rating.errors import Finding, PlanError
from rating.units.money import DECIMALS, Ints, muldiv, parse_amount, round_nanos
from schemas.plans import Fee, RoundMode


@dataclass(frozen=True)
class FeeTerms:
    """A fee of a plan or pool, with its amount in nanos."""

    name: str
    amount_nanos: int
    per: Literal["activation", "cycle"]
    prorate: bool

    @classmethod
    def compile(cls, fee: Fee) -> FeeTerms:
        """Return the terms of a fee. An amount below zero is a credit. Raises PlanError if a field cannot be read."""
        if fee.per not in ("activation", "cycle"):
            raise PlanError(Finding(("per",), repr(fee.per), "activation or cycle", f"fee {fee.name!r}"))
        try:
            amount = parse_amount(fee.amount)
        except PlanError as error:
            raise PlanError(replace(error.finding.under("amount"), subject=f"fee {fee.name!r}")) from None
        return cls(fee.name, amount, fee.per, fee.prorate)


def prorate(
    amount_nanos: int, days: int, of_days: int, *, decimals: int = DECIMALS, mode: RoundMode = "half_even"
) -> int:
    """Return an amount prorated by days, in nanos: exactly amount * days / of_days, rounded once.

    Raises ValueError unless 0 <= days <= of_days and of_days > 0. Raises PlanError if the rounding is unknown.
    """
    if not 0 <= days <= of_days or of_days <= 0:
        raise ValueError(f"{days} of {of_days} days are no share of a cycle")
    return round_nanos(Fraction(amount_nanos * days, of_days), decimals, mode)


def prorate_units(units: Ints, days: Ints, of_days: Ints) -> Ints:
    """Return allowances prorated by days, in whole units rounded down, so that shares never exceed the whole.

    All columns are int64 and broadcast against each other. The result is exact for any allowance of 64 bits. Raises
    ValueError unless units >= 0, 0 <= days <= of_days and of_days > 0 in every row.
    """
    if np.any(days > of_days):
        raise ValueError("days must not exceed the days of the cycle")
    share, _ = muldiv(units, days, of_days)
    return share
