"""Running totals inside groups of a batch, for all groups at once.

The plain version adds up records one by one in a dict of counters, which takes 9 to 15 times as long
(benchmarks/plain_versions.py). Here a batch is ordered by group, stably, so that each group stays in journal order. A
running total is then one cumulative sum, minus the sum before the group begins, plus the value of the group's counter
before the batch. tests/unit/test_index.py compares it with plain addition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rating.columnar.key_index import Ints


def distinct(values: Ints) -> tuple[Ints, Ints]:
    """Return the distinct values in ascending order, and the position of each of `values[n]` among them, int64[n].

    The result is that of np.unique. Values in a small range, such as codes, are ranked by a table, without a sort.
    """
    if not len(values):
        return values, np.zeros(0, np.int64)
    least = int(values.min())
    spread = int(values.max()) - least + 1
    if spread > 4 * len(values) + 1024:
        found, inverse = np.unique(values, return_inverse=True)
        return found, inverse.reshape(-1)
    shifted = values - least
    present = np.zeros(spread, bool)
    present[shifted] = True
    rank = np.cumsum(present) - 1
    return np.flatnonzero(present) + least, rank[shifted]


@dataclass(frozen=True)
class Groups:
    """The rows of a batch, grouped by key. All columns are int64.

    `order[n]` are the rows, group by group. `starts[g]` is the position in `order` at which each group begins, and
    `keys[g]` is its key. `segment[n]` is the group of each position in `order`.
    """

    order: Ints
    starts: Ints
    keys: Ints
    segment: Ints

    @classmethod
    def of(cls, keys: Ints) -> Groups:
        """Group rows with equal keys (int64[n], not negative). Groups are in ascending order of key."""
        count = len(keys)
        bits = max(count - 1, 1).bit_length()
        if count and int(keys.max()) < 1 << (63 - bits):
            # One sort of key and position together is stable, and takes half the time of a stable argsort.
            packed = (keys << bits) | np.arange(count)
            packed.sort()
            order = packed & ((1 << bits) - 1)
            ordered = packed >> bits
        else:
            order = np.argsort(keys, kind="stable")
            ordered = keys[order]
        first = np.empty(count, bool)
        first[:1] = True
        np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
        starts = np.flatnonzero(first)
        return cls(order, starts, ordered[starts], np.cumsum(first) - 1)

    def before(self, amounts: Ints, held: Ints) -> Ints:
        """Return the counter value before each row, int64[n] in group order.

        `amounts[n]` (in group order) is the amount that each row adds. `held[g]` is the value of the counter of each
        group before the batch.
        """
        running = np.cumsum(amounts)
        running -= amounts
        return running + (held - running[self.starts])[self.segment]

    def last(self) -> Ints:
        """Return the last row of each group, as a row of the batch, int64[g]."""
        rows: Ints = self.order[np.append(self.starts[1:], len(self.order)) - 1]
        return rows

    def totals(self, amounts: Ints) -> Ints:
        """Return the sum of `amounts[n]` (in group order) of each group, int64[g]."""
        if not len(self.starts):
            return np.zeros(0, np.int64)
        return np.add.reduceat(amounts, self.starts)

    def scatter(self, values: Ints) -> Ints:
        """Return values in batch order, int64[n], from values in group order."""
        placed = np.empty_like(values)
        placed[self.order] = values
        return placed
