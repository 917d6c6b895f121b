"""The tree of accounts: who is below whom, for whole columns (L6, L9)."""

from __future__ import annotations

import numpy as np

from rating.columnar.key_index import Ints
from rating.rules.detect.traffic import Flags
from schemas.cards import Account


class AccountTree:
    """Accounts by number, each numbered once more so that an account and all below it are one range.

    `order[accounts]` is that number, `last[accounts]` the largest one below each account or its own, `depth[accounts]`
    how many are above it.
    """

    def __init__(self, accounts: tuple[Account, ...]) -> None:
        self.rows = {account.id: row for row, account in enumerate(accounts)}
        self.parent = np.array([self.rows.get(account.parent or "", -1) for account in accounts], np.int64)
        count = len(accounts)
        below: list[list[int]] = [[] for _ in range(count)]
        for row, parent in enumerate(self.parent.tolist()):
            if parent >= 0:
                below[parent].append(row)
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

    def within(self, account: Ints, top: int) -> Flags:
        """bool[n]: whether each account is `top` or below it."""
        return self.numbered_within(self.order[account], top)

    def numbered_within(self, order: Ints, top: int) -> Flags:
        """bool[n]: as `within`, of accounts that are given by `order`."""
        inside: Flags = (order >= self.order[top]) & (order <= self.last[top])
        return inside

    def at_depth(self, depth: int) -> Ints:
        """int64[accounts]: which account of a depth each one is or is below; -1 where it is above that depth."""
        found = np.where(self.depth == depth, np.arange(len(self.depth)), -1)
        for level in range(depth + 1, int(self.depth.max(initial=0)) + 1):
            rows = np.flatnonzero(self.depth == level)
            found[rows] = found[self.parent[rows]]
        return found
