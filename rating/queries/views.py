"""Views of the state as data frames (rating.queries.schemas), computed from the columns of the fold."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl

from rating.catalogue.pools import DEVICE_PREFIX
from rating.catalogue.rates import SERVICES
from rating.columnar.key_index import Ints
from rating.engine import Engine
from rating.errors import InputError
from rating.queries.fees import fees_view
from rating.queries.schemas import (
    ACCOUNTS_VIEW,
    ADDONS_VIEW,
    CARDS_VIEW,
    COUNTERS_VIEW,
    POOLS_VIEW,
    RULES_VIEW,
    StateViews,
)
from rating.rules.triggers import TRIGGERS
from rating.units.ratio import percent
from rating.usage.accept import local_days
from rating.usage.charge import TEST_METER
from rating.usage.cycles import cycle_code, cycle_days, cycle_label

_SERVICE_NAMES = list(SERVICES)


def state_views(engine: Engine, cycle: str | None = None) -> StateViews:
    """Return all views of an engine's state, as of the latest arrival.

    Fees are those of the open cycles, of all cycles that have counters, and of cycles with the label `cycle`.
    """
    today = todays(engine)
    return StateViews(
        cards=_cards(engine, today),
        counters=_counters(engine),
        pools=_pools(engine, today),
        fees=fees_view(engine.compiled, _cycles(engine, today, cycle)),
        accounts=_accounts(engine),
        addons=_addons(engine),
        rules=rules_view(engine),
    )


def todays(engine: Engine) -> Ints:
    """Return the local day of each account at the latest arrival, int64[accounts], days since 1970."""
    accounts = np.arange(len(engine.state.catalogue.accounts))
    return local_days(engine.compiled.book, accounts, np.full(len(accounts), engine.state.clock_us))


def _cycles(engine: Engine, today: Ints, label: str | None) -> list[int]:
    """Return the codes of the cycles that have counters, are open, or have this label, in ascending order."""
    book = engine.compiled.book
    counters = engine.state.counters
    codes = set(np.unique(counters.cycle[counters.meter != TEST_METER]).tolist())
    for kind, calendar in enumerate(book.cycle_calendars):
        if len(today):
            codes |= set(cycle_code(kind, calendar.index(today.astype(np.int32)).astype(np.int64)).tolist())
        if label is not None:
            try:
                codes.add(int(cycle_code(kind, np.array([calendar.index_of_label(label)]))[0]))
            except InputError:
                continue  # no cycle of this kind begins on that day
    return sorted(codes)


def _cards(engine: Engine, today: Ints) -> pl.DataFrame:
    directory, book = engine.compiled.directory, engine.compiled.book
    card = np.arange(len(directory))
    day = today[directory.account] if len(directory) else np.zeros(0, np.int64)
    plan = directory.plans.at(card, day)
    version = book.version_of(plan, day)
    numbers = np.array([version.version for _, version in book.versions] or [0], np.int32)
    pool = directory.pools.at(card, day)
    ends = directory.term_ends
    return directory.cards.select(
        "iccid",
        "imsi",
        "msisdn",
        account_id="account",
        plan_id=_named(plan, book.vocabulary.plans.names),
        plan_version=pl.when(pl.Series(version >= 0)).then(pl.Series(numbers[version])),
        pool_id=_named(pool, book.vocabulary.pools.names),
        device_id="device",
        carrier="carrier",
        status=pl.col("status").fill_null("activated"),
        tags="tags",
        activated_on="activated_on",
        term_ends_on=pl.when(pl.Series(ends < (1 << 30))).then(pl.Series(np.minimum(ends, 1 << 20))).cast(pl.Date),
        custom="custom",
        status_reason="status_reason",
    ).select(pl.col(name).cast(kind) for name, kind in CARDS_VIEW.items())


def _named(rows: Ints, names: list[str]) -> pl.Series:
    """Return a String column of names by row; -1 is null."""
    table = pl.Series([*names, None], dtype=pl.String)
    return table.gather(np.where(rows < 0, len(names), rows))


def _counters(engine: Engine) -> pl.DataFrame:
    book, directory = engine.compiled.book, engine.compiled.directory
    counters = engine.state.counters
    at = np.flatnonzero(counters.meter != TEST_METER)
    subject, meter, cycle = counters.subject[at], counters.meter[at], counters.cycle[at]
    is_pool, place = (subject & 1) == 1, subject >> 1
    pools = book.vocabulary.pools.names
    names = pl.concat(
        [directory.cards["iccid"], pl.Series([name.removeprefix(DEVICE_PREFIX) for name in pools], dtype=pl.String)]
    )
    kinds = np.array([2 if name.startswith(DEVICE_PREFIX) else 1 for name in pools] or [0], np.int64)
    pool_place = np.where(is_pool, place, 0)
    kind = np.where(is_pool, kinds[np.minimum(pool_place, len(kinds) - 1)], 0)
    account = np.where(is_pool, -1, directory.account[np.where(is_pool, 0, place)]) if len(directory) else is_pool - 1
    owner = pool_accounts(engine)
    if len(owner):
        account = np.where(is_pool, owner[pool_place], account)
    codes, code = np.unique(cycle, return_inverse=True)
    labels = [cycle_label(book, int(one)) for one in codes]
    days = np.array([cycle_days(book, int(one)) for one in codes], np.int64).reshape(-1, 2)
    version = counters["plan_version"][at]
    currency = [plan.currency for plan, _ in book.versions]
    frame = pl.DataFrame(
        {
            "subject_kind": _named(kind, ["sim", "pool", "device"]),
            "subject": names.gather(np.where(is_pool, len(directory) + pool_place, place)),
            "account_id": _named(account, book.vocabulary.accounts.names),
            "counter": _named(meter, book.vocabulary.meters.names),
            "service": _named(book.meter_service[meter], _SERVICE_NAMES),
            "cycle": _named(code, labels),
            "cycle_from": pl.Series(days[code, 0]).cast(pl.Int32).cast(pl.Date),
            "cycle_until": pl.Series(days[code, 1]).cast(pl.Int32).cast(pl.Date),
            "billable": counters["billable"][at] + counters["in_pool"][at] - counters["test"][at],  # C2
            "allowance_size": counters["size"][at],
            "allowance_used": counters["allowance"][at],
            "addon_used": counters["addon"][at],
            "overage": counters["overage"][at],
            "charge_nanos": counters["charge_nanos"][at],
            "currency": _named(version, currency),
        }
    )
    return frame.select(pl.col(name).cast(kind) for name, kind in COUNTERS_VIEW.items()).sort(
        "cycle", "subject_kind", "subject", "counter"
    )


def pool_accounts(engine: Engine) -> Ints:
    """Return the account of each pool, int64[pools]. The account of a device is that of its first card."""
    book, directory = engine.compiled.book, engine.compiled.directory
    owner = book.pool_account.copy()
    cards = np.flatnonzero(engine.compiled.pools.device_row >= 0)[::-1]
    owner[engine.compiled.pools.device_row[cards]] = directory.account[cards]
    return owner


def _pools(engine: Engine, today: Ints) -> pl.DataFrame:
    """Return one row per pool, service and cycle, for the open cycle and all cycles that have counters."""
    book, pools, counters = engine.compiled.book, engine.compiled.pools, engine.state.counters
    names = book.vocabulary.pools.names
    if not names:
        return pl.DataFrame(schema=POOLS_VIEW)
    owner = pool_accounts(engine)
    members = pools.members(int(today.max(initial=0)))
    of_pool = np.flatnonzero((counters.subject & 1) == 1)
    held: dict[tuple[int, int, int], list[int]] = {}
    for row in of_pool.tolist():
        pool, service = int(counters.subject[row] >> 1), int(book.meter_service[counters.meter[row]])
        held.setdefault((pool, service, int(counters.cycle[row])), []).append(row)
    for pool in range(len(names)):
        kind = int(book.pool_cycle[pool])
        if kind < 0 or owner[pool] < 0:
            continue
        now = book.cycle_calendars[kind].index(np.array([today[owner[pool]]], np.int32)).astype(np.int64)
        for service in np.flatnonzero(book.pool_shares[pool]).tolist():
            held.setdefault((pool, service, int(cycle_code(kind, now)[0])), [])
    rows = []
    for (pool, service, cycle), at in sorted(held.items()):
        first, last = cycle_days(book, cycle)
        meters = np.flatnonzero(book.meter_service == service)
        fixed = int(book.pool_fixed[pool, service])
        day = int(today[owner[pool]])
        size = fixed if fixed >= 0 else sum(int(pools.sizes(int(m), cycle, first, last, day)[pool]) for m in meters)
        used = int(counters["billable"][at].sum())
        declared = book.pools[pool]
        versions = counters["plan_version"][at]
        currency = declared.currency if declared is not None else None
        if currency is None and len(versions):
            currency = book.versions[int(versions[0])][0].currency
        rows.append(
            {
                "pool_id": names[pool].removeprefix(DEVICE_PREFIX),
                "account_id": book.vocabulary.accounts.names[owner[pool]],
                "kind": declared.kind if declared is not None else "device",
                "members": int(members[pool]),
                "service": _SERVICE_NAMES[service],
                "cycle": cycle_label(book, cycle),
                "size": size,
                "used": used,
                "percent": percent(used, size),
                "overage": int(counters["overage"][at].sum()),
                "charge_nanos": int(counters["charge_nanos"][at].sum()),
                "currency": currency,
            }
        )
    return pl.DataFrame(rows, schema=POOLS_VIEW)


def _accounts(engine: Engine) -> pl.DataFrame:
    rows = [(a.id, a.name, a.parent, a.time_zone, a.grace_hours, a.status) for a in engine.state.catalogue.accounts]
    return pl.DataFrame(rows, schema=ACCOUNTS_VIEW, orient="row")


def _addons(engine: Engine) -> pl.DataFrame:
    addons = engine.compiled.addons
    rows = [
        (
            addon.id,
            addon.iccid,
            addon.service,
            int(addons.units[row]),
            int(addons.used[row]),
            addon.purchased_at.astimezone(dt.UTC),
            addon.expires_on,
        )
        for row, addon in enumerate(addons.addons)
    ]
    return pl.DataFrame(rows, schema=ADDONS_VIEW, orient="row")


def rules_view(engine: Engine) -> pl.DataFrame:
    """Return the rules of the catalogue with the columns of RULES_VIEW, sorted by id."""
    active = engine.state.rules.active
    rows = [
        (
            rule.id,
            rule.name or None,
            rule.owner,
            rule.trigger,
            rule.measure if TRIGGERS[rule.trigger].measures else None,
            ", ".join(str(level) for level in rule.levels) or None,
            rule.repetition,
            "ACTIVE" if rule.id in active else "INACTIVE",
            active.get(rule.id),
        )
        for rule in engine.state.catalogue.rules
    ]
    return pl.DataFrame(rows, schema=RULES_VIEW, orient="row").sort("rule_id")
