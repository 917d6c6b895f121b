"""Sums of charges in counters: exact in any currency and of any size."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rating.columnar.counters import MOST_NANOS, Counters, counter_groups

AMOUNTS = st.one_of(st.integers(-5, 5), st.integers(-MOST_NANOS, MOST_NANOS), st.just(MOST_NANOS), st.just(-MOST_NANOS))
CHARGES = st.tuples(st.integers(0, 3), AMOUNTS, st.integers(0, 2))  # subject, nanos, currency


@given(st.lists(st.lists(CHARGES, max_size=12), max_size=4))
def test_charges_are_exact_and_by_currency(batches: list[list[tuple[int, int, int]]]) -> None:
    """In any batches, the charges of a counter are the sums by currency, also after a snapshot."""
    counters, expected = Counters(), defaultdict[tuple[int, int], int](int)
    subjects: set[int] = set()
    for batch in batches:
        subject, nanos, currency = (np.array([one[n] for one in batch], np.int64) for n in range(3))
        groups = counter_groups(subject, np.zeros_like(subject), np.zeros_like(subject))
        counters.add_charges(groups, counters.rows(groups.keys), nanos, currency)
        for one, amount, kind in batch:
            expected[one, kind] += amount
            subjects.add(one)
        counters = Counters.from_table(counters.to_table(), counters.further_table())
    for row, one in enumerate(counters.subject.tolist()):
        found = {kind: nanos for kind, nanos in counters.charges(row).items() if nanos}
        assert found == {kind: nanos for (whose, kind), nanos in expected.items() if whose == one and nanos}
    assert subjects == set(counters.subject.tolist())


def test_counters_that_go_take_their_charges_with_them() -> None:
    """A dropped counter leaves no charges behind."""
    counters, zero = Counters(), np.zeros(2, np.int64)
    groups = counter_groups(zero, zero, zero)
    counters.add_charges(groups, counters.rows(groups.keys), np.array([7, 9]), np.array([0, 1]))
    assert {0: 7, 1: 9} == counters.charges(0)
    counters.keep(np.array([False]))
    assert not counters.further
