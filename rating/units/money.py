"""Money as integers of 10^-9 of the currency (nanos), and exact products of integer columns.

No amount is ever a float. Amounts are read and written as decimal text. Shares are computed with a remainder, which is
kept until the single rounding that the plan names (P3).
"""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from rating.errors import Finding, PlanError
from schemas.plans import RoundMode

Ints = npt.NDArray[np.int64]

NANOS = 1_000_000_000
DECIMALS = 9
MAX_NANOS = 2**62  # a little over 4.6 billion of a currency; leaves room in 64 bits for adding amounts

_DECIMAL = re.compile(r"([+-]?)(\d{1,30})(?:\.(\d{1,30}))?\Z", re.ASCII)
ROUND_MODES: tuple[RoundMode, ...] = ("half_even", "half_up", "up", "down")


def parse_decimal(text: str) -> Fraction:
    """Return the exact value of decimal text such as "0.0125" or "-3".

    Raises PlanError for anything else: an exponent, a thousands separator, NaN, or more than 30 digits before or after
    the point.
    """
    match = _DECIMAL.match(text) if isinstance(text, str) else None
    if match is None:
        raise PlanError(Finding((), _shown(text), 'an amount as decimal text, such as "0.0125"'))
    sign, whole, decimals = match[1], match[2], match[3] or ""
    value = Fraction(int(whole + decimals), 10 ** len(decimals))
    return -value if sign == "-" else value


def parse_amount(text: str) -> int:
    """Return the amount in `text` in nanos, exactly.

    Raises PlanError if the text is not a decimal number, has more than nine significant decimals, or is outside
    -MAX_NANOS to MAX_NANOS.
    """
    nanos = parse_decimal(text) * NANOS
    if nanos.denominator != 1:
        raise PlanError(Finding((), _shown(text), f"an amount with at most {DECIMALS} decimals"))
    if abs(nanos) > MAX_NANOS:
        raise PlanError(Finding((), _shown(text), f"an amount of at most {MAX_NANOS // NANOS}"))
    return int(nanos)


def format_amount(nanos: int) -> str:
    """Return an amount as decimal text, without exponent and trailing zeros. `parse_amount` reads it back."""
    whole, rest = divmod(abs(int(nanos)), NANOS)
    decimals = f"{rest:0{DECIMALS}d}".rstrip("0")
    return ("-" if nanos < 0 else "") + str(whole) + ("." + decimals if decimals else "")


def round_nanos(value: Fraction, decimals: int, mode: RoundMode) -> int:
    """Round `value` nanos to `decimals` decimals of the currency. Returns nanos.

    Rounding is symmetric about zero: `up` rounds away from zero, `down` towards zero, and `half_up` rounds a half away
    from zero. Raises PlanError if `decimals` is not 0 to 9 or `mode` is not one of ROUND_MODES.
    """
    unit = rounding_unit(decimals)
    if mode not in ROUND_MODES:
        raise PlanError(Finding((), f"rounding mode {_shown(mode)}", f"one of {', '.join(ROUND_MODES)}"))
    magnitude = abs(value)
    count, rest = divmod(magnitude, unit)
    twice = 2 * rest
    if mode == "up":
        raised = rest > 0
    elif mode == "down":
        raised = False
    else:
        raised = twice > unit or (twice == unit and (mode == "half_up" or count % 2 == 1))
    rounded = (int(count) + raised) * unit
    return -rounded if value < 0 else rounded


def rounding_unit(decimals: int) -> int:
    """Return the nanos of one unit in the last of `decimals` decimals. Raises PlanError unless they are 0 to 9."""
    if not isinstance(decimals, int) or isinstance(decimals, bool) or not 0 <= decimals <= DECIMALS:
        raise PlanError(Finding((), f"{decimals!r} decimals", f"0 to {DECIMALS}"))
    return int(10 ** (DECIMALS - decimals))


def muldiv(a: Ints, b: Ints, c: Ints) -> tuple[Ints, Ints]:
    """Return quotient and remainder of a * b / c, exactly, although the product may need 126 bits.

    All three are int64 and broadcast against each other, with a >= 0, b >= 0 and 0 < c <= 2**61. Raises OverflowError
    if a quotient is above 2**62, and ValueError if an argument is out of range.
    """
    a, b, c = (np.asarray(value, np.int64) for value in (a, b, c))
    if not a.size or not b.size or not c.size:
        shape = np.broadcast_shapes(a.shape, b.shape, c.shape)
        return np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    if a.min() < 0 or b.min() < 0 or c.min() <= 0 or c.max() > 2**61:
        raise ValueError("muldiv needs a >= 0, b >= 0 and 0 < c <= 2**61")
    # The float only finds quotients that are too large. No result is computed from it.
    near = a.astype(np.float64) * b / c
    if np.any(near > 2.0**62):
        raise OverflowError("a quotient does not fit a 64-bit integer")
    whole, part = np.divmod(a, c)
    quotient = whole * b
    # Compute part * b / c digit by digit of b. Each digit is so small that two products of it with c fit 63 bits.
    width = max(1, 62 - int(c.max()).bit_length())
    digits = -(-int(b.max()).bit_length() // width)
    share, remainder = np.zeros_like(quotient + c), np.zeros_like(quotient + c)
    for place in range(digits - 1, -1, -1):
        digit = (b >> (place * width)) & ((1 << width) - 1)
        carry, remainder = np.divmod((remainder << width) + part * digit, c)
        share = (share << width) + carry
    return quotient + share, remainder


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
