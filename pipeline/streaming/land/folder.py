"""Writes the outputs of one partition to its folder of the history, then to ClickHouse.

    <history>/partition-0003/    a data directory with history tables only; its lock keeps a second worker out

The manifest records the last journal message that has landed, and is replaced in the same commit as the rows. So each
row is in the folder once, whatever process is killed and however often outputs are repeated. ClickHouse gets the rows
from memory while it has everything before them. After a restart or an outage of ClickHouse it gets them from the
folder, which has everything.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.clickhouse import History, Sink
from pipeline.history.baseline import baseline as sums_of
from pipeline.history.compaction import crowded, merge
from pipeline.history.originals import originals_in
from pipeline.history.reader import READERS, partition_folder
from pipeline.history.writer import Landing
from pipeline.store import manifest as manifests
from pipeline.store.background import Background
from pipeline.store.directory import DataDirectory, storage_errors
from pipeline.store.manifest import Manifest
from pipeline.streaming.rate.output import Output
from rating.engine import Engine
from rating.errors import StorageError, WorldError
from rating.rules.totals.cycle_and_day import BASELINE
from schemas.tables import TABLES

MOST_FILES: Final = 12  # mergeable files of one folder; with a lower limit each row would be rewritten more often
MERGED_ROWS: Final = 500_000  # of a merged file, which is built in memory
MERGED_BYTES: Final = 64 << 20
PATIENCE: Final = 8  # times MOST_FILES: above this, files are merged even while the folder is being read
_WRITES_AHEAD: Final = 12
_BLOCK_ROWS: Final = 8_192  # small tables are joined into blocks of at least this size before they are split by day


class _Landed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a partition has landed.

    The last journal message, the offset of the fold after it, and for each table the offset of the fold after its last
    rows.
    """

    journal_offset: int = -1
    next_offset: int = 0
    ends: dict[str, int] = {}


def folder_of(history: Path, partition: int) -> Path:
    """Return the folder of a partition in a history."""
    return partition_folder(history, partition)


def landed_of(folder: Path) -> int:
    """Return the journal offset of the last message whose rows are in a partition's folder; -1 if there is none.

    Raises StorageError if the folder is damaged or is something else.
    """
    return _read_landed(folder).journal_offset


def landed_at(directory: DataDirectory) -> int:
    """Like `landed_of`, but of an opened folder's checkpoint, which does not change while more rows land."""
    return _landed_in(directory.manifest, directory.path).journal_offset


class PartitionLanding:
    """Lands the outputs of one partition in its folder, and in ClickHouse if a sink is given. A context manager.

    Blocking, and for use in one thread; it alone uses the sink. The constructor raises LockedError, naming the process,
    if another process lands this partition; StorageError if the disk fails or the folder is damaged; UsageError if the
    folder is something else.
    """

    def __init__(self, folder: Path, partition: int, sink: Sink | None) -> None:
        _require_folder(folder, partition)
        self.partition = partition
        self._folder = folder
        self.sink = sink  # may be set later, between two calls
        self._even = False  # True if ClickHouse has all rows of the folder
        self._directory: DataDirectory | None = None
        self._landed = _Landed()
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder, so that another process can land this partition."""
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.close()

    @property
    def landed(self) -> int:
        """The journal offset of the last message whose rows are in the folder; -1 if there is none."""
        return self._landed.journal_offset

    def land(self, outputs: Sequence[Output]) -> int:
        """Land the new parts of the outputs in one commit, then in ClickHouse.

        Returns how many outputs had something new. Outputs come in order. Entries that have landed before or occur
        twice are skipped, however they are grouped into outputs. On return every row is durable in the folder once, and
        in ClickHouse once, with all rows before it.

        Raises StorageError if an output is missing, or if the disk fails; then the folder has all of the outputs or
        none of them. Raises WorldError if ClickHouse fails or is unreachable; then the folder has the rows, as `landed`
        says, and later outputs may be landed. After any error, repeat the same call on this object; it raises
        LockedError if another process has taken the partition meanwhile.
        """
        with self._reopened_after_errors() as directory:
            before, fresh = directory.manifest, self._fresh(outputs)
            if fresh:
                self._commit(directory, fresh)
            self._merge(directory)
        if self.sink is not None:
            self._feed(self.sink, directory, before, fresh)
        return len(fresh)

    def _fresh(self, outputs: Sequence[Output]) -> list[Output]:
        """Return the parts of the outputs that have not landed, each entry once and without a gap."""
        fresh: list[Output] = []
        at, next_offset = self._landed.journal_offset, self._landed.next_offset
        for output in outputs:
            if output.partition != self.partition:
                raise ValueError(f"an output of partition {output.partition} for partition {self.partition}")
            left = output.after(at)
            if left is None:
                continue
            if left.first_journal_offset != at + 1 or left.first_offset != next_offset:
                raise StorageError(
                    f"{self._folder}: found the output of message {left.first_journal_offset} of the journal, from "
                    f"offset {left.first_offset} of the fold on; expected that of message {at + 1}, from offset "
                    f"{next_offset} on: outputs are missing, or the folder belongs to another journal; restore the "
                    "folder or the topic of outputs from a backup, or move the folder away and fold the journal from "
                    "its beginning"
                )
            fresh.append(left)
            at, next_offset = left.journal_offset, left.next_offset
        return fresh

    def _commit(self, directory: DataDirectory, fresh: list[Output]) -> None:
        ends = dict(self._landed.ends)
        with directory.begin() as checkpoint, Background(_WRITES_AHEAD) as background:
            landing = Landing(checkpoint, background)
            for name in TABLES:
                filled = [output for output in fresh if getattr(output, name).num_rows]
                for rows in _blocks([getattr(output, name) for output in filled]):
                    landing.add(name, rows)
                if filled:
                    ends[name] = filled[-1].next_offset
            landing.finish()
            landed = _Landed(fresh[-1].journal_offset, fresh[-1].next_offset, ends)
            checkpoint.commit(msgspec.to_builtins(landed))
        self._landed = landed

    def _feed(self, sink: Sink, directory: DataDirectory, before: Manifest, fresh: list[Output]) -> None:
        """Bring ClickHouse up to date with the folder."""
        even, self._even = self._even, False
        if even:
            for name in TABLES:
                self._feed_rows(sink, name, before, fresh)
        else:
            self._feed_history(sink, directory)
        self._even = True

    def _feed_rows(self, sink: Sink, name: str, before: Manifest, fresh: list[Output]) -> None:
        rows = pa.concat_tables([TABLES[name].empty_table(), *(getattr(output, name) for output in fresh)])
        if not rows.num_rows:
            return
        if name == "rejected":  # numbered by position in the history, as when a data directory is loaded
            first = _rows_of(before, name)
            offsets = np.arange(first, first + rows.num_rows, dtype=np.int64)
            sink.land(name, rows, self.partition, first, first + rows.num_rows, offsets)
        else:
            sink.land(name, rows, self.partition, fresh[0].first_offset, fresh[-1].next_offset)

    def _feed_history(self, sink: Sink, directory: DataDirectory) -> None:
        """Land rows of the folder that ClickHouse lacks.

        Raises WorldError if ClickHouse has more rows than the folder.
        """
        marks = sink.landed()
        for name in TABLES:
            at = marks.get((name, self.partition), 0)
            rejected = _rows_of(directory.manifest, "rejected")
            end, limit = self._landed.ends.get(name, 0), self._landed.next_offset
            if name == "rejected":
                end, limit = rejected, rejected
            if at > limit:
                raise WorldError(
                    f"{self._folder}: ClickHouse has {name} of partition {self.partition} up to offset {at}, the "
                    f"folder up to {limit}: it holds another history; name another database in [clickhouse]"
                )
            if at < end:
                for block in History(directory, name, next_offset=limit).blocks(at):
                    sink.land(name, block.rows, self.partition, block.first_offset, block.next_offset, block.offsets)

    def _merge(self, directory: DataDirectory) -> None:
        """Merge the newest small files if the folder has too many.

        While it is being read, allow many more before merging.
        """
        targets = {"target_rows": MERGED_ROWS, "target_bytes": MERGED_BYTES}
        if not crowded(directory, MOST_FILES, **targets):
            return
        with _unread(self._folder) as unread:
            groups = crowded(directory, MOST_FILES if unread else PATIENCE * MOST_FILES, **targets)
            if groups:
                with directory.begin() as checkpoint:
                    for group in groups:
                        merge(directory, checkpoint, group)
                    checkpoint.commit()

    @contextmanager
    def _reopened_after_errors(self) -> Iterator[DataDirectory]:
        """Yield the opened folder.

        After an error the folder is reopened before its next use. Opening completes or undoes what the failed call
        left, also if its checkpoint had been committed already.
        """
        if self._directory is None:
            self._open()
        assert self._directory is not None
        try:
            yield self._directory
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        directory = DataDirectory.open(self._folder, write=True)
        try:
            self._landed = _landed_in(directory.manifest, self._folder)
            with storage_errors(self._folder, "open the folder of a partition"):
                (self._folder / READERS).touch(0o600)
        except BaseException:
            directory.close()
            raise
        self._directory = directory
        self._even = False


def originals(folder: Path, partition: int, corrections: pl.DataFrame, before_offset: int) -> pa.Table:
    """Return the landed rated rows with the keys that REVERSE and REPLACE records correct, in journal order (F6).

    Only rows with an offset of the fold below `before_offset` count, and all of those must have landed. So the result
    does not depend on rows that land meanwhile. Raises ValueError if they have not landed, StorageError if the folder
    is damaged.
    """
    directory = _landed_before(folder, partition, before_offset)
    if directory is None:
        return TABLES["rated"].empty_table()
    return directory.read(lambda _: originals_in(directory, corrections, before_offset))


def baseline(folder: Path, partition: int, engine: Engine, at_us: int, before_offset: int) -> pl.DataFrame:
    """Return sums of the landed rated rows for a rule that starts at `at_us`.

    Schema: rating.rules.totals.cycle_and_day.BASELINE. Only offsets of the fold below `before_offset` count, as in
    `originals`. Raises the errors of `originals`.
    """
    import duckdb

    directory = _landed_before(folder, partition, before_offset)
    if directory is None:
        return pl.DataFrame(schema=BASELINE)
    return directory.read(
        lambda _: sums_of(directory, engine, at_us, before_offset),
        vanished=lambda failure: isinstance(failure, duckdb.IOException),
    )


def _landed_before(folder: Path, partition: int, before_offset: int) -> DataDirectory | None:
    """Open the folder for reading; None if nothing can be before the offset.

    Raises ValueError if too little has landed.
    """
    _require_folder(folder, partition)
    if before_offset == 0:
        return None
    landed = _read_landed(folder)
    if landed.next_offset < before_offset:
        raise ValueError(f"{folder} has landed up to offset {landed.next_offset}, not {before_offset}: wait for it")
    return DataDirectory.open(folder, write=False)


def _require_folder(folder: Path, partition: int) -> None:
    if folder.name != partition_folder(Path(), partition).name:
        raise ValueError(f"{folder} is not the folder of partition {partition}")


def _read_landed(folder: Path) -> _Landed:
    with storage_errors(folder, "read the folder of a partition"):
        manifest = manifests.read(folder)
    return _Landed() if manifest is None else _landed_in(manifest, folder)


def _landed_in(manifest: Manifest, folder: Path) -> _Landed:
    try:
        return msgspec.convert(manifest.meta, _Landed)
    except msgspec.ValidationError as error:
        raise StorageError(
            f"{folder / manifests.NAME}: found progress of another kind ({error}); expected that of a partition which "
            "streaming workers land: name another folder for the history, or restore this one from a backup"
        ) from error


def _blocks(tables: Sequence[pa.Table]) -> Iterator[pa.Table]:
    """Yield all rows in order, in whole chunks. Small chunks are joined, because each block has a fixed cost."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for table in tables:
        for batch in table.to_batches():
            held.append(batch)
            rows += batch.num_rows
            if rows >= _BLOCK_ROWS:
                yield pa.Table.from_batches(held)
                held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held)


def _rows_of(manifest: Manifest, name: str) -> int:
    return sum(entry.rows for entry in manifest.group(name))


@contextmanager
def _unread(folder: Path) -> Iterator[bool]:
    """Yield True if nobody is reading the folder. Until the end of the block no reader can start then."""
    with storage_errors(folder, "look for readers of the folder"):
        lock = os.open(folder / READERS, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)
