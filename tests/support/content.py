"""The digest of the content of usage, as deduplication takes it."""

from __future__ import annotations

import polars as pl

from rating.dedupe.digests import digests
from rating.dedupe.seen import U64, content_of, content_texts


def content_digest(rows: pl.DataFrame) -> U64:
    """The digest of the content of each row of USAGE_SCHEMA, uint64[n]."""
    return content_of(rows, digests(rows, {}, content_texts(rows))[1])
