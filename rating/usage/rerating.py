"""Re-rating: rate the history again in order of use, and turn the differences into adjustment rows (P10).

The records are restored from their rated rows and pass through the same fold with fresh counters. An adjustment is the
new result minus the sum of all rows of the record so far, former adjustments included. So a second run yields nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from rating.catalogue.rates import SERVICES
from rating.columnar.counters import Counters, counter_key
from rating.columnar.groups import distinct
from rating.columnar.key_index import Ints
from rating.dedupe.digests import Prints
from rating.dedupe.seen import Seen
from rating.engine import Engine
from rating.usage.accept import Accepted, accept, local_days
from rating.usage.charge import TEST_METER, sim_subject
from rating.usage.cycles import Cycles, cycle_code, cycle_days
from schemas.tables import RATED
from schemas.usage import INSTANT, USAGE_SCHEMA, Direction, Service, UsageBatch

_KEY: Final = ("feed", "record_key")
# Rows of a record's part with equal values in these columns are summed. If one of the values changes, the adjustment
# takes back the old row in full.
_IDENTITY: Final = (
    *_KEY, "part", "account_id", "iccid", "subject_kind", "subject", "service", "direction", "cycle", "plan_id",
    "plan_version", "rate", "zone", "currency",
)  # fmt: skip
_MEASURES: Final = (
    "volume_up_bytes", "volume_down_bytes", "quantity_raw", "billable_quantity", "from_test", "from_allowance",
    "from_addon", "overage", "charge_nanos",
)  # fmt: skip
_FEED: Final = "history"


def rerate(history: pa.Table, engine: Engine, received_at_us: int, partition: int = 0, offset: int = 0) -> pa.Table:
    """Rate `history` again by the current catalogue of `engine`. Returns adjustment rows (RATED, kind `rerate`).

    `history` contains rated rows of all kinds. It must contain all rows of each counter (subject, rate, cycle) that it
    touches, and all rows of each record. Each record keeps its cycle, and its pool has the size that it had on the day
    the record arrived. A record that cannot be rated by the current catalogue stays as it is.

    Rows are in order of use. `received_at_us`, `partition` and `offset` are written to them as the arrival and journal
    position of the adjustment. The engine and its counters do not change.
    """
    old = frame_of(history)
    standing = old.group_by(_KEY).agg(stands=~(pl.col("kind") == "reversal").any() & (pl.col("kind") == "usage").any())
    old = old.join(standing, on=_KEY)
    records = _records(old)
    if records.is_empty():
        return RATED.empty_table()
    scratch = _scratch(engine, old.filter("stands"))
    batch = UsageBatch(_FEED, "", received_at_us, False, _usage(records))
    accepted = accept(Seen(), scratch.compiled, batch, Prints.of(batch)).accepted
    if not len(accepted):
        return RATED.empty_table()
    rated = scratch.rate(batch, accepted, 0, _moments(scratch, accepted, records[accepted.place])).rated
    kept = records.with_row_index("place").with_columns(pl.col("place").cast(pl.String))
    new = (
        frame_of(rated)
        .rename({"record_key": "place"})
        .drop("feed", "source", "source_row", "session_id")
        .join(kept.select("place", *_KEY, "source", "source_row", "session_id"), on="place")
    )
    refused = records.filter(~pl.Series(np.isin(np.arange(len(records)), accepted.place)))
    return _adjustments(old.join(refused, on=_KEY, how="anti"), new, received_at_us, partition, offset)


def frame_of(table: pa.Table) -> pl.DataFrame:
    """Return the rows of a table as a data frame, with dictionary columns as plain text."""
    plain = [
        column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.itercolumns()
    ]
    frame = pl.from_arrow(pa.table(plain, names=table.column_names))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _records(old: pl.DataFrame) -> pl.DataFrame:
    """Return the records that are not reversed, one row each, in order of use."""
    first = ("iccid", "service", "used_at", "cycle", "late", "country", "plmn", "session_id", "received_at", "source")
    return (
        old.filter(pl.col("stands") & (pl.col("kind") == "usage"))
        .sort("journal_partition", "journal_offset", "part")
        .group_by(_KEY, maintain_order=True)
        .agg(
            *(pl.col(name).first() for name in (*first, "source_row", "journal_partition", "journal_offset")),
            *(pl.col(name).drop_nulls().first() for name in ("volume_up_bytes", "volume_down_bytes")),
            pl.col("quantity_raw").sum().alias("quantity"),
            # The parts of a record that was rated by direction have different directions.
            pl.when(pl.col("direction").n_unique() > 1).then(pl.lit("both")).otherwise(pl.col("direction").first())
            .alias("direction"),
            # If neither country nor PLMN is known, the zone was named by the feed.
            pl.when(pl.col("country").is_null() & pl.col("plmn").is_null()).then("zone").first().alias("zone"),
        )
        .sort("used_at", "journal_partition", "journal_offset")
    )  # fmt: skip


def _usage(records: pl.DataFrame) -> pl.DataFrame:
    """Return the records as usage, with the row number as record key.

    The feed becomes part of the session id, so that sessions of different feeds stay apart.
    """
    return records.select(
        pl.int_range(pl.len()).cast(pl.String).alias("record_key"),
        "iccid",
        pl.col("service").replace_strict({s.name.lower(): int(s) for s in Service}, return_dtype=pl.UInt8),
        pl.col("direction").replace_strict({d.name.lower(): int(d) for d in Direction}, return_dtype=pl.UInt8),
        "volume_up_bytes",
        "volume_down_bytes",
        "quantity",
        pl.col("used_at").cast(INSTANT),
        pl.format("{}|{}", "feed", "session_id").alias("session_id"),
        "plmn",
        "country",
        "zone",
        "source_row",
    ).cast({"source_row": USAGE_SCHEMA["source_row"]})


def _scratch(engine: Engine, rows: pl.DataFrame) -> Engine:
    """Return an engine of the same catalogue with empty counters.

    Test allowances and add-ons are as they were before `rows` used them.
    """
    state = engine.state
    scratch = Engine(replace(
        state,
        vocabulary=state.vocabulary.copy(),
        counters=Counters(),
        sessions=type(state.sessions)(),
        seen=Seen(),
        addon_used=engine.compiled.addons.usage(),
    ))  # fmt: skip
    directory, addons = scratch.compiled.directory, scratch.compiled.addons
    given = rows.group_by("iccid").agg(pl.col("from_test").sum())
    card = directory.rows_of(given["iccid"])
    lasting = np.flatnonzero(state.counters.meter == TEST_METER)
    held = np.zeros(len(directory), np.int64)
    held[state.counters.subject[lasting] >> 1] = state.counters["test"][lasting]
    known = card >= 0
    np.subtract.at(held, card[known], given["from_test"].to_numpy()[known])
    left = np.flatnonzero(held > 0)
    keys = counter_key(sim_subject(left), np.full(len(left), TEST_METER), np.zeros(len(left), np.int64))
    at = scratch.state.counters.rows(keys)
    scratch.state.counters["test"][at] = held[left]
    bought = (
        rows.filter(pl.col("from_addon") != 0)
        .group_by("iccid", "service", "used_at", "day")
        .agg(pl.col("from_addon").sum())
        .sort("used_at", "iccid", "service")
    )
    of = directory.rows_of(bought["iccid"]).tolist()
    used = bought.select("service", pl.col("used_at").to_physical(), pl.col("day").to_physical(), "from_addon").rows()
    for row, (service, used_us, day, units) in zip(of, used, strict=True):
        addons.give_back(row, int(SERVICES[service]), used_us, day, units)
    return scratch


def _moments(scratch: Engine, accepted: Accepted, records: pl.DataFrame) -> tuple[Cycles, Ints]:
    """Return the cycles of the records as they were rated, and the local day of arrival of each record, int64[n]."""
    book = scratch.compiled.book
    pool = scratch.compiled.pools.of(accepted.card, accepted.plan, accepted.service, accepted.day)
    kind = book.plan_cycle[accepted.plan]
    kind = (
        np.where((pool >= 0) & (book.pool_cycle[pool] >= 0), book.pool_cycle[pool], kind) if len(book.pools) else kind
    )
    label = pl.col("cycle")
    whole = pl.when(label.str.len_bytes() == 7).then(label + pl.lit("-01")).otherwise(label)
    first = records.select(whole.str.to_date("%Y-%m-%d"))["cycle"].to_physical().to_numpy().astype(np.int32)
    code = np.zeros(len(accepted), np.int64)
    for row, calendar in enumerate(book.cycle_calendars):
        at = np.flatnonzero(kind == row)
        code[at] = cycle_code(row, calendar.index(first[at]).astype(np.int64))
    codes, inverse = distinct(code)
    days = np.array([cycle_days(book, int(one)) for one in codes], np.int64).reshape(-1, 2)
    cycles = Cycles(code, days[inverse, 0], days[inverse, 1], records["late"].to_numpy())
    received_us = records["received_at"].to_physical().to_numpy()
    return cycles, local_days(book, accepted.account, received_us)


def _adjustments(old: pl.DataFrame, new: pl.DataFrame, received_at_us: int, partition: int, offset: int) -> pa.Table:
    """Return new minus old for each identity, without the rows that are all zero."""
    # A record that was reversed in full needs no adjustment, in whatever cycle its reversal fell.
    gone = old.filter(~pl.col("stands")).group_by(_KEY).agg(pl.col(name).sum() for name in _MEASURES)
    gone = gone.filter(pl.all_horizontal(pl.col(name) == 0 for name in _MEASURES))
    old = old.join(gone, on=_KEY, how="anti").with_columns(-pl.col(name) for name in _MEASURES)
    columns = [name for name in RATED.names if name in new.columns]
    both = pl.concat([new.select(columns), old.select(columns)])
    others = [name for name in columns if name not in (*_IDENTITY, *_MEASURES)]
    net = (
        both.group_by(_IDENTITY, maintain_order=True)
        .agg(*(pl.col(name).sum() for name in _MEASURES), *(pl.col(name).first() for name in others))
        .filter(pl.any_horizontal(pl.col(name) != 0 for name in _MEASURES))
        .sort("used_at", *_KEY, "part", "quantity_raw", "plan_id", "plan_version", "rate", "subject")
        .with_columns(
            kind=pl.lit("rerate"),
            received_at=pl.lit(received_at_us).cast(INSTANT),
            journal_partition=pl.lit(partition, pl.Int32),
            journal_offset=pl.lit(offset, pl.Int64),
        )
    )
    table = net.select(RATED.names).to_arrow(compat_level=pl.CompatLevel.oldest())
    plain = {field.name: _plain(field.type) for field in RATED}
    return pa.table({name: table[name].cast(kind) for name, kind in plain.items()}).cast(RATED)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
