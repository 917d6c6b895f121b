"""Increments: minimum, steps, rate group starts and rounding (P3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rating.errors import PlanError
from rating.tariff.increments import IncrementBook, IncrementSpec
from schemas.plans import Increment, IncrementStart


def billable(increment: Increment, *quantities: int, service: str = "voice") -> list[int]:
    book = IncrementBook.compile([IncrementSpec(increment, service)])
    return book.billable(np.zeros(len(quantities), np.int32), np.array(quantities, np.int64)).tolist()


def starts(*rows: tuple[int, int]) -> tuple[IncrementStart, ...]:
    return tuple(IncrementStart(start=start, step=step) for start, step in rows)


@pytest.mark.parametrize(
    ("increment", "quantities", "expected"),
    [
        (Increment(), [0, 1, 59], [0, 1, 59]),
        (Increment(minimum=60, step=1), [0, 1, 60, 61, 125], [0, 60, 60, 61, 125]),  # 60/1
        (Increment(minimum=30, step=6), [1, 30, 31, 32, 37], [30, 30, 36, 36, 42]),  # 30/6
        (Increment(minimum=30, step=7), [30, 31, 38], [30, 37, 44]),  # steps count from the minimum
        (Increment(step=60, starts=starts((60, 1))), [0, 1, 65, 132], [0, 60, 65, 132]),
        (Increment(step=30, starts=starts((30, 6))), [32, 57, 75], [36, 60, 78]),
        (Increment(step=60, starts=starts((90, 1))), [65, 95, 121], [120, 120, 121]),  # the started step is finished
        (Increment(step=10, starts=starts((20, 5), (30, 1))), [11, 21, 26, 31], [20, 25, 30, 31]),
        (Increment(step=60, round="down"), [0, 59, 60, 119], [0, 0, 60, 60]),
        (Increment(step=60, round="nearest"), [29, 30, 31, 89, 90], [0, 60, 60, 60, 120]),
        (Increment(minimum=20, step=60, round="none"), [1, 20, 21], [20, 20, 21]),
        (Increment(minimum=60, step=30, round="down"), [1, 89, 90], [60, 60, 90]),
        (Increment(step=60), [-1, -61], [-60, -120]),  # a reversal mirrors what it takes back
    ],
)
def test_billable_quantity(increment: Increment, quantities: list[int], expected: list[int]) -> None:
    """Known quantities and what they are billed as."""
    assert expected == billable(increment, *quantities)


def test_units_of_the_service() -> None:
    """Steps are written in the units of the service: a KB is 1024 bytes, two minutes are 120 s."""
    assert [8_192] == billable(Increment(step="1 KB"), 7_400, service="data")
    assert [120] == billable(Increment(step="2 min"), 61)


def test_mixed_increments_in_one_batch() -> None:
    """Each row is counted by its own increment."""
    specs = [IncrementSpec(Increment(step=step), "voice") for step in (1, 60, 7)]
    book = IncrementBook.compile([*specs, IncrementSpec(Increment(step=60, starts=starts((60, 1))), "voice")])
    found = book.billable(np.array([0, 1, 2, 3, 3], np.int32), np.array([61, 61, 61, 61, 0]))
    assert [61, 120, 63, 61, 0] == found.tolist()
    assert [] == book.billable(np.empty(0, np.int32), np.empty(0, np.int64)).tolist()


def test_the_input_is_left_as_it_was() -> None:
    """The result is a column of its own, also where nothing is counted in steps."""
    quantity = np.array([1, 2, 3])
    result = IncrementBook.compile([IncrementSpec(Increment())]).billable(np.zeros(3, np.int32), quantity)
    result[0] = 99
    assert [1, 2, 3] == quantity.tolist()


@pytest.mark.parametrize(
    ("increment", "named"),
    [
        (Increment(step=0), "step: found 0; expected 1 or more"),
        (Increment(minimum="1 MB"), "minimum: found '1 MB'"),
        (Increment(starts=starts((60, 0))), r"starts\[0\].step: found 0"),
        (Increment(starts=starts((60, 1), (60, 2))), r"starts\[1\].start: found 60; expected more than 60"),
        (Increment(round="ceiling"), "round: found 'ceiling'"),  # type: ignore[arg-type]
    ],
)
def test_an_increment_that_cannot_be_used_is_refused(increment: Increment, named: str) -> None:
    """What is wrong is said by field."""
    with pytest.raises(PlanError, match=f"^{named}"):
        IncrementBook.compile([IncrementSpec(increment, "voice")])


def walked(minimum: int, step: int, groups: Sequence[tuple[int, int]], quantity: int) -> int:
    """The billable quantity by walking: the minimum, then one step after the other until the quantity is covered."""
    covered = minimum
    while covered < quantity:
        covered += next((size for start, size in reversed(groups) if start <= covered), step)
    return covered


@given(
    st.integers(0, 90),
    st.integers(1, 70),
    st.dictionaries(st.integers(0, 200), st.integers(1, 70), max_size=3),
    st.lists(st.integers(1, 600), min_size=2, max_size=20),
)
def test_rounding_up_walks_the_steps(minimum: int, step: int, groups: dict[int, int], quantities: list[int]) -> None:
    """Rounded up, what is billed is what is covered when step follows step, and it never falls as usage grows."""
    ordered = sorted(groups.items())
    found = billable(Increment(minimum=minimum, step=step, starts=starts(*ordered)), *sorted(quantities))
    assert [walked(minimum, step, ordered, quantity) for quantity in sorted(quantities)] == found
    assert all(one <= other for one, other in pairwise(found))


@given(st.integers(1, 10**18), st.integers(0, 2**62), st.sampled_from(["up", "down", "nearest", "none"]))
def test_large_figures_stay_exact(step: int, quantity: int, how: str) -> None:
    """Steps and quantities at the ends of their ranges are counted as Python's integers count them."""
    expected = {
        "up": -(-quantity // step) * step,
        "down": quantity // step * step,
        "nearest": (2 * quantity + step) // (2 * step) * step,
        "none": quantity,
    }[how]
    assert [expected] == billable(Increment(step=step, round=how), quantity, service="data")  # type: ignore[arg-type]
