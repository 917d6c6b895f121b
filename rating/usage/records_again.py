"""Records restored from their rated rows, and rated rows made of data frames, for rating again (P10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
import pyarrow as pa

from rating.apply import Compiled
from rating.calendars.calendar import CycleCalendar
from rating.catalogue.rates import Book
from rating.columnar.key_index import Flags, Ints
from rating.usage.cycles import assign, cycle_kinds
from schemas.usage import INSTANT, USAGE_SCHEMA, Direction, RecordType, Service

if TYPE_CHECKING:
    from rating.usage.rerating import Fresh, Moment

# A key can come again for another record when its first one is no longer remembered (F4).
KEY: Final = ("feed", "record_key", "used_at")
# Rows of a record's part with equal values in these columns are summed. If one of the values changes, the adjustment
# takes back the old row in full.
IDENTITY: Final = (
    *KEY, "part", "account_id", "iccid", "subject_kind", "subject", "service", "direction", "own_cycle", "plan_id",
    "plan_version", "rate", "zone", "currency",
)  # fmt: skip
MEASURES: Final = (
    "volume_up_bytes", "volume_down_bytes", "quantity_raw", "billable_quantity", "from_test", "from_allowance",
    "from_addon", "overage", "charge_nanos",
)  # fmt: skip
_SERVICES: Final = {one.name.lower(): int(one) for one in Service}
_DIRECTIONS: Final = {one.name.lower(): int(one) for one in Direction}
# Facts of a record that all its rows repeat.
_REPEATED: Final = (
    "iccid", "service", "country", "plmn", "named_zone", "session_id", "sequence", "received_at", "source",
    "source_row", "journal_partition", "journal_offset", "started_at", "ended_at", "reported_quantity",
    "reported_up_bytes", "reported_down_bytes", "ends_session", "counter_bits",
)  # fmt: skip
_RESTORED: Final = (*KEY, *_REPEATED, "direction", "volume_up_bytes", "volume_down_bytes", "quantity", "late", "fresh")


def frame_of(table: pa.Table) -> pl.DataFrame:
    """Return the rows of a table as a data frame, with dictionary columns as plain text."""
    plain = [
        column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.itercolumns()
    ]
    frame = pl.from_arrow(pa.table(plain, names=table.column_names))
    assert isinstance(frame, pl.DataFrame)
    return frame


def with_own_cycle(rows: pl.DataFrame) -> pl.DataFrame:
    """Add the column `own_cycle`: the cycle that each row belongs to, also if it is billed in a later one.

    `late` stays True only for records that count in a later cycle than that of their use (T5).
    """
    return rows.with_columns(
        own_cycle=pl.coalesce("adjusts_cycle", "cycle"), late=pl.col("late") & pl.col("adjusts_cycle").is_null()
    )


def restored(old: pl.DataFrame, fresh: Fresh | None, compiled: Compiled, moment: Moment) -> pl.DataFrame:
    """Return the records that stand, one row each, in order of use; at one moment of use in journal order.

    `quantity` and volumes are as reported: running totals if the feed is cumulative.
    """
    found = (
        old.filter(pl.col("stands") & (pl.col("kind") == "usage"))
        .sort("journal_partition", "journal_offset", "part")
        .group_by(KEY, maintain_order=True)
        .agg(
            *(pl.col(name).first() for name in _REPEATED),
            *(
                pl.coalesce(pl.col(f"reported_{way}_bytes").first(), pl.col(name).drop_nulls().first()).alias(name)
                for way, name in (("up", "volume_up_bytes"), ("down", "volume_down_bytes"))
            ),
            pl.coalesce(pl.col("reported_quantity").first(), pl.col("quantity_raw").sum()).alias("quantity"),
            # The parts of a record that was rated by direction have different directions.
            pl.when(pl.col("direction").n_unique() > 1).then(pl.lit("both")).otherwise(pl.col("direction").first())
            .alias("direction"),
            pl.col("late").first(),
            fresh=pl.lit(False),
        )
        .select(_RESTORED)
    )  # fmt: skip
    if fresh is not None and len(fresh.accepted):
        found = pl.concat([found, _fresh_records(fresh, compiled, moment)], how="vertical_relaxed")
    return found.sort("used_at", "journal_partition", "journal_offset")


def _fresh_records(fresh: Fresh, compiled: Compiled, moment: Moment) -> pl.DataFrame:
    accepted, batch = fresh.accepted, fresh.batch
    rows = batch.rows[accepted.place]
    missing = [name for name in USAGE_SCHEMA if name not in rows.columns]
    rows = rows.with_columns(pl.lit(None, USAGE_SCHEMA[name]).alias(name) for name in missing)
    pool = compiled.pools.of(accepted.card, accepted.plan, accepted.service, accepted.day)
    late = assign(compiled.book, accepted, pool, batch.received_at_us).late
    words = {code: name for name, code in _SERVICES.items()}, {code: name for name, code in _DIRECTIONS.items()}
    running = pl.lit(batch.cumulative)
    return rows.with_columns(
        feed=pl.lit(batch.feed),
        iccid=compiled.directory.cards["iccid"].gather(accepted.card),
        service=pl.col("service").replace_strict(words[0], return_dtype=pl.String),
        direction=pl.col("direction").replace_strict(words[1], return_dtype=pl.String),
        named_zone="zone",
        received_at=pl.lit(batch.received_at_us).cast(INSTANT),
        source=pl.lit(batch.source),
        journal_partition=pl.lit(moment.position.partition, pl.Int32),
        journal_offset=fresh.offset + pl.Series(accepted.place),
        reported_quantity=pl.when(running).then("quantity"),
        reported_up_bytes=pl.when(running).then("volume_up_bytes"),
        reported_down_bytes=pl.when(running).then("volume_down_bytes"),
        # A replacement does not say whether it ends its session.
        ends_session=pl.when(running).then(False),
        counter_bits=pl.when(running).then(pl.lit(batch.counter_bits, pl.Int64)),
        late=pl.Series(late & ~of_own_cycle(fresh, compiled.book, pool)),
        fresh=pl.lit(True),
    ).select(_RESTORED)


def of_own_cycle(fresh: Fresh, book: Book, pool: Ints) -> Flags:
    """Return whether each replacement replaces a record of the cycle of its own use, bool[n].

    Then it belongs to that cycle, even if the cycle is closed by now. `pool` is the row of its pool (-1: none).
    """
    accepted = fresh.accepted
    kind = cycle_kinds(book, accepted.plan, pool)
    of_use = pl.Series(
        [_label(book.cycle_calendars[one], day) for one, day in zip(kind.tolist(), accepted.day, strict=True)],
        dtype=pl.String,
    )
    found: Flags = (of_use == fresh.cycles).fill_null(False).to_numpy()
    return found


def _label(calendar: CycleCalendar, day: int) -> str:
    return calendar.label(int(calendar.index(np.array([day], np.int32))[0]))


def service_codes(rows: pl.DataFrame) -> pl.Series:
    """Return the service of rated rows as in usage."""
    return rows["service"].replace_strict(_SERVICES, return_dtype=pl.UInt8)


def usage_of(records: pl.DataFrame) -> pl.DataFrame:
    """Return restored records as usage (USAGE_SCHEMA), with the row number as record key."""
    names = ("started_at", "ended_at", "session_id", "sequence", "plmn", "country", "source_row")
    volumes = ("volume_up_bytes", "volume_down_bytes", "quantity")
    return records.select(
        pl.int_range(pl.len()).cast(pl.String).alias("record_key"),
        "iccid",
        pl.col("service").replace_strict(_SERVICES, return_dtype=pl.UInt8),
        pl.col("direction").replace_strict(_DIRECTIONS, return_dtype=pl.UInt8),
        *volumes,
        pl.col("used_at").cast(INSTANT),
        *(pl.col(name).cast(USAGE_SCHEMA[name]) for name in names),
        pl.col("named_zone").alias("zone"),
        record_type=pl.when(pl.col("ends_session").fill_null(False))
        .then(pl.lit(int(RecordType.STOP)))
        .otherwise(pl.lit(int(RecordType.EVENT)))
        .cast(USAGE_SCHEMA["record_type"]),
    )


def billed(rows: pl.DataFrame, compiled: Compiled, received_at_us: int) -> pl.DataFrame:
    """Return rows with the cycle in which each is billed: its own, or the open one if its own takes no more (T5).

    A row that is billed in another cycle is late, and names its own cycle in `adjusts_cycle`.
    """
    book = compiled.book
    names = ("account_id", "plan_id", "subject_kind", "subject", "own_cycle")
    pool = pl.when(pl.col("subject_kind") == "pool").then("subject")
    keys = rows.select(names).with_columns(subject=pool).unique(maintain_order=True)
    found = []
    for account_id, plan_id, _, pool_id, label in keys.rows():
        account = book.vocabulary.accounts.rows[account_id]
        kind = int(book.plan_cycle[book.vocabulary.plans.rows[plan_id]])
        if pool_id is not None and int(book.pool_cycle[book.vocabulary.pools.rows[pool_id]]) >= 0:
            kind = int(book.pool_cycle[book.vocabulary.pools.rows[pool_id]])
        calendar, zone = book.cycle_calendars[kind], book.time_zones[book.account_zone[account]]
        first = np.datetime64(f"{label}-01" if len(label) == 7 else label, "D").astype(int)
        last = calendar.end_day(int(calendar.index(np.array([first], np.int32))[0]))
        over = received_at_us > zone.midnight_us(last + 1) + int(book.grace_us[account])
        today = int(zone.local_day(np.array([received_at_us]))[0])
        found.append(_label(calendar, today) if over else None)
    open_cycles = keys.with_columns(billed_in=pl.Series(found, dtype=pl.String))
    return (
        rows.with_columns(pool_id=pool)
        .join(open_cycles.rename({"subject": "pool_id"}), on=[*names[:3], "pool_id", names[4]], how="left",
              nulls_equal=True, maintain_order="left")
        .with_columns(
            cycle=pl.coalesce("billed_in", "own_cycle"),
            adjusts_cycle=pl.when(pl.col("billed_in").is_not_null()).then("own_cycle"),
            late=pl.col("late") | pl.col("billed_in").is_not_null(),
        )
    )  # fmt: skip
