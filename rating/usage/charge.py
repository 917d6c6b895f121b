"""Rating: allocate allowances to the charge items of a batch, price the overage, and post both to the counters.

The three steps are `allocate` (take from allowances), `price` (what is left) and `post` (to counters), in this order.

All items are handled at once, column by column. Each item moves its counters from `before` to `after`. The units it
takes from allowances and its charge are functions of that interval. So the charges of a subject sum to F(total) in any
order and any batches, F being a price function of cumulative usage (T6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rating.apply import Compiled
from rating.catalogue.allowance_sizes import CycleDays, sizes_at
from rating.catalogue.rates import NO_CAP, RECORD_BASIS, SESSION_BASIS, Book
from rating.columnar.counters import Counters, counter_groups
from rating.columnar.groups import Groups
from rating.columnar.key_index import Flags, Ints
from rating.usage.accepted_usage import AcceptedUsage
from rating.usage.allowances import draw, trial_days
from rating.usage.charge_items import Entries
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


@dataclass(frozen=True)
class _Items:
    """Charge items with columns of their records and of the counter that they move; one element per item."""

    usage: AcceptedUsage
    entries: Entries
    card: Ints
    billed_as: Ints  # row under which the counters of its account count the card
    service: Ints
    pool: Ints  # row of the pool, -1: none
    pooled: Flags  # bool
    some_pooled: bool
    subject: Ints
    meter: Ints
    cycle: Ints

    @classmethod
    def of(cls, compiled: Compiled, usage: AcceptedUsage, entries: Entries) -> _Items:
        of = entries.of
        card, pool = of(usage.accepted.card), of(usage.pool)
        billed_as = compiled.directory.billed_as(card, of(usage.accepted.account))
        own = sim_subject(billed_as)
        pooled = pool >= 0
        some_pooled = bool(pooled.any())
        return cls(
            usage=usage,
            entries=entries,
            card=card,
            billed_as=billed_as,
            service=of(usage.accepted.service),
            pool=pool,
            pooled=pooled,
            some_pooled=some_pooled,
            subject=np.where(pooled, pool_subject(pool), own) if some_pooled else own,
            meter=compiled.book.rates.meter[entries.rate],
            cycle=of(usage.cycles.code),
        )


@dataclass(frozen=True)
class _CounterRows:
    """The counters that items move: the items grouped by counter, and the row of each group's counter, int64[g]."""

    groups: Groups
    rows: Ints

    @classmethod
    def of(cls, counters: Counters, subject: Ints, meter: Ints, cycle: Ints) -> _CounterRows:
        """Return the counters of these keys, int64[n] each. Counters that do not exist yet are added."""
        groups = counter_groups(subject, meter, cycle)
        return cls(groups, counters.rows(groups.keys))

    def of_meter(self, counters: Counters, items: _Items, meter: Ints) -> _CounterRows:
        """Return the counters of the items' subjects by another meter. If no meter differs, they are these."""
        if np.array_equal(items.meter, meter):
            return self
        return _CounterRows.of(counters, items.subject, meter, items.cycle)

    def before(self, counters: Counters, name: str, amounts: Ints) -> Ints:
        """Return a column of the counters before each item, int64[n], if each item adds its amount to it."""
        return self.groups.scatter(self.groups.before(amounts[self.groups.order], counters[name][self.rows]))

    def add(self, counters: Counters, name: str, amounts: Ints) -> None:
        """Add the amounts (int64[n]) of the items to a column of their counters."""
        counters[name][self.rows] += self.groups.totals(amounts[self.groups.order])


@dataclass(frozen=True)
class _Allocation:
    """The units that each item takes from each kind of allowance, and the overage; int64[n]."""

    from_test: Ints
    from_allowance: Ints
    from_addon: Ints
    overage: Ints
    size: Ints  # of the allowance
    buckets: _CounterRows  # the counters of the allowances


@dataclass(frozen=True)
class _Charges:
    """The charge of each item in nanos, the rate that priced it, and its counter's overage before it; int64[n]."""

    charge_nanos: Ints
    price: Ints
    overage_before: Ints
    priced: _CounterRows  # the counters of the overage


@dataclass(frozen=True)
class _Interval:
    """The total that a price accumulates over, before and after each item, int64[n]; -1: the price is not entered."""

    before: Ints
    after: Ints


def charge(
    counters: Counters, sessions: Sessions, compiled: Compiled, usage: AcceptedUsage, entries: Entries
) -> Rating:
    """Charge the items of accepted usage in journal order, and update counters, sessions and add-ons."""
    items = _Items.of(compiled, usage, entries)
    totals = _CounterRows.of(counters, items.subject, items.meter, items.cycle)
    before = totals.before(counters, "billable", entries.billable)
    allocation = allocate(counters, compiled, items, totals)
    charges = price(counters, sessions, compiled.book, items, totals, allocation.overage)
    post(counters, compiled.book, items, totals, allocation, charges)
    return Rating(
        subject=items.subject,
        from_test=allocation.from_test,
        from_allowance=allocation.from_allowance,
        from_addon=allocation.from_addon,
        overage=allocation.overage,
        charge_nanos=charges.charge_nanos,
        counter_before=before,
        counter_after=before + entries.billable,
        overage_before=charges.overage_before,
        price=charges.price,
    )


def allocate(counters: Counters, compiled: Compiled, items: _Items, totals: _CounterRows) -> _Allocation:
    """Take the units of each item from allowances in burn order (P6). What is left is overage.

    Updates test allowances, the units taken from each allowance, pooled usage of SIMs, and add-ons.
    """
    book, accepted, of = compiled.book, items.usage.accepted, items.entries.of
    from_test = _draw_test(counters, compiled, items)
    rest = items.entries.billable - from_test
    size = _sizes(compiled, items)
    allowed, buckets = rest, totals
    if items.some_pooled:
        allowed = np.where(items.pooled, _within_cap(counters, book, items, rest), rest)
        fixed = items.pooled & (book.pool_fixed[items.pool, items.service] >= 0)
        buckets = totals.of_meter(counters, items, np.where(fixed, items.service, items.meter))
    from_allowance, taken = draw(buckets.groups, counters["allowance"][buckets.rows], allowed, size)
    counters["allowance"][buckets.rows] = taken
    rest = rest - from_allowance
    service = np.where(items.pooled, -1, items.service)
    from_addon = compiled.addons.draw(items.card, service, of(accepted.used_us), of(accepted.day), rest)
    return _Allocation(from_test, from_allowance, from_addon, rest - from_addon, size, buckets)


def price(
    counters: Counters, sessions: Sessions, book: Book, items: _Items, totals: _CounterRows, overage: Ints
) -> _Charges:
    """Price the overage of each item: F(after) - F(before) of its counter, plus the connect fee.

    `before` and `after` are those of the total that the price accumulates over: the cycle, the session, the record,
    or the peak (capacity). Updates the overage of sessions and the peak of counters.
    """
    entries = items.entries
    rate, priced = entries.rate, totals
    if items.some_pooled:
        own = np.where(items.pooled, book.pool_rate[items.pool, items.service, entries.direction], -1)
        rate = np.where(own >= 0, own, entries.rate)
        priced = totals.of_meter(counters, items, book.rates.meter[rate])
    overage_before = priced.before(counters, "overage", overage)
    entered = _entered(counters, book, items, totals)
    before = np.where((entered == 1) | ((entered < 0) & (overage_before > 0)), overage_before, -1)
    after = overage_before + overage
    after[(entered < 0) & (after == 0)] = -1
    interval = _Interval(before, after)
    basis, capacity = book.rates.basis[rate], book.rates.capacity[rate]
    if basis.any():
        session = entries.of(items.usage.session)
        alone = (basis == RECORD_BASIS) | ((basis == SESSION_BASIS) & (session < 0))
        before[alone] = -1
        after[alone] = np.where((entered[alone] >= 0) | (overage[alone] > 0), overage[alone], -1)
        _by_session(sessions, interval, np.where(basis == SESSION_BASIS, session, -1), overage)
    if capacity.any():
        _by_peak(counters, interval, priced, capacity, overage)
    fee = entries.of(items.usage.connects) * (entries.part == 0) * (book.rates.connect_fee_nanos[rate] > 0)
    nanos = book.prices.charge(rate, before, after, fee if fee.any() else None)
    return _Charges(nanos, rate, overage_before, priced)


def post(
    counters: Counters,
    book: Book,
    items: _Items,
    totals: _CounterRows,
    allocation: _Allocation,
    charges: _Charges,
) -> None:
    """Add usage, overage and charges to the counters, and write down the last size, plan version and account."""
    entries, buckets, priced = items.entries, allocation.buckets, charges.priced
    groups, rows = totals.groups, totals.rows
    priced.add(counters, "overage", allocation.overage)
    currency = book.currency_of_version[entries.of(items.usage.accepted.version)]
    counters.add_charges(priced.groups, priced.rows, charges.charge_nanos, currency)
    counters["records"][rows] += np.diff(np.append(groups.starts, len(groups.order)))
    totals.add(counters, "raw", entries.raw)
    totals.add(counters, "billable", entries.billable)
    for name, taken in (("test", allocation.from_test), ("addon", allocation.from_addon)):
        if taken.any():
            totals.add(counters, name, taken)
    last = buckets.groups.last()
    counters["size"][buckets.rows] = allocation.size[last]
    if priced is buckets is totals:
        owners = rows
    else:
        owners = np.concatenate([rows, priced.rows, buckets.rows])
        last = np.concatenate([groups.last(), priced.groups.last(), last])
        order = np.argsort(last, kind="stable")
        owners, last = owners[order], last[order]
    accepted, record = items.usage.accepted, entries.record[last]
    counters["plan_version"][owners] = accepted.version[record]
    counters["account"][owners] = accepted.account[record]


def _draw_test(counters: Counters, compiled: Compiled, items: _Items) -> Ints:
    """Return the units that each item takes from its card's test allowance, int64[n], and count them.

    A card has one test allowance in its whole life (C2, P6).
    """
    book, accepted, record = compiled.book, items.usage.accepted, items.entries.record
    wanted = items.entries.billable
    taken = np.zeros_like(wanted)
    if not book.test_units.any():
        return taken
    version = accepted.version[record]
    at = np.flatnonzero((book.test_units[version] > 0) & (accepted.service[record] == Service.DATA))
    day = accepted.day[record[at]]
    first, last = trial_days(book, compiled.directory, accepted.card[record[at]], version[at], day)
    at = at[(first <= day) & (day <= last)]
    if len(at):
        subject = sim_subject(accepted.card[record[at]])
        tests = _CounterRows.of(counters, subject, np.full(len(at), TEST_METER), np.zeros(len(at), np.int64))
        taken[at], counters["test"][tests.rows] = draw(
            tests.groups, counters["test"][tests.rows], wanted[at], book.test_units[version[at]]
        )
    return taken


def _sizes(compiled: Compiled, items: _Items) -> Ints:
    """Return the current size of the allowance that each item may draw on, int64[n] (P7, P9)."""
    book, entries, usage = compiled.book, items.entries, items.usage
    cycles = usage.cycles
    size = book.rates.allowance[entries.rate]
    prorated = np.flatnonzero(book.rates.prorate[entries.rate] & (items.pool < 0))
    if len(prorated):
        size[prorated] = _by_days(compiled, items, prorated)
    accepted = usage.accepted
    over = compiled.pools.service.ended(accepted.card, accepted.plan, accepted.day)
    if over.any():
        size[entries.of(over) & (items.pool < 0)] = 0
    at = np.flatnonzero(items.pool >= 0)
    if len(at):
        own = entries.record[at]
        days = CycleDays(cycles.code[own], cycles.start_day[own], cycles.end_day[own], usage.today[own])
        size[at] = sizes_at(compiled.pools.sizes, items.pool[at], items.meter[at], days)
    return size


def _by_days(compiled: Compiled, items: _Items, at: Ints) -> Ints:
    """Return the allowances of these items by the days of service of their cards in the cycle, int64[k] (P9)."""
    record, cycles, accepted = items.entries.record[at], items.usage.cycles, items.usage.accepted
    meters, size = items.meter[at], np.zeros(len(at), np.int64)
    for meter in np.unique(meters).tolist():
        some = np.flatnonzero(meters == meter)
        own = record[some]
        size[some] = compiled.pools.service.shares(
            compiled.pools.allowances[:, meter], accepted.card[own], accepted.account[own], cycles.start_day[own],
            cycles.end_day[own],
        )  # fmt: skip
    return size


def _within_cap(counters: Counters, book: Book, items: _Items, rest: Ints) -> Ints:
    """Return the units that each item may draw from an allowance, int64[n]. A SIM may not draw beyond its cap (P8).

    `rest` are the units that test usage has left. Adds pooled usage to the SIM's counter `in_pool`, so that the total
    of a card in the cycle is always known.
    """
    at = np.flatnonzero(items.pooled)
    sims = _CounterRows.of(counters, sim_subject(items.billed_as[at]), items.meter[at], items.cycle[at])
    amount = items.entries.billable[at]
    before = sims.before(counters, "in_pool", amount)
    sims.add(counters, "in_pool", amount)
    allowed = rest.copy()
    cap = book.rates.sim_cap[items.entries.rate[at]]
    capped = cap < NO_CAP
    allowed[at[capped]] = np.clip(cap[capped] - before[capped], 0, rest[at[capped]])
    return allowed


def _entered(counters: Counters, book: Book, items: _Items, totals: _CounterRows) -> Ints:
    """Return whether each item finds its price function entered, int64[n]: 1 yes, 0 no, -1 if overage decides.

    The first record enters a rate that has no allowance, even a record of zero units. If the rate has an allowance,
    the first unit of overage enters it.
    """
    rate = items.entries.rate
    plain = (book.rates.allowance[rate] == 0) & ~items.pooled
    if not plain.any():
        return np.full(len(rate), -1, np.int64)
    earlier = np.ones(len(rate), np.int64)
    earlier[totals.groups.starts] = counters["records"][totals.rows] > 0
    return np.where(plain, totals.groups.scatter(earlier), -1)


def _by_session(sessions: Sessions, interval: _Interval, session: Ints, overage: Ints) -> None:
    """Set the interval of items that are priced by session to the session's overage, and add theirs to it.

    `session` is the row of each item's session, int64[n]; -1: the item is not priced by session.
    """
    at = np.flatnonzero(session >= 0)
    if not len(at):
        return
    groups, own = Groups.of(session[at]), overage[at]
    held = sessions["overage"][groups.keys]
    ran = groups.scatter(groups.before(own[groups.order], held))
    sessions["overage"][groups.keys] = held + groups.totals(own[groups.order])
    interval.before[at] = np.where(ran > 0, ran, -1)
    interval.after[at] = np.where(ran + own > 0, ran + own, -1)


def _by_peak(counters: Counters, interval: _Interval, priced: _CounterRows, capacity: Flags, overage: Ints) -> None:
    """Set the interval of items with a capacity price (`capacity`, bool[n]) to the peak, and update the peaks."""
    groups, rows = priced.groups, priced.rows
    held = counters["peak"][rows]
    reached = _running_peak(groups, np.where(capacity, overage, 0)[groups.order], held)
    earlier = np.empty_like(reached)
    earlier[1:] = reached[:-1]
    earlier[groups.starts] = held
    at = np.flatnonzero(capacity)
    before, after = groups.scatter(earlier)[at], groups.scatter(reached)[at]
    interval.before[at] = np.where(before > 0, before, -1)
    interval.after[at] = np.where(after > 0, after, -1)
    counters["peak"][rows] = reached[np.append(groups.starts[1:], len(groups.order)) - 1]


def _running_peak(groups: Groups, values: Ints, held: Ints) -> Ints:
    """Return the peak of its group up to each row, int64[n] in group order. It starts from `held[g]`."""
    # Ranks keep the order of the values and are small. With the number of the group in front of the rank, one running
    # maximum serves all groups.
    started = values.copy()
    started[groups.starts] = np.maximum(started[groups.starts], held)
    distinct, rank = np.unique(started, return_inverse=True)
    peak = np.maximum.accumulate(groups.segment * len(distinct) + rank.reshape(-1))
    return distinct[peak - groups.segment * len(distinct)]
