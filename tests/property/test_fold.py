"""Properties of the fold: what comes out depends on the journal alone, adds up, and is what a slow model works out."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rating.catalogue.rates import meter_name
from rating.engine import Engine
from rating.state import State
from rating.step import Step
from rating.tariff import PriceSpec
from rating.units.money import round_nanos
from rating.usage.rerating import Moment
from schemas.tables import GAPS, RATED
from schemas.usage import RecordType, UsageBatch
from tests.support.fold_case import named_counters, rerate, us, usage
from tests.support.reference.price_reference import reference_cost
from tests.support.reference.reference import Model
from tests.support.reference.reference_terms import Outcome, allowance_of
from tests.support.strategies.fold_strategies import World, worlds

ARRIVED = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)


def start(world: World) -> Engine:
    """An engine with the catalogue of the world."""
    engine = Engine(State())
    engine.apply(world.catalogue)
    return engine


def cut(batch: UsageBatch, ends: list[int]) -> Iterator[UsageBatch]:
    """The batch in pieces that end at the given rows."""
    edges = [0, *sorted({end for end in ends if 0 < end < len(batch.rows)}), len(batch.rows)]
    for first, last in pairwise(edges):
        yield replace(batch, rows=batch.rows[first:last])


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


@settings(max_examples=40)
@given(worlds(), st.lists(st.integers(1, 11), max_size=8))
def test_any_batches_give_the_same(world: World, ends: list[int]) -> None:
    """However the stream is cut into batches, rated rows, rejects, duplicates and the state are the same."""
    assert_same(run(start(world), world), run(start(world), world, ends))


@settings(max_examples=25)
@given(worlds(), st.lists(st.integers(1, 11), max_size=3), st.integers(1, 6))
def test_a_snapshot_changes_nothing(world: World, ends: list[int], after: int) -> None:
    """A state that is written and read back at any point goes on as if it had not been."""
    assert_same(run(start(world), world, ends), run(start(world), world, ends, snapshot_after=after))


@settings(max_examples=50)
@given(worlds())
def test_the_fold_does_what_a_slow_model_does(world: World) -> None:
    """Every rated row, reject and duplicate is the one that a model of one record at a time works out."""
    engine, model = start(world), Model()
    model.apply(world.catalogue)
    for number, side in enumerate((world.before, world.after)):
        if number:
            engine.apply(world.change)
            model.apply(world.change)
        for batch in side:
            step, outcome = engine.usage(batch), model.usage(batch)
            assert outcome.rejects == step.rejects.select("source_row", "reason").rows()
            assert outcome.duplicates == step.duplicates
            rows = [{name: row[name] for name in expected} for row, expected in paired(step, outcome)]
            assert outcome.rated == rows
            names = ("session_id", "after_sequence", "before_sequence", "missing")
            gaps = [tuple(gap[name] for name in names) for gap in step.gaps.to_pylist()]
            assert outcome.gaps == gaps


def paired(step: Step, outcome: Outcome) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    """Rows of the engine beside those of the model."""
    rows = step.rated.to_pylist()
    assert len(outcome.rated) == len(rows)
    return zip(rows, outcome.rated, strict=True)


def parts_of(world: World) -> Iterator[UsageBatch]:
    """All usage of a world, in order."""
    yield from world.before
    yield from world.after


@settings(max_examples=25)
@given(worlds(), st.data())
def test_duplicates_change_nothing(world: World, data: st.DataObject) -> None:
    """Records that were rated and come again, in any order, are counted and leave everything else as it was."""
    engine = start(world)
    for batch in parts_of(world):
        rated = engine.usage(batch).rated["source_row"].unique().to_pylist()
        again = batch.rows.filter(pl.col("source_row").is_in(rated))
        again = again[data.draw(st.permutations(range(len(again))))]
        facts, tables = held(engine)
        step = engine.usage(replace(batch, rows=again))
        assert (len(again), len(again), 0, 0) == (step.records, step.duplicates, step.rated.num_rows, len(step.rejects))
        engine.state.offset -= len(again)
        assert (facts, tables) == held(engine)


@settings(max_examples=30)
@given(worlds())
def test_everything_adds_up(world: World) -> None:
    """Each record is rated, duplicate or rejected; parts sum to their record, and counters to the rated rows."""
    engine, step = run(start(world), world)
    assert step.records == sum(len(batch.rows) for batch in parts_of(world))
    rows = step.rated.to_pylist()
    assert step.records == len({row["journal_offset"] for row in rows}) + step.duplicates + len(step.rejects)
    for row in rows:
        burned = row["from_test"] + row["from_allowance"] + row["from_addon"] + row["overage"]
        assert row["billable_quantity"] == burned == row["counter_after"] - row["counter_before"]
    totals: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        subject = (row["subject_kind"], row["subject"], row["cycle"])
        for column in ("from_allowance", "overage", "charge_nanos"):
            totals[*subject, column] += row[column]
        for column in ("quantity_raw", "billable_quantity", "from_test", "from_addon"):
            totals[*subject, row["rate"], column] += row[column]
        if row["subject_kind"] != "sim":
            totals["sim", row["iccid"], row["cycle"], row["rate"], "in_pool"] += row["billable_quantity"]
        totals["test", row["iccid"]] += row["from_test"]
    assert +totals == counted(engine)


def counted(engine: Engine) -> Counter[tuple[str, ...]]:
    """What the counters hold, under the names that rated rows give it."""
    counters, totals = engine.state.counters, Counter[tuple[str, ...]]()
    for one in named_counters(engine):
        row, kind, name, cycle = one.row, one.kind, one.name, one.cycle
        if one.meter is None:
            totals["test", name] += int(counters["test"][row])
            continue
        for column, shown in (
            ("allowance", "from_allowance"),
            ("overage", "overage"),
            ("charge_nanos", "charge_nanos"),
        ):
            totals[kind, name, cycle, shown] += int(counters[column][row])
        for column, shown in (
            ("raw", "quantity_raw"), ("billable", "billable_quantity"), ("test", "from_test"), ("addon", "from_addon"),
            ("in_pool", "in_pool"),
        ):  # fmt: skip
            totals[kind, name, cycle, one.meter, shown] += int(counters[column][row])
    return +totals


def one_arrival(world: World) -> pl.DataFrame:
    """All usage of a world as one frame, every key its own."""
    rows = pl.concat([batch.rows for batch in parts_of(world)], how="diagonal")
    keys = pl.Series("record_key", [f"k{number}" for number in range(len(rows))])
    return rows.with_columns(keys)


def arrive(engine: Engine, rows: pl.DataFrame) -> pa.Table:
    """Fold the rows as one batch that arrived in early November."""
    return engine.usage(UsageBatch("plain", "usage.csv", us(ARRIVED), False, rows)).rated


def charged(engine: Engine, rated: pa.Table) -> dict[tuple[str, ...], int]:
    """Nanos of each subject, counter and cycle that one price alone charges; each is checked to be R(F(total))."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rated.to_pylist():
        groups.setdefault((row["subject_kind"], row["subject"], row["rate"], row["cycle"]), []).append(row)
    found = {}
    for group, rows in groups.items():
        pool = next((p for p in engine.state.catalogue.pools if p.id == group[1]), None)
        cards = engine.state.catalogue.cards
        members = cards.filter(pl.col({"sim": "iccid", "pool": "pool", "device": "device"}[group[0]]) == group[1])
        if (pool is not None and (pool.size or pool.overage)) or members["plan"].drop_nulls().n_unique() > 1:
            continue  # the price runs over more than this counter, or there are several prices
        plan = next(plan for plan in engine.state.catalogue.plans if plan.id == rows[0]["plan_id"])
        rate = next(rate for rate in plan.versions[0].rates if meter_name(rate) == rows[0]["rate"])
        spec = PriceSpec(rate.price, rate.rounding, rate.service, plan.versions[0].data_base)
        total = sum(row["overage"] for row in rows)
        stands = {row["record_key"] for row in rows} - {row["record_key"] for row in rows if row["kind"] == "reversal"}
        entered = total > 0 or (group[0] == "sim" and allowance_of(plan.versions[0], group[2]) == 0 and bool(stands))
        cost = reference_cost(spec, total) if entered else 0
        found[group] = sum(row["charge_nanos"] for row in rows)
        assert round_nanos(Fraction(cost), spec.rounding.decimals, spec.rounding.mode) == found[group]
    return found


@settings(max_examples=40)
@given(worlds(cumulative_only=True), st.data())
def test_charges_sum_to_the_price_of_the_total_in_any_order(world: World, data: st.DataObject) -> None:
    """Plans that price cumulative usage alone charge R(F(total)) whatever the order of arrival (T6)."""
    rows = one_arrival(world)
    orders = [rows, rows[data.draw(st.permutations(range(len(rows))))]]
    engines = [start(world) for _ in orders]
    found = [charged(engine, arrive(engine, order)) for engine, order in zip(engines, orders, strict=True)]
    assert found[0] == found[1]


def take_back(engine: Engine, rated: pa.Table, keys: list[str], feed: str = "plain") -> pa.Table:
    """Reverse records by key, one after the other."""
    reversals = [
        {"record_key": f"back {key}", "record_type": RecordType.REVERSE, "corrects_key": key, "quantity": 0}
        for key in keys
    ]
    batch = usage(*reversals, feed=feed, received=ARRIVED)
    step = engine.usage(batch, rated)
    assert (len(keys), 0) == (step.rated_records, len(step.rejects))
    return step.rated


@settings(max_examples=40)
@given(worlds(cumulative_only=True), st.data())
def test_reversals_leave_the_price_of_what_stands(world: World, data: st.DataObject) -> None:
    """Whatever is taken back, in whatever order, charges are R(F(total)) of what stands; with nothing left, nothing."""
    engine = start(world)
    rated = arrive(engine, one_arrival(world))
    keys = data.draw(st.permutations(sorted(set(rated["record_key"].to_pylist()))))
    some = data.draw(st.integers(0, len(keys)))
    for part in (keys[:some], keys[some:]):
        if part:
            rated = pa.concat_tables([rated, take_back(engine, rated, part)])
            charged(engine, rated)
            assert 0 <= min(int(engine.state.counters[name].min()) for name in ("billable", "allowance", "overage"))
    sums = plain(rated).group_by(["subject_kind", "subject", "cycle"]).aggregate([("charge_nanos", "sum")])
    assert {0} >= set(sums["charge_nanos_sum"].to_pylist())
    assert not counted(engine)


@settings(max_examples=30)
@given(worlds(cumulative_only=True), st.data())
def test_rating_again_gives_what_the_order_of_use_gives(world: World, data: st.DataObject) -> None:
    """History in any order plus its adjustments is, record by record, what usage in order of use costs (P10)."""
    rows = one_arrival(world)
    shuffled, ordered = start(world), start(world)
    history = arrive(shuffled, rows[data.draw(st.permutations(range(len(rows))))])
    place = {key: number for number, key in enumerate(history["record_key"].to_pylist())}
    places = rows["record_key"].replace_strict(place, default=-1, return_dtype=pl.Int64)
    # At one moment of use the order of arrival decides.
    in_use = rows.with_columns(place=places).sort("used_at", "place").drop("place")
    expected = arrive(ordered, in_use)
    moment = Moment(us(ARRIVED))
    whole = pa.concat_tables([history, rerate(history, shuffled, moment)])
    assert sums(expected) == sums(whole)
    assert 0 == rerate(whole, shuffled, moment).num_rows


def sums(rated: pa.Table) -> dict[tuple[Any, ...], tuple[int, ...]]:
    """Return the net measures of each part of each record: the sums over its rated rows."""
    measures = ("billable_quantity", "from_allowance", "overage", "charge_nanos")
    totals: dict[tuple[Any, ...], list[int]] = {}
    for row in rated.to_pylist():
        total = totals.setdefault((row["record_key"], row["part"], row["subject"], row["rate"]), [0] * len(measures))
        for place, name in enumerate(measures):
            total[place] += row[name]
    return {key: tuple(total) for key, total in totals.items()}
