"""Percent: exact, halves away from zero, and the same digits in SQL."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, localcontext

import duckdb
import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rating.units.ratio import PERCENT_SQL, percent

LARGEST = 2**63 - 1
USED = st.integers(-LARGEST, LARGEST) | st.integers(-3000, 3000)
SIZE = st.integers(-LARGEST, LARGEST) | st.integers(-3, 3000)


@given(USED, SIZE)
@example(1, 800)
@example(3, 800)
@example(-1, 800)
@example(-1, 30_000)
def test_percent_is_the_exact_share_with_halves_away_from_zero(used: int, size: int) -> None:
    """It is what decimal arithmetic with enough digits gives; there is none if there is no size."""
    found = percent(used, size)
    if size <= 0:
        assert found is None
        return
    with localcontext(prec=60):
        expected = (Decimal(used) * 100 / size).quantize(Decimal("0.01"), ROUND_HALF_UP)
    assert found == str(abs(expected) if expected == 0 else expected)


def test_percents_that_a_reader_can_check() -> None:
    """A half of a hundredth goes up; nothing used is 0.00; a size of 0 has no percent."""
    pairs = ((1, 3), (2, 3), (1, 20_000), (7, 7), (1, 800), (3, 800), (-1, 800), (0, 5), (5, 2), (1, 0))
    expected = ["33.33", "66.67", "0.01", "100.00", "0.13", "0.38", "-0.13", "0.00", "250.00", None]
    assert [percent(used, size) for used, size in pairs] == expected


@settings(max_examples=50)
@given(st.lists(st.tuples(USED | st.none(), SIZE | st.none()), min_size=1, max_size=50))
@example([(1, 800), (-1, 800), (-1, 30_000), (-1, 15_000), (LARGEST, 1), (-LARGEST, 1), (None, 1), (1, None)])
def test_sql_gives_the_same_digits(pairs: list[tuple[int | None, int | None]]) -> None:
    """The expression of the report has the figure of `percent` for every pair; null for what is not known."""
    table = pl.DataFrame(pairs, schema={"used": pl.Int64, "size": pl.Int64}, orient="row").to_arrow()
    with duckdb.connect() as connection:
        connection.register("pairs", table)
        rows = connection.sql(f"SELECT {PERCENT_SQL.format(used='used', size='size')} FROM pairs").fetchall()
    expected = [None if used is None or size is None else percent(used, size) for used, size in pairs]
    assert [None if value is None else str(value) for (value,) in rows] == expected
