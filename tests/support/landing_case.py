"""Outputs of several partitions, computed from the journal of a data directory, for tests of landing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.journal import segments as journal
from pipeline.journal.entries import Apply, Commands, Entry, Tick, Usage
from pipeline.journal.router import Router
from pipeline.store.directory import DataDirectory
from pipeline.streaming.rate.output import STATUSES, Output, Part
from rating.engine import Engine
from rating.state import State
from rating.step import Step
from schemas.tables import TABLES
from tests.support.rated_rows import Event, rated_table, reject_table

ONE = "8988303000000000001"
PIECE_ROWS = 400  # Maximum number of usage rows in one message.


class Ruled(NamedTuple):
    """Firings and actions of an output, in the form that an Output expects."""

    firings: pa.Table
    actions: pa.Table

    @property
    def actions_count(self) -> int:
        """The number of actions."""
        return int(self.actions.num_rows)


def output(
    partition: int, journal_offset: int, first_offset: int, next_offset: int, tables: dict[str, pa.Table]
) -> Output:
    """Return the output of one journal message. Tables that `tables` lacks are empty."""
    given = {name: tables.get(name, schema.empty_table()) for name, schema in TABLES.items()}
    given["statuses"] = STATUSES.empty_table()
    refused = given["rejected"].num_rows
    part = Part(journal_offset, next_offset, None, next_offset - first_offset, 0, 0, refused, 0)
    ruled = Ruled(given.pop("firings"), given.pop("actions"))
    return Output(partition, first_offset, (part,), given, (ruled,))


def some(first: int, count: int, partition: int = 0, since: int = 0) -> list[Output]:
    """Return `count` outputs of one message each, with two rated rows on different days and a rejected record.

    `since` is the journal offset of the first rated row of message 0.
    """
    found = []
    for at in range(first, first + count):
        rated = rated_table([Event(ONE, 7, 1000 + at), Event(ONE, 8, 2000 + at)])
        offsets = pa.array([since + 2 * at, since + 2 * at + 1], pa.int64())
        where = pa.array([partition] * 2, pa.int32())
        rated = rated.set_column(rated.schema.get_field_index("journal_offset"), "journal_offset", offsets)
        rated = rated.set_column(rated.schema.get_field_index("journal_partition"), "journal_partition", where)
        rejected = reject_table([{"reject_id": f"{partition}:{at}"}])
        tables = {"rated": rated.cast(TABLES["rated"]), "rejected": rejected}
        found.append(output(partition, at, since + 2 * at, since + 2 * at + 2, tables))
    return found


@dataclass
class Fold:
    """One partition of the journal: its engine, and its outputs so far."""

    partition: int
    engine: Engine
    outputs: list[Output] = field(default_factory=list)

    def take(self, entry: Entry, rejected: pa.Table | None = None) -> None:
        """Fold an entry as the next message, and add its output."""
        first = self.engine.state.offset
        step = fold(self.engine, entry)
        tables = {name: getattr(step, name) for name in TABLES if name != "rejected"}
        if rejected is not None:
            tables["rejected"] = rejected
        self.outputs.append(output(self.partition, len(self.outputs), first, self.engine.state.offset, tables))


def fold(engine: Engine, entry: Entry) -> Step:
    """Fold one journal entry into the engine and return the step."""
    if isinstance(entry, Usage):
        return engine.usage(entry.batch, entry.originals)
    if isinstance(entry, Apply):
        return engine.apply(entry.catalogue, entry.at_us)
    if isinstance(entry, Tick):
        return engine.tick(entry.now_us)
    return engine.command(entry.commands, entry.at_us, entry.baseline)


def parts_of(data: Path, partitions: int) -> Iterator[tuple[list[Fold], list[Entry | None]]]:
    """Replay the journal of a data directory on `partitions` partitions.

    Yield the partitions and their parts of the next entry, each time before the partitions take it, and at the end once
    more without an entry. The last outputs have the rejected records, distributed over the partitions in turn.
    """
    parts = [Fold(partition, Engine(State(), partition)) for partition in range(partitions)]
    router = Router(partitions)
    with DataDirectory.open(data, write=False) as directory:
        for _, whole in journal.read(directory):
            for entry in pieces(whole):
                split = router.split(entry)
                yield parts, split
                for part, own in zip(parts, split, strict=True):
                    if own is not None:
                        part.take(own)
        refused = table_of(directory, "rejected")
    for part in parts:
        rows = list(range(part.partition, refused.num_rows, partitions))
        part.take(Commands((), 0), refused.take(rows).combine_chunks())
    yield parts, [None] * partitions


def pieces(entry: Entry) -> list[Entry]:
    """Split a batch of usage without corrections into batches of PIECE_ROWS. Return other entries unchanged."""
    if not isinstance(entry, Usage) or entry.originals is not None:
        return [entry]
    rows = entry.batch.rows
    starts = range(0, rows.height, PIECE_ROWS)
    return [replace(entry, batch=replace(entry.batch, rows=rows[at : at + PIECE_ROWS])) for at in starts]


def table_of(directory: DataDirectory, name: str) -> pa.Table:
    """Return all committed rows of a table, in the order of its files."""
    files = [directory.locate(entry) for entry in directory.manifest.group(name)]
    return pa.concat_tables(
        [TABLES[name].empty_table(), *(pq.ParquetFile(file).read().cast(TABLES[name]) for file in files)]
    )
