"""Applies corrections: takes records back, rates replacements, and rates again what this touches (F6, P10)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from rating.apply import Compiled
from rating.columnar.counters import Counters
from rating.dedupe.digests import Prints
from rating.dedupe.seen import DAY_US
from rating.position import JournalPosition
from rating.state import State
from rating.usage.accepted_usage import accepted_usage
from rating.usage.batch import RatedBatch, rate_batch
from rating.usage.corrections import REPLACED, Judged, StandingRecords, as_events, judge, replacements, undone_frame
from rating.usage.cycles import cycle_kind, cycle_label
from rating.usage.rated_rows import Names
from rating.usage.records_again import frame_of, of_own_cycle
from rating.usage.rerate_scope import RerateScope, gathered
from rating.usage.rerating import Fresh, Moment, Rerating, beside, taken_back
from rating.usage.sessions import Sessions
from schemas.usage import RecordType, UsageBatch


@dataclass(frozen=True)
class Corrected:
    """The outcome of corrections.

    `back` are the reversal rows, `fresh` the rows of replacements, `adjustments` those of other records (RATED each).
    `provisional` is the rating of the replacements alone, which the rules look at; None if there is none.
    """

    judged: Judged
    back: pa.Table
    fresh: pa.Table
    adjustments: pa.Table
    provisional: RatedBatch | None
    records: int  # rated again
    subjects: int


def correct(state: State, compiled: Compiled, batch: UsageBatch, history: pa.Table, partition: int) -> Corrected:
    """Apply the corrections of a batch, up to the first that corrects a replacement of the batch.

    `history` (RATED) has all rows of the records that they correct, and of everything that shares a total with them or
    with the replacements. It may have more.
    """
    prints, offset = Prints.of(batch), state.offset
    words = ["feed", "record_key", "used_at", "journal_offset", "kind", "because", "cause"]
    standing = StandingRecords(frame_of(history.select(words)), batch.feed)
    judged = judge(state.seen, compiled, batch, prints, standing)
    state.offset += judged.count
    accepted = np.array(judged.accepted, np.int64)
    keys = (prints.key_high[accepted], prints.key_low[accepted], prints.content[accepted])
    if len(accepted):
        state.seen.add(*keys, batch.received_at_us // DAY_US)
    undone = undone_frame(judged, standing, batch, offset)
    wanted = pc.field("record_key").isin(pa.array(undone["record_key"].to_list(), pa.string()))
    originals = history.filter(wanted & (pc.field("feed").cast(pa.string()) == batch.feed))
    back = taken_back(originals, undone, compiled, batch, partition)
    fresh = _fresh(compiled, batch, judged, originals, offset)
    part = replace(batch, rows=batch.rows[accepted])
    scope = correction_scope(compiled, part, originals)
    rows = gathered(compiled, scope, lambda scope: history.filter(scope.rows()))
    causes = undone["cause"].to_list()
    cause = causes[0] if len(causes) == 1 else f"{causes[0]} and {len(causes) - 1} more" if causes else None
    last = JournalPosition(partition, offset + judged.count - 1)
    moment = Moment(batch.received_at_us, last, "correction", cause)
    again = Rerating(state, compiled, pa.concat_tables([rows, back]), moment, fresh)
    provisional = _provisional(state, compiled, fresh, JournalPosition(partition, offset))
    again.settle()
    return Corrected(judged, back, again.fresh, again.adjustments, provisional, again.records, again.subjects)


def correction_scope(compiled: Compiled, batch: UsageBatch, originals: pa.Table) -> RerateScope:
    """Return the scope of what corrections touch.

    `originals` (RATED) are all rows of the records that they correct. What replaces them may count elsewhere.
    """
    scope = RerateScope().grown(compiled, originals)
    rows = batch.rows.filter(record_type=int(RecordType.REPLACE))
    if rows.is_empty() or not len(compiled.directory):
        return scope
    events = as_events(replace(batch, rows=rows))
    accepted = replacements(compiled, events, np.arange(len(rows)))
    if not len(accepted):
        return scope
    usage = accepted_usage(Sessions(), compiled, events, accepted, JournalPosition(0, 0), False)
    ends = [accepted.day, usage.today]
    book, kinds = compiled.book, cycle_kind(usage.cycles.code)
    cycles = set[str]()
    for row in np.unique(kinds).tolist():
        days = np.unique(np.concatenate([one[kinds == row] for one in ends])).astype(np.int32)
        calendar = book.cycle_calendars[row]
        cycles |= {calendar.label(int(one)) for one in np.unique(calendar.index(days))}
    cycles |= {cycle_label(book, int(code)) for code in np.unique(usage.cycles.code)}
    pools = {book.vocabulary.pools.names[row] for row in np.unique(usage.pool).tolist() if row >= 0}
    cards = frozenset(compiled.directory.cards["iccid"].gather(accepted.card).to_list())
    return scope.named(compiled, cards, pools, cycles)


def _fresh(compiled: Compiled, batch: UsageBatch, judged: Judged, originals: pa.Table, offset: int) -> Fresh | None:
    """Return the replacements of accepted corrections, with the cycles of what they replace."""
    target = {place: key for key, place, because in judged.undone if because == REPLACED}
    if not target:
        return None
    events = as_events(batch)
    accepted = replacements(compiled, events, np.array(sorted(target), np.int64))
    rows = frame_of(originals).filter(kind="usage").sort(pl.col("part"), -pl.col("journal_offset"))
    first = rows.unique("record_key", keep="first", maintain_order=True)
    own = pl.when(~pl.col("late") | pl.col("adjusts_cycle").is_not_null()).then(pl.coalesce("adjusts_cycle", "cycle"))
    cycles = dict(first.select("record_key", own.alias("own")).rows())
    labels = [cycles.get(target[place]) for place in accepted.place.tolist()]
    return Fresh(events, accepted, offset, pl.Series(labels, dtype=pl.String))


def _provisional(state: State, compiled: Compiled, fresh: Fresh | None, position: JournalPosition) -> RatedBatch | None:
    """Return the rating of replacements in open cycles as if nothing else had been used.

    Returns None if there are none, or for running totals of sessions.
    """
    if fresh is None or fresh.batch.cumulative:
        return None
    # A session that is known has begun before: what replaces a record of it begins no other.
    day = fresh.batch.received_at_us // DAY_US
    sessions = state.sessions.some(fresh.batch.feed, fresh.batch.rows[fresh.accepted.place], day)
    alone = replace(state, counters=Counters(), sessions=sessions)
    apart = beside(compiled, compiled.addons.used.copy())
    usage = accepted_usage(sessions, apart, fresh.batch, fresh.accepted, position, True)
    state.sessions.add(sessions)
    # What belongs to a closed cycle fires nothing: the totals of that cycle are no longer known.
    closed = usage.cycles.late & of_own_cycle(fresh, compiled.book, usage.pool)
    usage = usage.take(np.flatnonzero(~closed))
    if not len(usage):
        return None
    return rate_batch(alone, apart, Names.of(apart), usage)
