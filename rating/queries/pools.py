"""How much of a pool is used, service by service and cycle by cycle: the open ones of one pool, or all of all (Q6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from rating.catalogue.pools import DEVICE_PREFIX
from rating.catalogue.rates import SERVICES
from rating.columnar.key_index import Ints
from rating.queries.counters import open_cycles, pool_accounts, rows_of_subject
from rating.queries.queried import Queried
from rating.queries.schemas import POOLS_VIEW
from rating.units.ratio import percent
from rating.usage.charge import TEST_METER
from rating.usage.cycles import cycle_days, cycle_label

_SERVICE_NAMES = list(SERVICES)


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
    members = engine.compiled.pools.members(int(today.max(initial=0)))
    subject, meter, cycle = counters.subject, counters.meter, counters.cycle
    of_pool = np.flatnonzero(((subject & 1) == 1) & (meter != TEST_METER))
    found: dict[tuple[int, int, int], list[int]] = {}
    for row in of_pool[np.argsort(meter[of_pool], kind="stable")].tolist():
        key = (int(subject[row] >> 1), int(book.meter_service[meter[row]]), int(cycle[row]))
        found.setdefault(key, []).append(row)
    for pool in range(len(names)):
        kind = int(book.pool_cycle[pool])
        if kind >= 0 and owner[pool] >= 0:
            (now,) = open_cycles(engine, int(today[owner[pool]]), kind)
            for service in np.flatnonzero(book.pool_shares[pool]).tolist():
                found.setdefault((pool, service, now), [])
    rows = []
    for (pool, service, code), at in sorted(found.items()):
        use = _use(engine, pool, service, code, np.array(at, np.int64), int(today[owner[pool]]))
        about = {
            "pool_id": pool_id(engine, pool),
            "account_id": book.vocabulary.accounts.names[owner[pool]],
            "kind": pool_kind(engine, pool),
            "members": int(members[pool]),
        }
        rows.append(about | {name: getattr(use, name) for name in POOLS_VIEW if name not in about})
    return pl.DataFrame(rows, schema=POOLS_VIEW)


def _use(engine: Queried, pool: int, service: int, cycle: int, rows: Ints, day: int) -> PoolUse:
    """Sum the pool's counters of one service in one cycle; `rows` are theirs, ordered by meter."""
    book, counters = engine.compiled.book, engine.state.counters
    first, last = cycle_days(book, cycle)
    size, used = _size(engine, pool, service, cycle, day), int(counters["billable"][rows].sum())
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
        charge_nanos=int(counters["charge_nanos"][rows].sum()),
        currency=currency,
    )


def _size(engine: Queried, pool: int, service: int, cycle: int, day: int) -> int:
    """Return the size of a pool as of a local day (P7)."""
    book, pools = engine.compiled.book, engine.compiled.pools
    fixed = int(book.pool_fixed[pool, service])
    if fixed >= 0:
        return fixed
    first, last = cycle_days(book, cycle)
    meters = np.flatnonzero(book.meter_service == service).tolist()
    return sum(int(pools.sizes(meter, cycle, first, last, day)[pool]) for meter in meters)
