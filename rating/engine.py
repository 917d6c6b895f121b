"""The fold: step(state, entry) -> Step. The only place where its stages are composed.

    accept -> growth of sessions -> cycles -> entries -> burn, count, price -> rated rows

It reads no clock, file, network or random number: the same journal gives the same bytes, in whatever batches it is
cut. Drivers feed it entries in journal order and make what comes back durable before they acknowledge.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from rating.accept import Accepted, accept
from rating.apply import Compiled, apply, check
from rating.batch import RatedBatch, rate_batch
from rating.corrections import Row, outstanding, reversal_table, reverse
from rating.cycles import Cycles, cycle_days
from rating.dedupe import DAY_US, Seen
from rating.index import Ints
from rating.prints import Prints
from rating.rate import TEST_METER
from rating.rated import Names
from rating.state import State
from rating.step import Step, charges_of, join
from schemas.cards import Catalogue
from schemas.usage import REJECT_SCHEMA, RecordType, UsageBatch

BATCH_ROWS: Final = 1 << 17  # larger batches are folded in slices: their working columns stay in the cache


class Engine:
    """The fold over one journal partition: holds the state and what its catalogue compiles to."""

    def __init__(self, state: State, partition: int = 0) -> None:
        self.state = state
        self.partition = partition
        self._compile(Compiled(state))

    def _compile(self, compiled: Compiled) -> None:
        self.compiled = compiled
        self.names = Names.of(compiled)

    def check(self, change: Catalogue) -> None:
        """Raise PlanError where `change` could not take effect; nothing changes."""
        check(self.state, change)

    def apply(self, change: Catalogue) -> Step:
        """A catalogue entry: upserts by id that hold from now on."""
        self.state.addon_used = self.compiled.addons.usage()
        self._compile(apply(self.state, change))
        self.state.offset += 1
        return Step()

    def tick(self, now_us: int) -> Step:
        """A tick of the clock: counters and sessions that can take no more usage are dropped (T5)."""
        self.state.clock_us = max(self.state.clock_us, now_us)
        self.expire()
        self.state.offset += 1
        return Step()

    def usage(self, batch: UsageBatch, originals: pa.Table | None = None, prints: Prints | None = None) -> Step:
        """A batch of usage: every record ends rated, duplicate or rejected.

        `prints` are those of the batch, where the driver had them made ahead.

        `originals` are the rated rows (RATED) so far of the keys that REVERSE and REPLACE records of the batch
        correct (F6); a batch holds either such records only or none.
        """
        if batch.rows.is_empty():
            return Step()
        if originals is not None:
            return self._corrections(batch, originals)
        prints = Prints.of(batch) if prints is None else prints
        steps = [
            self._usage(slice_of(batch, start), prints.slice(start, BATCH_ROWS))
            for start in range(0, len(batch.rows), BATCH_ROWS)
        ]
        return join(steps)

    def _corrections(self, batch: UsageBatch, originals: pa.Table) -> Step:
        """Corrections one by one: they are rare, and each depends on what the one before it did."""
        known: dict[str, list[Row]] = {}
        for row in originals.to_pylist():
            known.setdefault(row["record_key"], []).append(row)
        steps = []
        for place, correction in enumerate(batch.rows.iter_rows(named=True)):
            one = UsageBatch(batch.feed, batch.source, batch.received_at_us, False, batch.rows[place : place + 1])
            rows = outstanding(known.get(correction["corrects_key"] or "", []), batch.feed)
            step, undone = self._correction(one, correction, rows)
            known.setdefault(correction["corrects_key"] or "", []).extend(undone)
            steps.append(step)
        return join(steps)

    def _correction(self, batch: UsageBatch, correction: Row, originals: list[Row]) -> tuple[Step, list[Row]]:
        """One correction; returns also the adjustment rows it made."""
        state = self.state
        today = batch.received_at_us // DAY_US
        prints = Prints.of(batch)
        high, low, content = prints.key_high, prints.key_low, prints.content
        known, former = state.seen.lookup(high, low, today)
        if known[0]:
            state.offset += 1
            if former[0] == content[0]:
                return Step(records=1, duplicates=1), []
            found = "other content under a key that was accepted before; expected the same, or a new key"
            return Step(records=1, rejects=_refusal(correction, "conflict", "record_key", found)), []
        if not originals:
            state.offset += 1
            found = (
                f"key {correction['corrects_key']!r}, which stands for no rated record; expected one not yet reversed"
            )
            return Step(records=1, rejects=_refusal(correction, "unknown_key", "corrects_key", found)), []
        offset = state.offset
        replaced = Step(records=1, rated_records=1)
        if correction["record_type"] == RecordType.REPLACE:
            # The new content is judged before the old is taken back, so that a bad replacement changes nothing.
            trial = accept(Seen(), self.compiled, _as_event(batch), prints)
            if not len(trial.accepted):
                state.offset += 1
                return Step(records=1, rejects=trial.rejects), []
        undone = [
            reverse(state.counters, self.compiled, row, batch, correction["source_row"], self.partition, offset)
            for row in originals
        ]
        if correction["record_type"] == RecordType.REPLACE:
            # A replacement is new usage under its own key, with the content as it was sent.
            replaced = self._usage(_as_event(batch), prints)
        else:
            state.seen.add(high, low, content, today)
            state.offset += 1
        table = pa.concat_tables([reversal_table(undone), replaced.rated])
        return Step(records=1, rated_records=1, rated=table, gaps=replaced.gaps, charges=charges_of(table)), undone

    def _usage(self, batch: UsageBatch, prints: Prints) -> Step:
        state, compiled = self.state, self.compiled
        state.clock_us = max(state.clock_us, batch.received_at_us)
        acceptance = accept(state.seen, compiled, batch, prints)
        accepted = acceptance.accepted
        offset = state.offset
        state.offset += len(batch.rows)
        step = Step(
            records=len(batch.rows),
            rated_records=len(accepted),
            duplicates=acceptance.duplicates,
            rejects=acceptance.rejects,
        )
        if not len(accepted):
            return step
        result = self.rate(batch, accepted, offset)
        return replace(
            step,
            rated=result.rated,
            gaps=result.gaps,
            charges=charges_of(result.rated),
        )

    def rate(
        self,
        batch: UsageBatch,
        accepted: Accepted,
        offset: int,
        cycles: Cycles | None = None,
        today: Ints | None = None,
    ) -> RatedBatch:
        """The outcome of the accepted records of a batch, of which there is one at least; see rate_batch."""
        return rate_batch(
            self.state,
            self.compiled,
            self.names,
            batch,
            accepted,
            offset,
            self.partition,
            cycles=cycles,
            today=today,
        )

    def expire(self) -> None:
        """Drop counters whose cycle takes no more usage, and sessions silent for too long; meaning stays the same."""
        state, book = self.state, self.compiled.book
        counters = state.counters
        grace_us = int(book.grace_us.max(initial=0)) + 2 * DAY_US  # any zone's midnight, and an hour ahead
        codes = np.unique(counters.cycle)
        gone = [code for code in codes.tolist() if (cycle_days(book, code)[1] + 1) * DAY_US + grace_us < state.clock_us]
        lasting = counters.meter == TEST_METER
        keep = ~np.isin(counters.cycle, gone) | lasting
        if not keep.all():
            counters.keep(keep)
        state.sessions.drop_silent(state.clock_us // DAY_US)

    def snapshot(self) -> tuple[bytes, dict[str, pa.Table]]:
        """The state as facts and tables; see State.snapshot."""
        self.state.addon_used = self.compiled.addons.usage()
        return self.state.snapshot()


def _as_event(batch: UsageBatch) -> UsageBatch:
    rows = batch.rows.with_columns(record_type=pl.lit(int(RecordType.EVENT), pl.UInt8))
    return UsageBatch(batch.feed, batch.source, batch.received_at_us, False, rows)


def _refusal(correction: Row, reason: str, field: str, found: str) -> pl.DataFrame:
    facts = {"reason": reason, "field": field, "message": f"found {found}"}
    row = {"source_row": correction["source_row"], "record_key": correction["record_key"]} | facts
    return pl.DataFrame([row], schema=REJECT_SCHEMA)


def slice_of(batch: UsageBatch, start: int) -> UsageBatch:
    """The batch from row `start`, at most BATCH_ROWS of it."""
    if start == 0 and len(batch.rows) <= BATCH_ROWS:
        return batch
    rows = batch.rows.slice(start, BATCH_ROWS)
    return UsageBatch(batch.feed, batch.source, batch.received_at_us, batch.cumulative, rows)
