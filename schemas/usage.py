"""The internal usage record (domain F1), to which mediation converts every feed.

A batch of usage is a Polars frame with the columns of `USAGE_SCHEMA`, plus the facts that apply to the whole batch.
Columns outside `USAGE_REQUIRED` may be absent; then every value counts as null. So the batches of a feed with few
fields stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import polars as pl


class Service(IntEnum):
    """The service used. It determines the unit of `quantity`: bytes, messages, seconds."""

    DATA = 0
    SMS = 1
    VOICE = 2


class Direction(IntEnum):
    """Direction of the usage. `BOTH`, `UP` and `DOWN` are for data (`BOTH`: counted together), `MO` and `MT` for SMS
    and voice.
    """

    BOTH = 0
    UP = 1
    DOWN = 2
    MO = 3
    MT = 4


class RecordType(IntEnum):
    """Type of a usage record: an event of its own, or a part of a session; the last two are corrections (F6)."""

    EVENT = 0
    START = 1
    INTERIM = 2
    STOP = 3
    REVERSE = 4
    REPLACE = 5


INSTANT = pl.Datetime("us", "UTC")

USAGE_SCHEMA: dict[str, pl.DataType] = {
    "record_key": pl.String(),  # unique within the feed (F4)
    "iccid": pl.String(),  # one of iccid, imsi, msisdn is set
    "imsi": pl.String(),
    "msisdn": pl.String(),
    "service": pl.UInt8(),  # Service
    "direction": pl.UInt8(),  # Direction
    "volume_up_bytes": pl.Int64(),  # data only; null if the feed has only the total
    "volume_down_bytes": pl.Int64(),
    "quantity": pl.Int64(),  # bytes up + down, messages, or seconds; never negative
    "used_at": INSTANT,  # the record's own time (T5)
    "started_at": INSTANT,  # session or call start
    "ended_at": INSTANT,
    "session_id": pl.String(),  # unique within feed and service; cumulative volumes run over a session (F3)
    "sequence": pl.Int64(),  # number of this partial within its session
    "record_type": pl.UInt8(),  # RecordType; absent: all EVENT
    "corrects_key": pl.String(),  # key of the record that a REVERSE or REPLACE record corrects (F6)
    "plmn": pl.String(),  # MCC and MNC, 5 or 6 digits
    "country": pl.String(),  # ISO 3166 alpha-2, upper case
    "zone": pl.String(),  # only if the feed itself names a zone
    "rat": pl.String(),
    "apn": pl.String(),
    "cell_id": pl.String(),
    "imei": pl.String(),
    "source_row": pl.Int64(),  # 1-based line (text) or row (columnar) of the source
}

USAGE_REQUIRED = ("record_key", "service", "direction", "quantity", "used_at", "source_row")

REJECT_SCHEMA: dict[str, pl.DataType] = {
    "source_row": pl.Int64(),
    "record_key": pl.String(),  # null if it could not be read
    "reason": pl.String(),  # a schemas.choices.RejectReason
    "field": pl.String(),  # the wrong field of the source; null if the whole line is wrong
    "message": pl.String(),  # what was found and what would be right
}


@dataclass(frozen=True)
class UsageBatch:
    """Usage of one feed and one source file (or topic partition), in source order.

    `rows` has columns of USAGE_SCHEMA. If `cumulative` is True, quantities are running totals of their session (F3). A
    total of `counter_bits` bits begins again at 0 when it is full; 0 means that totals do not. `labels` are pairs of a
    column of `rows` and the field of the source that it comes from, for rejects to name.
    `received_at_us` is the arrival time in microseconds since 1970 UTC. The fold takes the current time from it and
    never reads a clock.
    """

    feed: str
    source: str
    received_at_us: int
    cumulative: bool
    rows: pl.DataFrame
    counter_bits: int = 0
    labels: tuple[tuple[str, str], ...] = ()
