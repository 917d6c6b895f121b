"""Corrections: reverse or replace a rated record by key. Rows that have landed never change (F6).

A reversal gives test units and add-on units back as they were taken. If usage was counted after the record, it gives
back overage before allowance: later usage moves into the allowance that becomes free. It never gives back overage of
usage that has another allowance, even if one price of a pool runs over both. The charge is F(after) - F(before) of the
current counter, so the charges of a subject still sum to F(total).

A record is taken back as it was rated in these cases:
- it is the last record of its counter;
- its price does not accumulate over the cycle;
- several prices apply to its counter: plan versions, or directions of a pool;
- its cycle takes no more usage.
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
from rating.position import JournalPosition
from rating.usage.charge import TEST_METER, pool_subject, sim_subject
from rating.usage.cycles import cycle_code, cycle_days, cycle_label
from schemas.tables import RATED
from schemas.usage import Direction, UsageBatch

Row = dict[str, Any]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_GIVEN_BACK = ("quantity_raw", "billable_quantity", "from_test", "from_allowance", "from_addon", "overage")


def outstanding(originals: list[Row], feed: str) -> list[Row]:
    """Return the usage rows of a key and feed that are not reversed yet, last part first.

    `originals` are all rows of the key, adjustments included. If a row was rated again (P10), its adjustments are
    added to it.
    """
    rows = [row for row in originals if row["feed"] == feed]
    reversed_parts = {row["part"] for row in rows if row["kind"] == "reversal"}
    standing = {row["part"]: dict(row) for row in rows if row["kind"] == "usage" and row["part"] not in reversed_parts}
    for row in rows:
        if row["kind"] == "rerate" and row["part"] in standing:
            for name in (*_GIVEN_BACK, "charge_nanos"):
                standing[row["part"]][name] += row[name]
    return [standing[part] for part in sorted(standing, reverse=True)]


def reverse(counters: Counters, compiled: Compiled, row: Row, batch: UsageBatch, position: JournalPosition) -> Row:
    """Return the adjustment row that reverses one rated row, and reduce its counters.

    `row` is a rated row as a dict of RATED's columns. `batch` has one record: the correction, which stands at
    `position` of the journal. The result is such a dict too, of kind `reversal`. If the cycle
    of the row takes no more usage, the counters do not change: the adjustment falls into the open cycle and is late.
    """
    adjusted = (
        dict(row)
        | {name: -row[name] for name in _GIVEN_BACK}
        | {
            "kind": "reversal",
            "charge_nanos": -row["charge_nanos"],
            "received_at": batch.received_at_us,
            "source": batch.source,
            "source_row": batch.rows["source_row"][0],
            "journal_partition": position.partition,
            "journal_offset": position.offset,
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
    """Return adjustment rows as a table of schemas.tables.RATED."""
    columns = {name: [row[name] for row in rows] for name in RATED.names}
    return pa.table({field.name: pa.array(columns[field.name], _plain(field.type)) for field in RATED}).cast(RATED)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def place_zone(compiled: Compiled, row: Row) -> int:
    """Return the row of the time zone of the account that a rated row belongs to."""
    book = compiled.book
    return int(book.account_zone[book.vocabulary.accounts.rows[row["account_id"]]])


def _open_cycle(compiled: Compiled, row: Row, today: int) -> str:
    book = compiled.book
    kind = int(book.plan_cycle[book.vocabulary.plans.rows[row["plan_id"]]])
    number = book.cycle_calendars[kind].index(np.array([today], np.int32))
    return cycle_label(book, int(cycle_code(kind, number.astype(np.int64))[0]))


def _versions(compiled: Compiled, cards: Ints, first: int, last: int) -> set[int]:
    """Return the plan versions that were in force for any of the cards from local day `first` to `last`.

    Only the first and last day of each spell on a plan within that range are looked at.
    """
    plans = compiled.directory.plans
    held = np.isin(plans.card, cards) & (plans.from_day <= last) & (plans.until_day >= first) & (plans.target >= 0)
    ends = np.maximum(plans.from_day[held], first), np.minimum(plans.until_day[held], last)
    return {int(version) for day in ends for version in compiled.book.version_of(plans.target[held], day)} - {-1}


class _Place:
    """The counters that a rated row was posted to, and the rate that priced it.

    `total`, `bucket` and `price_row` are rows of the counters of its usage, its allowance and its overage. `price` is
    the row of the rate. `sim` is the counter of a pooled SIM, `test` that of test usage; None if there is none.
    """

    def __init__(self, total: int, bucket: int, price_row: int, price: int, sim: int | None, test: int | None) -> None:
        self.total, self.bucket, self.price_row, self.price = total, bucket, price_row, price
        self.sim, self.test = sim, test
        self.one_price = True  # True if one price applies to all usage of the counter
        self.one_row = True  # True if all overage beyond the bucket is counted on `price_row`
        self.shared_size = False  # True if other counters draw on the bucket too

    @classmethod
    def find(cls, counters: Counters, compiled: Compiled, row: Row, received_us: int) -> _Place | None:
        book = compiled.book
        service = int(SERVICES[row["service"]])
        card = int(compiled.directory.row_of(row["iccid"]))
        pool = -1
        if row["subject_kind"] != "sim":
            name = row["subject"] if row["subject_kind"] == "pool" else DEVICE_PREFIX + row["subject"]
            pool = book.vocabulary.pools.rows[name]
        account = book.vocabulary.accounts.rows[row["account_id"]]
        own = sim_subject(int(compiled.directory.billed_as(np.array([card]), np.array([account]))[0]))
        subject = pool_subject(pool) if pool >= 0 else own
        meter = book.vocabulary.meters.rows[row["rate"]]
        rows = np.flatnonzero((counters.subject == subject) & (counters.meter == meter))
        codes = [int(code) for code in counters.cycle[rows] if cycle_label(book, int(code)) == row["cycle"]]
        if not codes:
            return None
        code = codes[-1]
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

        sim = at(own, meter) if pool >= 0 else None
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
        """Reduce the counters. Returns the columns of the adjustment that depend on them."""
        book = compiled.book
        units = row["billable_quantity"]
        before = int(counters["billable"][self.total])
        overage_now = int(counters["overage"][self.price_row])
        by_cycle = bool(book.rates.basis[self.price] == CYCLE_BASIS and not book.rates.capacity[self.price])
        by_cycle &= self.one_price
        allowance, overage = row["from_allowance"], row["overage"]
        movable = self._movable(counters)
        # The total can match by chance, after reversals of other records gave this record's overage back. Hence the
        # second condition.
        last = before == row["counter_after"] and movable >= overage
        if by_cycle and self.one_row and not last:
            # Later usage found the allowance smaller by these units. Its overage now moves into the allowance.
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
        """Return the units of overage that may move into freed allowance: those of usage that draws on this bucket."""
        overage = int(counters["overage"][self.price_row])
        if self.shared_size:
            return overage
        # The price may accumulate over other counters too. The overage of this counter is what no allowance covered.
        taken = sum(int(counters[name][self.total]) for name in ("test", "allowance", "addon"))
        return min(overage, int(counters["billable"][self.total]) - taken)

    def _charge(self, counters: Counters, book: Book, row: Row, overage_now: int, overage: int) -> int:
        """Return the charge of a reversal in nanos: F(after) - F(before) of the current counter, less the connect fee.

        A price without an allowance stays entered, at the cost of zero units, until no record of the counter is left.
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
