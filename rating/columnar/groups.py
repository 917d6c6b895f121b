"""Running totals inside groups of a batch, for all groups at once.

A batch is ordered by group (stable: journal order inside a group); a running total is then one cumulative sum, less
the sum before the group began, plus what the group's counter held before the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rating.columnar.key_index import Ints


def distinct(values: Ints) -> tuple[Ints, Ints]:
    """The distinct values in ascending order, and for each of `values[n]` its place among them (np.unique).

    Values that lie close together, as codes do, are ranked by a table in place of a sort.
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
    """Rows of a batch ordered by key.

    `order[n]` lists the rows group by group, `starts[g]` is where each group begins in it, `keys[g]` its key and
    `segment[n]` the group of each place of the order.
    """

    order: Ints
    starts: Ints
    keys: Ints
    segment: Ints

    @classmethod
    def of(cls, keys: Ints) -> Groups:
        """Group equal keys (int64[n], not negative), groups in ascending order of key."""
        count = len(keys)
        bits = max(count - 1, 1).bit_length()
        if count and int(keys.max()) < 1 << (63 - bits):
            # One sort of key and place together is stable and half the price of a stable argsort.
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
        """int64[n] in group order: what each row finds in its counter.

        `amounts[n]` (in group order) is what each row adds, `held[g]` what the counter of each group held.
        """
        running = np.cumsum(amounts)
        running -= amounts
        return running + (held - running[self.starts])[self.segment]

    def last(self) -> Ints:
        """int64[g]: the row of the batch that is the last of each group."""
        rows: Ints = self.order[np.append(self.starts[1:], len(self.order)) - 1]
        return rows

    def totals(self, amounts: Ints) -> Ints:
        """int64[g]: the sum of `amounts[n]` (in group order) of each group."""
        if not len(self.starts):
            return np.zeros(0, np.int64)
        return np.add.reduceat(amounts, self.starts)

    def scatter(self, values: Ints) -> Ints:
        """int64[n] in batch order from values in group order."""
        placed = np.empty_like(values)
        placed[self.order] = values
        return placed
