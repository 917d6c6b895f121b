"""The work between two checkpoints of an ingest: fold chunks, then corrections, and land what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.embedded.progress import Progress, Tally
from pipeline.embedded.reading import Reader, Reading
from pipeline.feeds.source_file import Source
from pipeline.history.originals import corrections_in
from pipeline.history.rejects import RawLines, reject_table
from pipeline.history.writer import Landing
from pipeline.journal import segments as journal
from pipeline.journal.segments import Journal
from pipeline.store.background import Background
from pipeline.store.directory import Checkpoint
from rating.step import Step
from schemas.tables import RATED
from schemas.usage import UsageBatch

if TYPE_CHECKING:
    from pipeline.embedded.driver import Embedded

_MOST_CORRECTIONS: Final = 100_000  # folded together, so that what they touch fits into memory

Watch = Callable[[Progress, int], None]  # called with an ingest and the bytes of its current file folded so far


def land(step: Step, landing: Landing) -> Tally:
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
        rerated_records=step.rerated_records,
        rerated_subjects=step.rerated_subjects,
    )
    tally.add_charges(step.usage_charges)
    return tally


class Stretch:
    """The work between two checkpoints of an ingest."""

    def __init__(
        self, driver: Embedded, checkpoint: Checkpoint, background: Background, reader: Reader, progress: Progress
    ) -> None:
        self.driver = driver
        self.reader = reader
        self.progress = progress
        self.tally = Tally()
        self.checkpoint = checkpoint
        self.journal = Journal(checkpoint, background, driver.engine.state.offset)
        self.landing = Landing(checkpoint, background)
        self.corrections: list[_Corrections] = []  # of the current file, not yet folded

    def run(self, every: int, watch: Watch) -> None:
        """Fold chunks until `every` records have been read, or the files end.

        The corrections of a file are folded together: at its end, or before the checkpoint. At the end of the files a
        tick advances the clock to the arrival time of the ingest. It is in the same checkpoint, so it happens once.
        """
        progress = self.progress
        while progress.file < len(progress.sources):
            source = progress.sources[progress.file]
            while (reading := self.reader.next(progress)) is not None:
                self._fold(reading, source)
                watch(progress, reading.end.offset)
                progress.offset, progress.row, progress.folded = reading.end.offset, reading.end.row, 0
                waiting = sum(len(one.batch.rows) for one in self.corrections)
                if self.tally.records + waiting >= every or waiting >= _MOST_CORRECTIONS:
                    self._correct(source)
                    return
            self._correct(source)
            progress.file, progress.offset, progress.row, progress.folded = progress.file + 1, 0, 0, 0
        tick = journal.Tick(progress.as_of_us)
        self.journal.append(tick)
        self.tally.add(land(self.driver.engine.step(tick), self.landing))

    def _fold(self, reading: Reading, source: Source) -> None:
        """Fold the rest of a chunk, and set its corrections aside."""
        whole = reading.batch()
        start = self.progress.folded
        corrects = corrections_in(whole.rows)
        if not corrects.any():
            entry = journal.Usage(replace(whole, rows=whole.rows.slice(start)) if start else whole)
            prints = reading.prints.slice(start, len(whole.rows)) if start else reading.prints
        else:
            at, later = ((one.slice(start).arg_true() + start) for one in (~corrects, corrects))
            entry = journal.Usage(replace(whole, rows=whole.rows[at]))
            prints = reading.prints.take(at.to_numpy().astype(np.int64))
            if len(later):
                self.corrections.append(_Corrections.of(replace(whole, rows=whole.rows[later]), reading))
        self.journal.append(entry)
        step = self.driver.engine.step(entry, prints)
        self._take(step, reading, source)
        if len(reading.rejected):
            self._reject(reading.rejected)
            self.tally.records += len(reading.rejected)

    def _correct(self, source: Source) -> None:
        """Fold the corrections that were set aside, all together.

        They look up the rows that they touch in the committed and the staged history (F6).
        """
        if not self.corrections:
            return
        first = self.corrections[0]
        batch = replace(first.batch, rows=pl.concat([one.batch.rows for one in self.corrections], how="diagonal"))
        by_row = {row: line for one in self.corrections for row, line in one.lines.items()}
        lines = _CorrectedLines(by_row, first.header)
        self.corrections = []
        self.landing.finish()
        rows = self.driver.rated_rows(self.checkpoint).touched(self.driver.engine, batch)
        entry = journal.Usage(batch, rows)
        self.journal.append(entry)
        self._take(self.driver.engine.step(entry), lines, source)

    def _take(self, step: Step, lines: RawLines, source: Source) -> None:
        self.tally.add(land(step, self.landing))
        if len(step.rejects):
            feed = self.progress.feed
            self._reject(reject_table(step.rejects, lines, feed, source, self.progress.as_of_us))

    def _reject(self, rejected: pa.Table) -> None:
        """Land rows of REJECTED, and count them by reason."""
        self.landing.add("rejected", rejected)
        counts = pc.value_counts(rejected["reason"].cast(pa.string())).to_pylist()
        self.tally.add_rejects({one["values"]: one["counts"] for one in sorted(counts, key=lambda one: one["values"])})


class _CorrectedLines:
    """The lines of some rows of a source, for their rejects."""

    def __init__(self, lines: dict[int, bytes], header: bytes | None) -> None:
        self.lines = lines
        self.header = header

    def raw_lines(self, rows: list[int]) -> list[bytes]:
        """Return the bytes of these rows of the source."""
        return [self.lines[row] for row in rows]


@dataclass(frozen=True)
class _Corrections:
    """Corrections of a chunk that wait for the end of their file, with their lines."""

    batch: UsageBatch
    lines: dict[int, bytes]
    header: bytes | None

    @classmethod
    def of(cls, batch: UsageBatch, reading: Reading) -> _Corrections:
        """Return the corrections of a chunk."""
        rows = batch.rows["source_row"].to_list()
        return cls(batch, dict(zip(rows, reading.raw_lines(rows), strict=True)), reading.header)
