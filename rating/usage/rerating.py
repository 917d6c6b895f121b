"""Re-rating: history is rated again in order of use, and what differs becomes adjustment rows (P10).

The records are read back from their rated rows and go through the same fold with fresh counters. An adjustment is new
minus old of everything that stands for the record so far, former adjustments included: run twice, it yields nothing.
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
# Rows of a record part with the same of these are one sum; where they change, the old row is taken back in full.
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
    """The adjustment rows (RATED, kind `rerate`) of rating `history` again by the catalogue of `engine`, as it is now.

    `history` holds rated rows of all kinds: of each counter (subject, rate, cycle) that it touches all rows, and of
    each record all rows. Its cycles stay as they are; pools are as large as they were on each record's arrival.
    A record that could not be rated now stays as it was. The engine and its counters do not change. Rows are in order
    of use and carry `received_at_us`, `partition` and `offset` as the moment of the adjustment.
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
    rated = scratch.rate(batch, accepted, 0, *_moments(scratch, accepted, records[accepted.place])).rated
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
    """Rows of a table as a frame, words as plain text."""
    plain = [
        column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.itercolumns()
    ]
    frame = pl.from_arrow(pa.table(plain, names=table.column_names))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _records(old: pl.DataFrame) -> pl.DataFrame:
    """The records that stand, one row each, in order of use."""
    first = ("iccid", "service", "used_at", "cycle", "late", "country", "plmn", "session_id", "received_at", "source")
    return (
        old.filter(pl.col("stands") & (pl.col("kind") == "usage"))
        .sort("journal_partition", "journal_offset", "part")
        .group_by(_KEY, maintain_order=True)
        .agg(
            *(pl.col(name).first() for name in (*first, "source_row", "journal_partition", "journal_offset")),
            *(pl.col(name).drop_nulls().first() for name in ("volume_up_bytes", "volume_down_bytes")),
            pl.col("quantity_raw").sum().alias("quantity"),
            # The parts of a record that was rated by direction go different ways.
            pl.when(pl.col("direction").n_unique() > 1).then(pl.lit("both")).otherwise(pl.col("direction").first())
            .alias("direction"),
            # Without a place, the zone can only be what the feed said.
            pl.when(pl.col("country").is_null() & pl.col("plmn").is_null()).then("zone").first().alias("zone"),
        )
        .sort("used_at", "journal_partition", "journal_offset")
    )  # fmt: skip


def _usage(records: pl.DataFrame) -> pl.DataFrame:
    """The records as usage, keyed by their place; sessions of different feeds stay apart."""
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
    """An engine of the same catalogue, its counters fresh, test allowance and add-ons as they were before `rows`."""
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
    """The cycles that the records count in, and the local days they arrived on."""
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
    """New minus old by identity, without the rows that come to nothing."""
    # A record reversed in full stands for nothing, in whatever cycle its reversal fell.
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
