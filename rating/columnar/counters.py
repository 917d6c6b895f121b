"""Counters: the running totals of a billing entity in a billing cycle, one row per counter.

The key of a counter is its subject (a SIM, a pool or a device), meter (a named total of a plan, such as `data` or
`sms/mo`) and billing cycle. A row is added at first use, and removed when its cycle takes no more usage (T5).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

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
    "charge_nanos",  # charges in the currency `currency`; the others are in `Counters.further`
    "currency",  # row of the currency in the vocabulary plus 1; 0: none yet
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


MOST_NANOS: Final = 1 << 62  # a sum in an int64 column stays at or below this; larger ones move to `further`


class Charged(NamedTuple):
    """Identifies a sum of charges: the key of the counter, and the row of the currency in the vocabulary."""

    key: int
    currency: int


class Counters:
    """All counters: columns of int64 with one row per counter, found by its key.

    Charges of a counter are one sum for each currency. Nearly all counters have one currency and a sum that fits 64
    bits, which is in the column `charge_nanos`. `further` contains what is charged beside it, in nanos.
    """

    def __init__(self) -> None:
        self.index = KeyIndex()
        self.further: dict[Charged, int] = {}
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

    def add_charges(self, groups: Groups, rows: Ints, nanos: Ints, currency: Ints) -> None:
        """Add charges to their counters, exactly, each currency apart.

        `groups` groups the charges by counter, and `rows` (int64[g]) is the row of each group's counter. `nanos` and
        `currency` (row in the vocabulary) are int64[n] in batch order, each amount from -MOST_NANOS to MOST_NANOS.
        """
        if not len(rows):
            return
        amounts, total, own = nanos[groups.order], self["charge_nanos"], self["currency"]
        held, mark = total[rows], currency[0] + 1
        largest_of_all = max(int(nanos.max()), -int(nanos.min()))
        most = largest_of_all * len(nanos) + max(int(held.max()), -int(held.min()))
        of_one_currency = (currency == currency[0]).all() and ((own[rows] == mark) | (held == 0)).all()
        if most <= MOST_NANOS and of_one_currency:  # nearly all batches
            total[rows] = held + groups.totals(amounts)
            own[rows] = mark
            return
        marks = currency[groups.order] + 1
        first = marks[groups.starts]
        size = np.diff(np.append(groups.starts, len(amounts)))
        # An estimate with floats is enough here: it only selects the counters that are added up without a limit.
        largest = np.maximum.reduceat(np.abs(amounts), groups.starts).astype(np.float64)
        special = largest * size + np.abs(held) > MOST_NANOS
        special |= (own[rows] != first) & (held != 0)
        special |= np.maximum.reduceat(marks, groups.starts) != np.minimum.reduceat(marks, groups.starts)
        plain = ~special
        total[rows[plain]] += groups.totals(amounts)[plain]
        own[rows[plain]] = first[plain]
        keys = self.keys
        for group in np.flatnonzero(special).tolist():
            row, start = int(rows[group]), int(groups.starts[group])
            part = slice(start, start + int(size[group]))
            for amount, mark in zip(amounts[part].tolist(), marks[part].tolist(), strict=True):
                self._add_charge(row, int(keys[row]), amount, mark)

    def _add_charge(self, row: int, key: int, nanos: int, mark: int) -> None:
        total, own = self["charge_nanos"], self["currency"]
        if total[row] == 0:
            own[row] = mark
        if own[row] == mark and abs(int(total[row]) + nanos) <= MOST_NANOS:
            total[row] += nanos
        else:
            charged = Charged(key, mark - 1)
            self.further[charged] = self.further.get(charged, 0) + nanos

    def name_currencies(self, of_version: Ints) -> None:
        """Fill in the currency of counters that an earlier version wrote, which had no such column.

        `of_version` is the currency of each plan version (row in the vocabulary), int64[versions].
        """
        rows = np.flatnonzero((self["currency"] == 0) & (self["charge_nanos"] != 0))
        if len(rows):
            self["currency"][rows] = of_version[self["plan_version"][rows]] + 1

    def charges(self, row: int) -> dict[int, int]:
        """Return the charges of the counter in this row, in nanos, by the row of the currency in the vocabulary.

        Currencies in which the charges sum to zero are left out, unless it is the only one.
        """
        mark, key = int(self["currency"][row]), int(self.keys[row])
        found = {mark - 1: int(self["charge_nanos"][row])} if mark else {}
        for charged, nanos in self.further.items():
            if charged.key == key:
                found[charged.currency] = found.get(charged.currency, 0) + nanos
        return {currency: nanos for currency, nanos in found.items() if nanos} or dict(list(found.items())[:1])

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
        if self.further:
            keys = set(self.keys[kept].tolist())
            self.further = {charged: nanos for charged, nanos in self.further.items() if charged.key in keys}
        columns = {name: column[kept] for name, column in self._columns.items()}
        self.index = KeyIndex(self.index.keys[kept])
        self._columns = columns

    def further_table(self) -> pa.Table:
        """Return `further` as a table of `key` and `currency` (int64) and `nanos` (decimal text, of any size)."""
        ordered = sorted(self.further.items())
        return pa.table(
            {
                "key": pa.array([charged.key for charged, _ in ordered], pa.int64()),
                "currency": pa.array([charged.currency for charged, _ in ordered], pa.int64()),
                "nanos": pa.array([str(nanos) for _, nanos in ordered], pa.string()),
            }
        )

    def to_table(self) -> pa.Table:
        """Return a table of `key` and every column, int64, in row order. `further` is not part of it."""
        return pa.table({"key": self.keys, **{name: self[name] for name in COLUMNS}})

    @classmethod
    def from_table(cls, table: pa.Table, further: pa.Table | None = None) -> Counters:
        """Return the counters that `to_table` and `further_table` wrote.

        Counters of an earlier version have no column `currency`. It is then 0 until `name_currencies` fills it in.
        """
        counters = cls()
        counters.rows(np.array(table["key"].to_numpy()))
        for name in COLUMNS:
            if name in table.column_names:
                counters[name][:] = table[name].to_numpy()
        for row in () if further is None else further.to_pylist():
            counters.further[Charged(row["key"], row["currency"])] = int(row["nanos"])
        return counters
