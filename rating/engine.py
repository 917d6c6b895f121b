"""The fold: step(state, entry) -> Step. The only place where its stages are composed.

    accept -> growth of sessions -> cycles -> entries -> burn, count, price -> rated rows

It reads no clock, file, network or random number: the same journal gives the same bytes, in whatever batches it is
cut. Drivers feed it entries in journal order and make what comes back durable before they acknowledge.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from rating.accept import Accepted, accept, local_days
from rating.apply import Compiled, apply, check
from rating.corrections import Row, outstanding, reversal_table, reverse
from rating.cycles import Cycles, assign, cycle_days
from rating.dedupe import DAY_US, Seen
from rating.entries import enter
from rating.groups import Groups
from rating.index import Ints
from rating.prints import Prints
from rating.rate import TEST_METER, rate_entries
from rating.rated import Names, rated_table
from rating.sessions import deltas
from rating.state import State
from schemas.cards import Catalogue
from schemas.tables import GAPS, RATED
from schemas.usage import REJECT_SCHEMA, RecordType, UsageBatch

BATCH_ROWS: Final = 1 << 17  # larger batches are folded in slices: their working columns stay in the cache


@dataclass(frozen=True)
class Step:
    """What one entry of the journal gave.

    `rated` has the columns of schemas.tables.RATED, `rejects` of REJECT_SCHEMA, `gaps` of schemas.tables.GAPS, each
    in journal order; records = rated records + duplicates + rejects.
    """

    records: int = 0
    rated_records: int = 0
    duplicates: int = 0
    rated: pa.Table = field(default_factory=RATED.empty_table)
    rejects: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=REJECT_SCHEMA))
    gaps: pa.Table = field(default_factory=GAPS.empty_table)
    charges: dict[str, int] = field(default_factory=dict)  # nanos by currency of all rated rows


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
        rated, gaps = self.rate(batch, accepted, offset)
        return Step(
            records=step.records,
            rated_records=step.rated_records,
            duplicates=step.duplicates,
            rated=rated,
            rejects=step.rejects,
            gaps=gaps,
            charges=charges_of(rated),
        )

    def rate(
        self,
        batch: UsageBatch,
        accepted: Accepted,
        offset: int,
        cycles: Cycles | None = None,
        today: Ints | None = None,
    ) -> tuple[pa.Table, pa.Table]:
        """The rated rows and gaps of the accepted records of a batch, of which there is one at least.

        `cycles` and `today` (local day of arrival, int64 a record) are given where they do not follow from the
        arrival of the batch (P10).
        """
        state, compiled = self.state, self.compiled
        rows = batch.rows if len(accepted) == len(batch.rows) else batch.rows[accepted.place]
        raw = rows["quantity"].to_numpy()
        up, down = _volume(rows, "volume_up_bytes"), _volume(rows, "volume_down_bytes")
        gaps = GAPS.empty_table()
        session, units, connects = self._sessions(batch, rows, accepted)
        if batch.cumulative:
            growth = deltas(state.sessions, session, rows)
            raw, up, down = growth.quantity, growth.up, growth.down
            gaps = self._gaps(batch, rows, accepted, growth.gaps, offset)
        ran = np.flatnonzero(session >= 0)
        if len(ran):
            units[ran] = _running(session[ran], raw[ran], state.sessions["units"])
        pool = compiled.pools.of(accepted.card, accepted.plan, accepted.service, accepted.day)
        if cycles is None:
            cycles = assign(compiled.book, accepted, pool, batch.received_at_us)
        entries = enter(compiled.book, accepted, raw, up, down, rows, units)
        rating = rate_entries(
            state.counters,
            state.sessions,
            compiled,
            accepted,
            entries,
            cycles,
            pool,
            session,
            connects,
            self._today(accepted, batch.received_at_us) if today is None else today,
        )
        rated = rated_table(
            compiled, self.names, batch, offset, self.partition, accepted, entries, cycles, rating, (up, down)
        )
        return rated, gaps

    def _today(self, accepted: Accepted, received_us: int) -> Ints:
        accounts = np.arange(len(self.state.catalogue.accounts))
        today = local_days(self.compiled.book, accounts, np.full(len(accounts), received_us))
        return today[accepted.account]

    def _sessions(self, batch: UsageBatch, rows: pl.DataFrame, accepted: Accepted) -> tuple[Ints, Ints, Ints]:
        """Session row (-1: none needed), units counted before, and whether a connect fee falls due, of each record.

        Records that name a session are partials of it, and the fee is due with the first of them to arrive; one that
        names none is a session of its own.
        """
        count, sessions = len(rows), self.state.sessions
        session = np.full(count, -1, np.int64)
        units = np.zeros(count, np.int64)
        connects = np.ones(count, np.int64)
        if not batch.cumulative and not self.compiled.book.uses_sessions:
            return session, units, connects
        day = batch.received_at_us // DAY_US
        if batch.cumulative:
            at = np.arange(count)
        elif "session_id" in rows.columns:
            at = np.flatnonzero(rows["session_id"].is_not_null().to_numpy())
        else:
            at = np.zeros(0, np.int64)
        if len(at):
            session[at] = sessions.rows(batch.feed, rows if len(at) == count else rows[at], day)
            connects[at] = _running(session[at], np.ones(len(at), np.int64), sessions["records"]) == 0
        return session, units, connects

    def _gaps(
        self, batch: UsageBatch, rows: pl.DataFrame, accepted: Accepted, gaps: pl.DataFrame, offset: int
    ) -> pa.Table:
        if gaps.is_empty():
            return GAPS.empty_table()
        at = gaps["place"].to_numpy()
        names = [service.lower() for service in ("data", "sms", "voice")]
        frame = gaps.select("after_sequence", "before_sequence", "missing").with_columns(
            feed=pl.lit(batch.feed),
            session_id=rows["session_id"].gather(at) if "session_id" in rows.columns else pl.lit(None, pl.String),
            iccid=self.names.iccids.gather(accepted.card[at]),
            service=pl.Series([names[number] for number in accepted.service[at]], dtype=pl.String),
            received_at=pl.lit(batch.received_at_us).cast(pl.Datetime("us", "UTC")),
            journal_partition=pl.lit(self.partition, pl.Int32),
            journal_offset=pl.Series(offset + accepted.place[at]),
        )
        table = frame.select(GAPS.names).to_arrow(compat_level=pl.CompatLevel.oldest())
        return pa.table({name: _as(table[name], GAPS.field(name).type) for name in GAPS.names}, schema=GAPS)

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


def join(steps: list[Step]) -> Step:
    """The steps of consecutive slices as one."""
    if len(steps) == 1:
        return steps[0]
    return Step(
        records=sum(step.records for step in steps),
        rated_records=sum(step.rated_records for step in steps),
        duplicates=sum(step.duplicates for step in steps),
        rated=pa.concat_tables([step.rated for step in steps]),
        rejects=pl.concat([step.rejects for step in steps]),
        gaps=pa.concat_tables([step.gaps for step in steps]),
        charges={
            currency: sum(step.charges.get(currency, 0) for step in steps)
            for currency in sorted({currency for step in steps for currency in step.charges})
        },
    )


def charges_of(rated: pa.Table) -> dict[str, int]:
    """Nanos by currency of rated rows."""
    totals: dict[str, int] = {}
    for chunk in rated.select(["currency", "charge_nanos"]).to_batches():
        code = chunk.column("currency").indices.to_numpy(zero_copy_only=False)
        nanos = chunk.column("charge_nanos").to_numpy()
        for number, currency in enumerate(chunk.column("currency").dictionary.to_pylist()):
            of_currency = code == number
            if of_currency.any():
                totals[currency] = totals.get(currency, 0) + int(nanos[of_currency].sum())
    return totals


def _running(key: Ints, amounts: Ints, held: Ints) -> Ints:
    """int64[n]: what each row finds in the total of its key; `held` (one a key) is moved on."""
    groups = Groups.of(key)
    ordered = amounts[groups.order]
    before = groups.scatter(groups.before(ordered, held[groups.keys]))
    held[groups.keys] += groups.totals(ordered)
    return before


def _volume(rows: pl.DataFrame, name: str) -> Ints:
    if name not in rows.columns:
        return np.full(len(rows), -1, np.int64)
    return rows[name].fill_null(-1).to_numpy()


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return column.cast(pa.string()).dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
