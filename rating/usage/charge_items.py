"""Entries: what is rated. A record is one entry, unless its plan prices directions or time bands apart (P4).

A record counted both ways, on a plan with rates for up and down, becomes one entry a direction; an entry that spans a
boundary of time bands is split at it. The parts of a record are numbered from 0 and their quantities sum to it.
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
from schemas.usage import Direction, Service

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Entries:
    """Columns of equal length, in journal order. `record` is the place among the accepted records."""

    record: Ints
    part: Ints
    direction: Ints
    raw: Ints  # units as they came
    billable: Ints  # units after increments (P3)
    rate: Ints

    split: bool = False  # whether some record became several entries

    def __len__(self) -> int:
        return len(self.record)

    def of(self, column: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """A column of the accepted records as one of the entries."""
        return column[self.record] if self.split else column


def enter(
    book: Book, accepted: Accepted, raw: Ints, up: Ints, down: Ints, rows: pl.DataFrame, session_units: Ints
) -> Entries:
    """The entries of accepted records with their rates and billable quantities.

    `raw`, `up`, `down` (-1: unknown) are the units of each record, `rows` the usage of the accepted ones;
    `session_units` is what its session had counted before it, for increments that run over the session.
    """
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
        return Entries(record, part, direction, raw, _billable(book, rate, raw, session_units[record]), rate, split)
    return _split(book, accepted, Entries(record, part, direction, raw, raw, rate), banded, rows, session_units)


def _billable(book: Book, rate: Ints, raw: Ints, session_units: Ints) -> Ints:
    billable = book.increments.billable(rate, raw)
    running = np.flatnonzero(book.rates.per_session[rate] & (session_units > 0))
    if len(running):
        before = session_units[running]
        billable[running] = book.increments.billable(rate[running], before + raw[running]) - book.increments.billable(
            rate[running], before
        )
    return billable


def _split(
    book: Book, accepted: Accepted, whole: Entries, banded: np.ndarray, rows: pl.DataFrame, session_units: Ints
) -> Entries:
    """Entries with those on banded plans split at the boundaries of their bands."""
    seconds = np.zeros(len(accepted), np.int64)
    np.add.at(seconds, whole.record, whole.raw)
    started, ended = _span(accepted, rows, seconds)
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
    """When each accepted record began and ended; from its own time and duration where the feed does not say."""
    used = pl.Series("used_at", accepted.used_us)

    def instants(name: str) -> pl.Series:
        if name not in rows.columns:
            return pl.Series([None] * len(used), dtype=pl.Int64)
        return rows[name].to_physical()

    lasts = np.where(accepted.service == Service.VOICE, seconds * 1_000_000, 0)
    begins = instants("started_at").fill_null(used).to_numpy()
    ends = instants("ended_at").fill_null(pl.Series(begins + lasts)).to_numpy()
    return begins, np.maximum(begins, ends)
