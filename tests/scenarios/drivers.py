"""Drivers of scenarios behind one face: happenings go in, history, actions and state come out."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
import polars as pl
import pyarrow as pa

from pipeline.catalogue import load_catalogue
from pipeline.embedded.driver import Embedded
from pipeline.embedded.reading import read_usage
from pipeline.feeds.mappings import load_mapping
from pipeline.feeds.source_file import Source
from pipeline.history.rejects import reject_table
from pipeline.store.directory import DataDirectory
from rating.catalogue.cards import upsert_cards
from rating.queries.views import state_views
from rating.step import Step
from schemas.cards import Catalogue
from schemas.commands import Command
from schemas.mapping import Mapping
from schemas.tables import TABLES
from schemas.usage import RecordType
from tests.scenarios.stories import Answer, Apply, Happening, Ingest, Say, Scenario, Singles, Tick
from tests.support.fold_case import Row, us
from tests.support.rules_case import Fold

Found = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class File:
    """A feed file on disk. `expected` is how many records and rejects mediation makes of it."""

    path: Path
    mapping: Mapping
    expected: int


class Driver(Protocol):
    """Carries out happenings. After each of them the clock has come to its moment, in every partition."""

    def apply(self, change: Catalogue, at: dt.datetime) -> None:
        """A catalogue."""

    def ingest(self, file: File, at: dt.datetime) -> None:
        """A feed file."""

    def singles(self, file: File, lines: Sequence[bytes], header: bytes, at: dt.datetime) -> None:
        """Single records, which are also in the file."""

    def command(self, commands: tuple[Command, ...], at: dt.datetime) -> None:
        """Commands."""

    def tick(self, at: dt.datetime) -> None:
        """The clock."""

    def actions(self, wanted: Callable[[Row], bool], count: int) -> list[Row]:
        """The actions so far, in order, that are `wanted`; of Kafka, once there are so many."""

    def look(self) -> None:
        """Remember the state as it is now."""


def play(
    driver: Driver,
    scenarios: Iterable[Scenario],
    folder: Path,
    mappings: dict[str, Mapping],
    looks: Sequence[dt.datetime] = (),
) -> Counter[str]:
    """Carry out all happenings of all scenarios, in the order of their moments; how many records each scenario has.

    The driver looks at its state before what comes at one of the moments `looks`, which ascend, and at the end.
    """
    folder.mkdir()
    records, left = Counter[str](), list(looks)
    told = [(one, place) for one in scenarios for place in range(len(one.happenings))]
    known: dict[str, Catalogue] = {}
    for scenario, place in sorted(told, key=lambda one: one[0].happenings[one[1]].at):
        happening = scenario.happenings[place]
        if left and happening.at >= left[0]:
            left.pop(0)
            driver.look()
        path = folder / f"{scenario.name}-{place:02}"
        records[scenario.name] += _carry_out(driver, scenario, happening, path, known, mappings)
    driver.look()
    return records


def _carry_out(
    driver: Driver,
    scenario: Scenario,
    happening: Happening,
    path: Path,
    known: dict[str, Catalogue],
    mappings: dict[str, Mapping],
) -> int:
    """How many records it had."""
    at = happening.at
    if isinstance(happening, Apply):
        toml = path.with_suffix(".toml")
        toml.write_text(happening.toml)
        before = known.get(scenario.name, Catalogue())
        change = load_catalogue([toml], before, check_digits=False)
        known[scenario.name] = over(before, change)
        driver.apply(change, at)
    elif isinstance(happening, Ingest):
        feed = path.with_suffix(happening.suffix)
        feed.write_bytes(happening.content)
        file = _file(feed, mappings[happening.feed])
        driver.ingest(file, at)
        return file.expected
    elif isinstance(happening, Singles):
        feed = path.with_suffix(".singles.csv")
        feed.write_bytes(b"\n".join([happening.header, *happening.lines, b""]))
        file = _file(feed, mappings[happening.feed])
        driver.singles(file, happening.lines, happening.header, at)
        return file.expected
    elif isinstance(happening, Say):
        driver.command(happening.commands, at)
    elif isinstance(happening, Answer):
        asked = (happening.command.iccid, happening.rule, happening.sequence)
        found = driver.actions(lambda row: (row["iccid"], row["rule_id"], row["sequence"]) == asked, happening.nth + 1)
        driver.command((msgspec.structs.replace(happening.command, action_id=found[happening.nth]["action_id"]),), at)
    else:
        assert isinstance(happening, Tick)
        driver.tick(at)
    return 0


def over(known: Catalogue, change: Catalogue) -> Catalogue:
    """What is in force with a change: entries by id."""

    def newest(name: str) -> tuple[Any, ...]:
        return tuple({one.id: one for one in (*getattr(known, name), *getattr(change, name))}.values())

    sections = ("accounts", "zones", "plans", "pools", "addons", "rules")
    return Catalogue(**{name: newest(name) for name in sections}, cards=upsert_cards(known.cards, change.cards))


def _file(path: Path, mapping: Mapping) -> File:
    readings = read_usage(Source.of(path), mapping, 0, None, 1 << 20)
    return File(path, mapping, sum(len(one.usage) + len(one.rejected) for one in readings))


class InProcess(Fold):
    """The engine alone; every record is a batch of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[Found] = []
        self.rows: dict[str, list[pa.Table]] = {name: [schema.empty_table()] for name, schema in TABLES.items()}

    def apply(self, change: Catalogue, at: dt.datetime) -> None:
        """A catalogue."""
        self._keep(self.engine.apply(change, us(at)))
        self.tick(at)

    def ingest(self, file: File, at: dt.datetime) -> None:
        """A feed file."""
        source = Source.of(file.path)
        for reading in read_usage(source, file.mapping, us(at), None, 300):
            whole = reading.batch()
            if len(reading.rejected):
                self.rows["rejected"].append(reading.rejected)
            kinds = whole.rows["record_type"].to_list() if "record_type" in whole.rows.columns else []
            corrections = [row for row, kind in enumerate(kinds) if (kind or 0) >= RecordType.REVERSE]
            # Corrections of a file are one batch, because what they adjust depends on all of them.
            alone = [[row] for row in range(len(whole.rows)) if row not in corrections]
            for rows in [*alone, *([corrections] if corrections else [])]:
                batch = replace(whole, rows=whole.rows[rows])
                step = self.engine.usage(batch, self._originals(batch) if rows == corrections else None)
                self._keep(step)
                if len(step.rejects):
                    table = reject_table(step.rejects, reading, file.mapping.name, source, us(at))
                    self.rows["rejected"].append(table)
        self.tick(at)

    def singles(self, file: File, lines: Sequence[bytes], header: bytes, at: dt.datetime) -> None:
        """Single records, from their file."""
        self.ingest(file, at)

    def command(self, commands: tuple[Command, ...], at: dt.datetime) -> None:
        """Commands."""
        wanted = self.engine.wants_baseline(commands)
        self._keep(self.engine.command(commands, us(at), self.baseline(us(at)) if wanted else None))
        self.tick(at)

    def tick(self, at: dt.datetime) -> None:
        """The clock."""
        self._keep(self.engine.tick(us(at)))

    def actions(self, wanted: Callable[[Row], bool], count: int) -> list[Row]:
        """The actions so far that are wanted."""
        return [row for row in pa.concat_tables(self.rows["actions"]).to_pylist() if wanted(row)]

    def history(self) -> Found:
        """All rows by table."""
        return {name: plain_frame(pa.concat_tables(tables)) for name, tables in self.rows.items()}

    def look(self) -> None:
        """Remember the state as it is now."""
        self.states.append(views_of(self.engine))

    def _keep(self, step: Step) -> None:
        self.rated.append(step.rated)
        for name in ("rated", "gaps", "results", "firings", "actions"):
            self.rows[name].append(getattr(step, name))


class InDirectory:
    """The embedded driver."""

    def __init__(self, embedded: Embedded) -> None:
        self._embedded = embedded
        self.states: list[Found] = []

    @classmethod
    @contextmanager
    def at(cls, path: Path) -> Iterator[InDirectory]:
        """On a data directory."""
        with Embedded.open(path, write=True) as embedded:
            yield cls(embedded)

    def apply(self, change: Catalogue, at: dt.datetime) -> None:
        """A catalogue."""
        self._embedded.apply(change, us(at))
        self.tick(at)

    def ingest(self, file: File, at: dt.datetime) -> None:
        """A feed file; at its end the driver itself lets the clock come to its arrival."""
        self._embedded.ingest(file.mapping, [file.path], us(at), fixed_as_of=True)
        self._embedded.acknowledge()

    def singles(self, file: File, lines: Sequence[bytes], header: bytes, at: dt.datetime) -> None:
        """Single records, from their file."""
        self.ingest(file, at)

    def command(self, commands: tuple[Command, ...], at: dt.datetime) -> None:
        """Commands."""
        self._embedded.command(commands, us(at))
        self.tick(at)

    def tick(self, at: dt.datetime) -> None:
        """The clock."""
        self._embedded.tick(us(at))

    def actions(self, wanted: Callable[[Row], bool], count: int) -> list[Row]:
        """The actions so far that are wanted."""
        return [row for row in rows_in(self._embedded.directory, "actions").iter_rows(named=True) if wanted(row)]

    def history(self) -> Found:
        """All rows by table."""
        return {name: rows_in(self._embedded.directory, name) for name in TABLES}

    def look(self) -> None:
        """Remember the state as it is now."""
        self.states.append(views_of(self._embedded.engine))


def rows_in(directory: DataDirectory, name: str) -> pl.DataFrame:
    """All landed rows of a table, as plain columns."""
    files = [directory.locate(entry) for entry in directory.manifest.group(name)]
    frames = [plain_frame(TABLES[name].empty_table())]
    for file in files:
        frames.append(_plain(pl.read_parquet(file, hive_partitioning=False)).select(frames[0].columns))
    return pl.concat(frames)


def plain_frame(table: pa.Table) -> pl.DataFrame:
    """A table as plain columns."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return _plain(frame)


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(pl.Categorical).cast(pl.String))


def views_of(engine: Any) -> Found:
    """The views of a state that a single partition may have a part of."""
    views = state_views(engine)
    return {name: getattr(views, name) for name in ("cards", "counters", "pools", "addons")}


def mappings_of(names: Iterable[str], own: Iterable[Path]) -> dict[str, Mapping]:
    """Ready mappings by name, and own ones."""
    loaded = [*map(load_mapping, names), *map(load_mapping, own)]
    return {one.name: one for one in loaded}
