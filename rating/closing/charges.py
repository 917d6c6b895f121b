"""Charges without a usage record: what is owed for a cycle that closes, as rows that stand from then on (P9, Q4)."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from rating.apply import Compiled
from rating.closing.close import Closing
from rating.closing.fees import fees_owed
from rating.columnar.arrow import table_of
from rating.columnar.counters import Counters
from rating.position import JournalPosition
from rating.usage.cycles import cycle_code
from schemas.tables import CHARGES

_SORTED = ("account_id", "cycle", "subject_kind", "subject", "plan_id", "plan_version", "name", "amount_nanos")


def charges_of_closing(
    compiled: Compiled, counters: Counters, closing: Closing, now_us: int, position: JournalPosition
) -> pa.Table:
    """Return the charges (schemas.tables.CHARGES) of the cycles that close, in order of account, cycle and subject.

    `position` is that of the entry that closes them; it makes the ids of the rows.
    """
    if not len(closing.account):
        return CHARGES.empty_table()
    names = compiled.book.vocabulary.accounts.names
    codes = cycle_code(closing.kind, closing.number)
    frames = []
    for code in np.unique(codes).tolist():
        owners = [names[account] for account in closing.account[codes == code].tolist()]
        frames.append(fees_owed(compiled, counters, [code]).filter(pl.col("account_id").is_in(owners)))
    due = pl.concat(frames).sort(_SORTED, nulls_last=True)
    prefix = f"{position.partition}.{position.offset}"
    rows = due.with_columns(
        pl.format("{}.{}", pl.lit(prefix), pl.int_range(pl.len())).alias("charge_id"),
        closed_at=pl.lit(now_us).cast(pl.Datetime("us", "UTC")),
        journal_partition=pl.lit(position.partition, pl.Int32),
        journal_offset=pl.lit(position.offset, pl.Int64),
    )
    return table_of(rows, CHARGES)
