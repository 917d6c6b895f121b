"""Bases of drawn fleets: whatever is restored from goes on as a fold that nothing disturbed, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.journal import entries as journal
from pipeline.journal.messages import Fence, messages_of
from pipeline.streaming.rate.checkpoints import Kept, draft, restore
from pipeline.streaming.rate.fold import Opened, PartitionFold
from pipeline.streaming.rate.output_messages import Output, encode
from rating.dedupe.runs import joined
from rating.dedupe.seen import KEEP_DAYS
from schemas.tables import RATED
from tests.support.strategies.rules_strategies import Entry, fleet

_NONE = RATED.empty_table()


def journal_of(entries: Sequence[Entry], random: Random) -> list[bytes]:
    """The entries as messages of a journal, usage in pieces; some messages come twice."""
    found: list[bytes] = []
    for offset, one in enumerate(entries):
        whole: journal.Entry
        if one.usage is not None:
            whole = journal.Usage(one.usage)
        elif one.change is not None:
            whole = journal.Apply(one.change, one.at_us)
        elif one.commands:
            whole = journal.Commands(one.commands, one.at_us)
        else:
            whole = journal.Tick(one.at_us)
        limit = 900_000 if one.usage is None or one.corrects else random.choice((4000, 8000, 900_000))
        messages = messages_of(whole, Fence("usage.raw", 0, offset), limit)
        found += messages
        if random.random() < 0.2:
            found += messages
    return found


class History:
    """What has been rated, each row once, however often it is folded."""

    def __init__(self) -> None:
        self.rated = [_NONE]
        self.next_offset = 0

    def land(self, output: Output) -> None:
        """Take the rows that are not there yet."""
        rows = output.rated
        self.rated.append(rows.filter(pc.greater_equal(rows["journal_offset"], self.next_offset)))
        self.next_offset = max(self.next_offset, output.next_offset)

    def before(self, offset: int) -> pa.Table:
        """The rows before an offset."""
        rated = pa.concat_tables(self.rated)
        return rated.filter(pc.less(rated["journal_offset"], offset))


class Driver:
    """Folds a journal in drawn strides; history is looked up in what was rated before."""

    def __init__(self, fold: PartitionFold, history: History) -> None:
        self.fold = fold
        self.history = history
        self.outputs: list[Output] = []

    def run(self, messages: Sequence[bytes], stop: int, stride: int) -> None:
        """Fold up to the message before `stop`."""
        while self.fold.applied + 1 < stop:
            start = self.fold.applied + 1
            opened: Sequence[Opened] = [
                one
                for at in range(start, min(start + stride, stop))
                if (one := self.fold.open(at, messages[at], f"journal[3]@{at}")) is not None
            ]
            while opened:
                output, opened = self.fold.steps(opened)
                if output is not None:
                    self._keep(output)
                if opened:
                    self._keep(self._with_history(opened[0]))
                    opened = opened[1:]

    def _keep(self, output: Output) -> None:
        self.outputs.append(output)
        self.history.land(output)

    def _with_history(self, opened: Opened) -> Output:
        rated = self.history.before(self.fold.engine.state.offset)
        if opened.corrections is None:
            return self.fold.step(opened, baseline=baseline(rated, self.fold, opened.at_us))
        return self.fold.step(opened, rated)  # more rows than the corrections touch


def baseline(rated: pa.Table, fold: PartitionFold, at_us: int) -> pl.DataFrame:
    """What the rated rows hold for rules that start, as tests.support.rules_case finds it."""
    from tests.support.rules_case import Fold

    found = Fold()
    found.engine, found.rated = fold.engine, [rated]
    return found.baseline(at_us)


def rows_of(outputs: Sequence[Output]) -> dict[str, list[dict[str, object]]]:
    """All rows by table."""
    return {
        name: [row for one in outputs for row in one.all_tables()[name].to_pylist()] for name in outputs[0].all_tables()
    }


def held(fold: PartitionFold) -> tuple[object, ...]:
    """What a fold holds: rows in an order of their own, seen keys together, what has expired left out."""
    fold.expire()
    facts, tables = fold.engine.snapshot()
    frames = {name: pl.from_arrow(table) for name, table in tables.items()}
    seen = fold.engine.state.seen
    keys = joined([seen.recent(), *(run.columns for run in seen.runs)])
    # A run is dropped once all of its keys have expired, and which keys share a run depends on the bases.
    keys = keys.take(np.flatnonzero(keys.day >= seen.today - KEEP_DAYS))
    rows = sorted(zip(keys.hi.tolist(), keys.lo.tolist(), keys.content.tolist(), keys.day.tolist(), strict=True))
    return (
        facts,
        {name: sorted(frame.rows(), key=repr) for name, frame in frames.items()},  # type: ignore[union-attr]
        rows,
        seen.today,
        fold.applied,
        fold.fences.to_bytes(),
    )


def base_into(items: dict[bytes, bytes], fold: PartitionFold, former: Kept | None) -> Kept:
    """Write a base, and remove what it makes needless."""
    made = draft(fold, former)
    items.update(made.messages())
    for key in made.obsolete():
        del items[key]
    return made.kept


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1 << 32), st.data())
def test_a_restored_fold_goes_on_as_if_nothing_had_been(seed: int, data: st.DataObject) -> None:
    """Bases at drawn places, a zombie beside, lost messages: the state and every later row are the same."""
    random = Random(seed)
    messages = journal_of(fleet(seed, 6, 2, 8, 200, data.draw(st.integers(1, 10), "steps")).entries, random)
    count = len(messages)
    calm = Driver(PartitionFold(3), History())
    calm.run(messages, count, data.draw(st.integers(1, 9), "calm stride"))
    expected = rows_of(calm.outputs)
    driver, items, kept = Driver(PartitionFold(3), History()), dict[bytes, bytes](), None
    zombie: tuple[Driver, Kept | None] | None = None
    for stop in sorted(data.draw(st.lists(st.integers(0, count), max_size=7), "stops")):
        driver.run(messages, stop, random.randrange(1, 9))
        if driver.fold.applied < 0:
            continue
        what = random.random()
        if what < 0.6:
            kept = base_into(items, driver.fold, kept)
            continue
        made = draft(driver.fold, kept)
        if what < 0.8:  # it dies while the base is written
            written = list(made.messages())
            items.update(written[: random.randrange(len(written))])
        if zombie is not None and zombie[0].fold.applied < stop and random.random() < 0.5:
            # One that has lost the partition goes on for a while, and writes a base beside.
            zombie[0].run(messages, stop, 3)
            late = draft(zombie[0].fold, zombie[1])
            written = list(late.messages())
            random.shuffle(written)
            items.update(written[: random.randrange(len(written) + 1)])
        zombie = (driver, kept)
        if items and random.random() < 0.3:
            del items[random.choice(sorted(items))]
        restored = restore(3, items)
        kept = None if restored is None else restored.kept
        fold = PartitionFold(3) if restored is None else restored.fold
        driver = Driver(fold, driver.history)  # the history may be ahead of the state: rows are found by their offsets
        start = fold.applied + 1
        driver.run(messages, stop, random.randrange(1, 9))
        assert fold.applied == max(stop - 1, start - 1)
    driver.run(messages, count, 4)
    assert held(driver.fold) == held(calm.fold)
    if driver.outputs:
        first = driver.outputs[0].first_offset
        found = rows_of(driver.outputs)
        for name, rows in expected.items():
            if name != "rejected":
                assert found[name] == [row for row in rows if row["journal_offset"] >= first]


@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1 << 32), st.integers(1, 40))
def test_outputs_after_a_restart_are_the_same_bytes(seed: int, place: int) -> None:
    """Cut alike, outputs of a restored fold are those of an undisturbed one, byte for byte."""
    messages = journal_of(fleet(seed, 6, 2, 8, 200, 10).entries, Random(seed))
    place = min(place, len(messages))
    calm = Driver(PartitionFold(3), History())
    calm.run(messages, place, 1)
    items = dict(draft(calm.fold, None).messages())
    restored = restore(3, items)
    assert restored is not None
    again = Driver(restored.fold, calm.history)
    calm.outputs.clear()
    for driver in (calm, again):
        driver.run(messages, len(messages), 1)
    assert [encode(one) for one in calm.outputs] == [encode(one) for one in again.outputs]
