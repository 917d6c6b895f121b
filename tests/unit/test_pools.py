"""Pools of all kinds and devices as billing entities: which usage they take, and how large they are (P7, P8, A1)."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from rating.engine import Engine
from schemas.cards import Catalogue, Pool, PoolSize
from schemas.plans import Plan, Price, Rate, Tier
from schemas.usage import Service
from tests.support.fold_case import RECEIVED, Row, cards, charges, engine, plan, rows_of, usage

PRICE = Price(model="flat", price="1")
SMALL = plan(Rate(service="data", allowance=100, price=PRICE), name="small")
LARGE = plan(Rate(service="data", allowance=300, price=PRICE), name="large")
END = dt.date(2026, 10, 31)


def pooled(*rows: Row, kind: Any = "dynamic", plans: tuple[Plan, ...] = (SMALL, LARGE), **fields: Any) -> Engine:
    """Cards in pool q, on the small plan unless a row says otherwise."""
    members = tuple({"iccid": str(number), "pool": "q"} | row for number, row in enumerate(rows, 1))
    return engine(*plans, card_rows=members, pools=(Pool(id="q", account="a", kind=kind, **fields),))


def size(weir: Engine, iccid: str = "1", received: dt.datetime = RECEIVED, used: dt.datetime | None = None) -> int:
    """How much the pool of a card gives to one very large record."""
    record = {"iccid": iccid, "volume_up_bytes": 10**9, "used_at": used or received, "record_key": f"{received}{used}"}
    step = weir.usage(usage(record, received=received))
    return sum(row["from_allowance"] for row in rows_of(step.rated) if row["subject_kind"] != "sim")


def on(month: int, day: int) -> dt.datetime:
    """Noon of a day of 2026."""
    return dt.datetime(2026, month, day, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize("kind", ["dynamic", "same_tier"])
def test_size_is_the_sum_of_allowances(kind: str) -> None:
    """A pool holds what its members' plans allow, and each record says what came from it."""
    assert 200 == size(pooled({}, {}, kind=kind))
    if kind == "dynamic":
        assert 400 == size(pooled({}, {"plan": "large"}, kind=kind))


def test_static_size_is_the_bought_one() -> None:
    """What the members' plans allow does not matter to a static pool."""
    assert 50 == size(pooled({}, {}, kind="static", size=(PoolSize(service="data", amount=50),)))


def test_a_static_pool_has_one_size_for_all_zones_of_its_service() -> None:
    """Counters of several rates draw on the one bought size."""
    rates = (Rate(service="data", direction="up", price=PRICE), Rate(service="data", direction="down", price=PRICE))
    weir = pooled({}, plans=(plan(*rates),), kind="static", size=(PoolSize(service="data", amount=100),))
    step = weir.usage(usage({"volume_up_bytes": 70, "volume_down_bytes": 50}))
    assert [(70, 0), (30, 20)] == [(row["from_allowance"], row["overage"]) for row in rows_of(step.rated)]


def test_members_share_what_there_is() -> None:
    """One member may use the allowance of the other; what is more is overage, in journal order."""
    weir = pooled({}, {})
    step = weir.usage(usage({"iccid": "1", "quantity": 150}, {"iccid": "2", "quantity": 60}))
    rows = rows_of(step.rated)
    assert [("pool", "q", 150, 0, 0), ("pool", "q", 50, 10, 150)] == [
        tuple(row[name] for name in ("subject_kind", "subject", "from_allowance", "overage", "counter_before"))
        for row in rows
    ]


def test_suspended_members_count_and_those_not_yet_active_do_not() -> None:
    """Suspension leaves the size as it is; stock does not add to it."""
    assert 200 == size(pooled({}, {"status": "suspended"}))
    assert 100 == size(pooled({}, {"status": "inventory"}))


def test_members_whose_term_ended_do_not_count() -> None:
    """From the first of the month after its term a member adds nothing."""
    weir = pooled({}, {"activated_on": dt.date(2026, 9, 12), "term_months": 2})
    assert 200 == size(weir, received=on(10, 31))
    assert 100 == size(weir, received=on(11, 1))


def test_an_upgrade_counts_from_the_start_of_the_cycle() -> None:
    """On the day of the upgrade the pool is as large as if it had been so all month."""
    weir = pooled({}, {})
    weir.apply(Catalogue(cards=cards({"iccid": "2", "pool": "q", "plan": "large", "plan_from": dt.date(2026, 10, 20)})))
    assert 200 == size(weir, received=on(10, 19))
    assert 200 == size(weir, received=on(10, 20))  # 400, of which 200 are taken
    assert 400 == size(weir, received=on(11, 1))


def test_a_downgrade_counts_from_the_next_cycle() -> None:
    """Until its end the cycle keeps the larger allowance."""
    weir = pooled({}, {"plan": "large"})
    weir.apply(Catalogue(cards=cards({"iccid": "2", "pool": "q", "plan": "small", "plan_from": dt.date(2026, 10, 20)})))
    assert 400 == size(weir, received=on(10, 25))
    assert 200 == size(weir, received=on(11, 1))


def test_the_same_change_loaded_twice_is_one_change() -> None:
    """A card list that is applied again leaves no plan in force beside the one it names."""
    weir = pooled({}, {"plan": "large"})
    change = cards({"iccid": "2", "pool": "q", "plan": "small", "plan_from": dt.date(2026, 10, 20)})
    weir.apply(Catalogue(cards=change))
    weir.apply(Catalogue(cards=change))
    assert 200 == size(weir, received=on(11, 1))


def test_a_member_that_joins_counts_in_full_or_by_days() -> None:
    """Joining on the 21st of 31 days gives the whole allowance, or 11 days of it."""
    joins = {"plan": "large", "pool_from": dt.date(2026, 10, 21)}
    assert 400 == size(pooled({}, joins, joining="full"), received=on(10, 25))
    assert 100 + 300 * 11 // 31 == size(pooled({}, joins, joining="prorate"), received=on(10, 25))
    assert 100 == size(pooled({}, joins, joining="full"), received=on(10, 20))


def test_a_member_that_left_draws_on_its_own_plan_again() -> None:
    """After its last day in the pool a card neither uses the pool nor adds to it."""
    weir = pooled({}, {"pool_until": dt.date(2026, 10, 15)})
    step = weir.usage(usage({"iccid": "2", "quantity": 5, "used_at": on(10, 16)}))
    assert ["sim"] == step.rated["subject_kind"].to_pylist()
    assert 100 == size(weir, received=on(10, 16))


def test_usage_before_joining_is_the_cards_own() -> None:
    """Membership is judged by the day of use, in one batch or in two."""
    rows = [{"quantity": 150, "used_at": on(10, day), "record_key": f"k{day}"} for day in (9, 10, 8)]
    for batches in ([rows], [[row] for row in rows]):
        weir = pooled({"pool_from": dt.date(2026, 10, 10)})
        found = [row for batch in batches for row in rows_of(weir.usage(usage(*batch)).rated)]
        assert [("sim", 0, 50), ("pool", 0, 50), ("sim", 150, 150)] == [
            (row["subject_kind"], row["counter_before"], row["overage"]) for row in found
        ]


def test_a_service_that_the_pool_does_not_share_is_the_cards_own() -> None:
    """SMS of a member of a data pool is charged to the SIM."""
    terms = plan(Rate(service="data", allowance=100), Rate(service="sms", price=PRICE))
    weir = pooled({}, plans=(terms,), services=("data",))
    step = weir.usage(usage({"service": Service.SMS, "quantity": 1}, {"quantity": 1}))
    assert ["sim", "pool"] == step.rated["subject_kind"].to_pylist()


def test_a_sim_cap_holds_inside_the_pool() -> None:
    """A SIM takes at most its cap from the pool; beyond it pays although the pool has more (P8)."""
    capped = plan(Rate(service="data", allowance=100, sim_cap=120, price=PRICE))
    weir = pooled({}, {}, plans=(capped,))
    step = weir.usage(
        usage({"iccid": "1", "quantity": 90}, {"iccid": "1", "quantity": 70}, {"iccid": "2", "quantity": 50})
    )
    assert [(90, 0), (30, 40), (50, 0)] == [(row["from_allowance"], row["overage"]) for row in rows_of(step.rated)]


def test_own_usage_outside_the_pool_does_not_count_against_the_cap() -> None:
    """The cap bounds what is taken from the pool, not what the card used before it joined."""
    capped = plan(Rate(service="data", allowance=100, sim_cap=120, price=PRICE))
    weir = pooled({"pool_from": dt.date(2026, 10, 10)}, {}, plans=(capped,))
    rows = [{"quantity": 100, "used_at": on(10, day), "record_key": f"k{day}"} for day in (9, 10)]
    assert [(100, 0), (100, 0)] == [
        (row["from_allowance"], row["overage"]) for row in rows_of(weir.usage(usage(*rows)).rated)
    ]


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        (Price(model="flat", price="0.5"), [0, 75]),
        (Price(model="package", price="40", per=100), [0, 80]),
        (Price(model="once", price="40"), [0, 40]),
        (Price(model="graduated", tiers=(Tier(to=100, price="1"), Tier(price="2"))), [0, 200]),
    ],
)
def test_pool_overage_has_a_price_of_its_own(price: Price, expected: list[int]) -> None:
    """Past its size a pool charges per unit, by stacked blocks or by one block, whatever the members' plans say."""
    weir = pooled({}, {}, overage=(Rate(service="data", price=price),))
    step = weir.usage(usage({"iccid": "1", "quantity": 200}, {"iccid": "2", "quantity": 150}))
    assert [units * 10**9 for units in expected] == list(charges(step).values())


DEVICE = Plan(id="d", currency="EUR", entity="device", versions=SMALL.versions)


def test_sims_of_a_device_share_a_pool() -> None:
    """Two SIMs of one device are one billing entity; a SIM of no device is its own (A1)."""
    rows = ({"iccid": "1", "device": "x"}, {"iccid": "2", "device": "x"}, {"iccid": "3"})
    weir = engine(DEVICE, card_rows=rows)
    step = weir.usage(usage(*({"iccid": iccid, "quantity": 150} for iccid in "123")))
    assert [("device", "x", 150, 0), ("device", "x", 50, 100), ("sim", "3", 100, 50)] == [
        tuple(row[name] for name in ("subject_kind", "subject", "from_allowance", "overage"))
        for row in rows_of(step.rated)
    ]


def test_a_sim_in_a_pool_does_not_add_to_its_device() -> None:
    """An allowance counts once: in the pool that the card was put into."""
    rows = ({"iccid": "1", "device": "x"}, {"iccid": "2", "device": "x", "pool": "q"})
    weir = engine(DEVICE, card_rows=rows, pools=(Pool(id="q", account="a", kind="dynamic"),))
    step = weir.usage(usage(*({"iccid": iccid, "quantity": 150} for iccid in "12")))
    assert [("device", 100), ("pool", 100)] == [
        (row["subject_kind"], row["from_allowance"]) for row in rows_of(step.rated)
    ]


def test_a_sim_that_left_the_plans_of_the_device_adds_nothing() -> None:
    """Once a card is on a plan of its own, the device has lost its allowance."""
    weir = engine(DEVICE, SMALL, card_rows=({"iccid": "1", "device": "x"}, {"iccid": "2", "device": "x"}))
    weir.apply(
        Catalogue(cards=cards({"iccid": "2", "device": "x", "plan": "small", "plan_from": dt.date(2026, 10, 9)}))
    )
    assert 200 == size(weir, received=on(10, 8))
    assert 0 == size(weir, received=on(10, 9))


def test_a_sim_of_the_device_on_another_kind_of_plan_is_its_own() -> None:
    """Only SIMs that are billed by device share and add to the device's pool."""
    rows = ({"iccid": "1", "device": "x"}, {"iccid": "2", "device": "x", "plan": "small"})
    weir = engine(DEVICE, SMALL, card_rows=rows)
    step = weir.usage(usage(*({"iccid": iccid, "quantity": 150} for iccid in "12")))
    assert [("device", 100), ("sim", 100)] == [
        (row["subject_kind"], row["from_allowance"]) for row in rows_of(step.rated)
    ]
