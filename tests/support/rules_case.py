"""One interface for the engine and for the reference model of the rules: take an entry, get rows of firings."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from rating.engine import Engine
from rating.rules.detect.usage import baseline_scope
from rating.rules.totals.cycle_and_day import BASELINE, baseline_sql
from rating.state import State
from schemas.cards import Account, Catalogue
from schemas.commands import Activate, Command
from schemas.plans import Plan
from schemas.rules import Rule
from schemas.tables import RATED
from schemas.usage import Service, UsageBatch
from tests.support.fold_case import Row, cards, named_counters
from tests.support.reference.reference_terms import fixed_size
from tests.support.reference.rules_reference import RuleModel
from tests.support.reference.rules_reference_corrections import Rerated
from tests.support.strategies.rules_strategies import Entry

_NO_ROWS = RATED.empty_table()
START = dt.datetime(2026, 10, 1, 0, 30, tzinfo=dt.UTC)


class Fold:
    """Adapter of the engine. `fired` and `asked` are the rows of FIRINGS and ACTIONS of all entries so far."""

    def __init__(self) -> None:
        self.engine = Engine(State())
        self.fired: list[Row] = []
        self.asked: list[Row] = []
        self.rated: list[pa.Table] = []

    def take(self, entry: Entry) -> None:
        """Fold one journal entry."""
        entry = entry.answered(self.asked)
        if entry.usage is not None:
            step = self.engine.usage(entry.usage, self._originals(entry.usage) if entry.corrects else None)
            self.rated.append(step.rated)
        elif entry.change is not None:
            step = self.engine.apply(entry.change, entry.at_us)
        elif entry.commands:
            wanted = self.engine.wants_baseline(entry.commands)
            step = self.engine.command(entry.commands, entry.at_us, self.baseline(entry.at_us) if wanted else None)
        else:
            step = self.engine.tick(entry.at_us)
        self.fired += rows_of(step.firings)
        self.asked += rows_of(step.actions)

    def _originals(self, corrections: UsageBatch) -> pa.Table:
        """Return all rated rows so far, which are more than these corrections touch."""
        return pa.concat_tables([_NO_ROWS, *self.rated])

    def baseline(self, at_us: int) -> pl.DataFrame:
        """Return the baseline of rules that start, computed from the rated rows as the drivers compute it."""
        state = self.engine.state
        scope = baseline_scope(self.engine.rules.set, state.rules.memory, max(state.clock_us, at_us))
        with duckdb.connect(config={"python_enable_replacements": False, "threads": 1}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("rated", pa.concat_tables([_NO_ROWS, *self.rated]))
            frame = pl.from_arrow(connection.sql(baseline_sql(), params=scope).to_arrow_table())
        assert isinstance(frame, pl.DataFrame)
        return frame.select(pl.col(name).cast(kind) for name, kind in BASELINE.items()).sort(pl.all())

    def restart(self) -> None:
        """Replace the engine by one that is restored from a snapshot of its state."""
        facts, tables = self.engine.snapshot()
        self.engine = Engine(State.restore(facts, tables, self.engine.state.seen))


def rerated(fold: Fold) -> Rerated:
    """Return what the last entry of a fold, which had corrections, has changed in rating."""
    state, book = fold.engine.state, fold.engine.compiled.book
    counters, pools = state.counters, {pool.id: pool for pool in state.catalogue.pools}
    found: dict[tuple[str, str, str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    tests: dict[str, int] = defaultdict(int)
    for one in named_counters(fold.engine):
        if one.meter is None:
            tests[one.name] += int(counters["test"][one.row])
            continue
        name = one.name if one.account is None else f"{one.name} of {one.account}"
        for column in ("records", "raw", "billable", "test", "allowance", "addon", "overage", "in_pool"):
            found[one.kind, name, one.meter, one.cycle][column] += int(counters[column][one.row])
        service = Service(int(book.meter_service[counters.meter[one.row]])).name.lower()
        if one.kind == "pool" and fixed_size(pools[name], service) is not None and one.meter != service:
            found["pool", name, service, one.cycle]["allowance"] += int(counters["allowance"][one.row])
    used = fold.engine.compiled.addons.used.tolist()
    addons = {addon.id: units for addon, units in zip(state.catalogue.addons, used, strict=True)}
    return Rerated(rows_of(fold.rated[-1]), found, tests, addons)


class Slow:
    """Adapter of the reference model, with the same attributes as Fold.

    The model has no re-rating of its own, so a fold beside it says what corrections change in rating.
    """

    def __init__(self) -> None:
        self.model = RuleModel()
        self.fired: list[Row] = []
        self.asked: list[Row] = []
        self._fold = Fold()

    def take(self, entry: Entry) -> None:
        """Fold one journal entry."""
        self._fold.take(entry)
        entry = entry.answered(self.asked)
        if entry.usage is not None and entry.corrects:
            self.model.correct(entry.usage, rerated(self._fold))
        elif entry.usage is not None:
            self.model.fold(entry.usage)
        elif entry.change is not None:
            self.model.applied(entry.change, entry.at)
        elif entry.commands:
            self.model.command(entry.commands, entry.at)
        else:
            self.model.tick(entry.at)
        self.fired += self.model.firings
        self.asked += self.model.actions


Driver = Fold | Slow


def rows_of(table: pa.Table) -> list[Row]:
    """Return the rows of a table as dicts, with dictionary-encoded values as strings."""
    rows: list[Row] = table.to_pylist()
    return rows


def pieces(batch: UsageBatch, ends: Sequence[int]) -> Iterator[UsageBatch]:
    """Split a batch at the given row numbers."""
    edges = [0, *sorted({end for end in ends if 0 < end < len(batch.rows)}), len(batch.rows)]
    for first, last in pairwise(edges):
        yield UsageBatch(batch.feed, batch.source, batch.received_at_us, batch.cumulative, batch.rows[first:last])


def begin(
    driver: Driver, *rules: Rule, plans: Sequence[Plan], card_rows: Sequence[Row], at: dt.datetime = START, **parts: Any
) -> None:
    """Apply a catalogue with these rules and activate them. A card without a plan gets the first plan."""
    rows = [{"plan": plans[0].id} | row for row in card_rows]
    parts = {"accounts": (Account(id="a"),)} | parts
    change = Catalogue(plans=tuple(plans), cards=cards(*rows), rules=rules, **parts)
    driver.take(Entry(at, change=change))
    say(driver, *(Activate(rule=rule.id) for rule in rules), at=at)


def say(driver: Driver, *commands: Command, at: dt.datetime) -> None:
    """Take one entry with these commands."""
    driver.take(Entry(at, commands=commands))
