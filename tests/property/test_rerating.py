"""Corrections and re-rating give what a rating from scratch of the records that stand gives, to the nano (F6, P10)."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rating.engine import Engine
from rating.entries import Rerate
from rating.state import State
from rating.usage.charge import TEST_METER
from rating.usage.cycles import cycle_label
from schemas.cards import Catalogue
from schemas.tables import RATED
from schemas.usage import INSTANT, USAGE_SCHEMA, Direction, RecordType, Service, UsageBatch
from tests.property.test_fold import ARRIVED, cut
from tests.support.fold_case import us
from tests.support.reference.reference import Model
from tests.support.reference.rerating_reference import Ledger, rated_from_scratch
from tests.support.strategies.fold_strategies import World, worlds

MEASURES = (
    "quantity_raw", "billable_quantity", "from_test", "from_allowance", "from_addon", "overage", "charge_nanos"
)  # fmt: skip
IDENTITY = (
    "record_key", "feed", "part", "account_id", "iccid", "subject_kind", "subject", "service", "direction", "plan_id",
    "plan_version", "rate", "zone", "currency",
)  # fmt: skip
EMPTY = {
    "iccid": "1", "service": int(Service.DATA), "direction": int(Direction.BOTH), "quantity": 0, "used_at": ARRIVED
}  # fmt: skip


class Story:
    """An engine and the reference model over one world, with all rated rows and a ledger of what stands."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.engine, self.model, self.ledger = Engine(State()), Model(), Ledger()
        self.rated = [RATED.empty_table()]
        self.correction = 0
        self.catalogues: list[tuple[Catalogue, dt.datetime]] = []
        self._apply(world.catalogue)

    def use(self, batch: UsageBatch, ends: list[int]) -> None:
        """Fold usage in pieces."""
        outcome = self.model.usage(batch)
        self.ledger.used(batch, outcome)
        for piece in cut(batch, ends):
            self.rated.append(self.engine.usage(piece).rated)

    def change(self) -> None:
        """Apply the change of the catalogue."""
        self._apply(self.world.change)

    def _apply(self, catalogue: Catalogue) -> None:
        self.catalogues.append((catalogue, self.model.latest))
        self.engine.apply(catalogue)
        self.model.apply(catalogue)

    def correct(self, feed: str, rows: list[tuple[str, dict[str, Any] | None]], received_us: int) -> None:
        """Fold corrections of one feed: each names a key, and has the content that replaces it or None."""
        cumulative, frames = feed == "totals", []
        for key, content in rows:
            self.correction += 1
            kind = RecordType.REVERSE if content is None else RecordType.REPLACE
            whole = dict(content or EMPTY)
            whole |= {"record_key": f"c{self.correction}", "record_type": int(kind), "corrects_key": key}
            frames.append(whole | {"source_row": self.correction})
        batch = UsageBatch(feed, "corrections.csv", received_us, cumulative, _frame(frames))
        offset, self.model.offset = self.engine.state.offset, self.model.offset + len(rows)
        for place, (key, content) in enumerate(rows):
            row = batch.rows.row(place, named=True)
            if content is None:
                self.ledger.reverse(feed, key)
            else:
                self.ledger.replace(self.model, key, batch, row, offset + place)
        self.rated.append(self.engine.usage(batch, pa.concat_tables(self.rated)).rated)

    def rerate(self) -> int:
        """Rate everything again; return the number of adjustments."""
        step = self.engine.step(Rerate(pa.concat_tables(self.rated), us(ARRIVED), "asked", "test"))
        self.rated.append(step.rated)
        return step.rated.num_rows

    def sums(self) -> dict[tuple[Any, ...], tuple[int, ...]]:
        """Return the net measures of all rows of each part of a record, without those that are zero."""
        return _sums(pa.concat_tables(self.rated).to_pylist())


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    names = [name for name in USAGE_SCHEMA if any(row.get(name) is not None for row in rows)]
    schema = {name: USAGE_SCHEMA[name] for name in names}
    frame = pl.DataFrame([[row.get(name) for name in names] for row in rows], schema=schema, orient="row")
    return frame.with_columns(pl.col("used_at").cast(INSTANT))


def _sums(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], tuple[int, ...]]:
    totals: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        cycle = row.get("adjusts_cycle") or row["cycle"]
        total = totals.setdefault((*(row[name] for name in IDENTITY), cycle), [0] * len(MEASURES))
        for place, name in enumerate(MEASURES):
            total[place] += row[name]
    return {key: tuple(total) for key, total in totals.items() if any(total)}


@settings(max_examples=60)
@given(worlds(), st.data())
def test_corrections_and_rerating_give_what_a_rating_from_scratch_gives(world: World, data: st.DataObject) -> None:
    """Whatever came late, was reversed or replaced, in any batches, rows and counters are those of what stands."""
    story = Story(world)
    for number, side in enumerate((world.before, world.after)):
        if number:
            story.change()
        for batch in side:
            story.use(batch, data.draw(st.lists(st.integers(1, 11), max_size=3)))
            for _ in range(data.draw(st.integers(0, 2))):
                _draw_corrections(story, data, batch.received_at_us)
    if data.draw(st.booleans()):
        _draw_corrections(story, data, us(ARRIVED))
    story.rerate()
    expected, model, refused = rated_from_scratch(story.catalogues, story.ledger.all())
    found = story.sums()
    stays = {(one.feed, one.key) for one in refused}
    found = {key: value for key, value in found.items() if (key[1], key[0]) not in stays}
    differing = _differing(_sums(expected), found)
    assert not differing, differing
    if not refused:
        differing = _differing(_of_model(model), _of_engine(story.engine))
        assert not differing, differing
    assert 0 == story.rerate()


def _differing(one: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
    """Return the values of both by key, if they differ."""
    return {key: (one.get(key), other.get(key)) for key in {*one, *other} if one.get(key) != other.get(key)}


def _draw_corrections(story: Story, data: st.DataObject, received_us: int) -> None:
    """Fold drawn corrections: of keys that stand, of keys that were corrected before, and of unknown ones."""
    ever = sorted({*story.ledger.records, *story.ledger.replaced})
    feeds = sorted({feed for feed, _ in ever})
    if not feeds:
        return
    feed = data.draw(st.sampled_from(feeds))
    keys = [key for of, key in ever if of == feed]
    rows: list[tuple[str, dict[str, Any] | None]] = []
    for _ in range(data.draw(st.integers(1, 4))):
        key = data.draw(st.sampled_from([*keys, "none"]))
        of = [one for one in story.ledger.records.values() if one.feed == feed]
        content = None
        if of and data.draw(st.booleans()):
            content = dict(data.draw(st.sampled_from(of)).record)
            content |= {"quantity": data.draw(st.integers(0, 3000)), "volume_up_bytes": None, "volume_down_bytes": None}
        rows.append((key, content))
    story.correct(feed, rows, received_us)


def _of_model(model: Model) -> Counter[tuple[str, ...]]:
    found: Counter[tuple[str, ...]] = Counter()
    for (kind, name, meter, cycle), total in model.counters.items():
        for column in ("records", "billable", "allowance", "overage", "charge_nanos", "in_pool", "peak"):
            found[kind, name, meter, cycle, column] += total[column]
    for iccid, units in model.test_used.items():
        found["test", iccid] += units
    for addon, units in model.addon_used.items():
        found["addon", addon] += units
    return +found


def _of_engine(engine: Engine) -> Counter[tuple[str, ...]]:
    counters, book = engine.state.counters, engine.compiled.book
    found: Counter[tuple[str, ...]] = Counter()
    directory, accounts = engine.compiled.directory, book.vocabulary.accounts.names
    for row in range(len(counters)):
        subject, meter, code = (int(column[row]) for column in (counters.subject, counters.meter, counters.cycle))
        kind, name = "sim", ""
        if not subject & 1:
            card, account = (int(one[0]) for one in directory.tenant(np.array([subject >> 1])))
            name = directory.cards["iccid"][card]
            if card != subject >> 1:  # the counters of an account after the first one of the card
                name += f" of {accounts[account]}"
        if meter == TEST_METER:
            found["test", name] += int(counters["test"][row])
            continue
        if subject & 1:
            pool = book.vocabulary.pools.names[subject >> 1]
            kind, name = ("device", pool.removeprefix("device:")) if pool.startswith("device:") else ("pool", pool)
        for column in ("records", "billable", "allowance", "overage", "charge_nanos", "in_pool", "peak"):
            key = (kind, name, book.vocabulary.meters.names[meter], cycle_label(book, code), column)
            amounts = counters.charges(row).values() if column == "charge_nanos" else [int(counters[column][row])]
            found[key] += sum(amounts)
    for addon, units in engine.compiled.addons.usage().items():
        found["addon", addon] += units
    return +found
