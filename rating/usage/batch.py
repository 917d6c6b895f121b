"""Rate the accepted records of a batch: from session deltas to rated rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from rating.apply import Compiled
from rating.columnar.arrow import numbers
from rating.columnar.groups import Groups
from rating.columnar.key_index import Ints
from rating.dedupe.seen import DAY_US
from rating.state import State
from rating.usage.accept import Accepted, local_day_at
from rating.usage.charge import Rating, rate_entries
from rating.usage.charge_items import Entries, enter
from rating.usage.cycles import Cycles, assign
from rating.usage.rated_rows import Names, rated_table
from rating.usage.sessions import deltas
from schemas.tables import GAPS
from schemas.usage import UsageBatch

_NO_GAPS: Final = GAPS.empty_table()


@dataclass(frozen=True)
class RatedBatch:
    """The results of the accepted records, and how they came about. Columns have one element per record, in order."""

    rated: pa.Table  # schemas.tables.RATED
    gaps: pa.Table  # schemas.tables.GAPS
    rows: pl.DataFrame  # usage of the records
    entries: Entries  # the charge items
    rating: Rating
    cycles: Cycles
    pool: Ints  # row of the pool that the record draws on, -1: none
    connects: Ints  # 1 if the record is the first of its session to arrive or has no session, else 0
    today: Ints  # local day of arrival, days since 1970


def rate_batch(
    state: State,
    compiled: Compiled,
    names: Names,
    batch: UsageBatch,
    accepted: Accepted,
    offset: int,
    partition: int,
    *,
    cycles: Cycles | None = None,
    today: Ints | None = None,
    hears_sessions: bool = False,
) -> RatedBatch:
    """Rate the accepted records of a batch, at least one, and update counters and sessions.

    `cycles` and `today` (local day of arrival of each record, int64[n]) are given only if they do not follow from the
    arrival time of the batch (P10). With `hears_sessions` sessions are tracked even if no plan needs them.
    """
    rows = batch.rows if len(accepted) == len(batch.rows) else batch.rows[accepted.place]
    raw = rows["quantity"].to_numpy()
    up, down = (numbers(rows, name, -1) for name in ("volume_up_bytes", "volume_down_bytes"))
    gaps = _NO_GAPS
    session, units, connects = _sessions(state, compiled, batch, rows, accepted, hears_sessions)
    if batch.cumulative:
        growth = deltas(state.sessions, session, rows)
        raw, up, down = growth.quantity, growth.up, growth.down
        gaps = _gaps(names, batch, rows, accepted, growth.gaps, offset, partition)
    ran = np.flatnonzero(session >= 0)
    if len(ran):
        units[ran] = _running(session[ran], raw[ran], state.sessions["units"])
    pool = compiled.pools.of(accepted.card, accepted.plan, accepted.service, accepted.day)
    if cycles is None:
        cycles = assign(compiled.book, accepted, pool, batch.received_at_us)
    if today is None:
        today = days_of_arrival(compiled, batch.received_at_us)[accepted.account]
    entries = enter(compiled.book, accepted, raw, up, down, rows, units)
    rating = rate_entries(
        state.counters, state.sessions, compiled, accepted, entries, cycles, pool, session, connects, today
    )
    rated = rated_table(compiled, names, batch, rows, offset, partition, accepted, entries, cycles, rating, (up, down))
    return RatedBatch(rated, gaps, rows, entries, rating, cycles, pool, connects, today)


def days_of_arrival(compiled: Compiled, us: int) -> Ints:
    """Return the local day of an instant (microseconds since 1970 UTC) in each account, int64[accounts]."""
    days = [local_day_at(zone, us) for zone in compiled.book.time_zones]
    return np.array(days, np.int64)[compiled.book.account_zone]


def _sessions(
    state: State, compiled: Compiled, batch: UsageBatch, rows: pl.DataFrame, accepted: Accepted, hears: bool
) -> tuple[Ints, Ints, Ints]:
    """Return session row, units of the session so far, and connect fee due (1 or 0) of each record, int64[n] each.

    The session row is -1 if no session has to be tracked for the record. The units are zeros; `rate_batch` fills them
    in. Records that name a session are its partials, and the connect fee is due for the first partial to arrive. A
    record without a session is a session of its own.
    """
    count, sessions = len(rows), state.sessions
    session = np.full(count, -1, np.int64)
    units = np.zeros(count, np.int64)
    connects = np.ones(count, np.int64)
    if not (batch.cumulative or compiled.book.uses_sessions or hears):
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
    names: Names,
    batch: UsageBatch,
    rows: pl.DataFrame,
    accepted: Accepted,
    gaps: pl.DataFrame,
    offset: int,
    partition: int,
) -> pa.Table:
    if gaps.is_empty():
        return _NO_GAPS
    at = gaps["place"].to_numpy()
    services = [service.lower() for service in ("data", "sms", "voice")]
    frame = gaps.select("after_sequence", "before_sequence", "missing").with_columns(
        feed=pl.lit(batch.feed),
        session_id=rows["session_id"].gather(at) if "session_id" in rows.columns else pl.lit(None, pl.String),
        iccid=names.iccids.gather(accepted.card[at]),
        service=pl.Series([services[number] for number in accepted.service[at]], dtype=pl.String),
        received_at=pl.lit(batch.received_at_us).cast(pl.Datetime("us", "UTC")),
        journal_partition=pl.lit(partition, pl.Int32),
        journal_offset=pl.Series(offset + accepted.place[at]),
    )
    table = frame.select(GAPS.names).to_arrow(compat_level=pl.CompatLevel.oldest())
    return pa.table({name: _as(table[name], GAPS.field(name).type) for name in GAPS.names}, schema=GAPS)


def _running(key: Ints, amounts: Ints, held: Ints) -> Ints:
    """Return the total of each row's key before the row, int64[n]. Updates `held` (one total per key) in place."""
    groups = Groups.of(key)
    ordered = amounts[groups.order]
    before = groups.scatter(groups.before(ordered, held[groups.keys]))
    held[groups.keys] += groups.totals(ordered)
    return before


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return column.cast(pa.string()).dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
