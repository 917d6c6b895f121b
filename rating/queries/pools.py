"""How much of a pool is used, service by service and cycle by cycle: the open ones of one pool, or all of all (Q6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from rating.catalogue.pools import DEVICE_PREFIX
from rating.catalogue.rates import SERVICES
from rating.columnar.counters import CYCLE_BITS
from rating.columnar.groups import Groups
from rating.columnar.key_index import Ints
from rating.queries.counters import open_cycles, pool_accounts, rows_of_subject
from rating.queries.queried import Queried
from rating.queries.schemas import POOLS_VIEW, nanos_type
from rating.units.ratio import percent
from rating.usage.charge import TEST_METER
from rating.usage.cycles import cycle_days, cycle_label

_SERVICE_NAMES = list(SERVICES)
_SERVICE_BITS = 2


@dataclass(frozen=True)
class PoolUse:
    """One service of a pool, or of a device whose SIMs share, in one cycle.

    Quantities are in whole units of the service. `cycle_from` and `cycle_until` are the first and last local day of
    the cycle, in days since 1970. `percent` is that of rating.units.ratio. `currency` is None if neither the pool nor
    usage says it.
    """

    service: str
    cycle: str
    cycle_from: int
    cycle_until: int
    size: int
    used: int
    percent: str | None
    overage: int
    charge_nanos: int
    currency: str | None


def row_of_pool(engine: Queried, pool_id: str) -> int:
    """Return the row of a pool, or of a device whose SIMs share, by its id; -1 if there is none."""
    book, rows = engine.compiled.book, engine.compiled.book.vocabulary.pools.rows
    pool = rows.get(pool_id, -1)
    if pool < 0 or book.pools[pool] is None:
        pool = rows.get(DEVICE_PREFIX + pool_id, -1)
    return pool


def pool_id(engine: Queried, pool: int) -> str:
    """Return the id of a pool or device as its owner wrote it."""
    return engine.compiled.book.vocabulary.pools.names[pool].removeprefix(DEVICE_PREFIX)


def pool_kind(engine: Queried, pool: int) -> str:
    """Return `same_tier`, `dynamic` or `static` for a pool, `device` for a device whose SIMs share."""
    declared = engine.compiled.book.pools[pool]
    return "device" if declared is None else declared.kind


def account_of_pool(engine: Queried, pool: int) -> int:
    """Return the account of a pool. For a device, the account of its first card, or -1 if it has no card."""
    owner = int(engine.compiled.book.pool_account[pool])
    if owner >= 0:
        return owner
    cards = np.flatnonzero(engine.compiled.pools.device_row == pool)
    return int(engine.compiled.directory.account[cards[0]]) if len(cards) else -1


def uses_now(engine: Queried, pool: int, day: int) -> list[PoolUse]:
    """Return how much of a pool is used in the cycle that is open on a local day, one item for each shared service.

    Of a device there is an item only for each open cycle in which its SIMs used the service.
    """
    book, counters = engine.compiled.book, engine.state.counters
    kind = int(book.pool_cycle[pool])
    cycles = open_cycles(engine, day, kind)
    rows = rows_of_subject(engine, pool << 1 | 1, cycles)
    service, cycle = book.meter_service[counters.meter[rows]], counters.cycle[rows]
    wanted = set(zip(cycle.tolist(), service.tolist(), strict=True))
    if kind >= 0:
        wanted |= {(cycles[0], one) for one in np.flatnonzero(book.pool_shares[pool]).tolist()}
    return [
        _use(engine, pool, which, code, rows[(cycle == code) & (service == which)], day)
        for code, which in sorted(wanted)
    ]


def pools_view(engine: Queried, today: Ints) -> pl.DataFrame:
    """Return one row per pool, service and cycle, for the open cycle and all cycles that have counters.

    `today` is the local day of each account, int64[accounts].
    """
    book, counters = engine.compiled.book, engine.state.counters
    names = book.vocabulary.pools.names
    if not names:
        return pl.DataFrame(schema=POOLS_VIEW)
    owner = pool_accounts(engine)
    rows = np.flatnonzero(((counters.subject & 1) == 1) & (counters.meter != TEST_METER))
    rows = rows[np.argsort(counters.meter[rows], kind="stable")]
    services = book.meter_service[counters.meter[rows]].astype(np.int64)
    groups = Groups.of(_key(counters.subject[rows] >> 1, services, counters.cycle[rows]))
    key = np.union1d(groups.keys, _open_keys(engine, owner, today))
    place, rows = np.searchsorted(key, groups.keys), rows[groups.order]
    pool, service, cycle = key >> (_SERVICE_BITS + CYCLE_BITS), key >> CYCLE_BITS & 3, key & ((1 << CYCLE_BITS) - 1)

    def total(name: str) -> Ints:
        sums = np.zeros(len(key), np.int64)
        sums[place] = groups.totals(counters[name][rows])
        return sums

    version = np.full(len(key), -1)
    version[place] = counters["plan_version"][rows[groups.starts]]
    currencies = [plan.currency for plan, _ in book.versions]
    declared = [None if one is None else one.currency for one in book.pools]
    size, used = _sizes(engine, pool, service, cycle, today[owner[pool]]), total("billable")
    labels = {code: cycle_label(book, code) for code in np.unique(cycle).tolist()}
    columns = {
        "pool_id": [pool_id(engine, one) for one in pool.tolist()],
        "account_id": [book.vocabulary.accounts.names[one] for one in owner[pool].tolist()],
        "kind": [pool_kind(engine, one) for one in pool.tolist()],
        "members": engine.compiled.pools.members(int(today.max(initial=0)))[pool],
        "service": [_SERVICE_NAMES[one] for one in service.tolist()],
        "cycle": [labels[code] for code in cycle.tolist()],
        "size": size,
        "used": used,
        "percent": [percent(*one) for one in zip(used.tolist(), size.tolist(), strict=True)],
        "overage": total("overage"),
        "charge_nanos": _charges(engine, key, groups, rows),
        "currency": [
            declared[one] if declared[one] is not None or row < 0 else currencies[row]
            for one, row in zip(pool.tolist(), version.tolist(), strict=True)
        ],
    }
    frame = pl.DataFrame(columns, schema=POOLS_VIEW | {"charge_nanos": pl.Decimal(38, 0)})
    return frame.with_columns(pl.col("charge_nanos").cast(nanos_type(frame["charge_nanos"])))


def _charges(engine: Queried, key: Ints, groups: Groups, rows: Ints) -> list[int]:
    """Return what is charged for each key, in nanos, exactly. `rows` are the counters in the order of the groups."""
    counters = engine.state.counters
    nanos = counters["charge_nanos"][rows]
    # The halves of the amounts are added up apart, because a sum of amounts may not fit 64 bits.
    high, low = groups.totals(nanos >> 32).tolist(), groups.totals(nanos & 0xFFFFFFFF).tolist()
    sums = dict.fromkeys(key.tolist(), 0)
    for one, upper, lower in zip(groups.keys.tolist(), high, low, strict=True):
        sums[one] = (upper << 32) + lower
    charged = np.array([one.key for one in counters.further], np.int64)
    for position in np.flatnonzero(np.isin(counters.keys[rows], charged)).tolist():
        whole = sum(counters.charges(int(rows[position])).values())
        sums[int(groups.keys[groups.segment[position]])] += whole - int(nanos[position])
    return list(sums.values())


def _key(pool: Ints, service: Ints, cycle: Ints) -> Ints:
    return (pool << (_SERVICE_BITS + CYCLE_BITS)) | (service << CYCLE_BITS) | cycle


def _open_keys(engine: Queried, owner: Ints, today: Ints) -> Ints:
    """Return the keys of what is open: each service that a pool shares, in the open cycle of its account's day."""
    book = engine.compiled.book
    found = []
    for pool in np.flatnonzero((book.pool_cycle >= 0) & (owner >= 0)).tolist():
        (now,) = open_cycles(engine, int(today[owner[pool]]), int(book.pool_cycle[pool]))
        shared = np.flatnonzero(book.pool_shares[pool])
        found.append(_key(np.full(len(shared), pool), shared, np.full(len(shared), now)))
    return np.concatenate([np.zeros(0, np.int64), *found])


def _sizes(engine: Queried, pool: Ints, service: Ints, cycle: Ints, day: Ints) -> Ints:
    """Return the sizes of pools, each in one service and cycle and as of a local day, int64[n] (P7)."""
    book, pools = engine.compiled.book, engine.compiled.pools
    size: Ints = book.pool_fixed[pool, service].astype(np.int64)
    for which, code, today in sorted({*zip(service.tolist(), cycle.tolist(), day.tolist(), strict=True)}):
        at = np.flatnonzero((service == which) & (cycle == code) & (day == today) & (size < 0))
        first, last = cycle_days(book, code)
        meters = np.flatnonzero(book.meter_service == which).tolist()
        size[at] = 0
        for meter in meters:
            size[at] += pools.sizes(meter, code, first, last, today)[pool[at]]
    return size


def _use(engine: Queried, pool: int, service: int, cycle: int, rows: Ints, day: int) -> PoolUse:
    """Sum the pool's counters of one service in one cycle; `rows` are theirs, ordered by meter."""
    book, counters = engine.compiled.book, engine.state.counters
    first, last = cycle_days(book, cycle)
    of = (np.array([one], np.int64) for one in (pool, service, cycle, day))
    size, used = int(_sizes(engine, *of)[0]), int(counters["billable"][rows].sum())
    declared = book.pools[pool]
    currency = None if declared is None else declared.currency
    if currency is None and len(rows):
        currency = book.versions[int(counters["plan_version"][rows[0]])][0].currency
    return PoolUse(
        service=_SERVICE_NAMES[service],
        cycle=cycle_label(book, cycle),
        cycle_from=first,
        cycle_until=last,
        size=size,
        used=used,
        percent=percent(used, size),
        overage=int(counters["overage"][rows].sum()),
        charge_nanos=sum(sum(counters.charges(row).values()) for row in rows.tolist()),
        currency=currency,
    )
