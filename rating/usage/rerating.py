"""Re-rating: rate records again in order of use, and turn the differences into adjustment rows (P10).

The records are restored from their rated rows and rated beside the state, with empty counters and what is known now.
An adjustment is the new result minus the sum of all rows of the record so far, former adjustments included. So a
second run gives nothing. `Rerating.settle` then sets the counters, sessions and add-ons to those of the new rating.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from rating.apply import Compiled
from rating.catalogue.pools import DEVICE_PREFIX
from rating.columnar.arrow import table_of
from rating.columnar.counters import COLUMNS, Counters
from rating.columnar.key_index import Ints
from rating.dedupe.digests import Prints
from rating.dedupe.seen import DAY_US, Seen
from rating.position import JournalPosition
from rating.state import State
from rating.usage.accept import Accepted, accept, local_days
from rating.usage.accepted_usage import AcceptedUsage, connect_fees, running_totals
from rating.usage.batch import rate_batch
from rating.usage.charge import TEST_METER, pool_subject, sim_subject
from rating.usage.cycles import cycle_label, cycles_of
from rating.usage.growth import deltas
from rating.usage.rated_rows import Names
from rating.usage.records_again import (
    IDENTITY,
    KEY,
    MEASURES,
    billed,
    frame_of,
    restored,
    service_codes,
    usage_of,
    with_own_cycle,
)
from schemas.tables import RATED
from schemas.usage import INSTANT, UsageBatch

_FEED: Final = "history"
_NOWHERE: Final = JournalPosition(0, 0)


@dataclass(frozen=True)
class Moment:
    """When and why adjustments are made: arrival (microseconds since 1970 UTC), journal position, reason and cause."""

    received_at_us: int
    position: JournalPosition = _NOWHERE
    because: str = "asked"
    cause: str | None = None


@dataclass(frozen=True)
class Fresh:
    """Replacements that have no rated rows yet.

    `accepted` are records of `batch`, whose first row has the journal offset `offset`. `cycles` has, for each of them,
    the label of the cycle in which the record that it replaces counts, or null if that record was late.
    """

    batch: UsageBatch
    accepted: Accepted
    offset: int
    cycles: pl.Series


class Rerating:
    """A second rating of the records in some rated rows. Nothing changes until `settle` is called."""

    def __init__(
        self, state: State, compiled: Compiled, history: pa.Table, moment: Moment, fresh: Fresh | None = None
    ) -> None:
        """Rate the records of `history` (RATED) again, and `fresh` ones with them.

        `history` must have all rows of everything that shares a total with its records (rating.usage.rerate_scope).
        """
        self._state, self._compiled, self._moment = state, compiled, moment
        rows = with_own_cycle(frame_of(history))
        standing = rows.group_by(KEY).agg(
            stands=~(pl.col("kind") == "reversal").any() & (pl.col("kind") == "usage").any()
        )
        self._old = rows.join(standing, on=KEY)
        self._records = restored(self._old, fresh, compiled, moment)
        self._reporting = set[int]()  # rows of the sessions of cumulative feeds in the new rating
        self._scratch = replace(state, counters=Counters(), sessions=type(state.sessions)())
        self._addons = compiled.addons.unused_by(compiled.directory.rows_of(self._iccids))
        new, self._refused = self._rated()
        new = new.rename({"cycle": "own_cycle"})
        self.fresh = self._billed(new.filter("fresh").with_columns(kind=pl.lit("usage")))
        self._new = new
        self.adjustments = self._billed(self._differences(new.filter(~pl.col("fresh"))))

    @cached_property
    def records(self) -> int:
        """The number of records that were rated again."""
        return len(self._records)

    @cached_property
    def subjects(self) -> int:
        """The number of billing entities and cycles that were rated again."""
        return self._old.select("subject_kind", "subject", "own_cycle").n_unique()

    @property
    def _iccids(self) -> pl.Series:
        return pl.concat([self._old["iccid"], self._records["iccid"]]).unique(maintain_order=True)

    def _rated(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the new rated rows with the facts of their records, and the records that cannot be rated now."""
        records, compiled = self._records, self._compiled
        empty = frame_of(RATED.empty_table()).with_columns(fresh=pl.lit(None, pl.Boolean))
        if records.is_empty():
            return empty, records
        # No record is too far in the future: each was judged when it arrived.
        latest_us = max(self._moment.received_at_us, int(records["used_at"].to_physical().max()))  # type: ignore[arg-type]
        batch = UsageBatch(_FEED, "", latest_us, False, usage_of(records))
        accepted = accept(Seen(), compiled, batch, Prints.of(batch)).accepted
        refused = records.filter(~pl.Series(np.isin(np.arange(len(records)), accepted.place)))
        self._sessions_of(records)
        if not len(accepted):
            return empty, refused
        again = beside(compiled, self._addons)
        usage = self._usage(batch, accepted, records[accepted.place])
        rated = frame_of(rate_batch(self._scratch, again, Names.of(again), usage).rated)
        kept = records.with_row_index("place").select(
            pl.col("place").cast(pl.String), *KEY, "source", "source_row", "session_id", "sequence", "fresh", "late",
            "reported_quantity", "reported_up_bytes", "reported_down_bytes", "ends_session", "counter_bits",
            "received_at", "journal_partition",
            "journal_offset",
        )  # fmt: skip
        left = [name for name in rated.columns if name not in kept.columns or name == "record_key"]
        return rated.select(left).rename({"record_key": "place"}).join(kept, on="place", maintain_order="left"), refused

    def _usage(self, batch: UsageBatch, accepted: Accepted, records: pl.DataFrame) -> AcceptedUsage:
        """Return accepted records as accepted usage: growth of sessions, pools, cycles and days as they are known."""
        compiled, book, sessions = self._compiled, self._compiled.book, self._scratch.sessions
        rows, count = batch.rows[accepted.place], len(accepted)
        units = rows["quantity"].to_numpy().copy()
        ways = [rows[name].fill_null(-1).to_numpy().copy() for name in ("volume_up_bytes", "volume_down_bytes")]
        session, session_units = np.full(count, -1, np.int64), np.zeros(count, np.int64)
        running = records["reported_quantity"].is_not_null().to_numpy()
        tracked = running | (records["session_id"].is_not_null().to_numpy() & book.uses_sessions)
        for feed, part in records.select("feed", at=np.arange(count)).filter(pl.Series(tracked)).group_by("feed"):
            at = np.sort(part["at"].to_numpy())
            session[at], _ = sessions.rows(str(feed[0]), _named(rows[at], records[at]), self._today)
        bits = records["counter_bits"].fill_null(0).to_numpy()
        for counter_bits in np.unique(bits[running]).tolist():
            at = np.flatnonzero(running & (bits == counter_bits))
            grown = deltas(sessions, session[at], rows[at], counter_bits)
            units[at], ways[0][at], ways[1][at] = grown.quantity, grown.up, grown.down
        at = np.flatnonzero(tracked)
        if len(at):
            session_units[at] = running_totals(session[at], units[at], sessions["units"])
        pool = compiled.pools.of(accepted.card, accepted.plan, accepted.service, accepted.day)
        arrived = local_days(book, accepted.account, records["received_at"].to_physical().to_numpy())
        return AcceptedUsage(
            batch=batch,
            position=JournalPosition(0, 0),
            accepted=accepted,
            rows=rows,
            units=units,
            up=ways[0],
            down=ways[1],
            session=session,
            session_units=session_units,
            begins=np.zeros(count, bool),  # The rules have heard of these records.
            connects=connect_fees(units, session_units),
            missing=None,
            pool=pool,
            cycles=cycles_of(compiled.book, accepted, pool, records["late"].to_numpy(), arrived),
            today=arrived,
        )

    @property
    def _today(self) -> int:
        return self._moment.received_at_us // DAY_US

    def _sessions_of(self, records: pl.DataFrame) -> None:
        """Note the sessions of all rows, also of reversed records, under their keys in the state."""
        rows = self._old.filter(pl.col("session_id").is_not_null() & (pl.col("kind") == "usage"))
        if not self._compiled.book.uses_sessions:
            rows = rows.filter(pl.col("reported_quantity").is_not_null())
        rows = rows.with_columns(code=service_codes(rows), reports=pl.col("reported_quantity").is_not_null())
        for (feed, reports), part in rows.group_by("feed", "reports", maintain_order=True):
            names = part.select("session_id", "record_key", service="code")
            session, _ = self._scratch.sessions.rows(str(feed), names, self._today)
            if reports:
                self._reporting.update(session.tolist())

    def _differences(self, new: pl.DataFrame) -> pl.DataFrame:
        """Return new minus old for each identity, without the rows that are all zero."""
        old = self._old.join(self._refused, on=KEY, how="anti")
        # A record that was reversed in full needs no adjustment.
        gone = old.filter(~pl.col("stands")).group_by(KEY).agg(pl.col(name).sum() for name in MEASURES)
        gone = gone.filter(pl.all_horizontal(pl.col(name) == 0 for name in MEASURES))
        old = old.join(gone, on=KEY, how="anti").with_columns(-pl.col(name) for name in MEASURES)
        columns = [name for name in new.columns if name in old.columns]
        both = pl.concat([new.select(columns), old.select(columns)], how="vertical_relaxed")
        others = [name for name in columns if name not in (*IDENTITY, *MEASURES)]
        position = self._moment.position
        return (
            both.group_by(IDENTITY, maintain_order=True)
            .agg(*(pl.col(name).sum() for name in MEASURES), *(pl.col(name).first() for name in others))
            .filter(pl.any_horizontal(pl.col(name) != 0 for name in MEASURES))
            .sort("used_at", "feed", "record_key", "part", "quantity_raw", "plan_id", "plan_version", "rate", "subject")
            .with_columns(
                kind=pl.lit("rerate"),
                received_at=pl.lit(self._moment.received_at_us).cast(INSTANT),
                journal_partition=pl.lit(position.partition, pl.Int32),
                journal_offset=pl.lit(position.offset, pl.Int64),
                because=pl.lit(self._moment.because),
                cause=pl.lit(self._moment.cause, pl.String),
            )
        )

    def _billed(self, rows: pl.DataFrame) -> pa.Table:
        return table_of(billed(rows, self._compiled, self._moment.received_at_us), RATED)

    def settle(self) -> None:
        """Set counters, sessions and add-ons of all subjects to those of the new rating."""
        compiled, counters, again = self._compiled, self._state.counters, self._scratch.counters
        cards = compiled.directory.rows_of(self._iccids)
        cards = cards[cards >= 0]
        owners = compiled.directory.billed_rows(cards)
        subjects = np.concatenate([sim_subject(owners), pool_subject(self._pools())])
        mine = np.isin(counters.subject, subjects)
        labels = {*self._old["own_cycle"].to_list(), *self._new["own_cycle"].to_list()}
        codes = np.unique(counters.cycle[mine & (counters.meter != TEST_METER)])
        wanted = [code for code in codes.tolist() if cycle_label(compiled.book, code) in labels]
        emptied = np.flatnonzero(mine & (np.isin(counters.cycle, wanted) | (counters.meter == TEST_METER)))
        for name in _TOTALS:
            counters[name][emptied] = 0
        gone = {*counters.keys[emptied].tolist(), *again.keys.tolist()}
        rows = counters.rows(again.keys.copy())
        for name in COLUMNS:
            counters[name][rows] = again[name]
        if counters.further or again.further:
            kept = {charged: nanos for charged, nanos in counters.further.items() if charged.key not in gone}
            counters.further = kept | again.further
        self._state.sessions.settle(self._scratch.sessions, self._reporting)
        owned = np.isin(compiled.addons.card, cards)
        compiled.addons.used[owned] = self._addons[owned]

    def _pools(self) -> Ints:
        """Return the rows of the pools and devices of all rows, int64[n]."""
        rows = self._compiled.book.vocabulary.pools.rows
        pairs = pl.concat([one.select("subject_kind", "subject") for one in (self._old, self._new)]).unique()
        names = [
            name if kind == "pool" else DEVICE_PREFIX + name
            for kind, name in pairs.sort(pl.all()).rows()
            if kind != "sim"
        ]
        return np.array([rows[name] for name in names if name in rows], np.int64)


# Columns of counters that are sums over records. The others describe the last record, and stay if there is none.
_TOTALS: Final = tuple(name for name in COLUMNS if name not in ("currency", "size", "plan_version", "account"))


def taken_back(rows: pa.Table, undone: pl.DataFrame, compiled: Compiled, batch: UsageBatch, partition: int) -> pa.Table:
    """Return the reversal rows of records: for all that stands of each, the opposite.

    `rows` (RATED) has all rows of the records. `undone` has one row for each record (corrections.undone_frame).
    """
    old = with_own_cycle(frame_of(rows)).filter(feed=batch.feed)
    old = old.drop("because", "cause", "source_row", "journal_offset").join(undone, on=["record_key", "used_at"])
    others = [name for name in old.columns if name not in (*IDENTITY, *MEASURES)]
    net = (
        old.group_by(IDENTITY, maintain_order=True)
        .agg(*(-pl.col(name).sum() for name in MEASURES), *(pl.col(name).first() for name in others))
        .with_columns(zero=pl.all_horizontal(pl.col(name) == 0 for name in MEASURES))
        # A record without units has one reversal row too, because that row says that it does not stand.
        .with_columns(only=pl.col("zero").all().over(KEY) & (pl.int_range(pl.len()).over(KEY) == 0))
        .filter(~pl.col("zero") | pl.col("only"))
        .sort("journal_offset", "part", descending=[False, True], maintain_order=True)
        .with_columns(
            kind=pl.lit("reversal"),
            received_at=pl.lit(batch.received_at_us).cast(INSTANT),
            source=pl.lit(batch.source),
            journal_partition=pl.lit(partition, pl.Int32),
            counter_before="counter_after",
            counter_after="counter_before",
            overage_before=pl.col("overage_before") - pl.col("overage"),
        )
    )
    return table_of(billed(net, compiled, batch.received_at_us), RATED)


def beside(compiled: Compiled, addon_used: Ints) -> Compiled:
    """Return a compiled catalogue that counts the use of add-ons in `addon_used`, and shares everything else."""
    other = copy(compiled)
    other.addons = compiled.addons.using(addon_used)
    return other


def _named(rows: pl.DataFrame, records: pl.DataFrame) -> pl.DataFrame:
    """Return the service, session id and record key of records as their feed gave them."""
    return rows.select("service").with_columns(records.select("session_id", "record_key"))
