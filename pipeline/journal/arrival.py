"""Which times of arrival may enter the journal.

The clock of a partition never goes back. A time far ahead would drop the counters of open cycles and forget record keys
for good, without an error. So every driver checks the time of an entry before the entry is in the journal.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from rating.dedupe.seen import DAY_US
from rating.errors import UsageError

AHEAD_US: Final = DAY_US  # how far a time may be ahead of the clock that it is compared with
LAST_ARRIVAL_US: Final = 5_648_745_600_000_000  # 2149-01-01: the fold keeps days of arrival in 16 bits
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def time_problem(at_us: int, now_us: int | None) -> str | None:
    """Return what is wrong with a time of arrival, in microseconds since 1970 UTC; None if it may enter the journal.

    `now_us` is the clock that it is compared with; None if there is none.
    """
    if at_us < 0:
        return "found a time before 1970; expected the time of arrival"
    if at_us > LAST_ARRIVAL_US:
        return "found a time after 2148; expected the time of arrival"
    if now_us is not None and at_us > now_us + AHEAD_US:
        return f"found {_said(at_us)}, more than a day after {_said(now_us)}; expected a time that has come"
    return None


def require_time(at_us: int, now_us: int, *, force: bool) -> None:
    """Raise UsageError if a time of arrival may not enter the journal. `force` allows times ahead of `now_us`."""
    problem = time_problem(at_us, None if force else now_us)
    if problem is not None:
        raise UsageError(
            f"time of arrival: {problem}: the clock never goes back, so a wrong time drops counters and forgets record "
            "keys for good; check --as-of and the clock of this machine, or give --force if the time is meant"
        )


def _said(at_us: int) -> str:
    return (_EPOCH + dt.timedelta(microseconds=max(at_us, 0))).strftime("%Y-%m-%d %H:%M UTC")
