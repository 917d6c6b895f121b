"""The parts of a journal, folded each for itself, give what one fold over the whole gives."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.journal.entries import Apply, Commands, Entry, Tick, Usage
from pipeline.journal.router import Router
from rating.engine import Engine
from rating.rules.commands.commands import REFUSED
from rating.state import State
from rating.step import Step
from schemas.cards import Account, Catalogue
from schemas.tables import RATED
from schemas.usage import UsageBatch
from tests.support.fold_case import us
from tests.support.rules_case import Fold
from tests.support.strategies.fold_strategies import World, worlds
from tests.support.strategies.rules_strategies import Entry as Happening
from tests.support.strategies.rules_strategies import fleet

START_US = us(dt.datetime(2026, 9, 1, tzinfo=dt.UTC))
TABLES = ("rated", "gaps", "firings", "actions", "results")
# Where something stands in a journal, and the ids that follow from it, are those of each journal.
PLACES = {"journal_partition", "journal_offset", "firing_id", "action_id", "charge_id"}

Outcome = dict[str, Counter[str]]


def fold(engine: Engine, entry: Entry) -> Step:
    """One entry of a journal."""
    if isinstance(entry, Usage):
        return engine.usage(entry.batch, entry.originals)
    if isinstance(entry, Apply):
        return engine.apply(entry.catalogue, entry.at_us)
    if isinstance(entry, Tick):
        return engine.tick(entry.now_us)
    return engine.command(entry.commands, entry.at_us, entry.baseline)


def told(row: dict[str, Any]) -> str:
    """A row without its places in a journal. The cause of a re-rating names corrections of the same entry."""
    left_out = PLACES | {"cause"} if row.get("kind") == "rerate" else PLACES
    return json.dumps({name: value for name, value in row.items() if name not in left_out}, default=str)


def outcome(steps: list[Step]) -> Outcome:
    """What came of entries, in no order."""
    found: Outcome = {name: Counter() for name in (*TABLES, "rejects", "counts")}
    for step in steps:
        for name in TABLES:
            found[name].update(told(row) for row in getattr(step, name).to_pylist())
        found["rejects"].update(told(row) for row in step.rejects.to_dicts())
        found["counts"].update(records=step.records, rated=step.rated_records, duplicates=step.duplicates)
    return found


class Parts:
    """A journal of several partitions: an engine each."""

    def __init__(self, partitions: int) -> None:
        self.router = Router(partitions)
        self.engines = [Engine(State(), partition) for partition in range(partitions)]
        self.steps: list[Step] = []

    def take(self, entry: Entry) -> None:
        """An entry of the whole, in the parts that it has."""
        parts = self.router.split(entry)
        assert len(self.engines) == len(parts)
        if isinstance(entry, Usage):
            assert_each_once_in_order(entry, parts)
        self.steps += [fold(engine, part) for engine, part in zip(self.engines, parts, strict=True) if part is not None]


def assert_each_once_in_order(whole: Usage, parts: list[Entry | None]) -> None:
    """Every record is in one part, and the records of a part come in the order of the whole."""
    found = [part.batch.rows for part in parts if isinstance(part, Usage)]
    assert len(found) == sum(part is not None for part in parts)
    places = [place for rows in found for place in rows["source_row"]]
    assert sorted(whole.batch.rows["source_row"]) == sorted(places)
    for rows in found:
        assert len(rows)
        kept = whole.batch.rows.filter(pl.col("source_row").is_in(rows["source_row"].implode()))
        assert kept.equals(rows, null_equal=True)


def settled(world: World) -> list[Entry]:
    """The world as a journal whose cards stay in their accounts, and whose keys and sessions are those of one number.

    Cards that are never in a pool have an account each. Arrivals do not go back, as the clock does not. The first
    batch of each side is sent twice.
    """
    pooled = {
        iccid
        for frame in (world.catalogue.cards, world.change.cards)
        for iccid in frame.filter(pl.col("pool").is_not_null())["iccid"]
    }
    lone = sorted({*world.catalogue.cards["iccid"], *world.change.cards["iccid"]} - pooled)
    zones = {account.id: account for account in world.catalogue.accounts}
    owners = dict(world.catalogue.cards.select("iccid", "account").iter_rows())
    own = [Account(id=f"card{iccid}", time_zone=zones[owners.get(iccid, "a")].time_zone, parent="a") for iccid in lone]

    def moved(change: Catalogue) -> Catalogue:
        account = pl.when(pl.col("iccid").is_in(lone)).then("card" + pl.col("iccid")).otherwise(pl.lit("a"))
        device = pl.col("device") + account
        return replace(change, cards=change.cards.with_columns(account=account, device=device))

    entries: list[Entry] = [Apply(replace(moved(world.catalogue), accounts=(*zones.values(), *own)), START_US)]
    now_us = START_US
    for side, batches in enumerate((world.before, world.after)):
        if side:
            entries.append(Apply(moved(world.change), now_us))
        for batch in (*batches, batches[0]):
            now_us = max(now_us, batch.received_at_us)
            entries.append(Usage(owned(batch, side, now_us)))
    return [*entries, Tick(now_us)]


def owned(batch: UsageBatch, side: int, received_at_us: int) -> UsageBatch:
    """The batch with keys and sessions that no two numbers share."""
    numbers = [pl.col(name) for name in ("iccid", "imsi", "msisdn") if name in batch.rows.columns]
    named = [name for name in ("record_key", "session_id") if name in batch.rows.columns]
    own = [pl.format("{}/{}/{}", name, pl.coalesce(numbers), pl.lit(str(side))).alias(name) for name in named]
    return replace(batch, rows=batch.rows.with_columns(own), received_at_us=received_at_us)


@settings(max_examples=25)
@given(worlds(), st.sampled_from([1, 2, 4]))
def test_folding_the_parts_gives_the_whole(world: World, partitions: int) -> None:
    """Rated rows, gaps, rejects and duplicates do not depend on how many partitions a journal has."""
    whole, parts = Engine(State()), Parts(partitions)
    steps = []
    for entry in settled(world):
        steps.append(fold(whole, entry))
        parts.take(entry)
    assert outcome(steps) == outcome(parts.steps)


def test_the_worlds_have_several_partitions() -> None:
    """The drawn cards are in more than one partition; otherwise the property would be trivial."""
    found = Router(2).of_accounts(pl.Series(["a", "card1", "card2", "card3", "card4"]))
    assert {0, 1} == set(found.tolist())


def entries_of(happening: Happening, whole: Fold) -> list[tuple[Entry, bool]]:
    """A happening as entries of the journal, and whether each corrects usage.

    A tick comes before commands, which otherwise would tell the time to one partition only. The SIMs of a device are
    of one account.
    """
    at_us = happening.at_us
    if happening.usage is not None:
        return [(Usage(happening.usage), happening.corrects)]
    if happening.change is not None:
        device = pl.col("device") + pl.col("account")
        return [(Apply(replace(happening.change, cards=happening.change.cards.with_columns(device)), at_us), False)]
    if happening.commands:
        wanted = whole.engine.wants_baseline(happening.commands)
        held = whole.baseline(at_us) if wanted else None
        return [(Tick(at_us), False), (Commands(happening.commands, at_us, held), False)]
    return [(Tick(at_us), False)]


@pytest.mark.parametrize("partitions", [2, 4])
@settings(max_examples=4)
@given(st.integers(0, 1 << 32))
def test_rules_fire_alike_in_parts(partitions: int, seed: int) -> None:
    """Firings and actions of rules over all triggers, with corrections and commands, are those of one fold."""
    drawn = fleet(seed, sims=24, pools=5, rules=14, records=260, steps=14)
    whole, parts, steps = Fold(), Parts(partitions), list[Step]()
    rated_in_parts = [RATED.empty_table()]
    for happening in drawn.entries:
        for entry, corrects in entries_of(happening, whole):
            one = other = entry
            if corrects and isinstance(entry, Usage):
                # All rated rows so far, which are more than the corrections touch.
                tables = (pa.concat_tables([RATED.empty_table(), *whole.rated]), pa.concat_tables(rated_in_parts))
                one, other = (replace(entry, originals=table) for table in tables)
            steps.append(fold(whole.engine, one))
            whole.rated.append(steps[-1].rated)
            before = len(parts.steps)
            parts.take(other)
            rated_in_parts += [step.rated for step in parts.steps[before:]]
    expected = outcome(steps)
    assume(expected["firings"] or expected["rated"])
    assert expected == outcome(parts.steps)
    assert REFUSED not in {row["outcome"] for step in parts.steps for row in step.results.to_pylist()}
