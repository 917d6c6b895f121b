"""Plans, zones and prices as a catalogue file writes them (domain P1 to P9).

These are documents: quantities are text with a unit ("30 MB", "1 h") or whole numbers of the service's unit, money
is decimal text ("0.01"). `rating` compiles them to integers. All structs refuse unknown fields.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

import msgspec

Amount = str  # decimal text of the plan's currency, e.g. "0.0125"
Quantity = str | int  # "30 MB", "90 s", "2 min", "10" or 10 (bytes, messages, seconds)
ServiceName = Literal["data", "sms", "voice"]
DirectionName = Literal["any", "up", "down", "mo", "mt"]
RoundMode = Literal["half_even", "half_up", "up", "down"]


class _Document(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    pass


class Tier(_Document, frozen=True):
    """One tier of a graduated, volume or capacity price: up to and including `to` (cumulative; None: no end).

    Within it a unit costs `price` for each `per` units; `package` charges started packages of `per` instead. `flat`
    is added once, as the tier is entered.
    """

    to: Quantity | None = None
    price: Amount = "0"
    per: Quantity = 1
    package: bool = False
    flat: Amount = "0"


class Price(_Document, frozen=True):
    """A price model (P2), a cumulative function F of overage units; a record costs F(after) - F(before).

    flat: `price` for each `per`. package: `price` for each started `per`. block: `connect_fee` and started `per`
    blocks. once: `price` at the first unit and nothing more. graduated, volume, capacity: by `tiers`. free: 0.
    `basis` is what F accumulates over: the billing cycle, each record alone, or the session. `minimum` and
    `maximum` bound F. `connect_fee` is due once a record (a session's first partial), with any model.
    `free_units` are left out before pricing. `last_tier` says whether units past a last tier that has an end are
    free ("stop") or cost as in that tier ("extend").
    """

    model: Literal["flat", "package", "block", "once", "graduated", "volume", "capacity", "free"]
    price: Amount = "0"
    per: Quantity = 1
    tiers: tuple[Tier, ...] = ()
    connect_fee: Amount = "0"
    minimum: Amount | None = None
    maximum: Amount | None = None
    free_units: Quantity = 0
    last_tier: Literal["stop", "extend"] = "stop"
    basis: Literal["cycle", "record", "session"] = "cycle"


class IncrementStart(_Document, frozen=True):
    """From `start` units of the record (or session) on, usage is counted in steps of `step` (P3 rate group start)."""

    start: Quantity
    step: Quantity


class Increment(_Document, frozen=True):
    """How a quantity becomes a billable quantity (P3): at least `minimum`, then whole steps of `step`."""

    minimum: Quantity = 0
    step: Quantity = 1
    starts: tuple[IncrementStart, ...] = ()
    round: Literal["up", "down", "nearest", "none"] = "up"
    per: Literal["record", "session"] = "record"


class Rounding(_Document, frozen=True):
    """Where cost is rounded, once (P3): cumulative cost of the cycle, or the cost of each record."""

    decimals: int = 9
    mode: RoundMode = "half_even"
    at: Literal["cycle", "record"] = "cycle"


class Rate(_Document, frozen=True):
    """Allowance, increment and price of one service, direction, zone and time band within a plan version.

    `zone` None: any zone; `band` None: any time. Rates that give the same `counter` share one running total and
    one allowance (the allowance of the first of them that has one). `allowance` may be several amounts, used up
    in turn. `sim_cap` bounds what one SIM takes from its pool (P8). `hard_limit` is checked and has no effect.
    """

    service: ServiceName
    direction: DirectionName = "any"
    zone: str | None = None
    band: str | None = None
    counter: str | None = None
    allowance: Quantity | tuple[Quantity, ...] = 0
    prorate_allowance: bool = False
    increment: Increment = Increment()
    price: Price = Price(model="free")
    rounding: Rounding = Rounding()
    hard_limit: Quantity | None = None
    sim_cap: Quantity | None = None


class Band(_Document, frozen=True):
    """A named time band (P4) in the account's zone: from `start` to `end` local time on `days`.

    Higher `weight` wins where bands overlap. `end` "24:00" is the end of the day.
    """

    name: str
    days: Literal["all", "weekdays", "weekend", "holidays"] = "all"
    start: str = "00:00"
    end: str = "24:00"
    weight: int = 0


class Fee(_Document, frozen=True):
    """A fee that is not usage: once at activation, or each cycle, by days where `prorate` (P9)."""

    name: str
    amount: Amount
    per: Literal["activation", "cycle"] = "cycle"
    prorate: bool = True


class TestAllowance(_Document, frozen=True):
    """Test usage before activation (P6, C2): `amount` of data or `months`, whichever ends first."""

    amount: Quantity = "30 MB"
    months: int = 3


class PlanVersion(_Document, frozen=True):
    """A plan as in force from the local day `effective` (in the account's zone) on (P1)."""

    version: int
    effective: dt.date
    rates: tuple[Rate, ...]
    data_base: Literal[1000, 1024] = 1024
    zones: str | None = None  # id of a ZoneSet
    default_zone: str | None = None  # where no zone matches; None: reject as no_rate, unless a rate has no zone
    bands: tuple[Band, ...] = ()
    holidays: tuple[dt.date, ...] = ()
    fees: tuple[Fee, ...] = ()
    test: TestAllowance | None = None


class Cycle(_Document, frozen=True):
    """The billing cycle (T2): `months` long, beginning on day `anchor_day` (1 to 28)."""

    months: int = 1
    anchor_day: int = 1


class Plan(_Document, frozen=True):
    """A rate plan with its versions (P1). `voucher` is the plan voucher key (B2), where the operator uses one."""

    id: str
    currency: str
    versions: tuple[PlanVersion, ...]
    type: Literal["single", "same_tier", "dynamic", "static"] = "single"
    entity: Literal["sim", "device"] = "sim"  # device: the SIMs of one device share a pool (A1)
    voucher: str | None = None
    carrier: str | None = None
    tier: str | None = None
    cycle: Cycle = Cycle()
    term_months: int | None = None


class Zone(_Document, frozen=True):
    """A named list of countries (ISO alpha-2) and PLMNs; a PLMN wins over its country (P5)."""

    name: str
    countries: tuple[str, ...] = ()
    plmns: tuple[str, ...] = ()
    home: bool = False


class ZoneSet(_Document, frozen=True):
    """The zones that plans refer to by `id`; exactly one may be home."""

    id: str
    zones: tuple[Zone, ...]
