"""The billing cycle in which each record is charged (T1, T2, T5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np

from rating.calendars.calendar import DAY_US
from rating.catalogue.rates import Book
from rating.columnar.groups import distinct
from rating.columnar.key_index import Flags, Ints
from rating.usage.accept import Accepted, local_days

_Code = TypeVar("_Code", int, Ints)
_NUMBER_BITS = 14  # the code of a cycle has 6 bits for its kind and 14 for its number


def cycle_code(kind: Ints | int, number: Ints) -> Ints:
    """Pack the kind of a cycle (row in the vocabulary) and its number in the sequence of such cycles into one code."""
    return (np.asarray(kind, np.int64) << _NUMBER_BITS) | number


def cycle_kind(code: _Code) -> _Code:
    """Return the kind of a cycle, or of each of several, as a row in the vocabulary."""
    return code >> _NUMBER_BITS


def cycle_number(code: int) -> int:
    """Return the number of a cycle in the sequence of cycles of its kind."""
    return code & ((1 << _NUMBER_BITS) - 1)


def cycle_label(book: Book, code: int) -> str:
    """Return the label of a cycle: its first day, shortened to 2026-10 if cycles of this kind start on the 1st."""
    return book.cycle_calendars[code >> _NUMBER_BITS].label(code & ((1 << _NUMBER_BITS) - 1))


def cycle_days(book: Book, code: int) -> tuple[int, int]:
    """Return the first and last local day of a cycle, as days since 1970."""
    calendar, number = book.cycle_calendars[code >> _NUMBER_BITS], code & ((1 << _NUMBER_BITS) - 1)
    return calendar.start_day(number), calendar.end_day(number)


def is_closed(book: Book, code: int, clock_us: int) -> bool:
    """Return whether a cycle takes no more usage in any account, at a time in microseconds since 1970 UTC (T5)."""
    # Two days more cover midnight in every time zone, and usage dated an hour ahead.
    grace_us = int(book.grace_us.max(initial=0)) + 2 * DAY_US
    return (cycle_days(book, code)[1] + 1) * DAY_US + grace_us < clock_us


@dataclass(frozen=True)
class Cycles:
    """The cycle of each record: code, first and last local day (days since 1970), and whether it is late (T5)."""

    code: Ints
    start_day: Ints
    end_day: Ints
    late: Flags

    @classmethod
    def of(cls, book: Book, code: Ints, late: Flags) -> Self:
        """Return the cycles of these codes."""
        codes, inverse = distinct(code)
        days = np.array([cycle_days(book, int(one)) for one in codes], np.int64).reshape(-1, 2)
        return cls(code, days[inverse, 0], days[inverse, 1], late)

    def take(self, at: Ints) -> Self:
        """Return the cycles of the records at these positions, in this order."""
        return type(self)(self.code[at], self.start_day[at], self.end_day[at], self.late[at])


def cycle_kinds(book: Book, plan: Ints, pool: Ints) -> Ints:
    """Return the kind of cycle of each record by the row of its plan and of its pool (-1: none), int64[n]."""
    kind = book.plan_cycle[plan]
    pooled = pool >= 0
    if pooled.any():
        kind = np.where(pooled & (book.pool_cycle[pool] >= 0), book.pool_cycle[pool], kind)
    return kind


def assign(book: Book, accepted: Accepted, pool: Ints, received_us: int) -> Cycles:
    """Assign each record to the cycle of its time of use, or to the open cycle if it is late (T5).

    A record is late if the cycle of its time of use ended longer ago than the account's grace period. The calendar of
    cycles is that of the pool if a pool is charged (and has one), otherwise that of the plan. `pool` is the row of each
    record's pool (-1: none). `received_us` is the arrival time in microseconds since 1970 UTC.
    """
    count = len(accepted)
    kind = cycle_kinds(book, accepted.plan, pool)
    code = np.zeros(count, np.int64)
    late = np.zeros(count, bool)
    least_grace_us = book.grace_us.min(initial=0)
    for row in range(len(book.cycle_calendars)):
        at = np.flatnonzero(kind == row)
        if not len(at):
            continue
        whole = slice(None) if len(at) == count else at
        number = book.cycle_calendars[row].index(accepted.day[whole].astype(np.int32)).astype(np.int64)
        numbers, inverse = distinct(number)
        for zone, time_zone in enumerate(book.time_zones):
            closes = np.array(
                [time_zone.midnight_us(book.cycle_calendars[row].end_day(int(n)) + 1) for n in numbers], np.int64
            )
            if received_us <= closes.min() + least_grace_us:
                continue
            here = book.account_zone[accepted.account[whole]] == zone
            over = here & (received_us > closes[inverse] + book.grace_us[accepted.account[whole]])
            if over.any():
                today = local_days(book, accepted.account[whole][over], np.full(int(over.sum()), received_us))
                number[over] = book.cycle_calendars[row].index(today.astype(np.int32))
                late[whole] |= over
        code[whole] = cycle_code(row, number)
    return Cycles.of(book, code, late)


def cycles_of(book: Book, accepted: Accepted, pool: Ints, late: Flags, arrived: Ints) -> Cycles:
    """Return the cycle of each record if it is known which are `late`, bool[n].

    It is the cycle of the day of use, or that of the day of arrival (`arrived`, int64[n]) if the record is late (T5).
    """
    kind = cycle_kinds(book, accepted.plan, pool)
    day = np.where(late, arrived, accepted.day).astype(np.int32)
    code = np.zeros(len(accepted), np.int64)
    for row, calendar in enumerate(book.cycle_calendars):
        at = np.flatnonzero(kind == row)
        if len(at):
            code[at] = cycle_code(row, calendar.index(day[at]).astype(np.int64))
    return Cycles.of(book, code, late)
