"""Corrections: a rated record is reversed or replaced by key; landed rows never change (F6).

A reversal gives units back to the counters in the opposite of burn order (overage first, then add-ons, then the
allowance, then test units) and costs F(after) - F(before) of the counter as it stands now, so that charges of a
subject go on summing to F(total). Where the price does not run over the cycle, or the cycle takes no more usage, it
is the opposite of the original row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from rating.apply import Compiled
from rating.book import CYCLE_BASIS, DIRECTIONS, SERVICES
from rating.counters import Counters, counter_key
from rating.cycles import cycle_code, cycle_label
from rating.pools import DEVICE_PREFIX
from rating.rate import pool_subject, sim_subject
from schemas.tables import RATED
from schemas.usage import Direction, UsageBatch

Row = dict[str, Any]

_GIVEN_BACK = ("quantity_raw", "billable_quantity", "from_test", "from_allowance", "from_addon", "overage")


def outstanding(originals: list[Row]) -> list[Row]:
    """The rows of one key that no reversal has taken back yet."""
    reversed_parts = {row["part"] for row in originals if row["kind"] == "reversal"}
    return [row for row in originals if row["kind"] == "usage" and row["part"] not in reversed_parts]


def reverse(
    counters: Counters, compiled: Compiled, row: Row, batch: UsageBatch, source_row: int, partition: int, offset: int
) -> Row:
    """The adjustment row that takes one rated row back; counters are moved back where they still stand.

    `row` is a rated row as a dict of RATED's columns; the result is one too, of kind `reversal`.
    """
    adjusted = (
        dict(row)
        | {name: -row[name] for name in _GIVEN_BACK}
        | {
            "kind": "reversal",
            "charge_nanos": -row["charge_nanos"],
            "received_at": batch.received_at_us,
            "source": batch.source,
            "source_row": source_row,
            "journal_partition": partition,
            "journal_offset": offset,
        }
    )
    for name in ("volume_up_bytes", "volume_down_bytes"):
        adjusted[name] = None if row[name] is None else -row[name]
    place = _Place.find(counters, compiled, row)
    if place is None:
        today = compiled.book.time_zones[place_zone(compiled, row)].local_day(np.array([batch.received_at_us]))
        adjusted["cycle"] = _open_cycle(compiled, row, int(today[0]))
        adjusted["late"] = True
        return adjusted
    return adjusted | place.give_back(counters, compiled, row)


def reversal_table(rows: list[Row]) -> pa.Table:
    """Adjustment rows as a table of schemas.tables.RATED."""
    columns = {name: [row[name] for row in rows] for name in RATED.names}
    return pa.table({field.name: pa.array(columns[field.name], _plain(field.type)) for field in RATED}).cast(RATED)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def place_zone(compiled: Compiled, row: Row) -> int:
    """The row of the time zone of the account that a rated row belongs to."""
    book = compiled.book
    return int(book.account_zone[book.vocabulary.accounts.rows[row["account_id"]]])


def _open_cycle(compiled: Compiled, row: Row, today: int) -> str:
    book = compiled.book
    kind = int(book.plan_cycle[book.vocabulary.plans.rows[row["plan_id"]]])
    number = book.cycle_calendars[kind].index(np.array([today], np.int32))
    return cycle_label(book, int(cycle_code(kind, number.astype(np.int64))[0]))


class _Place:
    """Where a rated row counted: its counters, and the rate that priced it."""

    def __init__(self, total: int, bucket: int, price_row: int, price: int, sim: int | None) -> None:
        self.total, self.bucket, self.price_row, self.price, self.sim = total, bucket, price_row, price, sim

    @classmethod
    def find(cls, counters: Counters, compiled: Compiled, row: Row) -> _Place | None:
        book = compiled.book
        service = int(SERVICES[row["service"]])
        card = int(compiled.directory.row_of(row["iccid"]))
        pool = -1
        if row["subject_kind"] != "sim":
            name = row["subject"] if row["subject_kind"] == "pool" else DEVICE_PREFIX + row["subject"]
            pool = book.vocabulary.pools.rows[name]
        subject = pool_subject(pool) if pool >= 0 else sim_subject(card)
        meter = book.vocabulary.meters.rows[row["rate"]]
        own = np.flatnonzero((counters.subject == subject) & (counters.meter == meter))
        codes = [int(code) for code in counters.cycle[own] if cycle_label(book, int(code)) == row["cycle"]]
        if not codes:
            return None
        code = codes[-1]
        plan = book.vocabulary.versions.rows[f"{row['plan_id']}@{row['plan_version']}"]
        direction = int(DIRECTIONS.get(row["direction"], Direction.BOTH))
        rates = np.unique(book.rate_at[plan, service, direction])
        price = next(int(rate) for rate in rates if rate >= 0 and int(book.rates.meter[rate]) == meter)
        bucket_meter, price_meter = meter, meter
        if pool >= 0:
            own_rate = int(book.pool_rate[pool, service, direction])
            price = own_rate if own_rate >= 0 else price
            price_meter = int(book.rates.meter[price])
            bucket_meter = service if book.pool_fixed[pool, service] >= 0 else meter

        def at(who: int, what: int) -> int:
            key = counter_key(np.array([who]), np.array([what]), np.array([code]))
            return int(counters.rows(key)[0])

        sim = at(sim_subject(card), meter) if pool >= 0 else None
        return cls(at(subject, meter), at(subject, bucket_meter), at(subject, price_meter), price, sim)

    def give_back(self, counters: Counters, compiled: Compiled, row: Row) -> Row:
        """Move the counters back and say what that makes of the adjustment."""
        book = compiled.book
        units = row["billable_quantity"]
        overage_now = int(counters["overage"][self.price_row])
        overage = min(units, overage_now)
        addon = min(units - overage, row["from_addon"])
        allowance = min(units - overage - addon, int(counters["allowance"][self.bucket]))
        test = units - overage - addon - allowance
        compiled.addons.give_back(int(compiled.directory.row_of(row["iccid"])), int(SERVICES[row["service"]]), addon)
        charge = -row["charge_nanos"]
        if book.rates.basis[self.price] == CYCLE_BASIS and not book.rates.capacity[self.price]:
            price = np.array([self.price])
            entered = book.rates.allowance[self.price] == 0 and self.sim is None

            def cost(before: int, after: int) -> int:
                ends = [-1 if end == 0 and not entered else end for end in (before, after)]
                return int(book.prices.charge(price, np.array([ends[0]]), np.array([ends[1]]))[0])

            fee = row["charge_nanos"] - cost(row["overage_before"], row["overage_before"] + row["overage"])
            if entered and row["counter_before"] == 0 and row["overage_before"] == 0:
                fee = 0  # the first record of the cycle also entered the price; that stays
            charge = cost(overage_now, overage_now - overage) - fee
        before = int(counters["billable"][self.total])
        for counter in {self.total} | ({self.sim} if self.sim is not None else set()):
            counters["billable"][counter] -= units
            counters["raw"][counter] -= row["quantity_raw"]
        counters["test"][self.total] -= test
        counters["addon"][self.total] -= addon
        counters["allowance"][self.bucket] -= allowance
        counters["overage"][self.price_row] -= overage
        counters["charge_nanos"][self.price_row] += charge
        return {
            "from_test": -test,
            "from_allowance": -allowance,
            "from_addon": -addon,
            "overage": -overage,
            "charge_nanos": charge,
            "counter_before": before,
            "counter_after": before - units,
            "overage_before": overage_now,
        }
