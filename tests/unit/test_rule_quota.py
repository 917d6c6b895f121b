"""Quotas of SIMs and pools, as rules look at them (L1 to L3, L8, C5, P7, P9)."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest

from rating.catalogue.allowance_sizes import CycleDays
from rating.engine import Engine
from rating.rules.quota import Quota
from schemas.cards import Addon, Catalogue, Pool, PoolSize
from schemas.plans import Band, Plan, PlanVersion, Rate, Zone, ZoneSet
from schemas.usage import Direction, Service
from tests.support.fold_case import SINCE, cards, engine, plan, rows_of, us, usage

START, END = dt.date(2026, 10, 1), dt.date(2026, 10, 31)
HOME = ZoneSet(id="z", zones=(Zone(name="far", countries=("US",)), Zone(name="home", countries=("DE",), home=True)))
AWAY = ZoneSet(id="y", zones=(Zone(name="far", countries=("US",)),))
ZONED = plan(
    Rate(service="data", zone="home", allowance=100),
    Rate(service="data", zone="home", band="night", allowance=20),
    Rate(service="data", zone="far", allowance=3),
    Rate(service="sms", direction="mo", allowance=50, counter="texts"),
    Rate(service="sms", direction="mt", allowance=0, counter="texts"),
    Rate(service="voice", direction="mo", allowance=60, zone="home"),
    Rate(service="voice", direction="mt", allowance=600, zone="home"),
    Rate(service="voice", allowance=7),
    name="zoned",
    zones="z",
    bands=(Band(name="night", start="22:00", end="24:00"),),
)
FLAT = plan(Rate(service="data", allowance=(1000, 500)), Rate(service="sms", allowance=5), name="flat")
STRAY = plan(Rate(service="data", allowance=40_000), name="stray", zones="y")
# Of what this plan includes abroad counts what others include at home: a fleet has both.
MIXED = plan(
    Rate(service="data", allowance=7000),
    Rate(service="data", zone="home", counter="home", allowance=70),
    name="mixed",
    zones="z",
)
PLANS = (ZONED, FLAT, STRAY, MIXED)


def day(of: dt.date) -> int:
    """Days since 1970."""
    return (of - dt.date(1970, 1, 1)).days


def quota(weir: Engine) -> Quota:
    """The quotas that an engine's catalogue gives."""
    one = weir.compiled
    return Quota(one.book, one.directory, one.pools, one.addons)


def version(weir: Engine, name: str) -> int:
    """The number of the version of a plan, -1 for none."""
    return weir.state.vocabulary.versions.rows.get(f"{name}@1", -1)


def allowance(service: Service, *names: str, **card: Any) -> list[int]:
    """What the plans include for a card in October."""
    weir = engine(*PLANS, zones=(HOME, AWAY), card_rows=({"iccid": "1"} | card,))
    count = len(names)
    found = quota(weir).allowance(
        service, np.zeros(count, np.int64), np.array([version(weir, name) for name in names]),
        np.full(count, day(START)), np.full(count, day(END)),
    )  # fmt: skip
    return found.tolist()


def test_the_allowance_is_the_sum_of_the_meters_of_a_service() -> None:
    """Zones, bands and directions add up, rates of one counter count once, several amounts are one; no plan has 0."""
    assert [123, 1500, 40_000, 7070, 0] == allowance(Service.DATA, "zoned", "flat", "stray", "mixed", "none")
    assert [50, 5, 0, 0] == allowance(Service.SMS, "zoned", "flat", "stray", "none")
    assert [667, 0] == allowance(Service.VOICE, "zoned", "flat")


def test_without_plans_there_is_no_quota() -> None:
    """An empty catalogue of plans gives 0 for version -1."""
    weir = engine(card_rows=({"iccid": "1"},))
    one = np.zeros(1, np.int64)
    assert [0] == quota(weir).allowance(Service.DATA, one, one - 1, one, one + 30).tolist()
    assert [0] == quota(weir).home(one, one - 1, one, one + 30).tolist()


def prorated(service: str = "data") -> Plan:
    """A plan of which some meters count by days, as the first rate of each says."""
    return plan(
        Rate(service="data", direction="up", allowance=100, prorate_allowance=True),
        Rate(service="data", direction="down", allowance=7, prorate_allowance=True),
        Rate(service="sms", allowance=1000),
        Rate(service="voice", direction="mo", allowance=62, counter="talk"),
        Rate(service="voice", direction="mt", counter="talk", prorate_allowance=True),
    )


@pytest.mark.parametrize(
    ("activated", "expected"),
    [
        (None, 107),
        (dt.date(2026, 9, 30), 107),
        (dt.date(2026, 10, 1), 107),
        (dt.date(2026, 10, 2), 100 * 30 // 31 + 7 * 30 // 31),
        (dt.date(2026, 10, 21), 100 * 11 // 31 + 7 * 11 // 31),
        (dt.date(2026, 10, 31), 100 // 31 + 7 // 31),
        (dt.date(2026, 11, 1), 0),  # not in service in this cycle
    ],
)
def test_a_first_cycle_counts_by_days_meter_by_meter(activated: dt.date | None, expected: int) -> None:
    """Where a rate says so its allowance counts from the day of activation, each rounded down; as usage is rated."""
    weir = engine(prorated(), card_rows=({"iccid": "1", "activated_on": activated},))
    one = np.zeros(1, np.int64)
    sizes = [int(quota(weir).allowance(service, one, one, one + day(START), one + day(END))[0]) for service in Service]
    assert [expected, 1000, 62] == sizes
    assert expected == quota(weir).home(one, one, one + day(START), one + day(END))[0]
    step = weir.usage(usage({"volume_up_bytes": 10**6, "volume_down_bytes": 10**6}))
    assert expected == sum(row["from_allowance"] for row in rows_of(step.rated))


def test_add_ons_that_act_are_part_of_the_quota() -> None:
    """From purchase to the end of the local day of expiry, of the service and the SIM, used up or not (C5)."""
    bought, last = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC), dt.date(2026, 10, 20)

    def addon(name: str, **fields: Any) -> Addon:
        return Addon(
            **(
                {"id": name, "iccid": "1", "service": "data", "amount": 1, "purchased_at": bought, "expires_on": last}
                | fields
            )
        )

    weir = engine(
        FLAT,
        card_rows=({"iccid": "1"}, {"iccid": "2"}, {"iccid": "3"}),
        addons=(
            addon("a"),
            addon("b", amount=10, purchased_at=bought - dt.timedelta(days=9)),
            addon("c", amount=100, expires_on=dt.date(2026, 10, 10)),
            addon("d", amount=1000, service="sms"),
            addon("e", amount=10_000, iccid="2"),
            addon("f", amount=100_000, iccid="404"),
        ),
    )
    weir.usage(usage({"quantity": 1505}))
    card, ends = np.arange(3), np.full(3, day(END))

    def sizes(service: Service, moment: dt.datetime, version: int = 0) -> list[int]:
        today = np.full(3, day(moment.date()))
        of = np.full(3, version)
        return (
            quota(weir).sim(service, card, of, CycleDays(of, np.full(3, day(START)), ends, today), us(moment)).tolist()
        )

    second = dt.timedelta(seconds=1)
    assert [1510, 1500, 1500] == sizes(Service.DATA, bought - second)
    assert [1611, 11_500, 1500] == sizes(Service.DATA, bought)
    assert [1511, 11_500, 1500] == sizes(Service.DATA, bought.replace(day=11))
    assert [1511, 11_500, 1500] == sizes(Service.DATA, bought.replace(day=20))
    assert [1500, 1500, 1500] == sizes(Service.DATA, bought.replace(day=21))
    assert [1005, 5, 5] == sizes(Service.SMS, bought)
    assert [0, 0, 0] == sizes(Service.DATA, bought, version=-1)
    assert [111, 10_000, 0] == quota(weir).addons(
        Service.DATA, card, us(bought), np.full(3, day(bought.date()))
    ).tolist()


def test_the_home_allowance_is_that_of_the_meters_of_the_home_zone() -> None:
    """All bands at home; everything of a plan without zones, nothing of one whose zones have no home (L7)."""
    weir = engine(*PLANS, zones=(HOME, AWAY))
    names = ["zoned", "flat", "stray", "mixed", "none"]
    versions = np.array([version(weir, name) for name in names])
    many = np.zeros(len(names), np.int64)
    found = quota(weir).home(many, versions, many + day(START), many + day(END))
    assert [120, 1500, 0, 70, 0] == found.tolist()
    assert {"zoned": 2, "flat": 0, "stray": -1, "mixed": 2} == dict(
        zip(names[:4], quota(weir).home_slot()[versions[:4]].tolist(), strict=True)
    )


def pooled(*plans: str, **fields: Any) -> Engine:
    """Cards 1, 2 … on these plans in pool q, and an empty pool e."""
    rows = tuple({"iccid": str(number), "plan": name, "pool": "q"} for number, name in enumerate(plans, 1))
    services: Any = ("data", "sms", "voice")
    pools = (
        Pool(id="q", account="a", services=services, **({"kind": "dynamic"} | fields)),
        Pool(id="e", account="a", kind="dynamic", services=services),
    )
    return engine(*PLANS, zones=(HOME, AWAY), card_rows=rows, pools=pools)


def size(weir: Engine, service: Service, way: Direction | None = None, *today: dt.date) -> list[int]:
    """The size of pool q in October as of each day (the last one where none is given), and of pool e."""
    days = today or (END,)
    pool = np.array([0] * len(days) + [1])
    now = np.array([day(one) for one in (*days, END)])
    many = np.zeros(len(pool), np.int64)
    return quota(weir).pool(service, way, pool, CycleDays(many + 5, many + day(START), many + day(END), now)).tolist()


def test_a_pool_is_as_large_as_its_members_are_at_home() -> None:
    """Members count with what they have in their home zone, or in all if their plan has none (L8, P7)."""
    weir = pooled("zoned", "flat", "flat", "stray", "mixed")
    assert [120 + 1500 + 1500 + 40_000 + 70, 0] == size(weir, Service.DATA)
    assert [60, 0] == size(weir, Service.VOICE, Direction.MO)
    assert [600, 0] == size(weir, Service.VOICE, Direction.MT)
    assert [60, 0] == size(weir, Service.SMS, Direction.MO)
    assert [40_000, 0] == size(pooled("stray"), Service.DATA)


def test_a_static_pool_has_its_fixed_size() -> None:
    """What was bought, of that service; another service is the sum of the members (P7)."""
    weir = pooled("flat", "mixed", kind="static", size=(PoolSize(service="data", amount=9),))
    assert [9, 0] == size(weir, Service.DATA)
    assert [5, 0] == size(weir, Service.SMS, Direction.MT)


def test_the_size_of_a_pool_is_that_of_the_day() -> None:
    """A member that joins on the 20th counts from then, an upgrade at once; records of one batch see each its day."""
    weir = pooled("flat")
    joins = {"iccid": "9", "plan": "mixed", "pool": "q", "pool_from": dt.date(2026, 10, 20)}
    weir.apply(Catalogue(cards=cards(joins)))
    assert [1500, 1570, 1570, 0] == size(weir, Service.DATA, None, dt.date(2026, 10, 19), dt.date(2026, 10, 20), END)
    same = quota(weir)
    for _ in range(2):  # what was asked once is remembered by its day
        one = np.zeros(1, np.int64)
        of = one + 5, one + day(START), one + day(END)
        assert 1500 == same.pool(Service.DATA, None, one, CycleDays(*of, one + day(dt.date(2026, 10, 19))))[0]
        assert 1570 == same.pool(Service.DATA, None, one, CycleDays(*of, one + day(dt.date(2026, 10, 20))))[0]
        assert 5 == same.pool(Service.SMS, Direction.MO, one, CycleDays(*of, one + day(dt.date(2026, 10, 20))))[0]


def test_the_largest_version_of_a_cycle_counts() -> None:
    """A pool whose plan was enlarged in mid-cycle is larger at once, as in rating (P7)."""
    rates = [(Rate(service="data", allowance=units),) for units in (10, 30)]
    versions = tuple(
        PlanVersion(version=number, effective=effective, rates=rate)
        for number, effective, rate in zip((1, 2), (SINCE, dt.date(2026, 10, 20)), rates, strict=True)
    )
    row = {"iccid": "1", "pool": "q"}
    weir = engine(
        Plan(id="p", currency="EUR", versions=versions),
        card_rows=(row,),
        pools=(Pool(id="q", account="a", kind="dynamic"),),
    )
    one = np.zeros(2, np.int64)
    today = np.array([day(dt.date(2026, 10, 19)), day(dt.date(2026, 10, 20))])
    found = quota(weir).pool(Service.DATA, None, one, CycleDays(one, one + day(START), one + day(END), today))
    assert [10, 30] == found.tolist()
