"""Batches of usage: the rows that mediation makes of a chunk, with the facts that their mapping says of them."""

from __future__ import annotations

import polars as pl

from schemas.mapping import Mapping
from schemas.usage import UsageBatch


def batch_of(mapping: Mapping, source: str, received_at_us: int, rows: pl.DataFrame) -> UsageBatch:
    """Return the usage of a feed as a batch that arrived at `received_at_us` (microseconds since 1970 UTC)."""
    return UsageBatch(
        mapping.name,
        source,
        received_at_us,
        mapping.cumulative,
        rows,
        counter_bits=mapping.counter_bits,
        labels=mapping.labels,
    )
