"""Check digits of card numbers: Luhn for ICCIDs (ITU-T E.118), modulo 97 for EIDs (GSMA SGP.29).

An ICCID of 19 digits is an E.118 number, and its last digit is a Luhn check digit. The structure of an ICCID of 20
digits is the operator's choice (GSM phase 1): some end in a check digit, some have a digit after it, some have no check
digit. The number does not say which, so only numbers of 19 digits are checked. Rejecting many good numbers would be
worse than finding a mistyped one later, as usage of an unknown card.
"""

from __future__ import annotations

import numpy as np
import polars as pl

EID_LENGTH = 32

_WIDTH = 32  # digits of the longest number checked here; leading zeros do not change a Luhn sum
_DOUBLED = np.array([2 * d if 2 * d < 10 else 2 * d - 9 for d in range(10)], dtype=np.uint8)


def luhn_digit(body: str) -> str:
    """Return the Luhn check digit to append to `body`, a text of digits."""
    total = 0
    for place, character in enumerate(reversed(body)):
        digit = int(character)
        total += int(_DOUBLED[digit]) if place % 2 == 0 else digit
    return str(-total % 10)


def luhn_valid_column(numbers: pl.Series) -> pl.Series:
    """Return whether the last digit of each value of a String column is the Luhn check digit of the others.

    Null stays null. A value that does not consist of 2 to 32 digits is false.
    """
    digits = numbers.str.contains(r"^[0-9]{2,32}$")
    usable = numbers.filter(digits).str.zfill(_WIDTH)
    matrix = np.frombuffer(usable.str.join("").item().encode("ascii"), dtype=np.uint8).reshape(-1, _WIDTH) - 48
    # The check digit is the last column. Every second column to the left of it is doubled.
    total = matrix[:, 1::2].sum(axis=1, dtype=np.int64) + _DOUBLED[matrix[:, 0::2]].sum(axis=1, dtype=np.int64)
    valid = np.zeros(len(numbers), dtype=np.bool_)
    valid[digits.fill_null(False).to_numpy()] = total % 10 == 0
    return pl.select(pl.when(numbers.is_not_null()).then(pl.Series(valid))).to_series().alias(numbers.name)


def eid_valid_column(numbers: pl.Series) -> pl.Series:
    """Return whether each value of a String column is 32 digits that leave remainder 1 by 97. Null stays null."""
    digits = numbers.str.contains(r"^[0-9]{32}$")
    usable = pl.select(pl.when(digits).then(numbers)).to_series()
    remainder = pl.select(pl.lit(0, dtype=pl.Int64)).to_series()
    for start in range(0, EID_LENGTH, 8):  # 8 digits at a time, because the whole number does not fit 64 bits
        remainder = (remainder * 100_000_000 + usable.str.slice(start, 8).cast(pl.Int64)) % 97
    return pl.select(pl.when(digits).then(remainder == 1).otherwise(digits)).to_series().alias(numbers.name)
