"""Accepted usage: the accepted records of a batch, with their session, pool, cycle and day of arrival.

This is all that rating needs to know of the records themselves. It is made before any allowance is used.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import polars as pl

from rating.apply import Compiled
from rating.columnar.arrow import has, numbers
from rating.columnar.groups import Groups
from rating.columnar.key_index import Flags, Ints
from rating.dedupe.seen import DAY_US
from rating.position import JournalPosition
from rating.usage.accept import Accepted, local_day_at
from rating.usage.cycles import Cycles, assign
from rating.usage.growth import deltas, sequence_gaps
from rating.usage.sessions import Sessions
from schemas.usage import UsageBatch


@dataclass(frozen=True)
class AcceptedUsage:
    """The accepted records of a batch, in journal order. Columns are int64 with one element per record.

    `position` is that of the first record of the batch. The units of a record from a cumulative feed are its growth.
    """

    batch: UsageBatch
    position: JournalPosition
    accepted: Accepted
    rows: pl.DataFrame  # usage of the records
    units: Ints  # units as reported
    up: Ints  # bytes, -1: unknown
    down: Ints  # bytes, -1: unknown
    session: Ints  # row of the session, -1: no session has to be tracked
    session_units: Ints  # units of the session before the record
    begins: Flags  # whether the record is the first of its session to arrive, or has no session
    connects: Ints  # 1 if a connect fee is due: for the first units of a session, or the units of a record without one
    missing: pl.DataFrame | None  # missing partials (Deltas.gaps); None if no record is numbered
    pool: Ints  # row of the pool that the record draws on, -1: none
    cycles: Cycles
    today: Ints  # local day of arrival, days since 1970

    def __len__(self) -> int:
        return len(self.accepted)

    def take(self, at: Ints) -> AcceptedUsage:
        """Return the records at these positions, without the missing partials."""
        columns = {one.name: getattr(self, one.name) for one in fields(self)}
        taken: dict[str, Any] = {name: one[at] for name, one in columns.items() if isinstance(one, np.ndarray)}
        taken |= {"accepted": self.accepted.take(at), "rows": self.rows[at], "cycles": self.cycles.take(at)}
        return replace(self, missing=None, **taken)


def accepted_usage(
    sessions: Sessions,
    compiled: Compiled,
    batch: UsageBatch,
    accepted: Accepted,
    position: JournalPosition,
    hears_sessions: bool,
) -> AcceptedUsage:
    """Return the accepted records of a batch, at least one, as accepted usage, and update sessions.

    With `hears_sessions` sessions are tracked even if no plan needs them.
    """
    rows = batch.rows if len(accepted) == len(batch.rows) else batch.rows[accepted.place]
    units = rows["quantity"].to_numpy()
    up, down = (numbers(rows, name, -1) for name in ("volume_up_bytes", "volume_down_bytes"))
    tracked = batch.cumulative or compiled.book.uses_sessions or hears_sessions
    session, begins = _sessions(sessions, batch, rows, tracked)
    missing: pl.DataFrame | None
    if batch.cumulative:
        growth = deltas(sessions, session, rows, batch.counter_bits)
        units, up, down, missing = growth.quantity, growth.up, growth.down, growth.gaps
    else:
        missing = _missing(sessions, batch, rows)
    session_units = np.zeros(len(rows), np.int64)
    ran = np.flatnonzero(session >= 0)
    if len(ran):
        session_units[ran] = running_totals(session[ran], units[ran], sessions["units"])
    pool = compiled.pools.of(accepted.card, accepted.plan, accepted.service, accepted.day)
    return AcceptedUsage(
        batch=batch,
        position=position,
        accepted=accepted,
        rows=rows,
        units=units,
        up=up,
        down=down,
        session=session,
        session_units=session_units,
        begins=begins,
        connects=connect_fees(units, session_units),
        missing=missing,
        pool=pool,
        cycles=assign(compiled.book, accepted, pool, batch.received_at_us),
        today=days_of_arrival(compiled, batch.received_at_us)[accepted.account],
    )


def connect_fees(units: Ints, session_units: Ints) -> Ints:
    """Return 1 for each record for which a connect fee is due, else 0, int64[n] (P2).

    `units` are those of the record, `session_units` those of its session before it. A call of no seconds costs nothing.
    """
    due: Ints = ((units > 0) & (session_units == 0)).astype(np.int64)
    return due


def days_of_arrival(compiled: Compiled, us: int) -> Ints:
    """Return the local day of an instant (microseconds since 1970 UTC) in each account, int64[accounts]."""
    days = [local_day_at(zone, us) for zone in compiled.book.time_zones]
    return np.array(days, np.int64)[compiled.book.account_zone]


def _sessions(sessions: Sessions, batch: UsageBatch, rows: pl.DataFrame, tracked: bool) -> tuple[Ints, Flags]:
    """Return the session row of each record, int64[n], and whether it begins a session, bool[n].

    The session row is -1 if no session has to be tracked for the record. A record without a session is a session of
    its own.
    """
    count = len(rows)
    session, begins = np.full(count, -1, np.int64), np.ones(count, bool)
    if not tracked:
        return session, begins
    day = batch.received_at_us // DAY_US
    if batch.cumulative:
        at = np.arange(count)
    elif "session_id" in rows.columns:
        at = np.flatnonzero(rows["session_id"].is_not_null().to_numpy())
    else:
        at = np.zeros(0, np.int64)
    if len(at):
        session[at], begins[at] = sessions.rows(batch.feed, rows if len(at) == count else rows[at], day)
    return session, begins


def _missing(sessions: Sessions, batch: UsageBatch, rows: pl.DataFrame) -> pl.DataFrame | None:
    """Return the gaps in the sequence numbers of a feed of deltas, by row of the batch; None if it has no numbers."""
    if not (has(rows, "sequence") and has(rows, "session_id")):
        return None
    at = np.flatnonzero((rows["sequence"].is_not_null() & rows["session_id"].is_not_null()).to_numpy())
    numbered = rows if len(at) == len(rows) else rows[at]
    session, _ = sessions.rows(batch.feed, numbered, batch.received_at_us // DAY_US)
    gaps = sequence_gaps(sessions, session, numbered)
    return gaps.with_columns(place=pl.Series(at[gaps["place"].to_numpy()]))


def running_totals(key: Ints, amounts: Ints, held: Ints) -> Ints:
    """Return the total of each row's key before the row, int64[n]. Updates `held` (one total per key) in place."""
    groups = Groups.of(key)
    ordered = amounts[groups.order]
    before = groups.scatter(groups.before(ordered, held[groups.keys]))
    held[groups.keys] += groups.totals(ordered)
    return before
