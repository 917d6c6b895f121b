"""Rate the accepted records of a batch: from accepted usage to rated rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa

from rating.apply import Compiled
from rating.columnar.arrow import table_of
from rating.state import State
from rating.usage.accepted_usage import AcceptedUsage
from rating.usage.charge import Rating, charge
from rating.usage.charge_items import Entries, enter
from rating.usage.rated_rows import Names, rated_table
from schemas.tables import GAPS

_NO_GAPS: Final = GAPS.empty_table()


@dataclass(frozen=True)
class RatedBatch:
    """The results of accepted usage, and how they came about."""

    rated: pa.Table  # schemas.tables.RATED
    gaps: pa.Table  # schemas.tables.GAPS
    usage: AcceptedUsage
    entries: Entries  # the charge items
    rating: Rating


def rate_batch(state: State, compiled: Compiled, names: Names, usage: AcceptedUsage) -> RatedBatch:
    """Rate accepted usage, at least one record, and update counters, sessions and add-ons."""
    entries = enter(compiled.book, usage)
    rating = charge(state.counters, state.sessions, compiled, usage, entries)
    rated = rated_table(compiled, names, usage, entries, rating)
    return RatedBatch(rated, _gaps(names, usage), usage, entries, rating)


def _gaps(names: Names, usage: AcceptedUsage) -> pa.Table:
    if usage.missing is None or usage.missing.is_empty():
        return _NO_GAPS
    batch, rows, accepted, position = usage.batch, usage.rows, usage.accepted, usage.position
    at = usage.missing["place"].to_numpy()
    services = [service.lower() for service in ("data", "sms", "voice")]
    frame = usage.missing.select("after_sequence", "before_sequence", "missing").with_columns(
        feed=pl.lit(batch.feed),
        session_id=rows["session_id"].gather(at) if "session_id" in rows.columns else pl.lit(None, pl.String),
        iccid=names.iccids.gather(accepted.card[at]),
        service=pl.Series([services[number] for number in accepted.service[at]], dtype=pl.String),
        received_at=pl.lit(batch.received_at_us).cast(pl.Datetime("us", "UTC")),
        journal_partition=pl.lit(position.partition, pl.Int32),
        journal_offset=pl.Series(position.offset + accepted.place[at]),
    )
    return table_of(frame, GAPS)
