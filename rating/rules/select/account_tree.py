"""The tree of accounts, with membership of a subtree for whole columns (L6, L9)."""

from __future__ import annotations

import numpy as np

from rating.columnar.key_index import Ints
from rating.rules.detect.traffic import Flags
from schemas.cards import Account


class AccountTree:
    """Accounts numbered in depth-first order, so that an account and all accounts below it form one range.

    `order` (int64[accounts]) is the depth-first number of each account, `last` the largest number in its subtree, and
    `depth` the number of accounts above it.
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
            if row < 0:  # the subtree of account ~row is complete
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
        """bool[n]: like `within`, for accounts given by their depth-first number (`order`)."""
        inside: Flags = (order >= self.order[top]) & (order <= self.last[top])
        return inside

    def at_depth(self, depth: int) -> Ints:
        """int64[accounts]: the account at `depth` whose subtree contains each account; -1 if it is above that depth."""
        found = np.where(self.depth == depth, np.arange(len(self.depth)), -1)
        for level in range(depth + 1, int(self.depth.max(initial=0)) + 1):
            rows = np.flatnonzero(self.depth == level)
            found[rows] = found[self.parent[rows]]
        return found
