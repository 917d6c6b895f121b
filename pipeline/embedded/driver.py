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
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from pipeline.embedded.committed import facts_of
from pipeline.embedded.progress import Progress, Tally
from pipeline.embedded.reading import Reader
from pipeline.embedded.rerates import Rerated, facts_of_cards, touched_by
from pipeline.embedded.stretch import Stretch, Watch, land
from pipeline.feeds.decode import CHUNK_BYTES
from pipeline.feeds.source_file import Source
from pipeline.history.baseline import baseline
from pipeline.history.originals import RatedRows, cycle_of_path, rated_files
from pipeline.history.rerate_choice import Choice
from pipeline.history.writer import Landing
from pipeline.journal import segments as journal
from pipeline.journal.arrival import require_time
from pipeline.journal.segments import Journal
from pipeline.store.background import Background
from pipeline.store.directory import Checkpoint, DataDirectory
from pipeline.store.seen_files import SeenFiles
from pipeline.store.state_files import restore_state, stage_state
from rating.dedupe.seen import DAY_US
from rating.engine import Engine
from rating.errors import UsageError
from rating.step import Step
from schemas.cards import Catalogue
from schemas.commands import Command
from schemas.mapping import Mapping
from schemas.tables import RATED

CHECKPOINT_RECORDS: Final = 2_000_000
_CHECKPOINT_VARIABLE: Final = "WEIR_CHECKPOINT_RECORDS"
_BYTES_OF_A_RECORD: Final = 64  # estimate, to cut chunks so that checkpoints are about due at their ends
WRITES_AHEAD: Final = 12  # tasks that may wait for the writing thread: those of about two chunks


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

        What it says of days in the past takes effect at once: usage since then is rated again, in the same checkpoint.
        The step says how much that was. Raises PlanError or RuleError, with nothing changed, if the catalogue is
        invalid, UsageError if the time is ahead.
        """
        self._require_time(at_us)
        self.engine.check(change)
        before = facts_of_cards(self.engine)
        plans = self.engine.state.catalogue.plans
        with self.directory.begin() as checkpoint, Background(WRITES_AHEAD) as background:
            entries = Journal(checkpoint, background, self.engine.state.offset)
            landing = Landing(checkpoint, background)
            entry = journal.Apply(change, at_us)
            entries.append(entry)
            step = self.engine.step(entry)
            self.facts.total.add(land(step, landing))
            rerated = Rerated()
            for choice in touched_by(plans, before, self.engine, change):
                asked = journal.Rerate(RATED.empty_table(), self.engine.state.clock_us, "catalogue")
                self._rate_again(checkpoint, entries, landing, choice, asked, rerated)
            self._commit(checkpoint, entries, landing)
        return replace(step, rerated_records=rerated.records, rerated_subjects=rerated.subjects)

    def rerate(
        self,
        choice: Choice,
        at_us: int | None,
        cause: str | None,
        accept: Callable[[Rerated], bool],
        watch: Callable[[Rerated], None] = lambda _: None,
    ) -> Rerated:
        """Rate records again with what is known now, durably, all of them or none (P10).

        The adjustments arrive at `at_us`; None means at the latest arrival so far. `accept` is called with the whole
        outcome. If it returns False, nothing changes, and the driver must not be used any more. Raises UsageError if
        the time is ahead.
        """
        self._require_time(at_us)
        now_us = max(self.engine.state.clock_us, at_us or 0)
        rerated = Rerated()
        with self.directory.begin() as checkpoint, Background(WRITES_AHEAD) as background:
            entries = Journal(checkpoint, background, self.engine.state.offset)
            landing = Landing(checkpoint, background)
            asked = journal.Rerate(RATED.empty_table(), now_us, "asked", cause)
            self._rate_again(checkpoint, entries, landing, choice, asked, rerated, watch)
            if accept(rerated):
                self._commit(checkpoint, entries, landing)
        return rerated

    def _rate_again(
        self,
        checkpoint: Checkpoint,
        entries: Journal,
        landing: Landing,
        choice: Choice,
        asked: journal.Rerate,
        rerated: Rerated,
        watch: Callable[[Rerated], None] = lambda _: None,
    ) -> None:
        """Rate what was chosen again, part by part, and add up the outcome in `rerated`."""
        for scope in choice.parts(self.rated_rows(checkpoint), self.engine.compiled):
            landing.finish()  # an earlier part may have adjusted what this one reads
            rows = self.rated_rows(checkpoint).sharing(self.engine, scope)
            entry = replace(asked, rows=rows)
            entries.append(entry)
            step = self.engine.step(entry)
            self.facts.total.add(land(step, landing))
            rerated.add(step)
            watch(rerated)

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

    def rated_rows(self, checkpoint: Checkpoint | None = None) -> RatedRows:
        """Return a reader of the committed rated rows, and of those that a checkpoint has staged."""
        files = rated_files(self.directory)
        if checkpoint is not None:
            files += [(cycle_of_path(one.path), checkpoint.staged(one)) for one in checkpoint.entries("rated")]
        return RatedRows(files)

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
            stretch = Stretch(self, checkpoint, background, reader, moved)
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
            self.facts.total.add(land(step, landing))
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
