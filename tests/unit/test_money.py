"""Money in and out as decimal text, rounding, and exact products of columns."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rating.errors import PlanError
from rating.units.money import MAX_NANOS, format_amount, muldiv, parse_amount, round_nanos
from schemas.plans import RoundMode

LARGE = st.integers(0, 2**62)


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("0", 0),
        ("0.0125", 12_500_000),
        ("-3", -3_000_000_000),
        ("31.00", 31 * 10**9),
        ("0.000000001", 1),
        ("1.10000000000", 1_100_000_000),
    ],
)
def test_parse_amount(text: str, nanos: int) -> None:
    """Decimal text is read exactly; zeros past the ninth decimal do not matter."""
    assert nanos == parse_amount(text)


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1e3", "NaN", "Infinity", "1,5", ".5", "5.", "--1", "0.0000000001", "4611686019", "٣", "1" * 10**6],
)
def test_parse_amount_refuses(text: str) -> None:
    """What is no exact amount of nanos in 64 bits is refused, with what was found, shortened."""
    with pytest.raises(PlanError, match=r"^found ") as refusal:
        parse_amount(text)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("wrong", [1, 1.5, None, True])
def test_parse_amount_takes_text_alone(wrong: object) -> None:
    """A number that is not text is refused: it may have been a float on its way."""
    with pytest.raises(PlanError, match="decimal text"):
        parse_amount(wrong)  # type: ignore[arg-type]


@given(st.integers(-MAX_NANOS, MAX_NANOS))
def test_format_and_parse_are_inverse(nanos: int) -> None:
    """Every amount survives its text, which has no exponent and no trailing zeros."""
    text = format_amount(nanos)
    assert nanos == parse_amount(text)
    assert "e" not in text.lower()
    assert "." not in text or text[-1] not in "0."


@pytest.mark.parametrize(("nanos", "text"), [(0, "0"), (-1, "-0.000000001"), (1_500_000_000, "1.5"), (7 * 10**9, "7")])
def test_format_amount(nanos: int, text: str) -> None:
    """Amounts are written plainly."""
    assert text == format_amount(nanos)


@given(st.fractions(-(10**12), 10**12), st.integers(0, 9))
def test_rounding_goes_to_a_neighbour(value: Fraction, decimals: int) -> None:
    """Each mode gives the neighbour that it names, and the same below zero as above."""
    unit = 10 ** (9 - decimals)
    down, up = round_nanos(value, decimals, "down"), round_nanos(value, decimals, "up")
    assert abs(down) <= abs(value) <= abs(up)
    assert abs(up - down) in (0, unit)
    assert down % unit == 0
    half = round_nanos(value, decimals, "half_up")
    assert abs(half - value) * 2 <= unit
    assert half in (down, up)
    even = round_nanos(value, decimals, "half_even")
    assert even == half if abs(half - value) * 2 < unit else even // unit % 2 == 0
    for mode in ("half_even", "half_up", "up", "down"):
        assert round_nanos(-value, decimals, mode) == -round_nanos(value, decimals, mode)


@given(st.lists(st.tuples(LARGE, LARGE, st.integers(1, 2**61)), min_size=1, max_size=20))
@example([(2**61 - 2, 2**61 - 3, 2**61 - 1)])
@example([(2**62, 2**61, 2**61)])
@example([(2**43 - 2, 2**62 - 1, 2**43 - 1)])
def test_muldiv_is_exact(rows: list[tuple[int, int, int]]) -> None:
    """Products of up to 124 bits are divided without losing a digit, wherever the quotient fits."""
    rows = [(a, min(b, 2**61 * c // max(a, 1)), c) for a, b, c in rows]
    a, b, c = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    quotient, remainder = muldiv(a, b, c)
    assert [divmod(a * b, c) for a, b, c in rows] == list(zip(quotient.tolist(), remainder.tolist(), strict=True))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("half_even", [20, 20, 40]), ("half_up", [20, 30, 40]), ("up", [20, 30, 40]), ("down", [10, 20, 30])],
)
def test_rounding_of_halves(mode: RoundMode, expected: list[int]) -> None:
    """15, 25 and 35 nanos to tens of a nano, and the same below zero."""
    assert expected == [round_nanos(Fraction(value), 8, mode) for value in (15, 25, 35)]
    assert expected == [-round_nanos(Fraction(-value), 8, mode) for value in (15, 25, 35)]


def test_muldiv_broadcasts_and_takes_nothing() -> None:
    """Scalars are broadcast to columns, and no rows give no rows."""
    assert [[1, 3], [3, 1]] == [column.tolist() for column in muldiv(np.array([2, 4]), np.array(4), np.array(5))]
    assert 0 == len(muldiv(np.empty(0, np.int64), np.array(1), np.array(1))[0])


def test_muldiv_refuses_what_it_cannot_hold() -> None:
    """A quotient above 64 bits is an error and never a wrapped figure; so are arguments out of range."""
    with pytest.raises(OverflowError):
        muldiv(np.array([2**62]), np.array([3]), np.array([2]))
    for wrong in ((-1, 1, 1), (1, -1, 1), (1, 1, 0), (1, 1, 2**62)):
        with pytest.raises(ValueError, match="muldiv needs"):
            muldiv(*(np.array([value]) for value in wrong))
