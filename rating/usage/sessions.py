"""Sessions: convert cumulative volumes to deltas, and find gaps between partial records (F3).

The volumes of a cumulative feed are running totals of a session (or of a billing cycle, for cycle-to-date totals).
Usage is the growth since the last record of the session. A decrease starts a new segment: the network's count has
restarted, and the whole new figure is usage. A record that is older than one already seen adds nothing, so totals do
not depend on the order of arrival within a segment (T6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from rating.columnar.key_index import Ints, KeyIndex, reserve
from rating.dedupe.seen import digest

KEEP_DAYS: Final = 35  # a session without a record for more days than this is over
_REPORTED: Final = ("quantity", "up", "down", "sequence")  # last values that the feed reported
_NEWEST: Final = ("newest_sequence", "newest_us")  # largest values so far
_COLUMNS: Final = (*_REPORTED, *_NEWEST, "seen_day", "units", "overage")
_UNKNOWN: Final = -1


class Sessions:
    """The last values and totals of each session, one row per session, by digest of feed, service and session id."""

    def __init__(self) -> None:
        self.index = KeyIndex()
        self._columns = {name: np.zeros(1024, np.int64) for name in _COLUMNS}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, name: str) -> Ints:
        """Return one column of all sessions, int64[len], writable."""
        return self._columns[name][: len(self.index)]

    def rows(self, feed: str, rows: pl.DataFrame, day: int) -> Ints:
        """Return the row of each record's session, int64[n], and mark these sessions as heard of on `day`.

        A record without a session id is a session by its record key. New sessions, and those silent for more than
        KEEP_DAYS, start empty.
        """
        session = pl.coalesce(*(name for name in ("session_id", "record_key") if name in rows.columns))
        name = rows.select(pl.col("service").cast(pl.String) + "|" + session).to_series()
        high, low = digest(f"session of {feed}", name)
        keys = low ^ (high * np.uint64(0x9E3779B97F4A7C15))
        distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        before = len(self.index)
        numbered = np.empty(len(distinct), np.int64)
        numbered[order] = self.index.insert(distinct[order])
        count = len(self.index)
        reserve(self._columns, count)
        self._forget(np.arange(before, count))
        self._forget(numbered[self["seen_day"][numbered] < day - KEEP_DAYS])
        self["seen_day"][numbered] = np.maximum(self["seen_day"][numbered], day)
        return numbered[inverse]

    def _forget(self, rows: Ints) -> None:
        for column in _COLUMNS:
            self[column][rows] = _UNKNOWN if column in (*_REPORTED, *_NEWEST) else 0

    def drop_silent(self, day: int) -> None:
        """Drop the sessions that were last heard of more than KEEP_DAYS before `day`."""
        kept = np.flatnonzero(self["seen_day"] >= day - KEEP_DAYS)
        if len(kept) < len(self):
            self._columns = {name: self[name][kept] for name in _COLUMNS}
            self.index = KeyIndex(self.index.keys[kept])

    def to_table(self) -> pa.Table:
        """Return a table of `key` (uint64) and every column (int64), in row order."""
        return pa.table({"key": self.index.keys, **{name: self[name] for name in _COLUMNS}})

    @classmethod
    def from_table(cls, table: pa.Table) -> Sessions:
        """Return the sessions that `to_table` wrote."""
        sessions = cls()
        sessions.index.insert(np.array(table["key"].to_numpy()))
        sessions._columns = {name: np.array(table[name].to_numpy()) for name in _COLUMNS}
        return sessions


@dataclass(frozen=True)
class Deltas:
    """The growth of each record of a batch, int64[n], and a row of `gaps` for each run of missing partials.

    Columns of gaps: place (row in the batch), after_sequence, before_sequence, missing (number of partials). All are
    int64.
    """

    quantity: Ints
    up: Ints  # -1 if the record gives no direction
    down: Ints
    gaps: pl.DataFrame


def deltas(sessions: Sessions, session: Ints, rows: pl.DataFrame) -> Deltas:
    """Convert the cumulative values of a batch to growth, and remember the last values of each session.

    `session[n]` is the row of each record's session. `rows` is the usage of the records, in journal order.
    """
    frame = _reported(sessions, session, rows)
    fresh = _grown(frame.filter(~pl.col("stale")))
    last = fresh.group_by("session", maintain_order=True).last()
    at = last["session"].to_numpy()
    for name in _REPORTED:
        sessions[name][at] = last[f"{name}_reached" if name in ("up", "down") else name].to_numpy()
    newest = frame.group_by("session", maintain_order=True).agg(pl.col(name).last() for name in _NEWEST)
    for name in _NEWEST:
        sessions[name][newest["session"].to_numpy()] = newest[name].to_numpy()
    fresh = fresh.filter(pl.col("place") >= 0)
    place = fresh["place"].to_numpy()
    quantity = np.zeros(len(rows), np.int64)
    quantity[place] = fresh["quantity_growth"].to_numpy()
    up = np.where(_column(rows, "volume_up_bytes").to_numpy() < 0, _UNKNOWN, 0)
    up[place] = fresh["up_growth"].to_numpy()
    down = np.where(_column(rows, "volume_down_bytes").to_numpy() < 0, _UNKNOWN, 0)
    down[place] = fresh["down_growth"].to_numpy()
    gaps = (
        fresh.filter(pl.col("missing") > 0)
        .select("place", pl.col("sequence_before").alias("after_sequence"), "sequence", "missing")
        .rename({"sequence": "before_sequence"})
        .sort("place")
    )
    return Deltas(quantity, up, down, gaps)


def _column(rows: pl.DataFrame, name: str) -> pl.Series:
    """Return a column of usage as int64, -1 for null."""
    values = rows[name] if name in rows.columns else pl.Series([None] * len(rows), dtype=pl.Int64)
    return values.cast(pl.Int64).fill_null(_UNKNOWN).alias(name)


def _reported(sessions: Sessions, session: Ints, rows: pl.DataFrame) -> pl.DataFrame:
    """Return what was reported of each session: its last values (place -1), then the records, in journal order.

    `stale` marks the records that are older than one already seen.
    """
    frame = pl.DataFrame(
        {
            "place": np.arange(len(rows)),
            "session": session,
            "quantity": _column(rows, "quantity"),
            "up": _column(rows, "volume_up_bytes"),
            "down": _column(rows, "volume_down_bytes"),
            "sequence": _column(rows, "sequence"),
            "newest_sequence": _column(rows, "sequence"),
            "newest_us": rows["used_at"].to_physical(),
            "used_us": rows["used_at"].to_physical(),
        }
    )
    known = np.unique(session)
    held = pl.DataFrame({"place": np.full(len(known), -1), "session": known}).with_columns(
        *(pl.Series(name, sessions[name][known]) for name in (*_REPORTED, *_NEWEST)),
        used_us=pl.lit(_UNKNOWN, pl.Int64),
    )
    frame = pl.concat([held, frame]).sort("session", "place", maintain_order=True)
    frame = frame.with_columns(pl.col(name).cum_max().over("session") for name in _NEWEST).with_columns(
        pl.col(name).shift(1).over("session").fill_null(_UNKNOWN).alias(f"{name}_before") for name in _NEWEST
    )
    # A record with a lower sequence number at a later time is not old: the session has restarted its numbering.
    return frame.with_columns(
        stale=pl.when((pl.col("sequence") >= 0) & (pl.col("newest_sequence_before") >= 0))
        .then(
            (pl.col("sequence") <= pl.col("newest_sequence_before")) & (pl.col("used_us") <= pl.col("newest_us_before"))
        )
        .otherwise(pl.col("used_us") < pl.col("newest_us_before"))
        & (pl.col("place") >= 0)
    )


def _grown(fresh: pl.DataFrame) -> pl.DataFrame:
    """Return fresh rows of `_reported` with their growth and the number of partials that are missing before each."""
    fresh = fresh.with_columns(
        pl.col(name).shift(1).over("session").fill_null(_UNKNOWN).alias(f"{name}_before")
        for name in ("quantity", "sequence")
    ).with_columns(segment=(pl.col("quantity") < pl.col("quantity_before")).cum_sum().over("session"))
    # A record without directions does not change them. They keep the values last reported in the segment.
    fresh = fresh.with_columns(
        pl.when(pl.col(name) >= 0).then(pl.col(name)).forward_fill().over("session", "segment").fill_null(_UNKNOWN)
        .alias(f"{name}_reached")
        for name in ("up", "down")
    ).with_columns(
        pl.col(f"{name}_reached").shift(1).over("session", "segment").fill_null(_UNKNOWN).alias(f"{name}_before")
        for name in ("up", "down")
    )  # fmt: skip
    restarted = pl.any_horizontal(
        pl.col("quantity") < pl.col("quantity_before"),
        *((pl.col(name) >= 0) & (pl.col(name) < pl.col(f"{name}_before")) for name in ("up", "down")),
    )
    return fresh.with_columns(restarted=restarted).with_columns(
        _growth("quantity"), _growth("up"), _growth("down"),
        missing=pl.when((pl.col("sequence_before") >= 0) & (pl.col("sequence") >= 0))
        .then(pl.col("sequence") - pl.col("sequence_before") - 1)
        .otherwise(0),
    )  # fmt: skip


def _growth(name: str) -> pl.Expr:
    """Return the growth of a column since the record before, -1 if it is not reported.

    In a new session or segment the growth is the whole value.
    """
    before = pl.when(pl.col("restarted") | (pl.col(f"{name}_before") < 0)).then(0).otherwise(pl.col(f"{name}_before"))
    return pl.when(pl.col(name) < 0).then(_UNKNOWN).otherwise(pl.col(name) - before).alias(f"{name}_growth")
