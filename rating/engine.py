"""The fold: step(state, entry) -> Step. The only place where its stages are composed.

    accept -> growth of sessions -> cycles -> entries -> burn, count, price -> rated rows

It reads no clock, file, network or random number: the same journal gives the same bytes, in whatever batches it is
cut. Drivers feed it entries in journal order and make what comes back durable before they acknowledge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final, cast

import numpy as np
import polars as pl
import pyarrow as pa

from rating.apply import Compiled, apply, check
from rating.calendars.calendar import day_date
from rating.columnar.key_index import Ints
from rating.dedupe.digests import Prints
from rating.dedupe.seen import DAY_US, Seen
from rating.rules.commands.card_changes import change_of, changed_cards, no_notes, noted_cards, rounds
from rating.rules.commands.commands import check_commands, judge, kind_of, results_table, unseen
from rating.rules.evaluate import Found, Rules
from rating.rules.triggers import TRIGGERS
from rating.state import State
from rating.step import Step, join
from rating.usage.accept import Accepted, accept
from rating.usage.batch import RatedBatch, days_of_arrival, rate_batch
from rating.usage.charge import TEST_METER
from rating.usage.corrections import Row, outstanding, reversal_table, reverse
from rating.usage.cycles import Cycles, cycle_days
from rating.usage.rated_rows import Names
from schemas.cards import Catalogue
from schemas.commands import Activate, Command, Deactivate, NetworkEvent
from schemas.usage import REJECT_SCHEMA, RecordType, UsageBatch

BATCH_ROWS: Final = 1 << 17  # larger batches are folded in slices: their working columns stay in the cache


class Engine:
    """The fold over one journal partition: holds the state and what its catalogue compiles to."""

    def __init__(self, state: State, partition: int = 0) -> None:
        self.state = state
        self.partition = partition
        self.compiled = Compiled(state)
        self.names = Names.of(self.compiled)
        self.rules = Rules(state, self.compiled, self.names, partition)

    def _compile(self, compiled: Compiled) -> None:
        self.compiled = compiled
        self.names = Names.of(compiled)
        self._compile_rules()

    def _compile_rules(self) -> None:
        self.rules = Rules(self.state, self.compiled, self.names, self.partition, self.rules)

    def check(self, change: Catalogue) -> None:
        """Raise PlanError or RuleError where `change` could not take effect; nothing changes."""
        check(self.state, change)

    def apply(self, change: Catalogue, at_us: int | None = None) -> Step:
        """A catalogue entry that came at `at_us` (None: at the latest arrival so far): upserts by id from now on."""
        offset, now_us = self._arrive(at_us)
        found = Found()
        self._take_notes(offset, now_us, found)
        self._put(change, offset, now_us, found)
        return self._close(found, 1, offset, now_us)

    def tick(self, now_us: int) -> Step:
        """A tick of the clock: timers of rules fall due; what can take no more usage is dropped (T5)."""
        offset, now_us = self._arrive(now_us)
        found = Found()
        self._take_notes(offset, now_us, found)
        self.rules.tick(now_us, offset, found)
        self.expire()
        return self._close(found, 1, offset, now_us)

    def check_commands(self, commands: Sequence[Command]) -> None:
        """Raise RuleError or UsageError where one of the commands could not take effect; nothing changes."""
        check_commands(self.state, commands)

    def wants_baseline(self, commands: Sequence[Command]) -> bool:
        """Whether one of the commands starts a rule on a total, which is then filled from the history."""
        started = {command.rule for command in commands if isinstance(command, Activate)}
        return any(
            TRIGGERS[rule.trigger].window is not None for rule in self.state.catalogue.rules if rule.id in started
        )

    def command(self, commands: Sequence[Command], at_us: int, baseline: pl.DataFrame | None = None) -> Step:
        """Apply commands that arrived at `at_us`, in their order; each takes one offset.

        `baseline` (rating.rules.totals.cycle_and_day.BASELINE) has the totals of the history for rules that start.
        """
        offset, now_us = self._arrive(at_us)
        found, results = Found(), list[tuple[int, Command, str | None]]()
        self._take_notes(offset, now_us, found)
        takes = unseen(self.state.seen, commands, now_us // DAY_US)
        fresh = [(offset + place, command) for place, command in enumerate(commands) if takes[place]]
        for kind, run in groupby(fresh, key=lambda one: kind_of(one[1])):
            numbered = list(run)
            if kind == "rule":
                self._switch([command for _, command in numbered], now_us, baseline)
            elif kind == "event":
                events = cast(list[NetworkEvent], [command for _, command in numbered])
                self.rules.events(events, np.array([at for at, _ in numbered], np.int64), now_us, found)
            else:
                results += self._results(numbered, now_us, found)
        step = self._close(found, len(commands), offset, now_us)
        return replace(step, results=results_table(results, at_us, self.partition))

    def _arrive(self, at_us: int | None) -> tuple[int, int]:
        """The offset of an entry and its moment; the clock never goes back."""
        state = self.state
        state.clock_us = max(state.clock_us, state.clock_us if at_us is None else at_us)
        return state.offset, state.clock_us if at_us is None else at_us

    def _close(self, found: Found, entries: int, offset: int, now_us: int) -> Step:
        """End an entry that is no usage: suspensions that the catalogue has made needless are over (L2)."""
        self.rules.recovered(now_us, offset, found)
        self.state.offset += entries
        outcome = self.rules.outcome(found, now_us)
        return Step(outcomes=(outcome,))

    def _take_notes(self, offset: int, now_us: int, found: Found) -> None:
        """What actions told cards since the last entry that was no usage takes effect (L10)."""
        notes, self.state.rules.notes = self.state.rules.notes, no_notes()
        if len(notes):
            self._put(Catalogue(cards=noted_cards(self.state.catalogue.cards, notes)), offset, now_us, found)

    def _put(self, change: Catalogue, offset: int | dict[str, int], now_us: int, found: Found) -> None:
        """Let a catalogue take effect, and find what it changed in cards; `offset` may be one for each ICCID."""
        state = self.state
        cards = state.catalogue.cards
        state.addon_used = self.compiled.addons.usage()
        compiled = apply(state, change, self.compiled)
        self._compile(compiled)
        assert compiled.cards is not None
        rows = compiled.cards.replaced
        if len(rows):
            before, after = cards[rows], state.catalogue.cards[rows]
            at = offset if isinstance(offset, int) else np.array([offset[iccid] for iccid in before["iccid"]], np.int64)
            self.rules.changes(before, after, at, now_us, found)

    def _switch(self, commands: Sequence[Command], now_us: int, baseline: pl.DataFrame | None) -> None:
        """Start and stop rules; one that starts anew has fired for nobody."""
        active = self.state.rules.active
        started = []
        for command in commands:
            if isinstance(command, Activate) and command.rule not in active:
                active[command.rule] = now_us
                started.append(command.rule)
            elif isinstance(command, Deactivate):
                active.pop(command.rule, None)
        self.state.rules.memory.forget([self.state.vocabulary.rules.row(rule) for rule in started])
        self._compile_rules()
        self.rules.backfill(started, baseline)

    def _results(
        self, results: list[tuple[int, Command]], now_us: int, found: Found
    ) -> list[tuple[int, Command, str | None]]:
        """Let cards follow the results of actions; returns each with why it was refused, or None."""
        judged = judge(results, self.state, self.compiled.directory)
        today = days_of_arrival(self.compiled, now_us)
        changes = []
        for offset, command, refused in judged:
            card = getattr(command, "iccid", None)
            if refused is None and card is not None:
                account = self.compiled.directory.account[self.compiled.directory.row_of(card)]
                change = change_of(command, day_date(int(today[account])))
                if change is not None:
                    changes.append((offset, card, change))
        # Each round changes a card once, so that rules see every change of it.
        for part in rounds(changes):
            cards = changed_cards(self.state.catalogue.cards, [(card, change) for _, card, change in part])
            self._put(Catalogue(cards=cards), {card: offset for offset, card, _ in part}, now_us, found)
        return judged

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
            step = self._correction(one, correction, rows)
            for row in step.rated.to_pylist():  # what a replacement brought may be corrected by the next of the batch
                known.setdefault(row["record_key"], []).append(row)
            steps.append(step)
        return join(steps)

    def _correction(self, batch: UsageBatch, correction: Row, originals: list[Row]) -> Step:
        """One correction, of rated rows that stand."""
        state = self.state
        today = batch.received_at_us // DAY_US
        prints = Prints.of(batch)
        high, low, content = prints.key_high, prints.key_low, prints.content
        known, former = state.seen.lookup(high, low, today)
        if known[0]:
            state.offset += 1
            if former[0] == content[0]:
                return Step(records=1, duplicates=1)
            found = "other content under a key that was accepted before; expected the same, or a new key"
            return Step(records=1, rejects=_refusal(correction, "conflict", "record_key", found))
        if not originals:
            state.offset += 1
            found = (
                f"key {correction['corrects_key']!r}, which stands for no rated record; expected one not yet reversed"
            )
            return Step(records=1, rejects=_refusal(correction, "unknown_key", "corrects_key", found))
        offset = state.offset
        replaced = Step(records=1, rated_records=1)
        if correction["record_type"] == RecordType.REPLACE:
            # The new content is judged before the old is taken back, so that a bad replacement changes nothing.
            trial = accept(Seen(), self.compiled, _as_event(batch), prints)
            if not len(trial.accepted):
                state.offset += 1
                return Step(records=1, rejects=trial.rejects)
        self.rules.take_back(originals)
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
        return replace(replaced, rated=table)

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
        outcome = self.rules.usage(batch, accepted, result, offset)
        return replace(
            step,
            rated=result.rated,
            gaps=result.gaps,
            outcomes=(outcome,),
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
            hears_sessions=self.rules.hears_sessions,
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
