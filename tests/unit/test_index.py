"""Dense rows for keys, and running totals inside groups."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rating.columnar.groups import Groups
from rating.columnar.key_index import KeyIndex

keys = arrays.arrays(np.uint64, st.integers(0, 300), elements=st.integers(0, 2**64 - 1), unique=True)


@given(first=keys, second=keys)
def test_rows_are_numbered_in_order_of_first_insertion(first: np.ndarray, second: np.ndarray) -> None:
    """A dict that numbers its keys as they come gives the same rows."""
    index = KeyIndex()
    model: dict[int, int] = {}
    for batch in (first, second, first):
        expected = [model.setdefault(int(key), len(model)) for key in batch]
        assert index.insert(batch).tolist() == expected
    assert index.keys.tolist() == list(model)
    assert index.find(second).tolist() == [model[int(key)] for key in second]


def test_a_key_that_is_not_there_is_minus_one() -> None:
    """Looking up never inserts."""
    index = KeyIndex(np.array([5, 7], np.uint64))
    assert index.find(np.array([7, 6, 5, 7], np.uint64)).tolist() == [1, -1, 0, 1]
    assert len(index) == 2


def test_hundred_thousand_keys_survive_growth() -> None:
    """The table grows many times over and still finds every key."""
    numbers = np.random.default_rng(3).permutation(100_000).astype(np.uint64)
    index = KeyIndex()
    for part in np.array_split(numbers, 37):
        index.insert(part)
    assert index.find(numbers).tolist() == list(range(100_000))


@given(
    entries=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10**12)), max_size=50),
    spread=st.sampled_from([1, 2**40, 2**58]),
)
def test_before_is_the_running_total_of_the_group(entries: list[tuple[int, int]], spread: int) -> None:
    """Each row finds what its counter held plus all earlier rows of its group."""
    group = np.array([key * spread for key, _ in entries], np.int64)
    amount = np.array([amount for _, amount in entries], np.int64)
    groups = Groups.of(group)
    held = groups.keys // spread * 1000
    before = groups.scatter(groups.before(amount[groups.order], held))
    model: dict[int, int] = {}
    for place, (key, quantity) in enumerate(entries):
        assert before[place] == model.get(key, key * 1000)
        model[key] = model.get(key, key * 1000) + quantity
    assert dict(zip((groups.keys // spread).tolist(), groups.totals(amount[groups.order]).tolist(), strict=True)) == {
        key: total - key * 1000 for key, total in model.items()
    }
