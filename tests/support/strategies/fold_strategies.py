"""Hypothesis strategies of worlds for the fold: a small catalogue, a change of it, and usage before and after."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st

from schemas.cards import Account, Addon, Catalogue, Pool, PoolSize
from schemas.plans import (
    Band,
    Cycle,
    Fee,
    Increment,
    IncrementStart,
    Plan,
    PlanVersion,
    Price,
    Rate,
    Rounding,
    TestAllowance,
    Tier,
    Zone,
    ZoneSet,
)
from schemas.usage import Direction, RecordType, Service, UsageBatch
from tests.support.fold_case import SINCE, Row, cards, usage

_ACTIVATION = Fee(name="start", amount="5.00", per="activation")
_ZONES = ("UTC", "Europe/Berlin", "America/Los_Angeles")
_DAYS = [dt.date(2026, 9, 1), dt.date(2026, 9, 20), dt.date(2026, 10, 1), dt.date(2026, 10, 15), dt.date(2026, 10, 26)]
_ARRIVALS = [
    dt.datetime(2026, 9, 20, 8, tzinfo=dt.UTC),
    dt.datetime(2026, 10, 3, 1, tzinfo=dt.UTC),
    dt.datetime(2026, 10, 17, 12, tzinfo=dt.UTC),
    dt.datetime(2026, 10, 31, 23, 30, tzinfo=dt.UTC),
    dt.datetime(2026, 11, 3, 7, 30, tzinfo=dt.UTC),
    dt.datetime(2026, 11, 9, tzinfo=dt.UTC),
]
_PLACES = [("26201", "DE"), ("20801", "FR"), (None, "DE"), (None, "GB"), ("23415", "GB"), (None, None)]
_BANDS = (
    Band(name="day", days="weekdays", start="08:00", end="18:00", weight=1),
    Band(name="night", start="22:00", end="06:00"),
    Band(name="feast", days="holidays", start="07:30", weight=1),
)

_FEW = [0, 0, 10, 300, 1000, 4000]

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """A catalogue, usage, a change of the catalogue, and more usage."""

    catalogue: Catalogue
    before: tuple[UsageBatch, ...]
    change: Catalogue
    after: tuple[UsageBatch, ...]


class Dice:
    """Choices that are computed from one number.

    Drawing one number is faster than drawing each choice. A number shrinks to 0, which means the first option of each
    choice.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def below(self, count: int) -> int:
        """Return a number from 0 to count - 1."""
        self.number, found = divmod(self.number, count)
        return found

    def pick(self, *options: T) -> T:
        """Return one of the options."""
        return options[self.below(len(options))]

    def day(self) -> dt.date:
        """Return one of _DAYS, on which something changes."""
        return self.pick(*_DAYS)


# Bytes are distributed evenly. Hypothesis would draw mostly small integers.
dice = st.binary(min_size=18, max_size=18).map(lambda drawn: Dice(int.from_bytes(drawn)))


def price(roll: Dice, cumulative_only: bool = False) -> Price:
    """Return a price of any model, in the order of magnitude of the usage.

    If `cumulative_only`, the price is a function F of the usage in the cycle alone.
    """
    models = ["flat", "graduated", "package", "block", "once", "free"] + ["volume", "capacity"] * (not cumulative_only)
    model = roll.pick(*models)
    fields: dict[str, Any] = {}
    if model in ("graduated", "volume", "capacity"):
        ends = roll.pick((700, None), (None,), (10, 1000, None), (1, 100, 2500), (100, 700))
        fields["last_tier"] = roll.pick("stop", "extend")
        fields["tiers"] = tuple(
            Tier(
                to=to,
                price=roll.pick("0.5", "0", "0.0333", "2"),
                per=roll.pick(1, 7, 100),
                package=bool(roll.below(2)),
                flat=roll.pick("0", "1.5"),
            )
            for to in ends
        )
    elif model == "once":
        fields["price"] = "3.3"
    elif model != "free":
        fields |= {"price": roll.pick("0.01", "7", "0.000000000013"), "per": roll.pick(1, 3, 60)}
    bound = roll.pick(None, None, None, "minimum", "maximum")
    if bound is not None:
        fields[bound] = roll.pick("2", "40")
    fields["free_units"] = roll.pick(0, 0, 50)
    if not cumulative_only:
        fields["connect_fee"] = roll.pick("0", "0", "1")
        fields["basis"] = roll.pick("cycle", "cycle", "record", "session")
    return Price(model=model, **fields)  # type: ignore[arg-type]


def increment(roll: Dice, per: Any) -> Increment:
    """Return an increment with minimum, steps and a rate group start, or the default one."""
    if roll.below(2) == 0:
        return Increment()
    return Increment(
        minimum=roll.pick(0, 30),
        step=roll.pick(1, 6, 50),
        starts=roll.pick((), (IncrementStart(start=60, step=11),)),
        round=roll.pick("up", "up", "down", "nearest", "none"),
        per=per,
    )


def rate(roll: Dice, service: Any, cumulative_only: bool = False, **where: Any) -> Rate:
    """Return a rate of a service. `where` has its direction, zone and band."""
    per = "record" if cumulative_only or where.get("direction") else roll.pick("record", "session")
    rounding = Rounding()
    if roll.below(2):
        rounding = Rounding(
            decimals=roll.pick(0, 2, 9),
            mode=roll.pick("half_even", "half_up", "up", "down"),
            at="cycle" if cumulative_only else roll.pick("cycle", "record"),
        )
    return Rate(
        service=service,
        allowance=(200, 100) if roll.below(7) == 6 else roll.pick(*_FEW),
        prorate_allowance=not cumulative_only and roll.below(3) == 2,
        increment=increment(roll, per),
        price=price(roll, cumulative_only),
        rounding=rounding,
        sim_cap=None if cumulative_only else roll.pick(None, None, 800),
        counter=None if cumulative_only else roll.pick(None, None, None, f"{service}-total"),
        **where,
    )


def rate_places(roll: Dice, banded: bool) -> list[dict[str, str]]:
    """Return what each rate of a plan version applies to.

    Data has one rate, or rates by zone, direction or band. Sometimes there are rates of SMS and voice.
    """
    found: list[dict[str, str]] = roll.pick(
        [{"service": "data"}],
        [{"service": "data", "zone": "home"}, {"service": "data", "zone": "world"}],
        [{"service": "data", "direction": "up"}, {"service": "data", "direction": "down"}],
        [{"service": "data"}, {"service": "data", "direction": "up", "zone": "home"}],
        [{"service": "data"}, {"service": "data", "band": "day"}] if banded else [{"service": "data"}],
        [{"service": "data", "zone": "home"}],
    )
    if roll.below(3):
        found = [*found, {"service": "voice"}, *([{"service": "voice", "band": "night"}] if banded else [])]
    if roll.below(3):
        found = [*found, {"service": "sms", "direction": roll.pick("any", "mo")}]
    return found


@st.composite
def versions(draw: st.DrawFn, number: int, cumulative_only: bool) -> PlanVersion:
    """Draw a version of a plan. If `cumulative_only`, it has no bands."""
    roll = draw(dice)
    banded = not cumulative_only and roll.below(3) == 2
    return PlanVersion(
        version=number,
        effective=SINCE if number == 1 else roll.day(),
        zones="z",
        default_zone=roll.pick("world", "world", None),
        bands=_BANDS if banded else (),
        holidays=(dt.date(2026, 10, 26),) if banded else (),
        test=None if cumulative_only else roll.pick(None, None, TestAllowance(amount=500, months=1)),
        rates=tuple(rate(draw(dice), cumulative_only=cumulative_only, **place) for place in rate_places(roll, banded)),
        fees=(Fee(name="base", amount="31.00", prorate=roll.pick(True, True, False)), *roll.pick((), (_ACTIVATION,))),
    )


@st.composite
def plans(draw: st.DrawFn, name: str, cycle: Cycle, cumulative_only: bool) -> Plan:
    """Draw a plan with one or two versions; with one if `cumulative_only`."""
    roll = draw(dice)
    count = 1 if cumulative_only else roll.pick(1, 1, 2)
    return Plan(
        id=name,
        currency="EUR",
        versions=tuple(draw(versions(number, cumulative_only)) for number in range(1, 1 + count)),
        entity=roll.pick("sim", "sim", "device"),
        cycle=cycle,
        term_months=roll.pick(None, None, 2),
        after_term=roll.pick("rate", "rate", "reject"),
    )


def pool(roll: Dice, name: str, cycle: Cycle, cumulative_only: bool) -> Pool:
    """Return a pool of any kind, with or without an overage price of its own."""
    kind = roll.pick("dynamic", "same_tier", "static")
    return Pool(
        id=name,
        account="a",
        kind=kind,  # type: ignore[arg-type]
        size=(PoolSize(service="data", amount=roll.pick(*_FEW)),) if kind == "static" else (),
        services=roll.pick(("data",), ("data", "sms", "voice")),
        joining=roll.pick("full", "prorate"),
        cycle=cycle,
        overage=(rate(roll, "data", cumulative_only),) if roll.below(2) else (),
    )


def card_change(roll: Dice, iccid: str, plan_ids: list[str], pool_ids: list[str]) -> Row:
    """Return a change of a card: all of it, or some columns, from a day that may be past or future, or none."""
    row = card(roll, iccid, plan_ids, pool_ids, True) | {"from": roll.pick(None, None, roll.day())}
    row["account"] = roll.pick("a", "a", "b")
    if row["account"] == "b":
        row["pool"] = None
    some = [name for name in row if name not in ("iccid", "account", "from") and roll.below(2)]
    if roll.below(2):
        whole = {name: row[name] for name in ("iccid", "account", "from")}
        row = whole | {name: row[name] for name in some} | {"given": ",".join(["iccid", "account", *some])}
    return row


def card(roll: Dice, iccid: str, plan_ids: list[str], pool_ids: list[str], later: bool) -> Row:
    """Return a card, or a change of a card if `later`."""
    pool_id = roll.pick(None, *pool_ids)
    return {
        "iccid": iccid,
        "imsi": roll.pick(f"9{iccid}", f"9{iccid}", f"9{iccid}", "91"),
        "msisdn": roll.pick(f"8{iccid}", f"8{iccid}", f"8{iccid}", None),
        "account": roll.pick("a", "a", "b") if pool_id is None and not later else "a",
        "plan": roll.pick(*(9 * plan_ids), None),
        "plan_from": roll.day() if later else roll.pick(None, None, None, roll.day()),
        "pool": pool_id,
        "pool_from": roll.pick(None, roll.day()),
        "pool_until": roll.pick(None, None, dt.date(2026, 10, 20)),
        "device": roll.pick(None, "d"),
        "status": roll.pick(None, "activated", "suspended", "inventory", "deactivated"),
        "activated_on": roll.pick(None, roll.day()),
        "test_from": roll.pick(None, dt.date(2026, 9, 10)),
        "term_months": roll.pick(None, None, None, 1, 2),
    }


def addon(roll: Dice, name: str, iccids: list[str]) -> Addon:
    """Return an add-on of one of the cards."""
    return Addon(
        id=name,
        iccid=roll.pick(*iccids),
        service=roll.pick("data", "data", "voice"),
        amount=roll.pick(1500, 100, 8000),
        purchased_at=roll.pick(*_ARRIVALS[:3]) - dt.timedelta(days=20),
        expires_on=roll.pick(dt.date(2026, 11, 30), dt.date(2026, 10, 16), dt.date(2026, 10, 31)),
    )


def record(roll: Dice, iccids: list[str], received: dt.datetime, cumulative: bool) -> Row:
    """Return a usage record. Some are of an unknown card, lack a rate, are late or repeat a key."""
    number = roll.pick(*(9 * iccids), "404")
    by, first = roll.pick(("iccid", ""), ("iccid", ""), ("iccid", ""), ("imsi", "9"), ("msisdn", "8"))
    ago = roll.below(roll.pick(3, 12, 40) * 1440) - roll.pick(0, 0, 0, 100)
    used_at = received - dt.timedelta(minutes=ago)
    service = roll.pick(Service.DATA, Service.DATA, Service.DATA, Service.VOICE, Service.SMS)
    row: Row = {by: first + number, "service": service, "used_at": used_at, "record_key": f"k{roll.below(200)}"}
    row["plmn"], row["country"] = roll.pick(*_PLACES)
    if service == Service.DATA:
        row["direction"] = roll.pick(Direction.BOTH, Direction.BOTH, Direction.BOTH, Direction.BOTH, Direction.UP)
        up, down = roll.below(1500), roll.below(1500)
        row["quantity"] = up + down
        if roll.below(6):
            row |= {"volume_up_bytes": up, "volume_down_bytes": down}
    else:
        row |= {"direction": roll.pick(Direction.MO, Direction.MO, Direction.MT), "quantity": roll.below(400)}
    if cumulative or roll.below(2):
        row["session_id"] = roll.pick("s", "t", None)
        row["sequence"] = roll.pick(None, 1, 2, 3, 4, 5, 6)
        row["record_type"] = roll.pick(*list(RecordType)[:4])
    if roll.below(3) == 0:
        row["started_at"] = used_at - dt.timedelta(minutes=roll.below(600))
        row["ended_at"] = roll.pick(None, used_at, used_at - dt.timedelta(hours=20))
    return row


@st.composite
def batches(draw: st.DrawFn, iccids: list[str], first_row: int, most: int, cumulative_only: bool) -> UsageBatch:
    """Draw usage of one feed that arrives at one time."""
    roll = draw(dice)
    cumulative = not cumulative_only and roll.below(3) == 2
    received = roll.pick(*_ARRIVALS)
    feed = roll.pick("totals", "totals", "wraps") if cumulative else roll.pick("plain", "plain", "other")
    rolls = draw(st.lists(dice, min_size=most // 3, max_size=most))
    rows = [record(one, iccids, received, cumulative) for one in rolls]
    bits = 32 if feed == "wraps" else 0
    for one, row in zip(rolls, rows, strict=True):
        if bits and row["service"] == Service.DATA:
            fill(one, row, 1 << bits)
    return usage(*rows, feed=feed, received=received, cumulative=cumulative, first_row=first_row, counter_bits=bits)


def fill(roll: Dice, row: Row, full: int) -> None:
    """Move the totals of a record to where their counters, which hold less than `full`, are about to begin again."""
    for name in ("quantity", "volume_up_bytes", "volume_down_bytes"):
        if row.get(name) is not None:
            row[name] = (row[name] + roll.pick(0, full - 700)) % full


@st.composite
def worlds(draw: st.DrawFn, cumulative_only: bool = False, most: int = 12) -> World:
    """Draw a catalogue of up to six cards, three plans and two pools, a change of it, and usage before and after.

    If `cumulative_only`, each price is a function of cumulative usage alone, and the change is empty.
    """
    roll = draw(dice)
    cycle = Cycle(anchor_day=roll.pick(1, 1, 15, 31), months=roll.pick(1, 1, 3))
    plan_ids = [f"p{number}" for number in range(roll.pick(1, 2, 3))]
    pool_ids = [f"q{number}" for number in range(roll.pick(0, 1, 2))]
    iccids = [str(number) for number in range(1, 1 + roll.pick(2, 1, 3, 6))]
    zone = ZoneSet(
        id="z",
        zones=(
            Zone(name="home", countries=("DE",), plmns=("20801",), home=True),
            Zone(name="world", countries=("FR", "GB")),
        ),
    )
    catalogue = Catalogue(
        accounts=(
            Account(id="a", time_zone=roll.pick(*_ZONES), grace_hours=roll.pick(72, 0)),
            Account(id="b", time_zone=roll.pick(*_ZONES)),
        ),
        zones=(zone,),
        plans=tuple(draw(plans(name, cycle, cumulative_only)) for name in plan_ids),
        pools=tuple(pool(draw(dice), name, cycle, cumulative_only) for name in pool_ids),
        addons=tuple(
            addon(draw(dice), f"x{number}", iccids) for number in range(0 if cumulative_only else roll.pick(0, 2, 4))
        ),
        cards=cards(*(card(draw(dice), iccid, plan_ids, pool_ids, False) for iccid in iccids)),
    )
    changed = [] if cumulative_only else [iccid for iccid in [*iccids, "new"] if roll.below(3) == 2]
    change = Catalogue(
        cards=cards(*(card_change(draw(dice), iccid, plan_ids, pool_ids) for iccid in changed)),
        addons=tuple(addon(draw(dice), f"y{one}", iccids) for one in range(0 if cumulative_only else roll.pick(0, 1))),
    )
    sides: list[tuple[UsageBatch, ...]] = []
    first = 1
    for known in (iccids, [*iccids, *(["new"] if "new" in changed else [])]):
        side = []
        for _ in range(roll.pick(1, 2)):
            side.append(draw(batches(known, first, most, cumulative_only)))
            first += len(side[-1].rows)
        sides.append(tuple(side))
    return World(catalogue, sides[0], change, sides[1])
