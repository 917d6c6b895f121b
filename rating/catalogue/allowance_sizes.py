"""How large the allowances are that records draw on and limits look at (P7, P9)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rating.catalogue.rates import Book
from rating.columnar.counters import METER_BITS
from rating.columnar.groups import distinct
from rating.columnar.key_index import Ints
from rating.tariff.fees import prorate_units


class PoolSizes(Protocol):
    """The sizes of all pools, int64[pools], on a meter in a cycle of days start to end, as of a local day."""

    def __call__(self, meter: int, cycle: int, start_day: int, end_day: int, now_day: int, /) -> Ints: ...


def version_allowances(book: Book) -> Ints:
    """int64[versions, meters]: the allowance of each plan version on each meter."""
    table = np.zeros((len(book.versions), len(book.vocabulary.meters)), np.int64)
    for version in range(len(book.versions)):
        rates = np.unique(book.rate_at[version])
        rates = rates[rates >= 0]
        table[version, book.rates.meter[rates]] = book.rates.allowance[rates]
    return table


def first_cycle_units(units: Ints, activated_on: Ints, start_day: Ints, end_day: Ints) -> Ints:
    """int64[n]: the part of an allowance that counts by days (P9), in a cycle of days start to end inclusive.

    In the cycle of activation by the days from that one on, in any other the whole of it.
    """
    days = end_day - start_day + 1
    served = np.where((activated_on > start_day) & (activated_on <= end_day), end_day - activated_on + 1, days)
    return prorate_units(units, served, days)


def sizes_at(
    sizes: PoolSizes, pool: Ints, meter: Ints, cycle: Ints, start_day: Ints, end_day: Ints, today: Ints
) -> Ints:
    """int64[n]: the size of the pool of each record on a meter, in its cycle, as of its local day of arrival (P7)."""
    size = np.zeros(len(pool), np.int64)
    # Few distinct combinations of meter, cycle and local day of arrival; each is one look-up for all its records.
    days, day = distinct(today)
    moments, moment = distinct((distinct(cycle)[1] << METER_BITS | meter) * len(days) + day)
    for place in range(len(moments)):
        here = np.flatnonzero(moment == place)
        one = here[0]
        found = sizes(int(meter[one]), int(cycle[one]), int(start_day[one]), int(end_day[one]), int(today[one]))
        size[here] = found[pool[here]]
    return size
