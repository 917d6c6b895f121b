"""Landing: the outputs of one partition become its folder of the history, then rows in ClickHouse.

    <history>/partition-0003/    a data directory of history tables alone; its lock keeps a second worker out

The manifest says up to which message of the journal the partition has landed, and is replaced in the checkpoint that
brings the rows: whatever is killed, and however often outputs come again, each row is there once. ClickHouse is fed
from the rows at hand while it has all that came before, else from the folder, which has everything: after a restart,
or after ClickHouse was away.
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

MOST_FILES: Final = 12  # of one folder that could be one; with fewer a row would be rewritten more often
MERGED_ROWS: Final = 500_000  # of a file that is made of others: as much is held in memory
MERGED_BYTES: Final = 64 << 20
PATIENCE: Final = 8  # times MOST_FILES, while readers are at work, before files are merged all the same
_WRITES_AHEAD: Final = 12
_BLOCK_ROWS: Final = 8_192  # told apart by day at once; what is larger is not copied for it


class _Landed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a partition has landed: the last message of the journal, the offset of the fold after it, and for each
    table the offset of the fold after its last rows."""

    journal_offset: int = -1
    next_offset: int = 0
    ends: dict[str, int] = {}


def folder_of(history: Path, partition: int) -> Path:
    """The folder of a partition in a history."""
    return partition_folder(history, partition)


def landed_of(folder: Path) -> int:
    """The offset in the journal of the last message whose rows are in the folder of a partition; -1 before the first.

    Raises StorageError where the folder is damaged or something else.
    """
    return _read_landed(folder).journal_offset


def landed_at(directory: DataDirectory) -> int:
    """The same of the checkpoint that an opened folder shows, whatever lands meanwhile."""
    return _landed_in(directory.manifest, directory.path).journal_offset


class PartitionLanding:
    """Lands the outputs of one partition in its folder, and in ClickHouse where a sink is given; a context manager.

    Blocking, for one thread; the sink is its own. Raises, as it is made, LockedError where another process lands this
    partition, which names that process; StorageError where the disk refuses or the folder is damaged; UsageError where
    something else is there.
    """

    def __init__(self, folder: Path, partition: int, sink: Sink | None) -> None:
        _require_folder(folder, partition)
        self.partition = partition
        self._folder = folder
        self.sink = sink  # may be given later, between two calls
        self._even = False  # ClickHouse has all that the folder has
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
        """Let another process land this partition."""
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.close()

    @property
    def landed(self) -> int:
        """The offset in the journal of the last message whose rows are in the folder, -1 before the first one."""
        return self._landed.journal_offset

    def land(self, outputs: Sequence[Output]) -> int:
        """Land what of the outputs has not landed yet, in one checkpoint, then in ClickHouse; returns how many outputs
        had something new.

        Outputs come in order; entries that have landed, or that come twice, are skipped, however outputs join them. On
        return every row of them is in the folder once and durably, and in ClickHouse once, with everything before it.

        Raises StorageError where an output is missing before one, or where the disk refuses: all of the outputs are in
        the folder then, or none; and WorldError where ClickHouse refuses or stays away: the folder has the rows then,
        as `landed` says, and later outputs may be landed all the same. After any error the same call again, on this
        object, is right; it raises LockedError where another process has taken the partition meanwhile.
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
        """What the outputs give after what has landed, each entry once and without a gap."""
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
        """Bring ClickHouse to where the folder is."""
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
        if name == "rejected":  # by their number in the history, as a load of a data directory does
            first = _rows_of(before, name)
            offsets = np.arange(first, first + rows.num_rows, dtype=np.int64)
            sink.land(name, rows, self.partition, first, first + rows.num_rows, offsets)
        else:
            sink.land(name, rows, self.partition, fresh[0].first_offset, fresh[-1].next_offset)

    def _feed_history(self, sink: Sink, directory: DataDirectory) -> None:
        """Land what ClickHouse lacks of the folder. Raises WorldError where it has more than the folder."""
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
        """Merge the newest small files of folders that have too many; while readers are at work, of far too many."""
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
        """The folder, opened; after an error it is opened anew before its next use, which finishes or undoes what the
        error left, also where the checkpoint had been committed already."""
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
                (self._folder / READERS).touch()
        except BaseException:
            directory.close()
            raise
        self._directory = directory
        self._even = False


def originals(folder: Path, partition: int, corrections: pl.DataFrame, before_offset: int) -> pa.Table:
    """The landed rated rows of the keys that REVERSE and REPLACE records correct, in journal order (F6).

    Of offsets of the fold below `before_offset`, all of which have landed: so the rows are the same whatever lands
    meanwhile. Raises ValueError where they have not, StorageError where the folder is damaged.
    """
    directory = _landed_before(folder, partition, before_offset)
    if directory is None:
        return TABLES["rated"].empty_table()
    return directory.read(lambda _: originals_in(directory, corrections, before_offset))


def baseline(folder: Path, partition: int, engine: Engine, at_us: int, before_offset: int) -> pl.DataFrame:
    """Sums of the landed rated rows for a rule that starts at `at_us` (rating.rules.totals.cycle_and_day.BASELINE).

    Of offsets of the fold below `before_offset`, as `originals` has them; raises what that raises.
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
    """The folder to read, None where nothing comes before the offset."""
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
    """All rows in order, by whole chunks; small ones together, as each block costs something whatever it has."""
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
    """Whether nobody reads the folder; until the end of the block nobody begins to."""
    with storage_errors(folder, "look for readers of the folder"):
        lock = os.open(folder / READERS, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)
