"""The embedded driver: journal, state, history and rejects in one data directory; needs nothing but Python.

    file -> decode, mediate (reading thread) -> fold (here) -> journal, history, rejects (writing thread)

After the last record of an ingest comes a tick of the clock, so that rules that wait for time see the usage first.
Every so many records all of it becomes durable in one atomic checkpoint, together with how far the files have been
read. Killed at any moment, the same command goes on from the last checkpoint and ends with the same bytes as a run
that nothing disturbed.
"""

from __future__ import annotations

import os
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

from pipeline.embedded.progress import Facts, Progress, Source, Tally
from pipeline.feeds.decode import CHUNK_BYTES, Position, open_source
from pipeline.feeds.lookups import with_lists
from pipeline.feeds.prefetch import prefetch
from pipeline.history.baseline import baseline
from pipeline.history.originals import originals_in, stretches
from pipeline.history.rejects import reject_table
from pipeline.history.writer import Landing
from pipeline.journal import segments as journal
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
_BYTES_OF_A_RECORD: Final = 64  # chunks are cut so that a checkpoint comes about when it should
WRITES_AHEAD: Final = 12  # tasks that may wait for the writing thread: about two chunks' worth

Watch = Callable[[Progress, int], None]  # is told of an ingest and the bytes of its file that have been folded


def checkpoint_records() -> int:
    """Records between two checkpoints: $WEIR_CHECKPOINT_RECORDS, else two million.

    Raises UsageError where the variable is no positive number.
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

    `usage` has the columns of USAGE_SCHEMA, `rejected` those of schemas.tables.REJECTED: what mediation refused.
    `raw_lines` and `header` are those of the chunk (pipeline.feeds.decode.Chunk).
    """

    start: Position
    end: Position
    feed: str
    source: str
    received_at_us: int
    cumulative: bool
    usage: pa.Table
    prints: Prints
    rejected: pa.Table
    raw_lines: Callable[[list[int]], list[bytes]]
    header: bytes | None

    def batch(self) -> UsageBatch:
        """The usage, for the calling thread."""
        return UsageBatch(self.feed, self.source, self.received_at_us, self.cumulative, own_frame(self.usage))


def read_usage(
    source: Source, mapping: Mapping, received_at_us: int, start: Position | None, chunk_bytes: int
) -> Iterator[Reading]:
    """Decode and mediate a feed file chunk by chunk."""
    path, begin = Path(source.path), start or Position()
    mapping = with_lists(mapping, path.parent)
    for chunk in open_source(path, mapping, start=start, chunk_bytes=chunk_bytes):
        usage, rejects = mediate(chunk.raw, mapping, path.name)
        if len(chunk.rejects):
            rejects = pl.concat([chunk.rejects, rejects]).sort("source_row", maintain_order=True)
        batch = UsageBatch(mapping.name, source.name, received_at_us, mapping.volumes.mode == "cumulative", usage)
        yield Reading(
            start=begin,
            end=chunk.end,
            feed=batch.feed,
            source=batch.source,
            received_at_us=received_at_us,
            cumulative=batch.cumulative,
            usage=shared_table(usage),
            prints=Prints.of(batch),
            rejected=reject_table(rejects, chunk, mapping.name, source, received_at_us),
            raw_lines=chunk.raw_lines,
            header=chunk.header,
        )
        begin = chunk.end


class Reader:
    """The readings of an ingest, one after another, decoded ahead in the reading thread."""

    def __init__(self, mapping: Mapping, chunk_bytes: int) -> None:
        self._mapping = mapping
        self._chunk_bytes = chunk_bytes
        self._next: tuple[int, int, int] | None = None
        self._readings: Iterator[Reading] = iter(())

    def next(self, progress: Progress) -> Reading | None:
        """The reading where the ingest stands, None at the end of its file. Raises what reading the file raises."""
        at = (progress.file, progress.offset, progress.row)
        if self._next != at:
            source = progress.sources[progress.file]
            start = Position(progress.offset, progress.row) if progress.row else None
            self._readings = prefetch(read_usage(source, self._mapping, progress.as_of_us, start, self._chunk_bytes))
        reading = next(self._readings, None)
        self._next = None if reading is None else (progress.file, reading.end.offset, reading.end.row)
        return reading


class Embedded:
    """One data directory under one process: apply catalogues, ingest files; a context manager."""

    def __init__(self, directory: DataDirectory) -> None:
        self.directory = directory
        self.facts = msgspec.convert(directory.manifest.meta, Facts) if directory.manifest.meta else Facts()
        state = restore_state(directory)
        self.seen = SeenFiles(directory, state.clock_us // DAY_US)
        state.seen = self.seen.seen
        self.engine = Engine(state)

    @classmethod
    def open(cls, path: Path, *, write: bool) -> Self:
        """Open a data directory to write (made if need be) or to read.

        Raises LockedError, StorageError or UsageError as DataDirectory.open does.
        """
        directory = DataDirectory.open(path, write=write)
        try:
            return cls(directory)
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
        """Let a catalogue that came at `at_us` (None: at the latest arrival so far) take effect, durably.

        Raises PlanError or RuleError, with nothing changed, where it cannot.
        """
        self.engine.check(change)
        return self._enter(journal.Apply(change, at_us), lambda: self.engine.apply(change, at_us))

    def tick(self, now_us: int) -> Step:
        """Let the clock come to `now_us`, durably: what waited for time falls due (L3 to L5, L7)."""
        return self._enter(journal.Tick(now_us), lambda: self.engine.tick(now_us))

    def command(self, commands: Sequence[Command], at_us: int) -> Step:
        """Let commands that came at `at_us` take effect in their order, durably, all of them or none.

        Where a rule among them is the first to look at a total, it begins with what the committed history says of it.
        Raises RuleError or UsageError, with nothing changed, where one of them cannot take effect.
        """
        self.engine.check_commands(commands)
        if not commands:
            return Step()
        held = baseline(self.directory, self.engine, at_us) if self.engine.wants_baseline(commands) else None
        return self._enter(
            journal.Commands(tuple(commands), at_us, held), lambda: self.engine.command(commands, at_us, held)
        )

    def ingest(
        self,
        mapping: Mapping,
        paths: Sequence[Path],
        as_of_us: int,
        *,
        fixed_as_of: bool,
        watch: Watch = lambda progress, offset: None,
    ) -> Tally:
        """Rate the records of files; each ends rated, duplicate or rejected, durably on return.

        Where the same files of the same feed were under way when a process died, this goes on from there, with the
        arrival time it began with unless `fixed_as_of`. Returns the tally of the whole ingest; until `acknowledge`
        says that it has been told, the same ingest gives the same tally again and changes nothing.
        """
        progress = self._resume(mapping, [Source.of(path) for path in paths], as_of_us, fixed_as_of)
        every = checkpoint_records()
        reader = Reader(mapping, min(CHUNK_BYTES, max(1 << 16, every * _BYTES_OF_A_RECORD)))
        while progress.file < len(progress.sources):
            self._ingest_stretch(reader, progress, every, watch)
        return progress.tally

    def acknowledge(self) -> None:
        """The tallies of all ingests that have ended have been told: the same files given again are a new ingest."""
        ended = [one for one in self.facts.under_way if one.file == len(one.sources)]
        if ended:
            self.facts.under_way = [one for one in self.facts.under_way if one not in ended]
            with self.directory.begin() as checkpoint:
                checkpoint.commit(msgspec.to_builtins(self.facts))

    def originals(self, corrections: pl.DataFrame) -> pa.Table:
        """The committed rated rows of the keys that REVERSE and REPLACE records correct, in journal order (F6)."""
        return originals_in(self.directory, corrections)

    def _resume(self, mapping: Mapping, sources: list[Source], as_of_us: int, fixed: bool) -> Progress:
        if self.engine.state.generation == 0:
            raise UsageError("there is no catalogue yet: load accounts, plans and cards first with `weir apply FILE…`")
        for progress in self.facts.under_way:
            same = progress.feed == mapping.name and progress.sources == sources
            if same and (not fixed or progress.as_of_us == as_of_us):
                return progress
        return Progress(mapping.name, sources, as_of_us)

    def _ingest_stretch(self, reader: Reader, progress: Progress, every: int, watch: Watch) -> None:
        """Fold up to the next checkpoint and commit it. `progress` and `facts` move on only with the commit."""
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

    def _enter(self, entry: journal.Entry, fold: Callable[[], Step]) -> Step:
        """Fold one entry in a checkpoint of its own."""
        with self.directory.begin() as checkpoint, Background(WRITES_AHEAD) as background:
            entries = Journal(checkpoint, background, self.engine.state.offset)
            landing = Landing(checkpoint, background)
            entries.append(entry)
            step = fold()
            self.facts.total.add(_land(step, landing))
            self._commit(checkpoint, entries, landing)
        return step

    def _commit(self, checkpoint: Checkpoint, entries: Journal, landing: Landing) -> None:
        """Make everything since the last checkpoint durable at once."""
        self.engine.expire()
        landing.flush()
        entries.flush()
        # The writing thread is busy with the last rows meanwhile.
        self.seen.save(checkpoint)
        self.facts.generation = stage_state(self.directory, checkpoint, self.engine, self.facts.generation)
        entries.finish()
        checkpoint.commit(msgspec.to_builtins(self.facts))


def _same(one: Progress, other: Progress) -> bool:
    return (one.feed, one.sources, one.as_of_us) == (other.feed, other.sources, other.as_of_us)


def _land(step: Step, landing: Landing) -> Tally:
    """Land all rows of a step but its rejects, and count them."""
    for rows in step.rated.to_batches():  # as the fold made them, so that landing need not copy them together
        landing.add("rated", pa.Table.from_batches([rows], RATED))
    for name in ("gaps", "results"):
        landing.add(name, getattr(step, name))
    for outcome in step.outcomes:
        if len(outcome):  # the rows of firings are made beside the fold of the next batch
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
    tally.add_charges(step.charges)
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
        """Fold chunks until `every` records have been read or the files end; or until a correction needs a commit.

        Where the files end the clock comes to the arrival of the ingest, in the same checkpoint and so once.
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
        self.journal.append(journal.Tick(progress.as_of_us))
        self.tally.add(_land(self.driver.engine.tick(progress.as_of_us), self.landing))

    def _fold(self, reading: Reading, source: Source) -> bool:
        """Fold what is left of a chunk; False where a checkpoint must come first.

        Corrections look up the rows that they correct in the committed history (F6), so everything before them is
        committed first.
        """
        progress = self.progress
        whole = reading.batch()
        for start, end, corrects in stretches(whole.rows, progress.folded):
            if corrects and self.tally.records:
                progress.offset, progress.row, progress.folded = reading.start.offset, reading.start.row, start
                return False
            batch = replace(whole, rows=whole.rows.slice(start, end - start))
            originals = self.driver.originals(batch.rows) if corrects else None
            self.journal.append(journal.Usage(batch, originals))
            prints = reading.prints.slice(start, end - start)
            self._take(self.driver.engine.usage(batch, originals, prints), reading, source)
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
