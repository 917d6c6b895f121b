"""Rating: allocate allowances to the charge items of a batch, price the overage, and post both to the counters.

All items are handled at once, column by column. Each item moves its counters from `before` to `after`. The units it
takes from allowances and its charge are functions of that interval. So the charges of a subject sum to F(total) in any
order and any batches, F being a price function of cumulative usage (T6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rating.apply import Compiled
from rating.catalogue.allowance_sizes import first_cycle_units, sizes_at
from rating.catalogue.pools import Pools
from rating.catalogue.rates import NO_CAP, RECORD_BASIS, SESSION_BASIS, Book
from rating.columnar.counters import Counters, counter_groups
from rating.columnar.groups import Groups
from rating.columnar.key_index import Ints
from rating.usage.accept import Accepted
from rating.usage.allowances import draw, trial_days
from rating.usage.charge_items import Entries
from rating.usage.cycles import Cycles
from rating.usage.sessions import Sessions
from schemas.usage import Service

TEST_METER = 0xFFF  # the meter of test usage; no plan can have this meter, see MOST_METERS


_Number = TypeVar("_Number", int, Ints)


def sim_subject(card: _Number) -> _Number:
    """Return the subjects (billing entities) of SIMs, by the rows of their cards. A subject of a SIM is even."""
    return card << 1


def pool_subject(pool: _Number) -> _Number:
    """Return the subjects (billing entities) of pools and devices, by the rows of the pools. Such a subject is odd."""
    return (pool << 1) | 1


@dataclass(frozen=True)
class Rating:
    """The charge of each charge item and its origin. int64 columns, one element per item, in journal order."""

    subject: Ints
    from_test: Ints
    from_allowance: Ints
    from_addon: Ints
    overage: Ints
    charge_nanos: Ints
    counter_before: Ints
    counter_after: Ints
    overage_before: Ints
    price: Ints  # row of the rate that priced the item: the plan's, or the pool's own


def rate_entries(
    counters: Counters,
    sessions: Sessions,
    compiled: Compiled,
    accepted: Accepted,
    entries: Entries,
    cycles: Cycles,
    pool: Ints,
    session: Ints,
    connects: Ints,
    today: Ints,
) -> Rating:
    """Rate charge items in journal order and update counters, sessions and add-ons.

    Columns of the accepted records: `cycles`, `pool` (row, -1: none), `session` (row, -1: none), `connects` (1 if a
    connect fee is due, else 0) and `today` (local day of arrival, days since 1970).
    """
    book = compiled.book
    record = entries.record
    of = entries.of
    card, version, service = of(accepted.card), of(accepted.version), of(accepted.service)
    pool_of = of(pool)
    pooled = pool_of >= 0
    some_pooled = bool(pooled.any())
    cycle = of(cycles.code)
    meter = book.rates.meter[entries.rate]
    subject = np.where(pooled, pool_subject(pool_of), sim_subject(card)) if some_pooled else sim_subject(card)
    groups = counter_groups(subject, meter, cycle)
    rows = counters.rows(groups.keys)
    wanted = entries.billable
    counted = wanted[groups.order]
    before = groups.scatter(groups.before(counted, counters["billable"][rows]))
    from_test = _draw_test(counters, compiled, accepted, record, wanted)
    rest = wanted - from_test
    size = _sizes(compiled.pools, book, compiled, accepted, entries, cycles, pool_of, meter, today)
    allowed = rest
    if some_pooled:
        allowed = np.where(pooled, _within_cap(counters, book, card, meter, cycle, entries, pooled, rest), rest)
        bucket = np.where(pooled & (book.pool_fixed[pool_of, service] >= 0), service, meter)
        price = np.where(pooled, book.pool_rate[pool_of, service, entries.direction], -1)
        price = np.where(price >= 0, price, entries.rate)
        bucket_groups, bucket_rows = _regroup(counters, groups, rows, subject, meter, bucket, cycle)
        price_groups, price_rows = _regroup(counters, groups, rows, subject, meter, book.rates.meter[price], cycle)
    else:
        price = entries.rate
        bucket_groups, bucket_rows = price_groups, price_rows = groups, rows
    from_allowance, held = draw(bucket_groups, counters["allowance"][bucket_rows], allowed, size)
    counters["allowance"][bucket_rows] = held
    rest = rest - from_allowance
    from_addon = compiled.addons.draw(card, np.where(pooled, -1, service), of(accepted.used_us), of(accepted.day), rest)
    overage = rest - from_addon

    ordered = overage[price_groups.order]
    overage_before = price_groups.scatter(price_groups.before(ordered, counters["overage"][price_rows]))
    entered = _entered(counters, book, groups, rows, entries.rate, pooled)
    charge = _price(
        book, sessions, counters, price_groups, price_rows, price, overage_before, overage, entered,
        of(session), of(connects) * (entries.part == 0),
    )  # fmt: skip

    counters["overage"][price_rows] += price_groups.totals(ordered)
    counters["charge_nanos"][price_rows] += price_groups.totals(charge[price_groups.order])
    counters["records"][rows] += np.diff(np.append(groups.starts, len(groups.order)))
    counters["raw"][rows] += groups.totals(entries.raw[groups.order])
    counters["billable"][rows] += groups.totals(counted)
    for name, taken in (("test", from_test), ("addon", from_addon)):
        if taken.any():
            counters[name][rows] += groups.totals(taken[groups.order])
    last = bucket_groups.last()
    counters["size"][bucket_rows] = size[last]
    if price_groups is bucket_groups is groups:
        owners = rows
    else:
        owners = np.concatenate([rows, price_rows, bucket_rows])
        last = np.concatenate([groups.last(), price_groups.last(), last])
        order = np.argsort(last, kind="stable")
        owners, last = owners[order], last[order]
    counters["plan_version"][owners] = version[last]
    counters["account"][owners] = accepted.account[record[last]]
    return Rating(
        subject=subject,
        from_test=from_test,
        from_allowance=from_allowance,
        from_addon=from_addon,
        overage=overage,
        charge_nanos=charge,
        counter_before=before,
        counter_after=before + entries.billable,
        overage_before=overage_before,
        price=price,
    )


def _regroup(
    counters: Counters, groups: Groups, rows: Ints, subject: Ints, meter: Ints, other: Ints, cycle: Ints
) -> tuple[Groups, Ints]:
    """Return groups and counter rows by the meter `other`. If it equals `meter`, these are `groups` and `rows`."""
    if np.array_equal(meter, other):
        return groups, rows
    regrouped = counter_groups(subject, other, cycle)
    return regrouped, counters.rows(regrouped.keys)


def _draw_test(counters: Counters, compiled: Compiled, accepted: Accepted, record: Ints, wanted: Ints) -> Ints:
    """Return the units that each item takes from its card's test allowance, int64[n], and count them.

    A card has one test allowance in its whole life (C2, P6).
    """
    book = compiled.book
    taken = np.zeros_like(wanted)
    if not book.test_units.any():
        return taken
    version = accepted.version[record]
    at = np.flatnonzero((book.test_units[version] > 0) & (accepted.service[record] == Service.DATA))
    first, last = trial_days(book, compiled.directory, accepted.card[record[at]], version[at])
    day = accepted.day[record[at]]
    at = at[(first <= day) & (day <= last)]
    if len(at):
        card = accepted.card[record[at]]
        groups = counter_groups(sim_subject(card), np.full(len(at), TEST_METER), np.zeros(len(at), np.int64))
        rows = counters.rows(groups.keys)
        taken[at], counters["test"][rows] = draw(
            groups, counters["test"][rows], wanted[at], book.test_units[version[at]]
        )
    return taken


def _sizes(
    pools: Pools,
    book: Book,
    compiled: Compiled,
    accepted: Accepted,
    entries: Entries,
    cycles: Cycles,
    pool_of: Ints,
    meter: Ints,
    today: Ints,
) -> Ints:
    """Return the current size of the allowance that each item may draw on, int64[n] (P7, P9)."""
    record = entries.record
    size = book.rates.allowance[entries.rate]
    prorated = np.flatnonzero(book.rates.prorate[entries.rate] & (pool_of < 0))
    if len(prorated):
        at = record[prorated]
        active = compiled.directory.activated_on[accepted.card[at]]
        size[prorated] = first_cycle_units(size[prorated], active, cycles.start_day[at], cycles.end_day[at])
    at = np.flatnonzero(pool_of >= 0)
    if len(at):
        own = record[at]
        size[at] = sizes_at(
            pools.sizes, pool_of[at], meter[at], cycles.code[own], cycles.start_day[own], cycles.end_day[own],
            today[own],
        )  # fmt: skip
    return size


def _within_cap(
    counters: Counters,
    book: Book,
    card: Ints,
    meter: Ints,
    cycle: Ints,
    entries: Entries,
    pooled: np.ndarray,
    rest: Ints,
) -> Ints:
    """Return the units that each item may draw from an allowance, int64[n]. A SIM may not draw beyond its cap (P8).

    `rest` are the units that test usage has left. Adds pooled usage to the SIM's counter `in_pool`, so that the total
    of a card in the cycle is always known.
    """
    at = np.flatnonzero(pooled)
    groups = counter_groups(sim_subject(card[at]), meter[at], cycle[at])
    rows = counters.rows(groups.keys)
    amount = entries.billable[at]
    before = groups.scatter(groups.before(amount[groups.order], counters["in_pool"][rows]))
    counters["in_pool"][rows] += groups.totals(amount[groups.order])
    allowed = rest.copy()
    cap = book.rates.sim_cap[entries.rate[at]]
    capped = cap < NO_CAP
    allowed[at[capped]] = np.clip(cap[capped] - before[capped], 0, rest[at[capped]])
    return allowed


def _entered(counters: Counters, book: Book, groups: Groups, rows: Ints, rate: Ints, pooled: np.ndarray) -> np.ndarray:
    """Return whether each item finds its price function entered, int64[n]: 1 yes, 0 no, -1 if overage decides.

    The first record enters a rate that has no allowance, even a record of zero units. If the rate has an allowance,
    the first unit of overage enters it.
    """
    plain = (book.rates.allowance[rate] == 0) & ~pooled
    if not plain.any():
        return np.full(len(rate), -1, np.int64)
    earlier = np.ones(len(rate), np.int64)
    earlier[groups.starts] = counters["records"][rows] > 0
    return np.where(plain, groups.scatter(earlier), -1)


def _price(
    book: Book,
    sessions: Sessions,
    counters: Counters,
    groups: Groups,
    rows: Ints,
    price: Ints,
    overage_before: Ints,
    overage: Ints,
    entered: np.ndarray,
    session: Ints,
    connects: Ints,
) -> Ints:
    """Return the charge of each item in nanos, int64[n]: F(after) - F(before) of its counter, plus the connect fee.

    `before` and `after` are those of the total that the price accumulates over: the cycle, the session, the record,
    or the peak (capacity). Updates the overage of sessions and the peak of counters.
    """
    before = np.where((entered == 1) | ((entered < 0) & (overage_before > 0)), overage_before, -1)
    after = overage_before + overage
    after[(entered < 0) & (after == 0)] = -1
    basis = book.rates.basis[price]
    if basis.any():
        alone = (basis == RECORD_BASIS) | ((basis == SESSION_BASIS) & (session < 0))
        before[alone] = -1
        after[alone] = np.where((entered[alone] >= 0) | (overage[alone] > 0), overage[alone], -1)
        at = np.flatnonzero((basis == SESSION_BASIS) & (session >= 0))
        if len(at):
            by_session = Groups.of(session[at])
            held = sessions["overage"][by_session.keys]
            ran = by_session.scatter(by_session.before(overage[at][by_session.order], held))
            sessions["overage"][by_session.keys] = held + by_session.totals(overage[at][by_session.order])
            before[at] = np.where(ran > 0, ran, -1)
            after[at] = np.where(ran + overage[at] > 0, ran + overage[at], -1)
    capacity = book.rates.capacity[price]
    if capacity.any():
        peaks = np.where(capacity, overage, 0)[groups.order]
        held = counters["peak"][rows]
        reached = _running_peak(groups, peaks, held)
        at = np.flatnonzero(capacity)
        earlier = np.empty_like(reached)
        earlier[1:] = reached[:-1]
        earlier[groups.starts] = held
        before[at] = np.where(groups.scatter(earlier)[at] > 0, groups.scatter(earlier)[at], -1)
        after[at] = np.where(groups.scatter(reached)[at] > 0, groups.scatter(reached)[at], -1)
        counters["peak"][rows] = reached[np.append(groups.starts[1:], len(groups.order)) - 1]
    if after.max() > book.prices.unit_limit.min():
        # Units beyond what 64 bits can price (some billion of the currency) are free. F is still a function (T6).
        limit = book.prices.unit_limit[price]
        before, after = np.minimum(before, limit), np.minimum(after, limit)
    fee = connects * (book.rates.connect_fee_nanos[price] > 0)
    return book.prices.charge(price, before, after, fee if fee.any() else None)


def _running_peak(groups: Groups, values: Ints, held: Ints) -> Ints:
    """Return the peak of its group up to each row, int64[n] in group order. It starts from `held[g]`."""
    # Ranks keep the order of the values and are small. With the number of the group in front of the rank, one running
    # maximum serves all groups.
    started = values.copy()
    started[groups.starts] = np.maximum(started[groups.starts], held)
    distinct, rank = np.unique(started, return_inverse=True)
    peak = np.maximum.accumulate(groups.segment * len(distinct) + rank.reshape(-1))
    return distinct[peak - groups.segment * len(distinct)]
