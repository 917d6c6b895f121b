"""Counters: the running totals of a billing entity in a billing cycle, one row per counter.

The key of a counter is its subject (a SIM, a pool or a device), meter (a named total of a plan, such as `data` or
`sms/mo`) and billing cycle. A row is added at first use, and removed when its cycle takes no more usage (T5).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa

from rating.columnar.groups import Groups, distinct
from rating.columnar.key_index import Ints, KeyIndex, reserve

METER_BITS: Final = 12
CYCLE_BITS: Final = 20  # 6 bits for the kind of cycle, 14 for the number of the cycle

COLUMNS: Final = (
    "records",  # rated rows
    "raw",  # units as reported
    "billable",  # units after increments (P3)
    "test",  # billable units from the test allowance (P6)
    "allowance",  # billable units from the allowance of the plan or pool
    "addon",  # billable units from add-ons
    "overage",  # billable units that were priced
    "in_pool",  # units of a SIM for which its pool or device is charged, in addition to `billable`
    "peak",  # largest overage of one charge item (capacity prices)
    "charge_nanos",
    "size",  # size of the allowance at the last use
    "plan_version",  # row of the plan version that rated the last item
    "account",  # row of the account
)


def counter_key(subject: Ints, meter: Ints, cycle: Ints) -> Ints:
    """Pack subject (< 2**31), meter (< 2**12) and cycle (< 2**20) into one key, int64[n]."""
    return (subject << (METER_BITS + CYCLE_BITS)) | (meter << CYCLE_BITS) | cycle


def counter_groups(subject: Ints, meter: Ints, cycle: Ints) -> Groups:
    """Group rows by counter. The `keys` of the groups are counter keys, in ascending order of subject, meter, cycle."""
    meters, by_meter = distinct(meter)
    cycles, by_cycle = distinct(cycle)
    # A batch has few meters and cycles. With their ranks in place of their numbers the key is so short that Groups can
    # sort key and position as one number.
    groups = Groups.of((subject * len(meters) + by_meter) * len(cycles) + by_cycle)
    first = groups.order[groups.starts]
    return replace(groups, keys=counter_key(subject[first], meter[first], cycle[first]))


class Counters:
    """All counters: columns of int64 with one row per counter, found by its key."""

    def __init__(self) -> None:
        self.index = KeyIndex()
        self._columns = {name: np.zeros(1024, np.int64) for name in COLUMNS}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, name: str) -> Ints:
        """Return one column of all counters, int64[len], writable."""
        return self._columns[name][: len(self.index)]

    def rows(self, keys: Ints) -> Ints:
        """Return the row of each of the distinct keys, int64[n]. Keys that are new get a row of zeros."""
        rows = self.index.insert(keys.view(np.uint64))
        reserve(self._columns, len(self.index))
        return rows

    @property
    def keys(self) -> Ints:
        """int64[len]: the key of each counter."""
        return self.index.keys.view(np.int64)

    @property
    def subject(self) -> Ints:
        """int64[len]: the subject of each counter."""
        return self.keys >> (METER_BITS + CYCLE_BITS)

    @property
    def meter(self) -> Ints:
        """int64[len]: the meter of each counter."""
        return (self.keys >> CYCLE_BITS) & ((1 << METER_BITS) - 1)

    @property
    def cycle(self) -> Ints:
        """int64[len]: the cycle (kind and number) of each counter."""
        return self.keys & ((1 << CYCLE_BITS) - 1)

    def keep(self, mask: np.ndarray) -> None:
        """Keep the counters whose `mask` (bool[len]) is True, in their order, and drop all others."""
        kept = np.flatnonzero(mask)
        columns = {name: column[kept] for name, column in self._columns.items()}
        self.index = KeyIndex(self.index.keys[kept])
        self._columns = columns

    def to_table(self) -> pa.Table:
        """Return a table of `key` and every column, int64, in row order."""
        return pa.table({"key": self.keys, **{name: self[name] for name in COLUMNS}})

    @classmethod
    def from_table(cls, table: pa.Table) -> Counters:
        """Return the counters that `to_table` wrote."""
        counters = cls()
        counters.rows(np.array(table["key"].to_numpy()))
        for name in COLUMNS:
            counters[name][:] = table[name].to_numpy()
        return counters
