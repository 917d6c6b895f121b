"""Closing of billing cycles: which cycles close at a moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rating.catalogue.rates import Book
from rating.closing.closed_cycles import ClosedCycles
from rating.columnar.key_index import Ints
from rating.usage.accept import local_days


@dataclass(frozen=True)
class Closing:
    """Cycles that close now: for each, the row of its account, its kind (row in the vocabulary) and its number."""

    account: Ints
    kind: Ints
    number: Ints


def know_accounts(closed: ClosedCycles, book: Book, now_us: int) -> None:
    """Note the cycles that are open at `now_us` for accounts and kinds of cycles that are new.

    Nothing is noted while `now_us` is 0: a catalogue that comes before all else has no time.
    """
    if now_us <= 0:
        return
    accounts, kinds = len(book.grace_us), len(book.cycle_calendars)
    known, more = closed.first.shape
    if (known, more) == (accounts, kinds):
        return
    first = np.zeros((accounts, kinds), np.int64)
    today = local_days(book, np.arange(accounts), np.full(accounts, now_us, np.int64)).astype(np.int32)
    for kind, calendar in enumerate(book.cycle_calendars):
        first[:, kind] = calendar.index(today)
    last = first - 1
    first[:known, :more], last[:known, :more] = closed.first, closed.last
    closed.first, closed.last = first, last


def close_cycles(closed: ClosedCycles, book: Book, now_us: int) -> Closing:
    """Close the cycles whose grace period is over at `now_us`, and return them, by account, kind and number."""
    know_accounts(closed, book, now_us)
    accounts = len(book.grace_us)
    # A cycle is over for an account if the moment `grace` ago was in a later cycle.
    day = local_days(book, np.arange(accounts), now_us - book.grace_us - 1).astype(np.int32)
    found: list[tuple[int, int, int]] = []
    for kind, calendar in enumerate(book.cycle_calendars):
        due = calendar.index(day).astype(np.int64) - 1
        for account in np.flatnonzero(due > closed.last[:, kind]).tolist():
            found += [(account, kind, number) for number in range(closed.last[account, kind] + 1, due[account] + 1)]
        closed.last[:, kind] = np.maximum(closed.last[:, kind], due)
    columns = np.array(sorted(found), np.int64).reshape(-1, 3)
    return Closing(columns[:, 0], columns[:, 1], columns[:, 2])
