"""Convert decimal text to whole units, exactly: bytes from B to TB, seconds from ms to h, rounded half-up (F2).

The plain version is `_scale_one`: one Decimal per text. It takes 15 to 25 times as long (benchmarks/plain_versions.py),
so most texts are converted column by column, and only odd ones (exponents, signs, many decimals) one by one. Few texts
are cheaper one by one. tests/unit/test_mediate.py compares the results with exact fractions, and the column-wise ways
with each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

LIMIT = 1 << 45  # the most units of one record of data, 32 TiB: more is a fault of the feed

_DECIMAL = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?\s*")
_PADDED = re.compile(r"\s*[+-]?0[0-9]")
_MAX_DIGITS = 64
_FEW = 100  # up to this many texts are cheaper to convert one by one
_POWER = np.array([10**n for n in range(19)], np.int64)
_POWERS = {"B": 0, "BYTE": 0, "BYTES": 0, "KB": 1, "MB": 2, "GB": 3, "TB": 4}
_SECONDS = {"S": (1, 1), "MIN": (60, 1), "H": (3600, 1), "MS": (1, 1000)}


@dataclass(frozen=True)
class Scaled:
    """Whole units (Int64; null if the text is null or rejected), and flags of rejected texts (None if none is)."""

    units: pl.Series
    bad: pl.Series | None = None  # not a decimal number, or above the limit
    negative: pl.Series | None = None


def unit_factor(unit: str, base: int) -> tuple[int, int] | None:
    """Return the whole units per `unit` as (numerator, denominator); None for an unknown unit. Ignores case."""
    name = unit.strip().upper()
    if name in _POWERS:
        return base ** _POWERS[name], 1
    return _SECONDS.get(name)


def scale(text: pl.Series, numerator: int, denominator: int = 1, limit: int = LIMIT) -> Scaled:
    """Multiply decimal `text` (String, nulls allowed) by numerator/denominator, and round half-up to whole units.

    A result above `limit` (at most 10^17) is rejected as bad.
    """
    whole = text.cast(pl.Int64, strict=False)
    if whole.null_count() == text.null_count():
        low, high = whole.min(), whole.max()
        if low is None or high is None:
            return Scaled(whole)
        assert isinstance(low, int)
        assert isinstance(high, int)
        if low >= 0 and high <= limit // numerator:
            if numerator == denominator == 1:
                return Scaled(whole)
            return Scaled((whole * (2 * numerator) + denominator) // (2 * denominator))
    present = text.is_not_null().to_numpy()
    found = whole.fill_null(0).to_numpy()
    plain = whole.is_not_null().to_numpy() & (found >= 0) & (found <= limit // numerator)
    units = np.where(plain, found, 0)
    if not numerator == denominator == 1:
        units = (units * (2 * numerator) + denominator) // (2 * denominator)
    bad = np.zeros(len(text), np.bool_)
    negative = np.zeros(len(text), np.bool_)
    rest = np.flatnonzero(present & ~plain)
    decimals = text.gather(rest)
    if len(rest) > _FEW or any(len(value) > _MAX_DIGITS for value in decimals):
        units[rest], bad[rest], negative[rest] = _scale_decimals(decimals, numerator, denominator, limit)
    else:
        for row, value in zip(rest.tolist(), decimals.to_list(), strict=True):
            units[row], bad[row], negative[row] = _judge_one(value, numerator, denominator, limit)
    kept = present & ~bad & ~negative
    return Scaled(
        pl.Series(units).zip_with(pl.Series(kept), pl.Series([None], dtype=pl.Int64)),
        pl.Series(bad) if bad.any() else None,
        pl.Series(negative) if negative.any() else None,
    )


def _scale_decimals(text: pl.Series, numerator: int, denominator: int, limit: int) -> tuple[Ints, Flags, Flags]:
    """Scale decimals, none of them null. Returns units, and flags of bad and of negative ones.

    Plain decimals of up to 18 places are scaled column-wise, all others one by one.
    """
    parts = text.str.splitn(".", 2).struct.unnest()
    head, tail = parts["field_0"], parts["field_1"].fill_null("")
    digits = tail.str.len_bytes().fill_null(0).to_numpy()
    whole = head.cast(pl.Int64, strict=False)
    fraction = tail.cast(pl.Int64, strict=False)
    plain = (
        whole.is_not_null()
        & (whole >= 0)
        & (whole <= limit // numerator)
        & ~head.str.starts_with("-")
        & ((tail == "") | (fraction.is_not_null() & tail.str.contains("^[0-9]")))
    ).fill_null(False).to_numpy() & (digits <= 18)
    if denominator != 1 or numerator > 1 << 30:
        plain &= digits == 0
    units = (np.where(plain, whole.fill_null(0).to_numpy(), 0) * (2 * numerator) + denominator) // (2 * denominator)
    places = np.where(plain, digits, 0)
    if places.any():
        units += _scale_fraction(np.where(plain, fraction.fill_null(0).to_numpy(), 0) * _POWER[18 - places], numerator)
    bad = np.zeros(len(text), np.bool_)
    negative = np.zeros(len(text), np.bool_)
    rest = np.flatnonzero(~plain)
    for row, value in zip(rest.tolist(), text.gather(rest).to_list(), strict=True):
        units[row], bad[row], negative[row] = _judge_one(value, numerator, denominator, limit)
    bad |= units > limit
    return units, bad, negative


def _scale_fraction(fraction: Ints, numerator: int) -> Ints:
    """Return round_half_up(fraction * numerator / 10^18) for a numerator up to 2^30, in two limbs of nine digits."""
    billion, half = 10**9, 5 * 10**17
    high, low = fraction // billion * numerator, fraction % billion * numerator
    remainder = high % billion * billion + low
    units: Ints = high // billion + (remainder + half) // (2 * half)
    return units


def _judge_one(text: str, numerator: int, denominator: int, limit: int) -> tuple[int, bool, bool]:
    """Return (units, True if it is not a number or above the limit, True if it is negative)."""
    result = _scale_one(text, numerator, denominator, limit)
    return result or 0, result is None, result is not None and result < 0


def _scale_one(text: str, numerator: int, denominator: int, limit: int) -> int | None:
    """Return whole units; -1 for any number below zero; None if it is not a number or is above the limit."""
    if len(text) > _MAX_DIGITS or not _DECIMAL.fullmatch(text):
        return None
    if ("e" in text or "E" in text) and _PADDED.match(text):
        return None  # no program writes 000004e2 for 400: these are hexadecimal digits
    number = Decimal(text.strip())
    if not number:
        return 0
    if number < 0:
        return -1
    if number.adjusted() > 18:
        return None
    if number.adjusted() < -30:
        return 0
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    value = int("".join(map(str, digits))) * numerator
    divisor = denominator
    if exponent >= 0:
        value *= 10**exponent
    else:
        divisor *= 10**-exponent
    units = (2 * value + divisor) // (2 * divisor)
    return units if units <= limit else None
