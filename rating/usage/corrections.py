"""Corrections: a rated record is reversed or replaced by key; landed rows never change (F6).

A reversal gives test units and add-ons back as they were taken. Of allowance and overage it gives back overage first
where more was counted since: that usage moves into the allowance that comes free. It gives back no overage of usage
that has another allowance, though one price of a pool may run over both. It costs F(after) - F(before) of the counter
as it stands now, so that charges of a subject go on summing to F(total). The last record of a counter, one whose
price does not run over the cycle, one of a counter that several prices (plan versions, or directions of a pool)
price, and one whose cycle takes no more usage are taken back as they were.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import numpy as np
import pyarrow as pa

from rating.apply import Compiled
from rating.catalogue.pools import DEVICE_PREFIX
from rating.catalogue.rates import CYCLE_BASIS, DIRECTIONS, SERVICES, Book
from rating.columnar.counters import Counters, counter_key
from rating.columnar.key_index import Ints
from rating.usage.charge import TEST_METER, pool_subject, sim_subject
from rating.usage.cycles import cycle_code, cycle_days, cycle_label
from schemas.tables import RATED
from schemas.usage import Direction, UsageBatch

Row = dict[str, Any]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_GIVEN_BACK = ("quantity_raw", "billable_quantity", "from_test", "from_allowance", "from_addon", "overage")


def outstanding(originals: list[Row], feed: str) -> list[Row]:
    """The rows of one key of a feed that no reversal has taken back yet, last part first.

    A row that was rated again (P10) stands with what its adjustments have made of it.
    """
    rows = [row for row in originals if row["feed"] == feed]
    reversed_parts = {row["part"] for row in rows if row["kind"] == "reversal"}
    standing = {row["part"]: dict(row) for row in rows if row["kind"] == "usage" and row["part"] not in reversed_parts}
    for row in rows:
        if row["kind"] == "rerate" and row["part"] in standing:
            for name in (*_GIVEN_BACK, "charge_nanos"):
                standing[row["part"]][name] += row[name]
    return [standing[part] for part in sorted(standing, reverse=True)]


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
    place = _Place.find(counters, compiled, row, batch.received_at_us)
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


def _versions(compiled: Compiled, cards: Ints, first: int, last: int) -> set[int]:
    """The plan versions that held for any of the cards from one local day to another."""
    plans = compiled.directory.plans
    held = np.isin(plans.card, cards) & (plans.from_day <= last) & (plans.until_day >= first) & (plans.target >= 0)
    ends = np.maximum(plans.from_day[held], first), np.minimum(plans.until_day[held], last)
    return {int(version) for day in ends for version in compiled.book.version_of(plans.target[held], day)} - {-1}


class _Place:
    """Where a rated row counted: its counters, and the rate that priced it."""

    def __init__(self, total: int, bucket: int, price_row: int, price: int, sim: int | None, test: int | None) -> None:
        self.total, self.bucket, self.price_row, self.price = total, bucket, price_row, price
        self.sim, self.test = sim, test
        self.one_price = True  # whether all usage of the counter is priced alike
        self.one_row = True  # whether all overage of what draws on the bucket is counted on the row of the price
        self.shared_size = False  # whether other counters draw on the bucket too

    @classmethod
    def find(cls, counters: Counters, compiled: Compiled, row: Row, received_us: int) -> _Place | None:
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
        account = book.vocabulary.accounts.rows[row["account_id"]]
        closes = book.time_zones[book.account_zone[account]].midnight_us(cycle_days(book, code)[1] + 1)
        if received_us > closes + int(book.grace_us[account]):
            return None
        plan = book.vocabulary.versions.rows[f"{row['plan_id']}@{row['plan_version']}"]
        direction = int(DIRECTIONS.get(row["direction"], Direction.BOTH))
        zones = [
            book.zone_name(plan, slot) for slot in range(1 + len(book.zone_keys[book.version_zone_key[plan]].zones))
        ]
        rates = np.unique(book.rate_at[plan, service, direction, zones.index(row["zone"])])
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
        test = None
        if row["from_test"]:
            test = int(counters.rows(counter_key(*(np.array([n]) for n in (sim_subject(card), TEST_METER, 0))))[0])
        place = cls(at(subject, meter), at(subject, bucket_meter), at(subject, price_meter), price, sim, test)
        members = np.array([card]) if pool < 0 else compiled.pools.cards_of(pool)
        versions = _versions(compiled, members, *cycle_days(book, code))
        if pool < 0 or int(book.pool_rate[pool, service, direction]) < 0:
            place.one_price = versions <= {plan}
        if pool >= 0:
            place.shared_size = bool(book.pool_fixed[pool, service] >= 0)
            own_rates = book.pool_rate[pool, service]
            if not place.shared_size:
                rates_of = book.rate_at[[*versions, plan], service]
                own_rates = own_rates[((rates_of >= 0) & (book.rates.meter[rates_of] == meter)).any(axis=(0, 2, 3))]
            place.one_row = len(np.unique(own_rates)) == 1
        return place

    def give_back(self, counters: Counters, compiled: Compiled, row: Row) -> Row:
        """Move the counters back and say what that makes of the adjustment."""
        book = compiled.book
        units = row["billable_quantity"]
        before = int(counters["billable"][self.total])
        overage_now = int(counters["overage"][self.price_row])
        by_cycle = bool(book.rates.basis[self.price] == CYCLE_BASIS and not book.rates.capacity[self.price])
        by_cycle &= self.one_price
        allowance, overage = row["from_allowance"], row["overage"]
        movable = self._movable(counters)
        # A record may come last by chance, when its overage was given back for another already.
        last = before == row["counter_after"] and movable >= overage
        if by_cycle and self.one_row and not last:
            # Usage since then found the allowance smaller by these units; what it paid for takes their place in it.
            overage = min(allowance + overage, movable)
            allowance = row["from_allowance"] + row["overage"] - overage
        card, service = int(compiled.directory.row_of(row["iccid"])), int(SERVICES[row["service"]])
        used_us = (row["used_at"] - _EPOCH) // dt.timedelta(microseconds=1)
        compiled.addons.give_back(card, service, used_us, (row["day"] - _EPOCH.date()).days, row["from_addon"])
        counters["records"][self.total] -= 1
        counters["billable"][self.total] -= units
        counters["raw"][self.total] -= row["quantity_raw"]
        counters["test"][self.total] -= row["from_test"]
        counters["addon"][self.total] -= row["from_addon"]
        if self.sim is not None:
            counters["in_pool"][self.sim] -= units
        if self.test is not None:
            counters["test"][self.test] -= row["from_test"]
        counters["allowance"][self.bucket] -= allowance
        charge = self._charge(counters, book, row, overage_now, overage) if by_cycle else -row["charge_nanos"]
        counters["overage"][self.price_row] -= overage
        counters["charge_nanos"][self.price_row] += charge
        return {
            "from_allowance": -allowance,
            "overage": -overage,
            "charge_nanos": charge,
            "counter_before": before,
            "counter_after": before - units,
            "overage_before": overage_now,
        }

    def _movable(self, counters: Counters) -> int:
        """Units of overage that may take the place of allowance that comes free: those that draw on the same bucket."""
        overage = int(counters["overage"][self.price_row])
        if self.shared_size:
            return overage
        # A price may run over more than this counter; what its own allowance left over is its own.
        taken = sum(int(counters[name][self.total]) for name in ("test", "allowance", "addon"))
        return min(overage, int(counters["billable"][self.total]) - taken)

    def _charge(self, counters: Counters, book: Book, row: Row, overage_now: int, overage: int) -> int:
        """What comes back: F(after) - F(before) of the counter as it stands, and the connect fee of the record.

        A price without allowance stays entered, at the cost of no units, until no record of the counter stands.
        """
        entered = book.rates.allowance[self.price] == 0 and self.sim is None

        def cost(before: int, after: int) -> int:
            most = int(book.prices.unit_limit[self.price])
            ends = [np.array([-1 if end == 0 and not entered else min(end, most)]) for end in (before, after)]
            return int(book.prices.charge(np.array([self.price]), *ends)[0])

        entry = cost(-1, 0) if entered else 0
        fee = row["charge_nanos"] - cost(row["overage_before"], row["overage_before"] + row["overage"])
        if entered and row["counter_before"] == 0 and row["overage_before"] == 0 and fee >= entry:
            fee -= entry  # the first record of the cycle entered the price
        left = entry if entered and counters["records"][self.total] == 0 else 0
        return int(cost(overage_now, overage_now - overage) - fee - left)
