"""What is owed beside usage, as a table."""

from __future__ import annotations

import polars as pl

FEES_OWED: dict[str, pl.DataType] = {
    "account_id": pl.String(),
    "subject_kind": pl.String(),
    "subject": pl.String(),
    "plan_id": pl.String(),  # null for a fee of a pool
    "plan_version": pl.Int32(),
    "cycle": pl.String(),
    "name": pl.String(),
    "days": pl.Int32(),  # days charged
    "of_days": pl.Int32(),  # days of the cycle
    "amount_nanos": pl.Int64(),
    "currency": pl.String(),
    "kind": pl.String(),  # fee | pool_fee | addon | minimum
}
