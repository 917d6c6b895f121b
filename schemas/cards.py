"""Accounts, pools, cards and add-ons as a catalogue file writes them, and the catalogue that holds them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import polars as pl

from schemas.plans import Amount, Cycle, Fee, Plan, Quantity, Rate, ServiceName, ZoneSet
from schemas.rules import Rule


class _Document(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    pass


class Account(_Document, frozen=True):
    """A tenant that owns SIMs (T1, T5). `time_zone` is an IANA name; all its windows are cut in it."""

    id: str
    name: str = ""
    parent: str | None = None
    time_zone: str = "UTC"
    grace_hours: int = 72
    status: str = "active"
    tags: tuple[str, ...] = ()


class PoolSize(_Document, frozen=True):
    """The bought size of a static pool for one service."""

    service: ServiceName
    amount: Quantity


class Pool(_Document, frozen=True):
    """SIMs that share an allowance (P7). `overage` are the rates past it; without one the member's plan prices."""

    id: str
    account: str
    kind: Literal["same_tier", "dynamic", "static"]
    currency: str | None = None
    size: tuple[PoolSize, ...] = ()
    services: tuple[ServiceName, ...] = ("data",)
    joining: Literal["full", "prorate"] = "full"
    overage: tuple[Rate, ...] = ()
    cycle: Cycle = Cycle()
    data_base: Literal[1000, 1024] = 1024
    fees: tuple[Fee, ...] = ()


class Addon(_Document, frozen=True):
    """A bought add-on of one card (C5): acts from `purchased_at`, ends with the local day `expires_on`."""

    id: str
    iccid: str
    service: ServiceName
    amount: Quantity
    purchased_at: dt.datetime
    expires_on: dt.date
    price: Amount = "0"


# One row a card. Dates are days since 1970 in the account's zone; nullable unless said otherwise.
CARD_SCHEMA: dict[str, pl.DataType] = {
    "iccid": pl.String(),  # not null
    "imsi": pl.String(),
    "msisdn": pl.String(),
    "eid": pl.String(),
    "imei": pl.String(),
    "carrier": pl.String(),
    "account": pl.String(),  # not null
    "plan": pl.String(),
    "plan_from": pl.Date(),  # null: from the beginning of time
    "pool": pl.String(),
    "pool_from": pl.Date(),  # null: from the beginning of time
    "pool_until": pl.Date(),  # the last day in the pool; null: open
    "device": pl.String(),
    "status": pl.String(),  # network status (C1); null: activated
    "status_reason": pl.String(),  # why it is suspended (C1); null: not said
    "activated_on": pl.Date(),
    "test_from": pl.Date(),  # first day of the test period; null: none
    "term_months": pl.Int32(),  # null: the plan's
    "tags": pl.List(pl.String()),
    "custom": pl.String(),  # JSON object of the custom fields; null: none
}


@dataclass(frozen=True)
class Catalogue:
    """A validated set of catalogue entries: what one `weir apply` puts into the journal, as one command.

    Entries are upserts by id (ICCID for cards). `cards` has the columns of CARD_SCHEMA, ICCIDs unique.
    """

    accounts: tuple[Account, ...] = ()
    zones: tuple[ZoneSet, ...] = ()
    plans: tuple[Plan, ...] = ()
    pools: tuple[Pool, ...] = ()
    addons: tuple[Addon, ...] = ()
    rules: tuple[Rule, ...] = ()
    cards: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CARD_SCHEMA))
