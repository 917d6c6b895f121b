"""Live state of one card or one pool, as the fold of its partition has it now, as JSON values (Q2, Q6, Q7).

The rows of the card or pool are selected first, so the time for an answer does not grow with the fleet. Quantities are
whole units of the service (bytes, messages, seconds), amounts decimal text of the currency. "Now" is the latest arrival
time that the partition has seen; ticks keep it close to the wall clock.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any, Final

import msgspec
import numpy as np

from pipeline.config.worker import EVERY_ACCOUNT
from rating.engine import Engine
from rating.queries.cards import addons_view, cards_view, shares_now
from rating.queries.counters import counters_frame, open_cycles, rows_of_subject
from rating.queries.pools import PoolUse, account_of_pool, pool_id, pool_kind, row_of_pool, uses_now
from rating.units.money import format_amount
from rating.usage.accept import local_days

_EPOCH: Final = dt.date(1970, 1, 1)
_BASICS: Final = ("iccid", "imsi", "msisdn", "carrier", "status", "status_reason", "tags", "account_id", "device_id")

Accounts = Collection[str]  # the visible accounts, each with all accounts below it; EVERY_ACCOUNT means all


def card_now(engine: Engine, iccid: str, accounts: Accounts = (EVERY_ACCOUNT,)) -> dict[str, Any] | None:
    """Return a card with its counters in the open cycles, its share in pools or device, and its add-ons.

    Returns None if the partition has no such card, or none that `accounts` may see (Q7).
    """
    directory = engine.compiled.directory
    row = directory.row_of(iccid) if len(directory) else -1
    if row < 0 or not may_see(engine, int(directory.account[row]), accounts):
        return None
    day = _today(engine, int(directory.account[row]))
    counters = counters_frame(engine, rows_of_subject(engine, row << 1, open_cycles(engine, day)))
    return {
        **_basics(engine, row, day),
        "as_of": _instant(engine),
        "counters": [_counter(one) for one in counters.iter_rows(named=True)],
        "shares": _shares(engine, row, day),
        "addons": _addons(engine, row),
    }


def pool_now(engine: Engine, wanted: str, accounts: Accounts = (EVERY_ACCOUNT,)) -> dict[str, Any] | None:
    """Return a pool, or a device whose SIMs share: size and usage for each service, and the number of members.

    Returns None if the partition has no such pool or device, or none that `accounts` may see (Q7).
    """
    pool = row_of_pool(engine, wanted)
    account = -1 if pool < 0 else account_of_pool(engine, pool)
    if account < 0 or not may_see(engine, account, accounts):
        return None
    day = _today(engine, account)
    return {
        "pool_id": pool_id(engine, pool),
        "account_id": engine.compiled.book.vocabulary.accounts.names[account],
        "kind": pool_kind(engine, pool),
        "members": int(engine.compiled.pools.members(day)[pool]),
        "as_of": _instant(engine),
        "services": [_gauge(use) for use in uses_now(engine, pool, day)],
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


def _basics(engine: Engine, row: int, day: int) -> dict[str, Any]:
    card = cards_view(engine, np.array([row]), np.array([day])).row(0, named=True)
    return {name: card[name] for name in _BASICS} | {
        "tags": card["tags"] or [],
        "holds": card["holds"] or [],
        "pool_id": card["pool_id"],
        "activated_on": _text(card["activated_on"]),
        "term_ends_on": _text(card["term_ends_on"]),
        "custom": msgspec.json.decode(card["custom"]) if card["custom"] else {},
        "plan_id": card["plan_id"],
        "plan_version": card["plan_version"],
    }


def _counter(one: dict[str, Any]) -> dict[str, Any]:
    """Return a counter of a card. Usage taken from a pool is part of `used`, but is charged at the pool."""
    return {
        "counter": one["counter"],
        "service": one["service"],
        "cycle": one["cycle"],
        "cycle_from": _text(one["cycle_from"]),
        "cycle_until": _text(one["cycle_until"]),
        "used": one["billable"],
        "from_test": one["from_test"],
        "allowance": one["allowance_size"],
        "from_allowance": one["allowance_used"],
        "from_addon": one["addon_used"],
        "overage": one["overage"],
        "in_pool": one["in_pool"],
        "charge": format_amount(one["charge_nanos"]),
        "currency": one["currency"],
    }


def _gauge(use: PoolUse) -> dict[str, Any]:
    return {
        "service": use.service,
        "cycle": use.cycle,
        "cycle_from": _date(use.cycle_from),
        "cycle_until": _date(use.cycle_until),
        "size": use.size,
        "used": use.used,
        "percent": use.percent,
        "overage": use.overage,
        "charge": format_amount(use.charge_nanos),
        "currency": use.currency,
    }


def _shares(engine: Engine, row: int, day: int) -> list[dict[str, Any]]:
    """Return the shares of a card now.

    For each service: the pool or device, how full it is, and how much of it the card used.
    """
    return [
        {
            "subject_kind": "device" if pool_kind(engine, share.pool) == "device" else "pool",
            "subject": pool_id(engine, share.pool),
            **_gauge(share.use),
            "used_by_card": share.used_by_card,
        }
        for share in shares_now(engine, row, day)
    ]


def _addons(engine: Engine, row: int) -> list[dict[str, Any]]:
    """Return the add-ons of a card, ordered by expiry date."""
    own = addons_view(engine, np.flatnonzero(engine.compiled.addons.card == row))
    return [
        {
            "addon_id": addon["addon_id"],
            "service": addon["service"],
            "size": addon["size"],
            "used": addon["used"],
            "purchased_at": addon["purchased_at"].isoformat().replace("+00:00", "Z"),
            "expires_on": addon["expires_on"].isoformat(),
        }
        for addon in own.sort("expires_on", "purchased_at", "addon_id").iter_rows(named=True)
    ]


def _text(day: dt.date | None) -> str | None:
    return None if day is None else day.isoformat()
