"""Charges without a usage record: what is owed for a cycle that closes, as rows that stand from then on (P9, Q4)."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from rating.apply import Compiled
from rating.closing.close import Closing
from rating.closing.closed_cycles import ClosedCycles
from rating.position import JournalPosition
from rating.queries.addon_prices import ADDON_FEE
from rating.queries.fees import fees_view
from rating.queries.schemas import FEES_VIEW
from rating.usage.cycles import cycle_code, cycle_kind, cycle_number
from schemas.tables import CHARGES

_SORTED = ("account_id", "cycle", "subject_kind", "subject", "plan_id", "plan_version", "name", "amount_nanos")


def charges_of_closing(compiled: Compiled, closing: Closing, now_us: int, position: JournalPosition) -> pa.Table:
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
        frames.append(fees_view(compiled, [code]).filter(pl.col("account_id").is_in(owners)))
    due = pl.concat(frames).sort(_SORTED, nulls_last=True)
    prefix = f"{position.partition}.{position.offset}"
    rows = due.with_columns(
        pl.format("{}.{}", pl.lit(prefix), pl.int_range(pl.len())).alias("charge_id"),
        kind=pl.when(name=ADDON_FEE).then(pl.lit("addon")).when(subject_kind="pool").then(pl.lit("pool_fee"))
        .otherwise(pl.lit("fee")),
        closed_at=pl.lit(now_us).cast(pl.Datetime("us", "UTC")),
        journal_partition=pl.lit(position.partition, pl.Int32),
        journal_offset=pl.lit(position.offset, pl.Int64),
    )  # fmt: skip
    table = rows.select(CHARGES.names).to_arrow(compat_level=pl.CompatLevel.oldest())
    plain = {field.name: _plain(field.type) for field in CHARGES}
    return pa.table({name: table[name].cast(kind) for name, kind in plain.items()}).cast(CHARGES)


def fees_of(compiled: Compiled, closed: ClosedCycles, codes: list[int]) -> pl.DataFrame:
    """Return the fees of cycles (given by their codes) as rows of FEES_VIEW.

    `closed` is True for the cycles that are closed for the account: what is owed for them is in the table `charges`.
    """
    names = compiled.book.vocabulary.accounts.names
    frames = [pl.DataFrame(schema=FEES_VIEW)]
    for code in codes:
        owners = [names[row] for row in closed.closed_accounts(cycle_kind(code), cycle_number(code)).tolist()]
        frames.append(fees_view(compiled, [code]).with_columns(closed=pl.col("account_id").is_in(owners)))
    return pl.concat(frame.select(list(FEES_VIEW)) for frame in frames)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
