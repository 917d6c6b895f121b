"""The fold: takes the state and one journal entry, changes the state and returns a Step.

This is the only place where the stages of rating are composed. A batch of usage passes through them in this order:

    accept -> session deltas -> cycles -> charge items -> allowances, counters, prices -> rated rows -> rules

The fold reads no clock, file, network or random number. The same journal gives the same bytes, however it is cut into
batches. A driver feeds it entries in journal order, and makes each result durable before it acknowledges the entry.
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
from rating.closing.charges import charges_of_closing
from rating.closing.close import close_cycles, know_accounts
from rating.dedupe.digests import Prints
from rating.dedupe.seen import DAY_US
from rating.entries import Apply, Commands, Entry, Rerate, Tick, Usage
from rating.position import JournalPosition
from rating.rules.commands.card_changes import Change, changed_cards, no_notes, noted_cards, rounds
from rating.rules.commands.card_lists import hold_listed, remember
from rating.rules.commands.commands import check_commands, judge, kind_of, moment_us, results_table, unseen
from rating.rules.commands.results import card_of
from rating.rules.evaluate import Found, Rules
from rating.rules.triggers import TRIGGERS
from rating.state import State
from rating.step import Step, join
from rating.usage.accept import Accepted, accept, local_day_at
from rating.usage.accepted_usage import accepted_usage, days_of_arrival
from rating.usage.batch import RatedBatch, rate_batch
from rating.usage.charge import TEST_METER
from rating.usage.correcting import correct, correction_scope
from rating.usage.cycles import is_closed
from rating.usage.rated_rows import Names
from rating.usage.rerate_scope import RerateScope
from rating.usage.rerating import Moment, Rerating
from schemas.cards import Catalogue
from schemas.commands import Activate, Command, Deactivate, NetworkEvent, PlanChanged
from schemas.usage import UsageBatch

# Larger batches are folded in slices of this many rows, so that the working columns stay in the CPU cache.
BATCH_ROWS: Final = 1 << 17

_LISTED: Final = ["status", "status_reason"]


class Engine:
    """The fold over one journal partition: its state and the compiled catalogue.

    All times are in microseconds since 1970 UTC.
    """

    def __init__(self, state: State, partition: int = 0) -> None:
        self.state = state
        self.partition = partition
        self.compiled = Compiled(state)
        state.counters.name_currencies(self.compiled.book.currency_of_version)
        self.names = Names.of(self.compiled)
        self.rules = Rules(state, self.compiled, self.names, partition)

    def _compile(self, compiled: Compiled) -> None:
        self.compiled = compiled
        self.names = Names.of(compiled)
        self._compile_rules()

    def _compile_rules(self) -> None:
        self.rules = Rules(self.state, self.compiled, self.names, self.partition, self.rules)

    def step(self, entry: Entry, prints: Prints | None = None) -> Step:
        """Fold the next journal entry: change the state and return the results.

        Each kind of entry has a method that says what it does and what it raises. `prints` are the digests of a batch
        of usage, if the driver has computed them in advance.
        """
        match entry:
            case Usage(batch, originals):
                return self.usage(batch, originals, prints)
            case Apply(catalogue, at_us):
                return self.apply(catalogue, at_us)
            case Tick(now_us):
                return self.tick(now_us)
            case Commands(commands, at_us, baseline):
                return self.command(commands, at_us, baseline)
            case Rerate():
                return self.rerate(entry)

    def check(self, change: Catalogue) -> None:
        """Validate `change` without applying it. Raises PlanError or RuleError if it is invalid."""
        check(self.state, change)

    def apply(self, change: Catalogue, at_us: int | None = None) -> Step:
        """Apply a catalogue entry that arrived at `at_us` (None: the latest arrival so far). Upserts by id.

        Raises PlanError or RuleError if the change is invalid; `check` finds this out before anything is applied.
        """
        offset, now_us = self._arrive(at_us)
        found = Found()
        self._take_notes(offset, now_us, found)
        cards = self.rules.listed(self.state.catalogue.cards, change.cards)
        self._put(replace(change, cards=cards), offset, now_us, found, is_list=True)
        return self._close(found, 1, offset, now_us)

    def tick(self, now_us: int) -> Step:
        """Apply a clock tick: fire the rules that are due, close cycles, then drop state that takes no more usage (T5).

        A cycle closes for an account when its grace period is over. The charges of the step are what is owed for it
        without a usage record.
        """
        offset, now_us = self._arrive(now_us)
        found = Found()
        self._take_notes(offset, now_us, found)
        self.rules.tick(now_us, offset, found)
        closing = close_cycles(self.state.closed, self.compiled.book, now_us)
        charges = charges_of_closing(
            self.compiled, self.state.counters, closing, now_us, JournalPosition(self.partition, offset)
        )
        self.expire()
        return replace(self._close(found, 1, offset, now_us), charges=charges)

    def check_commands(self, commands: Sequence[Command]) -> None:
        """Validate commands without applying them. Raises RuleError or UsageError if one of them is invalid."""
        check_commands(self.state, commands)

    def wants_baseline(self, commands: Sequence[Command]) -> bool:
        """Return True if a command activates a rule on a running total, which must be filled from the history."""
        started = {command.rule for command in commands if isinstance(command, Activate)}
        return any(
            TRIGGERS[rule.trigger].window is not None for rule in self.state.catalogue.rules if rule.id in started
        )

    def command(self, commands: Sequence[Command], at_us: int, baseline: pl.DataFrame | None = None) -> Step:
        """Apply commands that arrived at `at_us`, in order. Each command takes one journal offset.

        A command whose key was given before changes nothing (F4). `baseline`
        (rating.rules.totals.cycle_and_day.BASELINE) is the usage so far, read from the history. It fills the totals
        of the rules that these commands activate.
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
        """Return the offset and the time of the next entry, and move the state's clock forward to that time.

        The clock never goes back. The time is `at_us`, or that of the clock if `at_us` is None.
        """
        state = self.state
        state.clock_us = max(state.clock_us, state.clock_us if at_us is None else at_us)
        return state.offset, state.clock_us if at_us is None else at_us

    def _close(self, found: Found, entries: int, offset: int, now_us: int) -> Step:
        """Finish an entry that brings no usage: release suspensions that are no longer due (L2), then count offsets."""
        self.rules.recovered(now_us, offset, found)
        self.state.offset += entries
        outcome = self.rules.outcome(found, now_us)
        return Step(outcomes=(outcome,))

    def _take_notes(self, offset: int, now_us: int, found: Found) -> None:
        """Apply tag and custom-field changes that actions requested since the last non-usage entry (L10)."""
        notes, self.state.rules.notes = self.state.rules.notes, no_notes()
        if len(notes):
            self._put(Catalogue(cards=noted_cards(self.state.catalogue.cards, notes)), offset, now_us, found)

    def _put(
        self, change: Catalogue, offset: int | dict[str, int], now_us: int, found: Found, is_list: bool = False
    ) -> None:
        """Apply a catalogue, and add to `found` the rules that fire for the cards it changed.

        `offset` is one journal offset, or one for each ICCID. The change is a card list, or the effect of results or
        actions, which a later list does not undo.
        """
        state = self.state
        cards = state.catalogue.cards
        if not is_list:
            state.rules.listed = remember(state.rules.listed, cards.join(change.cards, on="iccid", how="semi"))
        state.addon_used = self.compiled.addons.usage()
        compiled = apply(state, change, self.compiled, now_us)
        self._compile(compiled)
        know_accounts(state.closed, compiled.book, now_us)
        assert compiled.cards is not None
        rows = compiled.cards.replaced
        if is_list:
            place = pl.Series(compiled.cards.rows)
            former = pl.select(pl.when(place < len(cards)).then(place)).to_series()
            hold_listed(state.rules.holds, compiled.cards.rows, cards[_LISTED].select(pl.all().gather(former)),
                        compiled.cards.change[_LISTED], cast(int, offset))  # fmt: skip
        if len(rows):
            before, after = cards[rows], state.catalogue.cards[rows]
            at = offset if isinstance(offset, int) else np.array([offset[iccid] for iccid in before["iccid"]], np.int64)
            self.rules.changes(before, after, at, now_us, found)

    def _switch(self, commands: Sequence[Command], now_us: int, baseline: pl.DataFrame | None) -> None:
        """Activate and deactivate rules. A rule that is activated begins with no firing history."""
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
        """Change cards by the results of actions.

        Returns (offset, result, reason) for each result. The reason is None unless the result was refused.
        """
        judged = judge(results, self.state, self.compiled.directory)
        today = days_of_arrival(self.compiled, now_us)
        directory = self.compiled.directory
        told = [
            (offset, card, command)
            for offset, command, refused in judged
            if refused is None and (card := card_of(command)) is not None and directory.row_of(card) >= 0
        ]
        # A round changes each card at most once, so that rules see every single change.
        for part in rounds(told):
            accounts = [directory.account[directory.row_of(card)] for _, card, _ in part]
            days = [day_date(int(today[account])) for account in accounts]
            made = self.rules.results(part, days)
            changes = [
                (offset, card, self._since(command, account, now_us) | change)
                for (offset, card, command), account, change in zip(part, accounts, made, strict=True)
                if change is not None
            ]
            if changes:
                cards = changed_cards(self.state.catalogue.cards, [(card, change) for _, card, change in changes])
                self._put(Catalogue(cards=cards), {card: offset for offset, card, _ in changes}, now_us, found)
        return judged

    def _since(self, command: Command, account: int, now_us: int) -> Change:
        """Return since when the change of a result holds: the local day of its event, if the result has its time."""
        if command.at is None or isinstance(command, PlanChanged):
            return {}
        book = self.compiled.book
        zone = book.time_zones[book.account_zone[account]]
        return {"from": day_date(local_day_at(zone, min(moment_us(command, now_us), now_us)))}

    def usage(self, batch: UsageBatch, originals: pa.Table | None = None, prints: Prints | None = None) -> Step:
        """Fold a batch of usage. Every record ends as rated, duplicate or rejected.

        `prints` are the digests of the batch, if the driver has computed them in advance.

        `originals` (RATED) is given if the batch consists of corrections (F6): REVERSE and REPLACE records, and no
        others. It has all rows so far of the records that they correct, and of all that shares a total with them or
        with replacements (`correction_scope`). It may have more rows.
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
        """Apply corrections together. Those that correct a replacement of the same batch come in a second round."""
        steps, rows = [], batch.rows
        self.state.clock_us = max(self.state.clock_us, batch.received_at_us)
        while len(rows):
            done = correct(self.state, self.compiled, replace(batch, rows=rows), originals, self.partition)
            self.rules.adjust([done.back])
            outcomes = [] if done.provisional is None else [self.rules.usage(done.provisional)]
            # The rules have counted replacements as if nothing else had been used.
            counted = None if done.provisional is None else done.provisional.rated
            self.rules.adjust([done.fresh, done.adjustments], counted)
            outcomes.append(
                self.rules.settle([done.back, done.adjustments], batch.received_at_us, self.state.offset - 1)
            )
            rated = pa.concat_tables([done.back, done.fresh, done.adjustments])
            steps.append(
                Step(
                    records=done.judged.count,
                    rated_records=len(done.judged.accepted),
                    duplicates=done.judged.duplicates,
                    rated=rated,
                    rejects=done.judged.reject_table(),
                    outcomes=tuple(outcomes),
                    rerated_records=done.records,
                    rerated_subjects=done.subjects,
                )
            )
            rows = rows[done.judged.count :]
            originals = pa.concat_tables([originals, rated])
        return join(steps)

    def correction_scope(self, batch: UsageBatch, originals: pa.Table) -> RerateScope:
        """Return the scope of what corrections touch.

        `originals` (RATED) are all rows of the records that they correct.
        """
        return correction_scope(self.compiled, batch, originals)

    def rerate(self, entry: Rerate) -> Step:
        """Rate records again with what is known now, and return the adjustments (P10). A second time gives nothing."""
        offset, now_us = self._arrive(entry.at_us)
        moment = Moment(now_us, JournalPosition(self.partition, offset), entry.because, entry.cause)
        again = Rerating(self.state, self.compiled, entry.rows, moment)
        again.settle()
        self.rules.adjust([again.adjustments])
        settled = self.rules.settle([again.adjustments], now_us, offset)
        self.state.offset += 1
        return Step(
            rated=again.adjustments,
            outcomes=(settled,),
            rerated_records=again.records,
            rerated_subjects=again.subjects,
        )

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
        outcome = self.rules.usage(result)
        return replace(
            step,
            rated=result.rated,
            gaps=result.gaps,
            outcomes=(outcome,),
        )

    def rate(self, batch: UsageBatch, accepted: Accepted, offset: int) -> RatedBatch:
        """Rate the accepted records of a batch, at least one, and update counters, sessions and add-ons."""
        position = JournalPosition(self.partition, offset)
        hears_sessions = self.rules.hears_sessions
        usage = accepted_usage(self.state.sessions, self.compiled, batch, accepted, position, hears_sessions)
        return rate_batch(self.state, self.compiled, self.names, usage)

    def expire(self) -> None:
        """Drop counters of cycles that take no more usage, and sessions silent for too long.

        This changes no later result.
        """
        state = self.state
        counters = state.counters
        gone = [
            code for code in np.unique(counters.cycle).tolist() if is_closed(self.compiled.book, code, state.clock_us)
        ]
        lasting = counters.meter == TEST_METER
        keep = ~np.isin(counters.cycle, gone) | lasting
        if not keep.all():
            counters.keep(keep)
        state.sessions.drop_silent(state.clock_us // DAY_US)

    def snapshot(self) -> tuple[bytes, dict[str, pa.Table]]:
        """Return the state as facts and tables; see State.snapshot."""
        self.state.addon_used = self.compiled.addons.usage()
        return self.state.snapshot()


def slice_of(batch: UsageBatch, start: int) -> UsageBatch:
    """Return at most BATCH_ROWS rows of the batch, from row `start` on."""
    if start == 0 and len(batch.rows) <= BATCH_ROWS:
        return batch
    rows = batch.rows.slice(start, BATCH_ROWS)
    return replace(batch, rows=rows)
