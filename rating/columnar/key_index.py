"""Rows for keys: a vectorised hash table with open addressing over 64-bit keys.

The plain version is a dict that numbers its keys as they come. To find known keys takes it 14 to 22 times as long
(benchmarks/plain_versions.py), because it needs a Python object per key. tests/unit/test_index.py compares the rows
with those of a dict.

A column of keys becomes a column of rows 0, 1, 2 … in order of first insertion. So everything else in the fold can be
an array. Only the order of insertion decides the rows, so the same journal gives the same rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

_EMPTY: Final = np.int32(-1)
_SMALLEST: Final = 1 << 10
_FEW: Final = 1024  # up to this many keys are looked up in several slots at once
_AHEAD: Final = 8  # this many slots


def mix(keys: Words) -> Words:
    """Spread 64-bit keys evenly, uint64[n] (the finaliser of splitmix64). Distinct keys stay distinct."""
    mixed = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def reserve(columns: dict[str, Ints], count: int) -> None:
    """Make room for at least `count` rows in columns, which are replaced in the dict. New rows are zero.

    A column that grows at least doubles its length.
    """
    for name, column in columns.items():
        if count > len(column):
            grown = np.zeros(max(count, 2 * len(column)), np.int64)
            grown[: len(column)] = column
            columns[name] = grown


class KeyIndex:
    """A map from 64-bit keys to consecutive rows. `keys[row]` is the key of a row, `len()` the number of rows."""

    def __init__(self, keys: Words | None = None) -> None:
        self._keys: Words = np.empty(_SMALLEST, np.uint64)
        self._count = 0
        self._slots = np.full(2 * _SMALLEST, _EMPTY, np.int32)
        if keys is not None and len(keys):
            self.insert(keys)

    def __len__(self) -> int:
        return self._count

    @property
    def keys(self) -> Words:
        """uint64[len]: the key of each row."""
        return self._keys[: self._count]

    def find(self, keys: Words) -> Ints:
        """Return the row of each key, int64[n]; -1 if there is no such key. Keys may repeat."""
        mask = len(self._slots) - 1
        slots = (mix(keys) & np.uint64(mask)).view(np.int64)
        rows = self._slots[slots].astype(np.int64)
        # A key is in its slot or in a later one, before the next free slot. The row in a free slot is -1.
        found: Ints = np.where(self._keys[rows] == keys, rows, -1)
        active = np.flatnonzero(found != rows)
        keys, slots = keys[active], slots[active]
        while len(active):
            # With many keys left, it is fastest to look at one slot at a time. With few keys the number of calls
            # decides, and it is faster to look at several slots at once.
            ahead = 1 if len(active) > _FEW else _AHEAD
            near = (slots[:, None] + np.arange(1, ahead + 1)) & mask
            rows = self._slots[near].astype(np.int64)
            ends = (self._keys[rows] == keys[:, None]) | (rows < 0)
            first = (np.arange(len(active)), ends.argmax(axis=1))
            ended = ends[first]
            found[active] = np.where(ended, rows[first], -1)
            on = np.flatnonzero(~ended)
            active, keys, slots = active[on], keys[on], slots[on] + ahead
        return found

    def insert(self, keys: Words) -> Ints:
        """Return the row of each key, int64[n]. Keys that are new get new rows, in their order.

        The keys of one call must be distinct.
        """
        rows = self.find(keys)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            fresh = keys[missing]
            first = self._count
            self._reserve(first + len(fresh))
            self._keys[first : first + len(fresh)] = fresh
            self._count = first + len(fresh)
            self._place(first)
            rows[missing] = np.arange(first, self._count)
        return rows

    def _reserve(self, count: int) -> None:
        if count > len(self._keys):
            grown = np.empty(max(count, 2 * len(self._keys)), np.uint64)
            grown[: self._count] = self._keys[: self._count]
            self._keys = grown
        if 2 * count > len(self._slots):
            self._slots = np.full(1 << (2 * count - 1).bit_length(), _EMPTY, np.int32)
            self._place(0)

    def _place(self, first: int) -> None:
        """Assign a slot to each row from `first` on."""
        pending = np.arange(first, self._count, dtype=np.int32)
        mask = len(self._slots) - 1
        slots = (mix(self._keys[first : self._count]) & np.uint64(mask)).view(np.int64)
        while len(pending):
            free = self._slots[slots] < 0
            self._slots[slots[free]] = pending[free]
            lost = self._slots[slots] != pending
            pending = pending[lost]
            slots = (slots[lost] + 1) & mask
