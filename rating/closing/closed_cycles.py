"""Which billing cycles are closed, for each account: those whose grace period is over (T5)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rating.columnar.key_index import Ints


class ClosedCycles:
    """The numbers of the first and the last closed cycle of each account and kind of cycle, int64[accounts, kinds].

    The first cycle that can close is the one that was open when Weir first knew the account and the kind of cycle.
    Earlier cycles were billed elsewhere. As long as no cycle is closed, `last` is `first` - 1.
    """

    def __init__(self, first: Ints | None = None, last: Ints | None = None) -> None:
        self.first: Ints = np.zeros((0, 0), np.int64) if first is None else first
        self.last: Ints = self.first - 1 if last is None else last

    def closed_accounts(self, kind: int, number: int) -> Ints:
        """Return the rows of the accounts for which a cycle is closed, int64[n]."""
        if kind >= self.first.shape[1]:
            return np.zeros(0, np.int64)
        return np.flatnonzero((self.first[:, kind] <= number) & (number <= self.last[:, kind]))

    def to_table(self) -> pa.Table:
        """Return a table of `account`, `kind`, and `first` and `last` (numbers of cycles), int64."""
        accounts, kinds = self.first.shape
        return pa.table(
            {
                "account": np.repeat(np.arange(accounts), kinds),
                "kind": np.tile(np.arange(kinds), accounts),
                "first": self.first.ravel(),
                "last": self.last.ravel(),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table | None) -> ClosedCycles:
        """Return the cycles that `to_table` wrote. A snapshot of an earlier version has no such table."""
        if table is None or not table.num_rows:
            return cls()
        account, kind = table["account"].to_numpy(), table["kind"].to_numpy()
        shape = int(account.max()) + 1, int(kind.max()) + 1
        return cls(*(np.array(table[name].to_numpy()).reshape(shape) for name in ("first", "last")))
