"""The embedded driver: journal, state, history and rejected records in one data directory. It needs nothing but Python.

    file -> decode, mediate (reading thread) -> fold (here) -> journal, history, rejects (writing thread)

After the last record of an ingest follows a tick of the clock, so that rules that wait for time see the usage first.
After a certain number of records everything becomes durable in one atomic checkpoint, together with the read position
in the files. If the process is killed at any moment, the same command resumes from the last checkpoint and ends with
the same bytes as an undisturbed run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.embedded.committed import facts_of
from pipeline.embedded.progress import Progress, Tally
from pipeline.embedded.renumbered import renumbered, rows_of
from pipeline.feeds.batch import batch_of
from pipeline.feeds.decode import CHUNK_BYTES, Position, open_source
from pipeline.feeds.footer import require_footer
from pipeline.feeds.lookups import with_lists
from pipeline.feeds.prefetch import prefetch
from pipeline.feeds.source_file import Source
from pipeline.history.baseline import baseline
from pipeline.history.originals import originals_in, stretches
from pipeline.history.rejects import reject_table
from pipeline.history.writer import Landing
from pipeline.journal import segments as journal
from pipeline.journal.arrival import require_time
from pipeline.journal.segments import Journal
from pipeline.store.background import Background
from pipeline.store.directory import Checkpoint, DataDirectory
from pipeline.store.seen_files import SeenFiles
from pipeline.store.state_files import restore_state, stage_state
from rating.columnar.sharing import own_frame, shared_table
from rating.dedupe.digests import Prints
from rating.dedupe.seen import DAY_US
from rating.engine import Engine
from rating.errors import UsageError
from rating.mediation.records import mediate
from rating.step import Step
from schemas.cards import Catalogue
from schemas.commands import Command
from schemas.mapping import Mapping
from schemas.tables import RATED
from schemas.usage import UsageBatch

CHECKPOINT_RECORDS: Final = 2_000_000
_CHECKPOINT_VARIABLE: Final = "WEIR_CHECKPOINT_RECORDS"
_BYTES_OF_A_RECORD: Final = 64  # estimate, to cut chunks so that checkpoints are about due at their ends
WRITES_AHEAD: Final = 12  # tasks that may wait for the writing thread: those of about two chunks

Watch = Callable[[Progress, int], None]  # called with an ingest and the bytes of its current file folded so far


def checkpoint_records() -> int:
    """Return the number of records between two checkpoints: $WEIR_CHECKPOINT_RECORDS, or else two million.

    Raises UsageError if the variable is not a positive whole number.
    """
    text = os.environ.get(_CHECKPOINT_VARIABLE)
    if text is None:
        return CHECKPOINT_RECORDS
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"${_CHECKPOINT_VARIABLE}: found {text!r}; expected a whole number of records, 1 or more")
    return int(text)


@dataclass(frozen=True)
class Reading:
    """A chunk of a file after mediation, made in the reading thread for the thread that folds.

    `usage` has the columns of USAGE_SCHEMA. `rejected` are the records that mediation rejected, with the columns of
    schemas.tables.REJECTED. `raw_lines` and `header` are those of the chunk (pipeline.feeds.decode.Chunk).
    """

    start: Position
    end: Position
    feed: str
    source: str
    received_at_us: int
    cumulative: bool
    counter_bits: int
    labels: tuple[tuple[str, str], ...]
    usage: pa.Table
    prints: Prints
    rejected: pa.Table
    raw_lines: Callable[[list[int]], list[bytes]]
    header: bytes | None

    def batch(self) -> UsageBatch:
        """Return the usage as a batch for the calling thread."""
        return UsageBatch(
            self.feed,
            self.source,
            self.received_at_us,
            self.cumulative,
            own_frame(self.usage),
            counter_bits=self.counter_bits,
            labels=self.labels,
        )


def read_usage(
    source: Source, mapping: Mapping, received_at_us: int, start: Position | None, chunk_bytes: int
) -> Iterator[Reading]:
    """Decode and mediate a feed file, chunk by chunk."""
    path, begin = Path(source.path), start or Position()
    mapping = with_lists(mapping, path.parent)
    if start is None and not source.rows:
        require_footer(path, mapping)
    chunks = open_source(path, mapping, start=start, chunk_bytes=chunk_bytes)
    if source.rows:
        first = 2 if mapping.format.type == "csv" and mapping.format.header else 1
        chunks = renumbered(chunks, rows_of(Path(source.rows)), first)
    for chunk in chunks:
        usage, rejects = mediate(chunk.raw, mapping, path.name)
        if len(chunk.rejects):
            rejects = pl.concat([chunk.rejects, rejects]).sort("source_row", maintain_order=True)
        batch = batch_of(mapping, source.name, received_at_us, usage)
        yield Reading(
            start=begin,
            end=chunk.end,
            feed=batch.feed,
            source=batch.source,
            received_at_us=received_at_us,
            cumulative=batch.cumulative,
            counter_bits=batch.counter_bits,
            labels=batch.labels,
            usage=shared_table(usage),
            prints=Prints.of(batch),
            rejected=reject_table(rejects, chunk, mapping.name, source, received_at_us),
            raw_lines=chunk.raw_lines,
            header=chunk.header,
        )
        begin = chunk.end


class Reader:
    """Decodes the chunks of an ingest one after another, ahead of the fold, in the reading thread."""

    def __init__(self, mapping: Mapping, chunk_bytes: int) -> None:
        self._mapping = mapping
        self._chunk_bytes = chunk_bytes
        self._next: tuple[int, int, int] | None = None
        self._readings: Iterator[Reading] = iter(())

    def next(self, progress: Progress) -> Reading | None:
        """Return the reading at the position of the ingest; None at the end of its file.

        Raises the exceptions of reading the file.
        """
        at = (progress.file, progress.offset, progress.row)
        if self._next != at:
            source = progress.sources[progress.file]
            start = Position(progress.offset, progress.row) if progress.row else None
            self._readings = prefetch(read_usage(source, self._mapping, progress.as_of_us, start, self._chunk_bytes))
        reading = next(self._readings, None)
        self._next = None if reading is None else (progress.file, reading.end.offset, reading.end.row)
        return reading


class Embedded:
    """The driver of one data directory: applies catalogues, ingests files; a context manager.

    Times of arrival more than a day ahead of the machine's clock are refused, because the clock of the state never goes
    back. With `force` they are taken.
    """

    def __init__(self, directory: DataDirectory, *, force: bool = False) -> None:
        self.directory = directory
        self._force = force
        self.facts = facts_of(directory)
        state = restore_state(directory)
        self.seen = SeenFiles(directory, state.clock_us // DAY_US)
        state.seen = self.seen.seen
        self.engine = Engine(state)

    @classmethod
    def open(cls, path: Path, *, write: bool, force: bool = False) -> Self:
        """Open a data directory for writing (created if missing) or for reading.

        Raises LockedError, StorageError or UsageError as DataDirectory.open does.
        """
        directory = DataDirectory.open(path, write=write)
        try:
            return cls(directory, force=force)
        except BaseException:
            directory.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.directory.close()

    def apply(self, change: Catalogue, at_us: int | None = None) -> Step:
        """Apply a catalogue that arrived at `at_us`, durably. None means at the latest arrival so far.

        Raises PlanError or RuleError, with nothing changed, if it is invalid, UsageError if the time is ahead.
        """
        self._require_time(at_us)
        self.engine.check(change)
        return self._enter(journal.Apply(change, at_us))

    def tick(self, now_us: int) -> Step:
        """Advance the clock to `now_us`, durably.

        Rules and actions that waited for this time become due (L3 to L5, L7). Raises UsageError if the time is ahead.
        """
        self._require_time(now_us)
        return self._enter(journal.Tick(now_us))

    def command(self, commands: Sequence[Command], at_us: int) -> Step:
        """Apply commands that arrived at `at_us`, in order and durably, all of them or none.

        If a command starts a rule that is the first to use a total, the rule begins with the total of the committed
        history. Raises RuleError or UsageError, with nothing changed, if a command is invalid.
        """
        self._require_time(at_us)
        self.engine.check_commands(commands)
        if not commands:
            return Step()
        held = baseline(self.directory, self.engine, at_us) if self.engine.wants_baseline(commands) else None
        return self._enter(journal.Commands(tuple(commands), at_us, held))

    def ingest(
        self,
        mapping: Mapping,
        paths: Sequence[Path | Source],
        as_of_us: int,
        *,
        fixed_as_of: bool,
        watch: Watch = lambda progress, offset: None,
    ) -> Tally:
        """Rate the records of files. On return each is durably rated, duplicate or rejected.

        If a killed process left an ingest of the same files and feed unfinished, this call resumes it, with its arrival
        time. With `fixed_as_of` it resumes only an ingest whose arrival time is `as_of_us`. Returns the tally of the
        whole ingest. Until `acknowledge` is called, the same ingest returns the same tally again and changes nothing.
        Raises UsageError if the arrival time is ahead.
        """
        self._require_time(as_of_us)
        sources = [one if isinstance(one, Source) else Source.of(one) for one in paths]
        progress = self._resume(mapping, sources, as_of_us, fixed_as_of)
        every = checkpoint_records()
        reader = Reader(mapping, min(CHUNK_BYTES, max(1 << 16, every * _BYTES_OF_A_RECORD)))
        while progress.file < len(progress.sources):
            self._ingest_stretch(reader, progress, every, watch)
        return progress.tally

    def acknowledge(self) -> None:
        """Record that the tallies of all finished ingests have been reported. The same files are then a new ingest."""
        ended = [one for one in self.facts.under_way if one.file == len(one.sources)]
        if ended:
            self.facts.under_way = [one for one in self.facts.under_way if one not in ended]
            with self.directory.begin() as checkpoint:
                checkpoint.commit(msgspec.to_builtins(self.facts))

    def originals(self, corrections: pl.DataFrame) -> pa.Table:
        """Return the committed rated rows that REVERSE and REPLACE records correct, by key, in journal order (F6)."""
        return originals_in(self.directory, corrections)

    def _require_time(self, at_us: int | None) -> None:
        if at_us is not None:
            require_time(at_us, time.time_ns() // 1000, force=self._force)

    def _resume(self, mapping: Mapping, sources: list[Source], as_of_us: int, fixed: bool) -> Progress:
        if self.engine.state.generation == 0:
            raise UsageError("there is no catalogue yet: load accounts, plans and cards first with `weir apply FILE…`")
        for progress in self.facts.under_way:
            same = progress.feed == mapping.name and progress.sources == sources
            if same and (not fixed or progress.as_of_us == as_of_us):
                return progress
        return Progress(mapping.name, sources, as_of_us)

    def _ingest_stretch(self, reader: Reader, progress: Progress, every: int, watch: Watch) -> None:
        """Fold up to the next checkpoint and commit it. `progress` and the stored facts change only with the commit."""
        with self.directory.begin() as checkpoint, Background(WRITES_AHEAD) as background:
            moved = msgspec.convert(msgspec.to_builtins(progress), Progress)
            stretch = _Stretch(self, checkpoint, background, reader, moved)
            stretch.run(every, watch)
            self.facts.total.add(stretch.tally)
            moved.tally.add(stretch.tally)
            self.facts.under_way = [*(one for one in self.facts.under_way if not _same(one, moved)), moved]
            self._commit(checkpoint, stretch.journal, stretch.landing)
        for name in Progress.__struct_fields__:
            setattr(progress, name, getattr(moved, name))

    def _enter(self, entry: journal.Entry) -> Step:
        """Fold one entry in a checkpoint of its own."""
        with self.directory.begin() as checkpoint, Background(WRITES_AHEAD) as background:
            entries = Journal(checkpoint, background, self.engine.state.offset)
            landing = Landing(checkpoint, background)
            entries.append(entry)
            step = self.engine.step(entry)
            self.facts.total.add(_land(step, landing))
            self._commit(checkpoint, entries, landing)
        return step

    def _commit(self, checkpoint: Checkpoint, entries: Journal, landing: Landing) -> None:
        """Make everything since the last checkpoint durable at once."""
        self.engine.expire()
        landing.flush()
        entries.flush()
        # Meanwhile the writing thread writes the last rows.
        self.seen.save(checkpoint)
        self.facts.generation = stage_state(self.directory, checkpoint, self.engine, self.facts.generation)
        entries.finish()
        checkpoint.commit(msgspec.to_builtins(self.facts))


def _same(one: Progress, other: Progress) -> bool:
    return (one.feed, one.sources, one.as_of_us) == (other.feed, other.sources, other.as_of_us)


def _land(step: Step, landing: Landing) -> Tally:
    """Land all rows of a step except its rejects, and count them."""
    for rows in step.rated.to_batches():  # in the batches that the fold made, so that landing need not join them
        landing.add("rated", pa.Table.from_batches([rows], RATED))
    for name in ("gaps", "results", "charges"):
        landing.add(name, getattr(step, name))
    for outcome in step.outcomes:
        if len(outcome):  # the rows of firings are built while the next batch is folded
            landing.add_later("firings", partial(getattr, outcome, "firings"))
            landing.add_later("actions", partial(getattr, outcome, "actions"))
    tally = Tally(
        records=step.records,
        rated=step.rated_records,
        duplicate=step.duplicates,
        missing_partials=int(pc.sum(step.gaps["missing"]).as_py() or 0),
        firings=sum(len(outcome) for outcome in step.outcomes),
        actions=sum(outcome.actions_count for outcome in step.outcomes),
    )
    tally.add_charges(step.usage_charges)
    return tally


class _Stretch:
    """The work between two checkpoints of an ingest."""

    def __init__(
        self, driver: Embedded, checkpoint: Checkpoint, background: Background, reader: Reader, progress: Progress
    ) -> None:
        self.driver = driver
        self.reader = reader
        self.progress = progress
        self.tally = Tally()
        self.journal = Journal(checkpoint, background, driver.engine.state.offset)
        self.landing = Landing(checkpoint, background)

    def run(self, every: int, watch: Watch) -> None:
        """Fold chunks until `every` records have been read, the files end, or a correction needs a commit first.

        At the end of the files a tick advances the clock to the arrival time of the ingest. It is in the same
        checkpoint, so it happens once.
        """
        progress = self.progress
        while progress.file < len(progress.sources):
            source = progress.sources[progress.file]
            while (reading := self.reader.next(progress)) is not None:
                if not self._fold(reading, source):
                    return
                watch(progress, reading.end.offset)
                progress.offset, progress.row, progress.folded = reading.end.offset, reading.end.row, 0
                if self.tally.records >= every:
                    return
            progress.file, progress.offset, progress.row, progress.folded = progress.file + 1, 0, 0, 0
        tick = journal.Tick(progress.as_of_us)
        self.journal.append(tick)
        self.tally.add(_land(self.driver.engine.step(tick), self.landing))

    def _fold(self, reading: Reading, source: Source) -> bool:
        """Fold the rest of a chunk. Returns False if a checkpoint must come first.

        Corrections look up the rows that they correct in the committed history, so everything before them is committed
        first (F6).
        """
        progress = self.progress
        whole = reading.batch()
        for start, end, corrects in stretches(whole.rows, progress.folded):
            if corrects and self.tally.records:
                progress.offset, progress.row, progress.folded = reading.start.offset, reading.start.row, start
                return False
            batch = replace(whole, rows=whole.rows.slice(start, end - start))
            originals = self.driver.originals(batch.rows) if corrects else None
            entry = journal.Usage(batch, originals)
            self.journal.append(entry)
            prints = reading.prints.slice(start, end - start)
            self._take(self.driver.engine.step(entry, prints), reading, source)
        if len(reading.rejected):
            self._reject(reading.rejected)
            self.tally.records += len(reading.rejected)
        return True

    def _take(self, step: Step, reading: Reading, source: Source) -> None:
        self.tally.add(_land(step, self.landing))
        if len(step.rejects):
            self._reject(reject_table(step.rejects, reading, reading.feed, source, self.progress.as_of_us))

    def _reject(self, rejected: pa.Table) -> None:
        """Land rows of REJECTED, and count them by reason."""
        self.landing.add("rejected", rejected)
        counts = pc.value_counts(rejected["reason"].cast(pa.string())).to_pylist()
        self.tally.add_rejects({one["values"]: one["counts"] for one in sorted(counts, key=lambda one: one["values"])})
