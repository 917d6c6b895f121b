"""Fees of billing cycles, with a mark on those of closed cycles (P9, Q4)."""

from __future__ import annotations

import polars as pl

from rating.apply import Compiled
from rating.closing.closed_cycles import ClosedCycles
from rating.closing.fees import fees_owed
from rating.columnar.counters import Counters
from rating.queries.schemas import FEES_VIEW
from rating.usage.cycles import cycle_kind, cycle_number


def fees_view(compiled: Compiled, counters: Counters, closed: ClosedCycles, codes: list[int]) -> pl.DataFrame:
    """Return the fees of cycles (given by their codes) as rows of FEES_VIEW.

    `closed` is True for the cycles that are closed for the account: what is owed for them is in the table `charges`.
    """
    names = compiled.book.vocabulary.accounts.names
    frames = [pl.DataFrame(schema=FEES_VIEW)]
    for code in codes:
        owners = [names[row] for row in closed.closed_accounts(cycle_kind(code), cycle_number(code)).tolist()]
        frames.append(fees_owed(compiled, counters, [code]).with_columns(closed=pl.col("account_id").is_in(owners)))
    return pl.concat(frame.select(list(FEES_VIEW)) for frame in frames)
