"""Sizes of the allowances that records draw on and that limits are compared with (P7, P9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rating.catalogue.rates import Book, meter_name
from rating.columnar.counters import METER_BITS
from rating.columnar.groups import distinct
from rating.columnar.key_index import Ints


class PoolSizes(Protocol):
    """A function that returns the sizes of all pools, int64[pools], such as `Pools.sizes`."""

    def __call__(self, meter: int, cycle: int, start_day: int, end_day: int, now_day: int, /) -> Ints: ...


def version_allowances(book: Book) -> Ints:
    """Return the allowance of each plan version on each meter, int64[versions, meters]."""
    table = np.zeros((len(book.versions), len(book.vocabulary.meters)), np.int64)
    for version in range(len(book.versions)):
        rates = book.rate_at[version]
        rates = rates[rates >= 0]
        table[version, book.rates.meter[rates]] = book.rates.allowance[rates]
    return table


def version_prorates(book: Book) -> npt.NDArray[np.bool_]:
    """Return whether the allowance of each plan version on each meter counts by days, bool[versions, meters] (P9).

    The first rate of a version on the meter says so.
    """
    table = np.zeros((len(book.versions), len(book.vocabulary.meters)), bool)
    for row, (_, version) in enumerate(book.versions):
        for rate in reversed(version.rates):
            table[row, book.vocabulary.meters.rows[meter_name(rate)]] = rate.prorate_allowance
    return table


@dataclass(frozen=True)
class CycleDays:
    """The billing cycle of each row (code, first and last local day), and the local day of arrival; int64[n].

    Days are days since 1970.
    """

    cycle: Ints
    start_day: Ints
    end_day: Ints
    today: Ints


def sizes_at(sizes: PoolSizes, pool: Ints, meter: Ints, days: CycleDays) -> Ints:
    """Return the size of each record's pool on its meter and in its cycle, as of its day of arrival, int64[n] (P7)."""
    size = np.zeros(len(pool), np.int64)
    cycle, start_day, end_day = days.cycle, days.start_day, days.end_day
    # Few combinations of meter, cycle and day of arrival are distinct. Each needs one look-up for all its records.
    arrivals, arrival = distinct(days.today)
    moments, moment = distinct((distinct(cycle)[1] << METER_BITS | meter) * len(arrivals) + arrival)
    for place in range(len(moments)):
        here = np.flatnonzero(moment == place)
        one = here[0]
        found = sizes(int(meter[one]), int(cycle[one]), int(start_day[one]), int(end_day[one]), int(days.today[one]))
        size[here] = found[pool[here]]
    return size
