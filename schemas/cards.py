"""Accounts, pools, cards and add-ons as a catalogue file writes them, and the catalogue that contains them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from schemas.document import Document
from schemas.plans import Amount, Cycle, Fee, Plan, Quantity, Rate, ServiceName, ZoneSet
from schemas.rules import Rule


class Account(Document, frozen=True):
    """A tenant that owns SIMs (T1, T5).

    `time_zone` is an IANA name. It determines the days and billing cycles of the account.
    """

    id: str
    name: str = ""
    parent: str | None = None
    time_zone: str = "UTC"
    grace_hours: int = 72
    status: str = "active"
    tags: tuple[str, ...] = ()


class PoolSize(Document, frozen=True):
    """The bought size of a static pool for one service."""

    service: ServiceName
    amount: Quantity


class Pool(Document, frozen=True):
    """SIMs that share an allowance (P7).

    `overage` contains the rates for usage past the allowance. If there is none, the plan of the member prices it.
    """

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


class Addon(Document, frozen=True):
    """An add-on bought for one card (C5). It is valid from `purchased_at` to the end of the local day `expires_on`."""

    id: str
    iccid: str
    service: ServiceName
    amount: Quantity
    purchased_at: dt.datetime
    expires_on: dt.date
    price: Amount = "0"


# One row per card. Dates are local days in the account's time zone. A column may be null unless its comment says not.
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
    "pool_until": pl.Date(),  # last day in the pool; null: no end
    "device": pl.String(),
    "status": pl.String(),  # network status (C1); null: activated
    "status_reason": pl.String(),  # reason of the suspension (C1); null: not stated
    "activated_on": pl.Date(),
    "test_from": pl.Date(),  # first day of the test period; null: none
    "term_months": pl.Int32(),  # null: as the plan says
    "tags": pl.List(pl.String()),
    "custom": pl.String(),  # JSON object of the custom fields; null: none
}

# A row of a change of cards. `given` names the columns of CARD_SCHEMA that the row says something about, separated by
# commas; a card in force keeps its values in all others. Null: all columns, except a plan or pool that is null.
CHANGE_SCHEMA: dict[str, pl.DataType] = CARD_SCHEMA | {
    "from": pl.Date(),  # first local day on which the row holds; null: the day of its arrival
    "given": pl.String(),
}


@dataclass(frozen=True)
class Catalogue:
    """A validated set of catalogue entries. One `weir apply` puts it into the journal as one entry.

    Entries are upserts by id (by ICCID for cards). `cards` has the columns of CARD_SCHEMA; its ICCIDs are unique. In a
    change it may have those of CHANGE_SCHEMA as well.
    """

    accounts: tuple[Account, ...] = ()
    zones: tuple[ZoneSet, ...] = ()
    plans: tuple[Plan, ...] = ()
    pools: tuple[Pool, ...] = ()
    addons: tuple[Addon, ...] = ()
    rules: tuple[Rule, ...] = ()
    cards: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CARD_SCHEMA))
