"""Sessions: what is remembered of each session of a feed, from record to record (F3, P3)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from rating.columnar.key_index import Flags, Ints, KeyIndex, Words, reserve
from rating.dedupe.seen import digest

KEEP_DAYS: Final = 35  # a session without a record for more days than this is over
REPORTS: Final = 4  # newest reports that a session remembers, so that a late one finds its place among them
# What a report says. `stop` is 1 if it ends the session, 0 if not. Of the others, -1 is unknown.
REPORT: Final = ("us", "sequence", "quantity", "up", "down", "start", "stop")
_TOTALS: Final = ("reports", "seen_day", "units", "overage")
_COLUMNS: Final = (*(f"{name}_{age}" for age in range(REPORTS) for name in REPORT), *_TOTALS)
_SETTLED: Final = ("units", "overage")  # set by a re-rating in sessions of all feeds
_UNKNOWN: Final = -1


class Sessions:
    """The newest reports and the totals of each session, one row per session, by digest of feed, service, session id.

    `us_0`, `quantity_0` and so on are of the newest report in order of use, `us_1` of the one before it. `reports` is
    the number of reports so far, at most REPORTS + 1.
    """

    def __init__(self) -> None:
        self.index = KeyIndex()
        self._columns = {name: np.zeros(1024, np.int64) for name in _COLUMNS}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, name: str) -> Ints:
        """Return one column of all sessions, int64[len], writable."""
        return self._columns[name][: len(self.index)]

    def rows(self, feed: str, rows: pl.DataFrame, day: int) -> tuple[Ints, Flags]:
        """Mark the sessions of records as heard of on `day`.

        Return the row of each record's session, int64[n], and whether it is the session's first record, bool[n]. A
        record without a session id is a session by its record key. New sessions, and those silent for more than
        KEEP_DAYS, start empty.
        """
        keys = _keys(feed, rows)
        distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        before = len(self.index)
        numbered = np.empty(len(distinct), np.int64)
        numbered[order] = self.index.insert(distinct[order])
        count = len(self.index)
        reserve(self._columns, count)
        empty = (numbered >= before) | (self["seen_day"][numbered] < day - KEEP_DAYS)
        self._forget(numbered[empty])
        begins = np.zeros(len(rows), bool)
        begins[first[empty]] = True
        self["seen_day"][numbered] = np.maximum(self["seen_day"][numbered], day)
        return numbered[inverse], begins

    def _forget(self, rows: Ints) -> None:
        for column in _COLUMNS:
            self[column][rows] = 0 if column in _TOTALS or column.startswith("stop") else _UNKNOWN

    def drop_silent(self, day: int) -> None:
        """Drop the sessions that were last heard of more than KEEP_DAYS before `day`."""
        kept = np.flatnonzero(self["seen_day"] >= day - KEEP_DAYS)
        if len(kept) < len(self):
            self._columns = {name: self[name][kept] for name in _COLUMNS}
            self.index = KeyIndex(self.index.keys[kept])

    def some(self, feed: str, rows: pl.DataFrame, day: int) -> Sessions:
        """Return the sessions of these records that are known and not over by `day`, apart from these ones."""
        apart = Sessions()
        if "session_id" in rows.columns:
            keys = np.unique(_keys(feed, rows.filter(pl.col("session_id").is_not_null())))
            row = self.index.find(keys)
            row = row[row >= 0]
            row = row[self["seen_day"][row] >= day - KEEP_DAYS]
            apart.index.insert(self.index.keys[row])
            apart._columns = {name: self[name][row] for name in _COLUMNS}
        return apart

    def add(self, others: Sessions) -> None:
        """Add the sessions of `others` that are not known here, or were over, and mark all as heard of as there."""
        before = len(self.index)
        row = self.index.insert(others.index.keys)
        reserve(self._columns, len(self.index))
        empty = (row >= before) | (self["seen_day"][row] < others["seen_day"] - KEEP_DAYS)
        for name in _COLUMNS:
            self[name][row[empty]] = others[name][empty]
        self["seen_day"][row] = np.maximum(self["seen_day"][row], others["seen_day"])

    def settle(self, others: Sessions, reporting: Collection[int]) -> None:
        """Set the totals of the sessions that `others` has too to what they are there.

        Those in the rows `reporting` of `others` also get the reports there. Other sessions keep the reports that they
        remember, and all keep the day on which they were last heard of.
        """
        row = self.index.find(others.index.keys)
        known = np.flatnonzero(row >= 0)
        told = known[np.isin(known, np.array(sorted(reporting), np.int64))]
        for name in _COLUMNS:
            if name != "seen_day":
                at = known if name in _SETTLED else told
                self[name][row[at]] = others[name][at]

    def to_table(self) -> pa.Table:
        """Return a table of `key` (uint64) and every column (int64), in row order."""
        return pa.table({"key": self.index.keys, **{name: self[name] for name in _COLUMNS}})

    @classmethod
    def from_table(cls, table: pa.Table) -> Sessions:
        """Return the sessions that `to_table` wrote, also in a version that kept the newest report alone."""
        sessions = cls()
        sessions.index.insert(np.array(table["key"].to_numpy()))
        known = {name: np.array(table[name].to_numpy()) for name in table.column_names}
        if "newest_us" in known:
            earlier = {"us": "newest_us", **{name: name for name in ("sequence", "quantity", "up", "down")}}
            known |= {f"{name}_0": known[old] for name, old in earlier.items()}
            known["reports"] = np.where(known["newest_us"] >= 0, REPORTS + 1, 0)
        count = len(sessions.index)
        sessions._columns = {name: np.full(count, _UNKNOWN, np.int64) for name in _COLUMNS}
        sessions._forget(np.arange(count))
        for name in known.keys() & set(_COLUMNS):
            sessions._columns[name] = known[name]
        return sessions


def _keys(feed: str, rows: pl.DataFrame) -> Words:
    """Return the key of each record's session, uint64[n]: a digest of its feed, service, and session id or own key."""
    session = pl.coalesce(*(name for name in ("session_id", "record_key") if name in rows.columns))
    name = rows.select(pl.col("service").cast(pl.String) + "|" + session).to_series()
    high, low = digest(f"session of {feed}", name)
    keys: Words = low ^ (high * np.uint64(0x9E3779B97F4A7C15))
    return keys
