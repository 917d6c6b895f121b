"""The tree of accounts: who is below whom, by id and for whole columns (L6, L9, Q7)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rating.columnar.key_index import Flags, Ints


class AccountTree:
    """Accounts by number, each numbered once more so that an account and all below it are one range.

    `order[accounts]` is that number, `last[accounts]` the largest one below each account or its own, `depth[accounts]`
    how many are above it. `rows` are the numbers by id, `parent[accounts]` the number of the parent, -1 if it has none.

    A valid catalogue has no circle of parents. If there is one, its first account counts as having no parent, so that
    the tree is a tree; `circular` are the numbers of all accounts on circles.
    """

    def __init__(self, parents: Mapping[str, str | None]) -> None:
        """Make the tree of `parents`: the id of the parent by id. A parent that is no account counts as none."""
        self.ids = list(parents)
        self.rows = {account: row for row, account in enumerate(self.ids)}
        parent = [-1 if above is None else self.rows.get(above, -1) for above in parents.values()]
        self.circular = _cut_circles(parent)
        self.parent = np.array(parent, np.int64)
        count = len(parents)
        below: list[list[int]] = [[] for _ in range(count)]
        for row, above in enumerate(parent):
            if above >= 0:
                below[above].append(row)
        self.order, self.last = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.depth = np.zeros(count, np.int64)
        entered = 0
        pending = [(row, 0) for row in reversed(np.flatnonzero(self.parent < 0).tolist())]
        while pending:
            row, depth = pending.pop()
            if row < 0:  # all below this account have their numbers
                self.last[~row] = entered - 1
                continue
            self.order[row], self.depth[row] = entered, depth
            entered += 1
            pending.append((~row, depth))
            pending.extend((child, depth + 1) for child in reversed(below[row]))

    def is_within(self, account: str | None, top: str) -> bool:
        """Return True if an account, by id, is `top` or below it; False if one of them is no account."""
        row, above = self.rows.get(account or "", -1), self.rows.get(top, -1)
        return row >= 0 and above >= 0 and bool(self.order[above] <= self.order[row] <= self.last[above])

    def below(self, top: str) -> set[str]:
        """Return the ids of the accounts below `top`, without itself; none if it is no account."""
        if top not in self.rows:
            return set()
        rows = self.within(np.arange(len(self.ids)), self.rows[top])
        return {self.ids[row] for row in np.flatnonzero(rows).tolist()} - {top}

    def within(self, account: Ints, top: int) -> Flags:
        """bool[n]: whether each account is `top` or below it."""
        return self.numbered_within(self.order[account], top)

    def numbered_within(self, order: Ints, top: int) -> Flags:
        """bool[n]: as `within`, of accounts that are given by `order`."""
        inside: Flags = (order >= self.order[top]) & (order <= self.last[top])
        return inside

    def at_depth(self, depth: int) -> Ints:
        """Return the account at this depth that each account is or is below, int64[accounts]; -1 if none."""
        found = np.where(self.depth == depth, np.arange(len(self.depth)), -1)
        for level in range(depth + 1, int(self.depth.max(initial=0)) + 1):
            rows = np.flatnonzero(self.depth == level)
            found[rows] = found[self.parent[rows]]
        return found


def _cut_circles(parent: list[int]) -> frozenset[int]:
    """Let the first account of each circle have no parent, in place. Return the accounts that were on circles."""
    circular: set[int] = set()
    walk_of = [-1] * len(parent)  # for each account, the start of the walk that reached it first; -1: none yet
    for start in range(len(parent)):
        row = start
        while row >= 0 and walk_of[row] < 0:
            walk_of[row] = start
            row = parent[row]
        if row >= 0 and walk_of[row] == start:  # this walk came back to an account that it passed before
            circle = [row]
            while parent[circle[-1]] != row:
                circle.append(parent[circle[-1]])
            circular.update(circle)
            parent[min(circle)] = -1
    return frozenset(circular)
