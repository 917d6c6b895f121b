"""The fold over one partition of the journal topic: messages in, outputs out.

    open (checksum, fences, decode) -> step (engine) -> Output

The rows and their ids depend only on the journal messages up to them, not on how many messages are folded together.
Messages may be opened before earlier ones are folded, all in one thread; entries are folded in order.

A call of the engine costs some milliseconds whatever the number of rows. So consecutive usage entries with the same
feed and arrival time are folded as one batch. Rows are numbered within the merged batch; source row numbers are
restored afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.journal.entries import Commands, Entry, Rejects, Usage
from pipeline.journal.messages import Fences, Message, read_message
from pipeline.streaming.rate.output import EMPTY
from pipeline.streaming.rate.output_messages import STATUSES, Output, Part, rejected_rows
from rating.columnar.arrow import words
from rating.columnar.key_index import Ints
from rating.engine import BATCH_ROWS, Engine
from rating.errors import StorageError
from rating.state import State
from rating.step import Step
from schemas.usage import RecordType, UsageBatch

# Of an output: each of its messages names all of them, so their number bounds what is left for rows.
_MOST_PARTS: Final = 256
_ACTIVATED: Final = "activated"  # a card without a status counts as activated (C1)


@dataclass(frozen=True)
class Opened:
    """A decoded journal message. `entry` lacks the parts that the fences skip; None if all parts are skipped."""

    offset: int  # offset of the message in its partition of the journal topic
    message: Message
    entry: Entry | Rejects | None
    fold: PartitionFold

    @property
    def at_us(self) -> int:
        """Arrival time in microseconds since 1970 UTC. If the entry has none, the clock of the fold."""
        at_us = None if self.entry is None else self.entry.at_us
        return self.fold.engine.state.clock_us if at_us is None else at_us

    @property
    def corrections(self) -> pl.DataFrame | None:
        """The rows of a correction entry that came without the rows that it corrects, else None.

        If not None, `step` needs `originals` (F6).
        """
        entry = self.entry
        if isinstance(entry, Usage) and entry.originals is None and _corrects(entry.batch.rows):
            return entry.batch.rows
        return None

    @property
    def wants_baseline(self) -> bool:
        """True if `step` needs a baseline (L7). Valid once all earlier entries have been folded."""
        entry = self.entry
        return (
            isinstance(entry, Commands)
            and entry.baseline is None
            and self.fold.engine.wants_baseline(list(entry.commands))
        )

    @property
    def wants_history(self) -> bool:
        """True if `step` needs originals or a baseline. Valid once all earlier entries have been folded."""
        return self.corrections is not None or self.wants_baseline


class PartitionFold:
    """The state of one partition, and the position in the journal up to which entries have been applied.

    `applied` is the offset of the last applied message, or -1, and `checksum` its checksum, or None if that is not
    known. `fences` hold, for each source partition, the highest source position already applied.
    """

    def __init__(
        self,
        partition: int,
        state: State | None = None,
        *,
        applied: int = -1,
        fences: Fences | None = None,
        checksum: int | None = None,
    ) -> None:
        self.partition = partition
        self.engine = Engine(State() if state is None else state, partition)
        self.applied = applied
        self.checksum = checksum
        self.sizes = self._sizes()  # cards, counters and seen keys after the last entry; any thread may read them
        self.fences = Fences() if fences is None else fences
        # Opening runs ahead of applying, so it has an offset and fences of its own.
        self._opened = applied
        self._opening = Fences.from_bytes(self.fences.to_bytes())

    def open(self, offset: int, content: bytes, where: str) -> Opened | None:
        """Decode the next message; None if it has been opened before.

        Call it in the thread of `step`. `where` names the message in errors. Raises StorageError if messages are
        missing before it, if it is damaged, or if this version does not know its layout.
        """
        if offset <= self._opened:
            return None
        if offset != self._opened + 1:
            raise StorageError(
                f"{where}: found offset {offset}; expected {self._opened + 1}: the journal has lost messages that the "
                "state does not hold: restore the topic from a replica or a backup, and keep it for longer than bases"
            )
        message = read_message(content, where)
        skip = self._opening.take(message)
        entry = message.entry(skip) if skip < message.parts else None
        self._opened = offset
        return Opened(offset, message, entry, self)

    def step(self, opened: Opened, originals: pa.Table | None = None, baseline: pl.DataFrame | None = None) -> Output:
        """Apply one entry and return its output.

        For an entry that wants history, `originals` (schema RATED) and `baseline` are the history before
        `engine.state.offset`. Raises ValueError if history is needed and missing, or if the entry is out of order.
        """
        if opened.corrections is not None and originals is None:
            raise ValueError(f"{opened.message.where}: corrections without the rows that they undo")
        if opened.wants_baseline and baseline is None:
            raise ValueError(f"{opened.message.where}: a rule starts on a total without a baseline")
        return self._fold([opened], originals, baseline)

    def steps(self, opened: Sequence[Opened]) -> tuple[Output | None, Sequence[Opened]]:
        """Apply entries up to the first that wants history, and some hundreds at most.

        Returns one output for all of them, and the entries left. The output is None if the first entry wants history or
        there are no entries.
        """
        folded: list[Output] = []
        some, at = opened[:_MOST_PARTS], 0
        while at < len(some) and not some[at].wants_history:
            end = _alike(some, at)
            folded.append(self._fold(some[at:end]))
            at = end
        return (Output.joined(folded) if folded else None), opened[at:]

    def expire(self) -> None:
        """Drop counters, sessions and runs of seen keys that have expired. Results do not change (F4, T5)."""
        self.engine.expire()
        seen = self.engine.state.seen
        seen.replace_runs([run for run in seen.runs if not seen.expired(run)])

    def _sizes(self) -> tuple[int, int, int]:
        return len(self.engine.compiled.directory), len(self.engine.state.counters), len(self.engine.state.seen)

    def _fold(
        self, opened: Sequence[Opened], originals: pa.Table | None = None, baseline: pl.DataFrame | None = None
    ) -> Output:
        """Apply one entry, or several usage entries that `_alike` has grouped."""
        for place, one in enumerate(opened, 1):
            if one.offset != self.applied + place:
                raise ValueError(f"{one.message.where}: found offset {one.offset}; expected {self.applied + place}")
        first = opened[0]
        if isinstance(first.entry, Usage):
            output = self._usage(opened, first.entry.originals if originals is None else originals)
        else:
            output = self._other(first, baseline)
        for one in opened:
            self.fences.take(one.message)
        self.applied, self.checksum = opened[-1].offset, opened[-1].message.checksum
        self.sizes = self._sizes()
        return output

    def _usage(self, opened: Sequence[Opened], originals: pa.Table | None) -> Output:
        batches = [one.entry.batch for one in opened if isinstance(one.entry, Usage)]
        offset = self.engine.state.offset
        ends = np.cumsum([len(batch.rows) for batch in batches])
        whole = batches[0] if len(batches) == 1 else _placed(batches)
        step = self.engine.step(Usage(whole, originals))
        rated, rejects = step.rated, step.rejects
        duplicates, kept = [step.duplicates], [step.rated_records]
        refused = np.array([len(rejects)])
        source = pl.Series([whole.source]).new_from_index(0, len(rejects))
        if len(batches) > 1:
            rows = np.concatenate([batch.rows["source_row"].to_numpy() for batch in batches])
            of_batch = np.repeat(np.arange(len(batches)), np.diff(ends, prepend=0))
            names = pl.Series([batch.source for batch in batches])
            place = rejects["source_row"].to_numpy()
            rejects = rejects.with_columns(source_row=pl.Series(rows[place], dtype=pl.Int64))
            source, refused = names.gather(of_batch[place]), np.bincount(of_batch[place], minlength=len(batches))
            place = rated["source_row"].to_numpy()
            rated = _with_sources(rated, rows[place], of_batch[place], names)
            first = place[np.diff(place, prepend=-1) > 0]  # the rows of one record are adjacent
            counted = np.bincount(of_batch[first], minlength=len(batches))
            kept, duplicates = counted.tolist(), (np.diff(ends, prepend=0) - counted - refused).tolist()
        parts = [
            Part(
                one.offset,
                offset + int(ends[place]),
                one.message.fence,
                len(batches[place].rows),
                kept[place],
                duplicates[place],
                int(refused[place]),
                whole.received_at_us,
            )
            for place, one in enumerate(opened)
        ]
        rejected = rejected_rows(rejects, whole.feed, source, whole.received_at_us)
        return self._output(offset, parts, step, rated=rated, rejected=rejected)

    def _other(self, opened: Opened, baseline: pl.DataFrame | None) -> Output:
        """Apply an entry that is not usage."""
        entry, state, at_us = opened.entry, self.engine.state, opened.at_us
        offset, cards = state.offset, state.catalogue.cards
        step, rejected = Step(), EMPTY["rejected"]
        if isinstance(entry, Rejects):
            rejected = entry.rows
        elif isinstance(entry, Commands) and entry.baseline is None:
            step = self.engine.step(replace(entry, baseline=baseline))
        elif entry is not None:
            step = self.engine.step(entry)
        refused = rejected.num_rows
        part = Part(opened.offset, state.offset, opened.message.fence, refused, 0, 0, refused, at_us)
        statuses = _changed(cards, state.catalogue.cards, self.partition, offset, at_us)
        return self._output(offset, [part], step, rated=step.rated, rejected=rejected, statuses=statuses)

    def _output(self, offset: int, parts: Sequence[Part], step: Step, **tables: pa.Table) -> Output:
        tables = (
            {name: getattr(step, name) for name in ("gaps", "results", "charges")}
            | {"statuses": EMPTY["statuses"]}
            | tables
        )
        return Output(self.partition, offset, tuple(parts), tables, tuple(one for one in step.outcomes if len(one)))


def _corrects(rows: pl.DataFrame) -> bool:
    """Return True if the rows are corrections. A batch has either corrections only or none (F6)."""
    if "record_type" not in rows.columns or rows.is_empty():
        return False
    kind = rows["record_type"][0]
    return kind is not None and kind >= int(RecordType.REVERSE)


def _alike(opened: Sequence[Opened], start: int) -> int:
    """Return the end index of the entries that can be folded as one batch with the entry at `start`."""
    entry = opened[start].entry
    end = start + 1
    if not isinstance(entry, Usage) or _corrects(entry.batch.rows):
        return end
    batch, rows = entry.batch, len(entry.batch.rows)
    while end < len(opened):
        other = opened[end].entry
        if not isinstance(other, Usage) or _facts(other.batch) != _facts(batch) or _corrects(other.batch.rows):
            break
        rows += len(other.batch.rows)
        if rows > BATCH_ROWS:
            break
        end += 1
    return end


def _facts(batch: UsageBatch) -> tuple[object, ...]:
    """Return the properties that batches must share to be folded as one."""
    facts = batch.feed, batch.received_at_us, batch.cumulative, batch.counter_bits, batch.labels
    return *facts, batch.rows.columns


def _placed(batches: Sequence[UsageBatch]) -> UsageBatch:
    """Concatenate batches, with the row number in the merged batch as `source_row`."""
    rows = pl.concat([batch.rows for batch in batches], rechunk=True)
    return replace(batches[0], rows=rows.with_columns(source_row=pl.Series(np.arange(len(rows)))))


def _with_sources(rated: pa.Table, rows: Ints, of_batch: Ints, names: pl.Series) -> pa.Table:
    """Set `source` and `source_row` of rated rows back to where each row came from."""
    texts = names.unique(maintain_order=True)
    number = names.replace_strict(texts, np.arange(len(texts)), return_dtype=pl.Int64).to_numpy()
    for name, column in (("source", words(number[of_batch], texts.to_list())), ("source_row", pa.array(rows))):
        place = rated.schema.get_field_index(name)
        rated = rated.set_column(place, rated.schema.field(place), column)
    return rated


def _changed(before: pl.DataFrame, after: pl.DataFrame, partition: int, offset: int, at_us: int) -> pa.Table:
    """Return rows of STATUSES for cards whose status or status reason changed. New cards are not changes."""
    if before is after:
        return EMPTY["statuses"]
    # Cards keep their row numbers; new cards are appended.
    now = after.head(len(before))
    differs = before["status"].ne_missing(now["status"]) | before["status_reason"].ne_missing(now["status_reason"])
    at = differs.arg_true()
    # A card without a status counts as activated, so a change between the two is none.
    status = pl.col("status").fill_null(_ACTIVATED)
    was, is_now = (frame[at].select("status_reason", status=status) for frame in (before, now))
    differs = (was["status"] != is_now["status"]) | was["status_reason"].ne_missing(is_now["status_reason"])
    at, was = at.filter(differs), was.filter(differs)
    rows = now[at].select("iccid", "account", status=status, status_reason="status_reason")
    rows = rows.with_columns(
        from_status=was["status"],
        from_reason=was["status_reason"],
        at=pl.lit(at_us, pl.Int64),
        journal_partition=pl.lit(partition, pl.Int32),
        journal_offset=pl.lit(offset, pl.Int64),
    )
    return rows.select(STATUSES.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(STATUSES)
