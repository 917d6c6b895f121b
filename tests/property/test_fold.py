"""Properties of the fold: what comes out depends on the journal alone, adds up, and is what a slow model works out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rating.engine import Engine, Step
from rating.state import State
from schemas.tables import GAPS, RATED
from schemas.usage import UsageBatch
from tests.fold_strategies import World, worlds


def start(world: World) -> Engine:
    """An engine with the catalogue of the world."""
    engine = Engine(State())
    engine.apply(world.catalogue)
    return engine


def cut(batch: UsageBatch, ends: list[int]) -> Iterator[UsageBatch]:
    """The batch in pieces that end at the given rows."""
    edges = [0, *sorted({end for end in ends if 0 < end < len(batch.rows)}), len(batch.rows)]
    for first, last in pairwise(edges):
        yield UsageBatch(batch.feed, batch.source, batch.received_at_us, batch.cumulative, batch.rows[first:last])


def run(engine: Engine, world: World, ends: list[int] | None = None, snapshot_after: int = -1) -> tuple[Engine, Step]:
    """Fold the world, in pieces that end at `ends`; the state is written and read back after so many pieces."""
    steps, pieces = [], 0
    for number, side in enumerate((world.before, world.after)):
        if number:
            engine.apply(world.change)
        for batch in side:
            for piece in cut(batch, ends or []):
                steps.append(engine.usage(piece))
                pieces += 1
                if pieces == snapshot_after:
                    facts, tables = engine.snapshot()
                    engine = Engine(State.restore(facts, tables, engine.state.seen))
    return engine, whole(steps)


def whole(steps: list[Step]) -> Step:
    """Consecutive steps as one, words as plain strings."""
    return Step(
        records=sum(step.records for step in steps),
        rated_records=sum(step.rated_records for step in steps),
        duplicates=sum(step.duplicates for step in steps),
        rated=plain(pa.concat_tables([step.rated for step in steps] or [RATED.empty_table()])),
        rejects=pl.concat([step.rejects for step in steps]),
        gaps=plain(pa.concat_tables([step.gaps for step in steps] or [GAPS.empty_table()])),
    )


def plain(table: pa.Table) -> pa.Table:
    """The table with its dictionaries as plain strings, in one chunk."""
    columns = [
        column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.itercolumns()
    ]
    return pa.table(columns, names=table.column_names).combine_chunks()


def held(engine: Engine) -> tuple[bytes, dict[str, list[tuple[object, ...]]]]:
    """A snapshot with its rows in an order of their own: rows of counters are numbered by batch."""
    facts, tables = engine.snapshot()
    frames = {name: pl.from_arrow(table) for name, table in tables.items()}
    return facts, {name: sorted(frame.rows(), key=repr) for name, frame in frames.items()}  # type: ignore[union-attr]


def assert_same(one: tuple[Engine, Step], other: tuple[Engine, Step]) -> None:
    """Both runs gave the same rows, rejects and duplicates, and left the same state behind."""
    assert one[1].rated.to_pylist() == other[1].rated.to_pylist()
    assert one[1].rejects.rows() == other[1].rejects.rows()
    assert one[1].gaps.to_pylist() == other[1].gaps.to_pylist()
    assert (one[1].records, one[1].rated_records, one[1].duplicates) == (
        other[1].records,
        other[1].rated_records,
        other[1].duplicates,
    )
    assert held(one[0]) == held(other[0])


@settings(max_examples=80)
@given(worlds(), st.lists(st.integers(1, 11), max_size=8))
def test_any_batches_give_the_same(world: World, ends: list[int]) -> None:
    """However the stream is cut into batches, rated rows, rejects, duplicates and the state are the same."""
    assert_same(run(start(world), world), run(start(world), world, ends))


@settings(max_examples=40)
@given(worlds(), st.lists(st.integers(1, 11), max_size=3), st.integers(1, 6))
def test_a_snapshot_changes_nothing(world: World, ends: list[int], after: int) -> None:
    """A state that is written and read back at any point goes on as if it had not been."""
    assert_same(run(start(world), world, ends), run(start(world), world, ends, snapshot_after=after))
