"""Seen keys against a Python dict, under any split into batches, checkpoints and merges (F4)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rating.dedupe.runs import Columns, Run, joined, run_of, slices_joined
from rating.dedupe.seen import KEEP_DAYS, Seen, first_in_batch

# Few values, so that keys meet; equal `lo` with other `hi`, and neighbours at both ends of the range of `lo`.
LOW_HALVES = [0, 1, 2, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1]
keys = st.tuples(st.integers(0, 3), st.sampled_from(LOW_HALVES))
wide_keys = st.tuples(st.integers(0, 3), st.integers(0, (1 << 64) - 1))
contents = st.integers(1, 3)
batches = st.tuples(
    st.just("batch"), st.integers(0, 20), st.lists(st.tuples(st.one_of(keys, wide_keys), contents), max_size=60)
)
checkpoints = st.tuples(st.just("checkpoint"), st.booleans(), st.just([]))
histories = st.lists(st.one_of(batches, batches, checkpoints), max_size=14)


def halves(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The two halves of keys as columns."""
    return (np.array([hi for hi, _ in rows], np.uint64), np.array([lo for _, lo in rows], np.uint64))


def checkpoint(seen: Seen, merge: bool) -> None:
    """Seal the recent keys into a run; merge all runs where asked, drop what expired."""
    columns = seen.seal()
    runs: list[Run] = list(seen.runs)
    if len(columns):
        runs.append(run_of(columns))
    if merge and runs:
        runs = [run_of(joined([run.columns for run in runs]))]
    seen.replace_runs([run for run in runs if not seen.expired(run)])


@given(histories)
def test_seen_keys_agree_with_a_dict(history: list[tuple[str, int, list]]) -> None:
    """Lookup finds a key and its content for exactly 32 days after its arrival, whatever happens in between."""
    seen, model, day = Seen(), {}, 20_000
    for what, number, rows in history:
        if what == "checkpoint":
            checkpoint(seen, bool(number))
            continue
        day += number
        hi, lo = halves([key for key, _ in rows])
        live = {key: content for key, (content, arrival) in model.items() if day - arrival <= KEEP_DAYS}
        known, content = seen.lookup(hi, lo, day)
        assert [key in live for key, _ in rows] == known.tolist()
        assert [live.get(key, 0) for key, _ in rows] == content.tolist()
        first = first_in_batch(hi, lo)
        new = ~known & (first == np.arange(len(rows)))
        seen.add(hi[new], lo[new], np.array([content for _, content in rows], np.uint64)[new], day)
        for row in np.flatnonzero(new):
            model[rows[row][0]] = (rows[row][1], day)


@given(st.lists(keys, max_size=80))
def test_first_in_batch_agrees_with_a_dict(rows: list[tuple[int, int]]) -> None:
    """Each key points at its first occurrence in the batch."""
    first: dict[tuple[int, int], int] = {}
    expected = [first.setdefault(key, index) for index, key in enumerate(rows)]
    assert expected == first_in_batch(*halves(rows)).tolist()


@given(st.lists(st.lists(st.one_of(keys, wide_keys), max_size=30), min_size=1, max_size=5), st.integers(1, 40))
def test_slices_hold_every_row_once_in_order(parts: list[list[tuple[int, int]]], slice_keys: int) -> None:
    """A merge cut into slices has the rows of all parts in order of `lo`, equal ones in order of the parts."""
    columns = []
    for number, part in enumerate(parts):
        hi, lo = halves(sorted(part, key=lambda key: key[1]))
        columns.append(Columns(lo, hi, np.full(len(lo), number, np.uint64), np.zeros(len(lo), np.uint16)))
    expected = sorted(
        ((lo, number, hi) for number, part in enumerate(columns) for lo, hi in zip(part.lo, part.hi, strict=True)),
        key=lambda row: row[:2],
    )
    merged = [
        (lo, number, hi)
        for piece in slices_joined(columns, slice_keys)
        for lo, number, hi in zip(piece.lo, piece.content, piece.hi, strict=True)
    ]
    assert expected == merged
