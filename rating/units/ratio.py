"""The share of a size that is used, in percent: one rule of rounding for every view, list and report (Q6)."""

from __future__ import annotations

from typing import Final

# The rule of `percent` in SQL, for integer columns or expressions: DECIMAL(38, 2), null if there is no size. It counts
# half hundredths, as `percent` does, and rounds their absolute value, because `//` of DuckDB rounds towards zero.
PERCENT_SQL: Final = (
    "CASE WHEN {size} > 0 THEN ((sign({used}) * ((abs({used}::HUGEINT) * 20000 // {size} + 1) // 2))"
    "::DECIMAL(29, 0) * 0.01::DECIMAL(3, 2))::DECIMAL(38, 2) END"
)


def percent(used: int, size: int) -> str | None:
    """Return `used` in percent of `size`, as decimal text with two decimals; None if there is no size (0 or less).

    A half is rounded up, away from zero: 1 of 800 is "0.13". The calculation is exact, in integers.
    """
    if size <= 0:
        return None
    hundredths = (abs(used) * 20_000 // size + 1) // 2
    sign = "-" if used < 0 and hundredths else ""
    return f"{sign}{hundredths // 100}.{hundredths % 100:02d}"
