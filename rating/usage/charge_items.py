"""Charge items: what is priced. A record is one item, unless its plan prices directions or time bands separately (P4).

A data record in both directions becomes one item per direction if its plan has rates for up and down. An item that
spans a boundary of time bands is split at the boundary. The items of a record are its parts: they are numbered from 0,
and their quantities sum to that of the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from rating.calendars.bands import split
from rating.catalogue.rates import Book
from rating.columnar.key_index import Ints
from rating.usage.accept import Accepted
from rating.usage.accepted_usage import AcceptedUsage
from schemas.usage import Direction, Service

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Entries:
    """Charge items in journal order. Columns have one element per item; `record` is its row in the accepted records."""

    record: Ints
    part: Ints
    direction: Ints
    raw: Ints  # units as reported
    billable: Ints  # units after increments (P3)
    rate: Ints  # row of the rate

    split: bool = False  # True if some record has several items

    def __len__(self) -> int:
        return len(self.record)

    def of(self, column: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """Return a column of the accepted records as a column of the items."""
        return column[self.record] if self.split else column


def enter(book: Book, usage: AcceptedUsage) -> Entries:
    """Return the charge items of accepted usage, with their rates and billable quantities."""
    accepted, raw, up, down = usage.accepted, usage.units, usage.up, usage.down
    record = np.arange(len(accepted))
    part = np.zeros(len(accepted), np.int64)
    direction = accepted.direction
    both = (direction == Direction.BOTH) & (accepted.service == Service.DATA) & book.split_directions[accepted.version]
    both &= (up >= 0) & (down >= 0)
    if both.any():
        record = np.concatenate([record, record[both]])
        part = np.concatenate([part, np.ones(int(both.sum()), np.int64)])
        raw = np.concatenate([np.where(both, up, raw), down[both]])
        direction = np.concatenate(
            [np.where(both, Direction.UP, direction), np.full(int(both.sum()), Direction.DOWN, np.int64)]
        )
        order = np.lexsort((part, record))
        record, part, raw, direction = record[order], part[order], raw[order], direction[order]
    version, service, zone = accepted.version[record], accepted.service[record], accepted.zone[record]
    rate = book.rate_at[version, service, direction, zone, 0]
    banded = book.banded[version, service]
    if not banded.any():
        split = len(record) > len(accepted)
        billable = _billable(book, rate, raw, usage.session_units[record])
        return Entries(record, part, direction, raw, billable, rate, split)
    return _split(book, usage, Entries(record, part, direction, raw, raw, rate), banded)


def _billable(book: Book, rate: Ints, raw: Ints, session_units: Ints) -> Ints:
    billable = book.increments.billable(rate, raw)
    running = np.flatnonzero(book.rates.per_session[rate] & (session_units > 0))
    if len(running):
        before = session_units[running]
        billable[running] = book.increments.billable(rate[running], before + raw[running]) - book.increments.billable(
            rate[running], before
        )
    return billable


def _split(book: Book, usage: AcceptedUsage, whole: Entries, banded: np.ndarray) -> Entries:
    """Split the items on plans with time bands at the boundaries of the bands.

    The increment of a split item is that of its first part's rate. It applies to the whole quantity, and the result
    is then split.
    """
    accepted, session_units = usage.accepted, usage.session_units
    seconds = np.zeros(len(accepted), np.int64)
    np.add.at(seconds, whole.record, whole.raw)
    started, ended = _span(accepted, usage.rows, seconds)
    version = accepted.version[whole.record]
    zone = book.account_zone[accepted.account[whole.record]]
    plain = np.flatnonzero(~banded)
    pieces: list[tuple[Ints, Ints, Ints, Ints, Ints | None]] = [
        (plain, np.zeros(len(plain), np.int64), whole.raw[plain], whole.rate[plain], None)
    ]
    for row in np.unique(version[banded]).tolist():
        for place, time_zone in enumerate(book.time_zones):
            at = np.flatnonzero(banded & (version == row) & (zone == place))
            if not len(at):
                continue
            terms = book.versions[row][1]
            record = whole.record[at]
            begins, ends = started[record], ended[record]
            parts = split(time_zone, terms.bands, terms.holidays, begins, ends, whole.raw[at])
            entry = at[parts.record]
            rate = book.rate_at[
                row, accepted.service[whole.record[entry]], whole.direction[entry],
                accepted.zone[whole.record[entry]], parts.band + 1,
            ]  # fmt: skip
            first = rate[np.flatnonzero(parts.part == 0)]
            total = _billable(book, first, whole.raw[at], session_units[record])
            billed = split(time_zone, terms.bands, terms.holidays, begins, ends, total)
            pieces.append((entry, parts.part.astype(np.int64), parts.quantity, rate, billed.quantity))
    entry = np.concatenate([piece[0] for piece in pieces])
    further = np.concatenate([piece[1] for piece in pieces])
    raw = np.concatenate([piece[2] for piece in pieces])
    rate = np.concatenate([piece[3] for piece in pieces])
    plain_billable = _billable(book, whole.rate[plain], whole.raw[plain], session_units[whole.record[plain]])
    billable = np.concatenate([plain_billable if piece[4] is None else piece[4] for piece in pieces])
    order = np.lexsort((further, entry))
    entry, raw, rate, billable = entry[order], raw[order], rate[order], billable[order]
    record = whole.record[entry]
    begins = np.flatnonzero(np.diff(record, prepend=-1))
    part = np.arange(len(record)) - np.repeat(begins, np.diff(np.append(begins, len(record))))
    return Entries(record, part, whole.direction[entry], raw, billable, rate, len(record) > len(accepted))


def _span(accepted: Accepted, rows: pl.DataFrame, seconds: Ints) -> tuple[Ints, Ints]:
    """Return the start and end of each accepted record, int64[n] each, in microseconds since 1970 UTC.

    If the feed gives no start, it is the time of use. If the feed gives no end, it is the start, plus `seconds` for
    voice. The end is never before the start.
    """
    used = pl.Series("used_at", accepted.used_us)

    def instants(name: str) -> pl.Series:
        if name not in rows.columns:
            return pl.Series([None] * len(used), dtype=pl.Int64)
        return rows[name].to_physical()

    lasts = np.where(accepted.service == Service.VOICE, seconds * 1_000_000, 0)
    begins = instants("started_at").fill_null(used).to_numpy()
    ends = instants("ended_at").fill_null(pl.Series(begins + lasts)).to_numpy()
    return begins, np.maximum(begins, ends)
