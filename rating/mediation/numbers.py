"""Read numbers as feeds write them: separators, hexadecimal or swapped digits, a unit in the cell, clocks (F2).

A mapping says in `[numbers]` how its feed writes numbers. If it does not say so, a text that has two readings is found
by `two_readings`, and refused: a wrong guess would bill a thousandth, or a thousand times too much.
"""

from __future__ import annotations

import re

import polars as pl

from schemas.mapping import Numbers

CLOCKS = {"hh:mm:ss": (3600, 60, 1), "mm:ss": (60, 1)}  # units of a duration text, with the seconds of each part

# Characters that are typed or exported for one and the same separator.
_ALIKE = {" ": " \u00a0\u2009\u202f", "'": "'\u2019"}
_GROUPED = r"^\s*[+-]?[1-9][0-9]{0,2}(?:\.[0-9]{3})+\s*$"
_PADDED = r"^\s*0+[1-9][0-9]+\s*$"
_EXPONENT = r"^\s*[0-9]+[eE][0-9]+\s*$"
_HEXADECIMAL = r"^\s*(?:0[xX])?([0-9A-Fa-f]{1,32})\s*$"
_LAST_HEXADECIMAL = 15  # digits that fit into int64, whatever they are
_CELL = "^\\s*(.*?[0-9.,])[\\s\u00a0\u202f]*([A-Za-z]*)\\s*$"


def two_readings(text: pl.Series, delimited: bool) -> pl.Series:
    """Return whether a number has more than one reading if the mapping does not say how numbers are written.

    `text` is String, the result Boolean, null for null. Two readings have a padded number such as 00002710 (decimal or
    hexadecimal) and 4e2 (an exponent or hexadecimal). In `delimited` text also 1.234 has two: a spreadsheet of half of
    Europe means 1234 by it. In JSON, Parquet and Arrow a point is the decimal point.
    """
    pattern = f"{_PADDED}|{_EXPONENT}|{_GROUPED}" if delimited else f"{_PADDED}|{_EXPONENT}"
    return text.str.contains(pattern)


def plain_decimals(text: pl.Series, written: Numbers) -> pl.Series:
    """Return numbers that are written as `written` says as text with a decimal point; null for any other text."""
    if written.radix == 16:
        return _from_hexadecimal(text)
    if written.decimal == "." and not written.separators:
        return text
    decimal = re.escape(written.decimal)
    tail = rf"(?:{decimal}[0-9]*)?(?:[eE][+-]?[0-9]{{1,4}})?\s*$"
    shapes = [rf"[0-9]+{tail}", rf"{decimal}[0-9]+(?:[eE][+-]?[0-9]{{1,4}})?\s*$"]
    dropped = ""
    for separator in written.separators:
        for character in _ALIKE.get(separator, separator):
            # One number uses one separator throughout, and its groups have three digits.
            shapes.append(rf"[1-9][0-9]{{0,2}}(?:{re.escape(character)}[0-9]{{3}})+{tail}")
            dropped += character
    fits = text.str.contains(rf"^\s*[+-]?(?:{'|'.join(shapes)})")
    plain = text.str.replace_all(f"[{re.escape(dropped)}]", "") if dropped else text
    if written.decimal == ",":
        plain = plain.str.replace(",", ".", literal=True)
    return plain.zip_with(fits.fill_null(False), pl.Series([None], dtype=pl.String))


def _from_hexadecimal(text: pl.Series) -> pl.Series:
    digits = text.str.extract(_HEXADECIMAL, 1).str.replace(r"^0+([0-9A-Fa-f])", "$1")
    short = (digits.str.len_bytes() <= _LAST_HEXADECIMAL).fill_null(False)
    digits = digits.zip_with(short, pl.Series([None], dtype=pl.String))
    return digits.str.to_integer(base=16, dtype=pl.Int64, strict=False).cast(pl.String)


def split_units(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return the number and the unit of cells such as "12,5 MB". A cell without a unit has null for it."""
    parts = pl.DataFrame({"text": text}).select(
        number=pl.col("text").str.extract(_CELL, 1).fill_null(pl.col("text")), unit=pl.col("text").str.extract(_CELL, 2)
    )
    unit = parts["unit"]
    return parts["number"], unit.zip_with((unit != "").fill_null(False), pl.Series([None], dtype=pl.String))


def clock_seconds(text: pl.Series, unit: str) -> pl.Series:
    """Return durations such as 00:05:30 in whole seconds, rounded half-up; null for any other text.

    `unit` is a key of CLOCKS. Minutes and seconds below a larger part are at most 59.
    """
    parts = CLOCKS[unit]
    shape = r"^\s*([0-9]{1,9})" + ":([0-5][0-9])" * (len(parts) - 1) + r"(?:[.,]([0-9])[0-9]*)?\s*$"
    total = pl.sum_horizontal(
        pl.col("text").str.extract(shape, group).cast(pl.Int64) * seconds for group, seconds in enumerate(parts, 1)
    )
    half = pl.col("text").str.extract(shape, len(parts) + 1).cast(pl.Int64).fill_null(0) >= 5
    read = pl.DataFrame({"text": text}).select(
        pl.when(pl.col("text").str.contains(shape)).then(total + half.cast(pl.Int64))
    )
    return read.to_series()


def unswapped(text: pl.Series, network: bool) -> pl.Series:
    """Return the digits of numbers that networks write as swapped pairs, without the filler F; null for other text.

    With `network` they are an MCC and an MNC, whose third digit is before the other two.
    """
    shape = "^[0-9]{2}[0-9Ff][0-9][0-9]{2}$" if network else "^(?:[0-9]{2})*(?:[0-9]{2}|[Ff][0-9])$"
    pairs = text.str.to_uppercase().str.replace_all("(.)(.)", "$2$1")
    digits = pairs.str.replace("^(...)(.)(..)$", "$1$3$2") if network else pairs
    found = digits.str.strip_suffix("F")
    return found.zip_with(text.str.contains(shape).fill_null(False), pl.Series([None], dtype=pl.String))
