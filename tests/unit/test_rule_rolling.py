"""The rolling 24 hours of SIMs: what each record finds, and what is kept between batches (T4)."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rating.columnar.groups import Groups
from rating.rules.totals.rolling import ByCard, Moved, Rolling

DATA = "data/rolling"

# card, quarter, units; more than a day apart, so that quarters leave
records = st.lists(st.tuples(st.integers(0, 2), st.integers(1000, 1260), st.integers(0, 5)), max_size=30)


def move(rolling: Rolling, rows: list[tuple[int, int, int]], floor: int = 0) -> list[tuple[int, int]]:
    """Move on by records of (card, quarter, units); (before, now) of those that count, in journal order."""
    rolling.use(DATA)
    rows = [row for row in rows if row[1] >= floor]
    if not rows:
        return []
    card, quarter, units = np.array(rows, np.int64).T
    groups = Groups.of(card)
    order = groups.order
    floors = np.full(len(groups.keys), floor)
    moved = rolling.move(DATA, ByCard(groups.keys, groups.segment, groups.starts, quarter[order], units[order], floors))
    placed = Moved(groups.scatter(moved.before), groups.scatter(moved.now), moved.counts[np.argsort(order)])
    return [
        (int(before), int(now))
        for before, now, counts in zip(placed.before, placed.now, placed.counts, strict=True)
        if counts
    ]


class Slow:
    """Every record is kept, and summed again for each."""

    def __init__(self) -> None:
        self.heard: dict[int, list[tuple[int, int]]] = defaultdict(list)

    def move(self, rows: list[tuple[int, int, int]], floor: int = 0) -> list[tuple[int, int]]:
        found = []
        for card, quarter, units in rows:
            if quarter < floor:
                continue
            self.heard[card].append((quarter, units))
            latest = max(one for one, _ in self.heard[card])
            now = sum(n for one, n in self.heard[card] if one >= max(latest - 95, floor))
            if quarter >= latest - 95:
                found.append((now - units, now))
        return found


@given(st.lists(records, max_size=4), st.lists(st.integers(0, 60), min_size=4, max_size=4), st.data())
def test_windows_agree_with_a_sum_over_all_records(
    batches: list[list[tuple[int, int, int]]], steps: list[int], data: st.DataObject
) -> None:
    """Each record finds the 96 quarters up to the latest one, whatever leaves, expires or is restored in between."""
    rolling, slow, floor = Rolling(), Slow(), 990
    for rows, step in zip(batches, steps, strict=False):
        floor += step
        assert slow.move(rows, floor) == move(rolling, rows, floor)
        if data.draw(st.booleans()):
            rolling.expire(floor)
        if data.draw(st.booleans()):
            rolling = Rolling.from_table(rolling.to_table())


@given(records, st.integers(0, 30))
def test_a_batch_may_be_cut_anywhere(rows: list[tuple[int, int, int]], cut: int) -> None:
    """Two parts of a batch find what the whole finds, and leave the same windows."""
    whole, parts = Rolling(), Rolling()
    found = move(whole, rows)
    assert found == move(parts, rows[:cut]) + move(parts, rows[cut:])
    assert whole.to_table().equals(parts.to_table())


@given(records, st.integers(1000, 1300))
def test_the_value_at_a_moment_is_that_of_the_last_day(rows: list[tuple[int, int, int]], now: int) -> None:
    """Between records the window goes on with time, and never back."""
    rolling = Rolling()
    move(rolling, rows)
    latest = max((quarter for card, quarter, _ in rows if card == 0), default=0)
    expected = sum(n for card, quarter, n in rows if card == 0 and quarter >= max(now, latest) - 95)
    assert [expected] == rolling.value(DATA, np.array([0]), np.array([now])).tolist()


def test_units_can_be_taken_back_while_they_count() -> None:
    """A reversal lowers the window; of a quarter that has left it or was never there, nothing happens."""
    rolling = Rolling()
    move(rolling, [(0, 1000, 5), (0, 1010, 7)])
    rolling.add(DATA, np.array([0, 0]), np.array([1000, 1001]), np.array([-2, -1]))
    assert [(10, 11)] == move(rolling, [(0, 1010, 1)])
    assert [(8, 9)] == move(rolling, [(0, 1096, 1)])
    rolling.add(DATA, np.array([0]), np.array([1000]), np.array([-1]))
    assert [(9, 10)] == move(rolling, [(0, 1096, 1)])


def test_a_slice_starts_from_what_history_holds() -> None:
    """Quarters come in any order; those before the window of their SIM count no more."""
    rolling = Rolling()
    rolling.add(DATA, np.array([1, 0, 1, 1]), np.array([1100, 1000, 1000, 1099]), np.array([1, 2, 4, 8]))
    assert [9, 2] == rolling.value(DATA, np.array([1, 0]), np.array([1000, 1000])).tolist()
    assert [(9, 12)] == move(rolling, [(1, 1100, 3)])


def test_a_slice_is_dropped_whole() -> None:
    """What no rule looks at is forgotten, and a slice without units is kept through a snapshot."""
    rolling = Rolling()
    rolling.use("sms.mo/rolling")
    move(rolling, [(0, 1000, 5)])
    rolling.drop(DATA)
    assert {"sms.mo/rolling"} == Rolling.from_table(rolling.to_table()).slices
    assert [0] == rolling.value(DATA, np.array([0]), np.array([1000])).tolist()
