"""The internal usage record (domain F1): the one shape that every feed is mediated into.

A batch of usage is a polars frame with the columns of `USAGE_SCHEMA` plus the facts that hold for the whole batch.
Columns outside `USAGE_REQUIRED` may be absent from a frame, which means that every value is null; that keeps
batches of lean feeds lean.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import polars as pl


class Service(IntEnum):
    """What was used. The unit of `quantity` follows from it: bytes, messages, seconds."""

    DATA = 0
    SMS = 1
    VOICE = 2


class Direction(IntEnum):
    """Which way. `BOTH` is data counted up and down together; `UP`/`DOWN` are data, `MO`/`MT` SMS and voice."""

    BOTH = 0
    UP = 1
    DOWN = 2
    MO = 3
    MT = 4


class RecordType(IntEnum):
    """Where in its session a record stands; the last two are corrections (F6)."""

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
    "volume_up_bytes": pl.Int64(),  # data only; null where the feed knows only the total
    "volume_down_bytes": pl.Int64(),
    "quantity": pl.Int64(),  # bytes up + down, messages, or seconds; never negative
    "used_at": INSTANT,  # the record's own time (T5)
    "started_at": INSTANT,  # session or call start
    "ended_at": INSTANT,
    "session_id": pl.String(),  # unique within feed and service; what cumulative volumes run over (F3)
    "sequence": pl.Int64(),  # number of this partial within its session
    "record_type": pl.UInt8(),  # RecordType; absent: all EVENT
    "corrects_key": pl.String(),  # F6: the key that a REVERSE or REPLACE record corrects
    "plmn": pl.String(),  # MCC and MNC, 5 or 6 digits
    "country": pl.String(),  # ISO 3166 alpha-2, upper case
    "zone": pl.String(),  # only where the feed itself names a zone
    "rat": pl.String(),
    "apn": pl.String(),
    "cell_id": pl.String(),
    "imei": pl.String(),
    "source_row": pl.Int64(),  # 1-based line (text) or row (columnar) of the source
}

USAGE_REQUIRED = ("record_key", "service", "direction", "quantity", "used_at", "source_row")

REJECT_SCHEMA: dict[str, pl.DataType] = {
    "source_row": pl.Int64(),
    "record_key": pl.String(),  # null where it could not be read
    "reason": pl.String(),  # a schemas.choices.RejectReason
    "field": pl.String(),  # the offending field of the source; null where the whole line is bad
    "message": pl.String(),  # what was found and what would be right
}


@dataclass(frozen=True)
class UsageBatch:
    """Usage of one feed and one source file (or topic partition), in source order.

    `rows` has the columns of USAGE_SCHEMA; `cumulative` says that quantities are running totals of their session
    (F3). `received_at_us` is the arrival time in microseconds since 1970 UTC; all times of the fold come from it.
    """

    feed: str
    source: str
    received_at_us: int
    cumulative: bool
    rows: pl.DataFrame
