"""Live state of one card or one pool, as the fold of its partition has it now, as JSON values (Q2, Q6, Q7).

The rows of the card or pool are selected first, so the time for an answer does not grow with the fleet. Quantities are
whole units of the service (bytes, messages, seconds), amounts decimal text of the currency. "Now" is the latest arrival
time that the partition has seen; ticks keep it close to the wall clock.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
import numpy as np

from pipeline.config.worker import EVERY_ACCOUNT
from rating.catalogue.pools import DEVICE_PREFIX
from rating.catalogue.rates import SERVICES
from rating.columnar.counters import counter_key
from rating.columnar.key_index import Ints
from rating.engine import Engine
from rating.units.money import format_amount
from rating.units.ratio import percent
from rating.usage.accept import local_days
from rating.usage.charge import TEST_METER
from rating.usage.cycles import cycle_code, cycle_days, cycle_label

_SERVICE_NAMES: Final = list(SERVICES)
_EPOCH: Final = dt.date(1970, 1, 1)
_TOTALS: Final = (
    "billable",
    "in_pool",
    "test",
    "allowance",
    "addon",
    "overage",
    "charge_nanos",
    "size",
    "plan_version",
)
_BASICS: Final = ("iccid", "imsi", "msisdn", "account", "device", "carrier", "status", "status_reason", "tags")

Accounts = Collection[str]  # the visible accounts, each with all accounts below it; EVERY_ACCOUNT means all


def card_now(engine: Engine, iccid: str, accounts: Accounts = (EVERY_ACCOUNT,)) -> dict[str, Any] | None:
    """Return a card with its counters in the open cycles, its share in pools or device, and its add-ons.

    Returns None if the partition has no such card, or none that `accounts` may see (Q7).
    """
    directory = engine.compiled.directory
    row = directory.row_of(iccid) if len(directory) else -1
    if row < 0 or not may_see(engine, int(directory.account[row]), accounts):
        return None
    account = int(directory.account[row])
    day = _today(engine, account)
    plan, version = _plan(engine, row, day)
    return {
        **_basics(engine, row, day),
        "plan_id": plan,
        "plan_version": version,
        "as_of": _instant(engine),
        "counters": [_own(engine, totals) for totals in _totals(engine, row << 1, _open_cycles(engine, day))],
        "shares": _shares(engine, row, day),
        "addons": _addons(engine, row),
    }


def pool_now(engine: Engine, pool_id: str, accounts: Accounts = (EVERY_ACCOUNT,)) -> dict[str, Any] | None:
    """Return a pool, or a device whose SIMs share: size and usage for each service, and the number of members.

    Returns None if the partition has no such pool or device, or none that `accounts` may see (Q7).
    """
    book, rows = engine.compiled.book, engine.compiled.book.vocabulary.pools.rows
    pool = rows.get(pool_id, -1)
    if pool < 0 or book.pools[pool] is None:
        pool = rows.get(DEVICE_PREFIX + pool_id, -1)
    account = -1 if pool < 0 else _account_of_pool(engine, pool)
    if account < 0 or not may_see(engine, account, accounts):
        return None
    day = _today(engine, account)
    declared = book.pools[pool]
    return {
        "pool_id": pool_id,
        "account_id": book.vocabulary.accounts.names[account],
        "kind": "device" if declared is None else declared.kind,
        "members": int(engine.compiled.pools.members(day)[pool]),
        "as_of": _instant(engine),
        "services": _gauges(engine, pool, day),
    }


def may_see(engine: Engine, account: int, accounts: Accounts) -> bool:
    """Return True if an account (by number) is one of `accounts` or below one of them."""
    if EVERY_ACCOUNT in accounts:
        return True
    tree = engine.compiled.book.account_tree
    return any(tree.is_within(tree.ids[account], top) for top in accounts)


def _today(engine: Engine, account: int) -> int:
    clock_us = np.array([engine.state.clock_us], np.int64)
    return int(local_days(engine.compiled.book, np.array([account]), clock_us)[0])


def _instant(engine: Engine) -> str:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=engine.state.clock_us)
    return moment.isoformat().replace("+00:00", "Z")


def _date(day: int) -> str:
    return (_EPOCH + dt.timedelta(days=day)).isoformat()


def _open_cycles(engine: Engine, day: int, kind: int = -1) -> list[int]:
    """Return the codes of the cycles that contain a local day: of one kind, or of all kinds if `kind` is -1."""
    calendars = engine.compiled.book.cycle_calendars
    today = np.array([day], np.int32)
    kinds = range(len(calendars)) if kind < 0 else [kind]
    return [int(cycle_code(one, calendars[one].index(today).astype(np.int64))[0]) for one in kinds]


def _plan(engine: Engine, row: int, day: int) -> tuple[str | None, int | None]:
    book = engine.compiled.book
    plan = engine.compiled.directory.plans.at(np.array([row]), np.array([day]))
    version = int(book.version_of(plan, np.array([day]))[0])
    name = book.vocabulary.plans.names[int(plan[0])] if plan[0] >= 0 else None
    return name, book.versions[version][1].version if version >= 0 else None


def _basics(engine: Engine, row: int, day: int) -> dict[str, Any]:
    directory = engine.compiled.directory
    card = directory.cards.row(row, named=True)
    pool = int(directory.pools.at(np.array([row]), np.array([day]))[0])
    ends = int(directory.term_ends[row])
    found = {name: card[name] for name in _BASICS}
    found |= {"account_id": found.pop("account"), "device_id": found.pop("device")}
    return found | {
        "status": card["status"] or "activated",
        "tags": card["tags"] or [],
        "pool_id": engine.compiled.book.vocabulary.pools.names[pool] if pool >= 0 else None,
        "activated_on": None if card["activated_on"] is None else card["activated_on"].isoformat(),
        "term_ends_on": _date(ends) if ends < (1 << 20) else None,
        "custom": msgspec.json.decode(card["custom"]) if card["custom"] else {},
    }


def _totals(engine: Engine, subject: int, cycles: list[int]) -> list[dict[str, int]]:
    """Return the counters of a subject in these cycles, by cycle and meter: subject, meter, cycle and totals."""
    counters, meters = engine.state.counters, len(engine.compiled.book.vocabulary.meters)
    meter, cycle = np.tile(np.arange(meters), len(cycles)), np.repeat(np.array(sorted(cycles), np.int64), meters)
    keys = counter_key(np.full(len(meter), subject, np.int64), meter, cycle)
    rows = counters.index.find(keys.view(np.uint64))
    return [
        {"subject": subject, "meter": int(meter[at]), "cycle": int(cycle[at])}
        | {name: int(counters[name][rows[at]]) for name in _TOTALS}
        for at in np.flatnonzero((rows >= 0) & (meter != TEST_METER)).tolist()
    ]


def _meter(engine: Engine, totals: Mapping[str, int]) -> dict[str, Any]:
    book = engine.compiled.book
    first, last = cycle_days(book, totals["cycle"])
    return {
        "counter": book.vocabulary.meters.names[totals["meter"]],
        "service": _SERVICE_NAMES[int(book.meter_service[totals["meter"]])],
        "cycle": cycle_label(book, totals["cycle"]),
        "cycle_from": _date(first),
        "cycle_until": _date(last),
    }


def _own(engine: Engine, totals: Mapping[str, int]) -> dict[str, Any]:
    """Return a counter of a card. Usage taken from a pool is part of `used`, but is charged at the pool."""
    return _meter(engine, totals) | {
        "used": totals["billable"] + totals["in_pool"] - totals["test"],  # C2
        "from_test": totals["test"],
        "allowance": totals["size"],
        "from_allowance": totals["allowance"],
        "from_addon": totals["addon"],
        "overage": totals["overage"],
        "in_pool": totals["in_pool"],
        "charge": format_amount(totals["charge_nanos"]),
        "currency": engine.compiled.book.versions[totals["plan_version"]][0].currency,
    }


def _shares(engine: Engine, row: int, day: int) -> list[dict[str, Any]]:
    """Return the shares of a card now.

    For each service: the pool or device, how full it is, and how much of it the card used.
    """
    book, compiled = engine.compiled.book, engine.compiled
    today = np.array([day])
    plan = compiled.directory.plans.at(np.array([row]), today)
    found = []
    for name, service in SERVICES.items():
        pool = int(compiled.pools.of(np.array([row]), plan, np.array([int(service)]), today)[0]) if plan[0] >= 0 else -1
        if pool < 0:
            continue
        gauges = [gauge for gauge in _gauges(engine, pool, day) if gauge["service"] == name]
        cycles = _open_cycles(engine, day, int(book.pool_cycle[pool]))
        own = [one for one in _totals(engine, row << 1, cycles) if int(book.meter_service[one["meter"]]) == service]
        declared = book.pools[pool]
        for gauge in gauges:
            by_card = sum(one["in_pool"] for one in own if cycle_label(book, one["cycle"]) == gauge["cycle"])
            pool_name = book.vocabulary.pools.names[pool].removeprefix(DEVICE_PREFIX)
            kind = "device" if declared is None else "pool"
            found.append({"subject_kind": kind, "subject": pool_name, **gauge, "used_by_card": by_card})
    return found


def _gauges(engine: Engine, pool: int, day: int) -> list[dict[str, Any]]:
    """Return how full a pool is in the open cycle, one item for each service.

    Of a device there is an item only for each open cycle in which its SIMs used the service.
    """
    book = engine.compiled.book
    kind = int(book.pool_cycle[pool])
    cycles = _open_cycles(engine, day, kind)
    totals = _totals(engine, pool << 1 | 1, cycles)
    shared = np.flatnonzero(book.pool_shares[pool]).tolist()
    wanted = {(cycles[0], service) for service in shared} if kind >= 0 else set()
    wanted |= {(one["cycle"], int(book.meter_service[one["meter"]])) for one in totals}
    found = []
    for cycle, service in sorted(wanted):
        here = [one for one in totals if one["cycle"] == cycle and book.meter_service[one["meter"]] == service]
        size, used = _size(engine, pool, service, cycle, day), sum(one["billable"] for one in here)
        first, last = cycle_days(book, cycle)
        found.append(
            {
                "service": _SERVICE_NAMES[service],
                "cycle": cycle_label(book, cycle),
                "cycle_from": _date(first),
                "cycle_until": _date(last),
                "size": size,
                "used": used,
                "percent": percent(used, size),
                "overage": sum(one["overage"] for one in here),
                "charge": format_amount(sum(one["charge_nanos"] for one in here)),
                "currency": _currency(engine, pool, here),
            }
        )
    return found


def _size(engine: Engine, pool: int, service: int, cycle: int, day: int) -> int:
    """Return the size of a pool now (P7)."""
    book, pools = engine.compiled.book, engine.compiled.pools
    fixed = int(book.pool_fixed[pool, service])
    if fixed >= 0:
        return fixed
    first, last = cycle_days(book, cycle)
    meters: Ints = np.flatnonzero(book.meter_service == service)
    return sum(int(pools.sizes(int(meter), cycle, first, last, day)[pool]) for meter in meters)


def _currency(engine: Engine, pool: int, totals: list[dict[str, int]]) -> str | None:
    book = engine.compiled.book
    declared = book.pools[pool]
    if declared is not None and declared.currency is not None:
        return declared.currency
    return book.versions[totals[0]["plan_version"]][0].currency if totals else None


def _account_of_pool(engine: Engine, pool: int) -> int:
    """Return the account of a pool. For a device, the account of its first card, or -1 if it has no card."""
    owner = int(engine.compiled.book.pool_account[pool])
    if owner >= 0:
        return owner
    cards = np.flatnonzero(engine.compiled.pools.device_row == pool)
    return int(engine.compiled.directory.account[cards[0]]) if len(cards) else -1


def _addons(engine: Engine, row: int) -> list[dict[str, Any]]:
    """Return the add-ons of a card, ordered by expiry date."""
    addons = engine.compiled.addons
    own = [(addons.addons[at], at) for at in np.flatnonzero(addons.card == row).tolist()]
    return [
        {
            "addon_id": addon.id,
            "service": addon.service,
            "size": int(addons.units[at]),
            "used": int(addons.used[at]),
            "purchased_at": addon.purchased_at.astimezone(dt.UTC).isoformat().replace("+00:00", "Z"),
            "expires_on": addon.expires_on.isoformat(),
        }
        for addon, at in sorted(own, key=lambda one: (one[0].expires_on, one[0].purchased_at, one[0].id))
    ]
