"""Plans, zones and prices as a catalogue file writes them (domain P1 to P9).

A quantity is text with a unit ("30 MB", "1 h") or a whole number in the unit of the service. Money is decimal text
("0.01"). `rating` compiles both to integers. All structs reject unknown fields.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

from schemas.document import Document

Amount = str  # decimal text of the plan's currency, e.g. "0.0125"
Quantity = str | int  # "30 MB", "90 s", "2 min", "10" or 10 (bytes, messages, seconds)
ServiceName = Literal["data", "sms", "voice"]
DirectionName = Literal["any", "up", "down", "mo", "mt"]
RoundMode = Literal["half_even", "half_up", "up", "down"]


class Tier(Document, frozen=True):
    """One tier of a graduated, volume or capacity price, up to and including `to` (cumulative; None: no end).

    In the tier, `per` units cost `price`, pro rata; with `package`, each started package of `per` units costs `price`.
    `flat` is charged once, when usage enters the tier.
    """

    to: Quantity | None = None
    price: Amount = "0"
    per: Quantity = 1
    package: bool = False
    flat: Amount = "0"


class Price(Document, frozen=True):
    """A price model (P2): a cumulative function F of overage units. A record costs F(after) - F(before).

    Models: flat is `price` per `per` units. package is `price` per started `per` units. block is `connect_fee` and
    `price` per started block of `per` units. once is `price` at the first unit and nothing more. graduated, volume and
    capacity follow `tiers`. free is 0.

    F accumulates over `basis`: the billing cycle, each record alone, or the session. `minimum` and `maximum` bound F.
    `connect_fee` is charged once per record (in a session, with the first partial record), with any model. `free_units`
    are not priced. `last_tier` applies if the last tier has an end: units past it are free ("stop") or cost as in that
    tier ("extend").
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


class IncrementStart(Document, frozen=True):
    """A rate group start: from `start` units of the record (or session) on, usage counts in steps of `step` (P3)."""

    start: Quantity
    step: Quantity


class Increment(Document, frozen=True):
    """Rounding of a quantity to the billable quantity (P3): at least `minimum`, then whole steps of `step`."""

    minimum: Quantity = 0
    step: Quantity = 1
    starts: tuple[IncrementStart, ...] = ()
    round: Literal["up", "down", "nearest", "none"] = "up"
    per: Literal["record", "session"] = "record"


class Rounding(Document, frozen=True):
    """Rounding of the cost, done once (P3): `at` the cumulative cost of the cycle, or the cost of each record."""

    decimals: int = 9
    mode: RoundMode = "half_even"
    at: Literal["cycle", "record"] = "cycle"


class Rate(Document, frozen=True):
    """Allowance, increment and price of one service, direction, zone and time band in a plan version.

    `zone` None: any zone; `band` None: any time. Rates with the same `counter` share one running total and one
    allowance: that of the first rate that has one. `allowance` may be several amounts, used up one after another.
    `sim_cap` limits the units that one SIM takes from its pool (P8). `hard_limit` is information for people: it is
    checked when the catalogue is loaded, and has no effect on rating.
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


class Band(Document, frozen=True):
    """A named time band (P4): from `start` to `end` on `days`, in the local time of the account.

    If bands overlap, the one with the higher `weight` applies. `end` "24:00" is the end of the day.
    """

    name: str
    days: Literal["all", "weekdays", "weekend", "holidays"] = "all"
    start: str = "00:00"
    end: str = "24:00"
    weight: int = 0


class Fee(Document, frozen=True):
    """A fee other than usage: once at activation, or each cycle. With `prorate` it is charged by days (P9)."""

    name: str
    amount: Amount
    per: Literal["activation", "cycle"] = "cycle"
    prorate: bool = True


class TestAllowance(Document, frozen=True):
    """Test allowance before activation (P6, C2): `amount` of data or `months`, whichever ends first."""

    amount: Quantity = "30 MB"
    months: int = 3


class PlanVersion(Document, frozen=True):
    """A version of a plan (P1). Its effective date is the local day `effective` in the time zone of the account."""

    version: int
    effective: dt.date
    rates: tuple[Rate, ...]
    data_base: Literal[1000, 1024] = 1024
    zones: str | None = None  # id of a ZoneSet
    default_zone: str | None = None  # used if no zone matches; None: reject as no_rate, unless a rate has no zone
    bands: tuple[Band, ...] = ()
    holidays: tuple[dt.date, ...] = ()
    fees: tuple[Fee, ...] = ()
    minimum_spend: Amount | None = None  # least sum of fees and charges for usage of a card in a cycle
    test: TestAllowance | None = None


class Cycle(Document, frozen=True):
    """A billing cycle (T2) of `months` months that begins on day `anchor_day` (1 to 31) of a month, or on its last."""

    months: int = 1
    anchor_day: int = 1


class Plan(Document, frozen=True):
    """A rate plan with its versions (P1). `voucher` is the plan voucher key (B2), if the operator uses one.

    `after_term` says what becomes of usage after the term (T3): it is rated without an allowance, or rejected.
    """

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
    after_term: Literal["rate", "reject"] = "rate"


class Zone(Document, frozen=True):
    """A named list of countries (ISO alpha-2) and PLMNs. A PLMN takes precedence over its country (P5)."""

    name: str
    countries: tuple[str, ...] = ()
    plmns: tuple[str, ...] = ()
    home: bool = False


class ZoneSet(Document, frozen=True):
    """A set of zones, which plan versions refer to by `id`. At most one zone is the home zone."""

    id: str
    zones: tuple[Zone, ...]
