"""Counters: running totals of a billing entity in a billing cycle, one row a counter.

A counter is keyed by subject (a SIM or a pool), meter (a named total of a plan, such as `data` or `sms/mo`) and
billing cycle. Rows appear at first use and leave once their cycle can take no more usage (T5).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa

from rating.columnar.groups import Groups, distinct
from rating.columnar.key_index import Ints, KeyIndex, reserve

METER_BITS: Final = 12
CYCLE_BITS: Final = 20  # 6 bits of cycle kind, 14 of the cycle's number

COLUMNS: Final = (
    "records",  # rated rows
    "raw",  # units as they came
    "billable",  # units after increments (P3)
    "test",  # of these, burned from the test allowance, the plan or pool allowance, and add-ons (P6)
    "allowance",
    "addon",
    "overage",  # and priced
    "in_pool",  # units of a SIM that its pool or device is charged for, beside its own
    "peak",  # largest billable quantity of one record (capacity prices)
    "charge_nanos",
    "size",  # the allowance as last seen
    "plan_version",  # row of the plan version that rated last
    "account",  # row of the account
)


def counter_key(subject: Ints, meter: Ints, cycle: Ints) -> Ints:
    """int64[n]: one number for subject (< 2**31), meter (< 2**12) and cycle (< 2**20)."""
    return (subject << (METER_BITS + CYCLE_BITS)) | (meter << CYCLE_BITS) | cycle


def counter_groups(subject: Ints, meter: Ints, cycle: Ints) -> Groups:
    """Group by counter; `keys` are counter keys, in ascending order of subject within a batch's meters and cycles."""
    meters, by_meter = distinct(meter)
    cycles, by_cycle = distinct(cycle)
    # Few meters and cycles on top of a subject leave room to sort key and place as one number.
    groups = Groups.of((subject * len(meters) + by_meter) * len(cycles) + by_cycle)
    first = groups.order[groups.starts]
    return replace(groups, keys=counter_key(subject[first], meter[first], cycle[first]))


class Counters:
    """Columns of int64, one row a counter; a row is found by its key."""

    def __init__(self) -> None:
        self.index = KeyIndex()
        self._columns = {name: np.zeros(1024, np.int64) for name in COLUMNS}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, name: str) -> Ints:
        """int64[len], writable: one column of all counters."""
        return self._columns[name][: len(self.index)]

    def rows(self, keys: Ints) -> Ints:
        """int64[n]: the row of each of the distinct keys; new ones start at zero."""
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
        """Drop the counters where `mask` (bool[len]) is false; the others keep their order."""
        kept = np.flatnonzero(mask)
        columns = {name: column[kept] for name, column in self._columns.items()}
        self.index = KeyIndex(self.index.keys[kept])
        self._columns = columns

    def to_table(self) -> pa.Table:
        """Table of `key` and every column, int64, in row order."""
        return pa.table({"key": self.keys, **{name: self[name] for name in COLUMNS}})

    @classmethod
    def from_table(cls, table: pa.Table) -> Counters:
        """The counters that `to_table` wrote."""
        counters = cls()
        counters.rows(np.array(table["key"].to_numpy()))
        for name in COLUMNS:
            counters[name][:] = table[name].to_numpy()
        return counters
