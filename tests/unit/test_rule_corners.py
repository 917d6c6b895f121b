"""Corners of the rules that random fleets have found; the slow model is held to the same figures."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas.cards import Catalogue, Pool, PoolSize
from schemas.commands import Activate, Deactivate
from schemas.plans import Cycle, Increment, Plan, Rate
from schemas.rules import Action, Rule
from schemas.usage import RecordType
from tests.support.fold_case import Row, cards, plan, usage
from tests.support.rules_case import Driver, Fold, Slow, begin, say
from tests.support.strategies.rules_strategies import Entry

TELL = Action(sequence=2, type="notify", by=("system",))


@pytest.fixture(params=[Fold, Slow], ids=["fold", "model"])
def driver(request: pytest.FixtureRequest) -> Driver:
    """The engine, and the model that it is compared with."""
    made: Driver = request.param()
    return made


def on(day: int, hour: int = 12, month: int = 10) -> dt.datetime:
    """A moment of 2026."""
    return dt.datetime(2026, month, day, hour, tzinfo=dt.UTC)


def data(name: str = "p", **fields: Any) -> Plan:
    """A plan with 1000 bytes, counted by the byte."""
    made = plan(Rate(service="data", allowance=1000, increment=Increment(round="none")), name=name)
    return Plan(id=name, currency="EUR", versions=made.versions, **fields)


def held(until: Any, **fields: Any) -> Rule:
    """A rule that suspends above 10 units, and tells nobody."""
    suspend = Action(sequence=1, type="suspend", until=until)
    known: Row = {"trigger": "data_usage_cycle", "threshold": 10} | fields
    return Rule(id="r", actions=(suspend,), **known)


def use(driver: Driver, quantity: int, at: dt.datetime, key: str, **fields: Any) -> None:
    """A record that arrives as it is used."""
    row = {"quantity": quantity, "used_at": at, "record_key": key} | fields
    driver.take(Entry(at, usage=usage(row, received=at)))


def correct(driver: Driver, at: dt.datetime, key: str, **fields: Any) -> None:
    """A reversal of what is under a key, or with content its replacement."""
    kind = RecordType.REPLACE if fields else RecordType.REVERSE
    row: Row = {"record_key": f"back {key}", "corrects_key": key, "record_type": kind, "quantity": 0, "used_at": at}
    driver.take(Entry(at, usage=usage(row | fields, received=at), corrects=True))


def kinds(driver: Driver) -> list[tuple[str, str | None, int | None]]:
    """Kind, window and total of what fired."""
    return [(row["kind"], row["window"], row["value_now"]) for row in driver.fired]


def test_what_was_reversed_counts_no_longer(driver: Driver) -> None:
    """A reversal fires nothing, and lowers the total that later usage finds (F6, L8)."""
    rule = Rule(id="r", trigger="data_usage_cycle", threshold=10, repetition="always", actions=(TELL,))
    begin(driver, rule, plans=[data()], card_rows=[{"iccid": "1"}])
    use(driver, 11, on(2), "a")
    correct(driver, on(3), "a")
    use(driver, 10, on(4), "b")
    use(driver, 1, on(5), "c")
    assert [("fired", "2026-10", 11), ("fired", "2026-10", 11)] == kinds(driver)


def test_a_replacement_is_new_usage_and_fires(driver: Driver) -> None:
    """A record that is replaced by a larger one crosses the threshold, once (F6, L8)."""
    rule = Rule(id="r", trigger="data_usage_cycle", threshold=10, actions=(TELL,))
    begin(driver, rule, plans=[data()], card_rows=[{"iccid": "1"}])
    use(driver, 5, on(2), "a")
    correct(driver, on(3), "a", quantity=12, used_at=on(2))
    assert [("fired", "2026-10", 12)] == kinds(driver)
    assert ["back a"] == [row["record_key"] for row in driver.fired]
    use(driver, 1, on(4), "b")
    assert 1 == len(driver.fired) == len(driver.asked)


def test_totals_of_closed_cycles_are_kept_while_a_suspension_is_held(driver: Driver) -> None:
    """A tick that comes long after the cycle and its grace still finds what was used in it (L1)."""
    begin(driver, held("window_end"), plans=[data()], card_rows=[{"iccid": "1"}])
    use(driver, 40, on(20), "a")
    use(driver, 3, on(30, month=11), "b")
    driver.take(Entry(on(1, month=12)))
    assert [("fired", "2026-10", 40), ("released", "2026-10", 40)] == kinds(driver)


def test_a_rule_that_starts_again_finds_the_totals_of_what_it_holds(driver: Driver) -> None:
    """A suspension of a cycle that is over does not pass for recovered where its rule was inactive meanwhile (L2)."""
    begin(driver, held("recovered"), plans=[data()], card_rows=[{"iccid": "1"}])
    use(driver, 40, on(20), "a")
    say(driver, Deactivate(rule="r"), at=on(21))
    say(driver, Activate(rule="r"), at=on(15, month=11))
    assert 1 == len(driver.fired)
    driver.take(Entry(on(16, month=11)))
    assert ("released", "2026-10", 40) == kinds(driver)[-1]


def test_a_rule_that_starts_in_mid_cycle_counts_what_was_used(driver: Driver) -> None:
    """It knows the usage of the cycle so far, less what was reversed, and fires with the next record (L6)."""
    rule = Rule(id="r", trigger="data_usage_cycle", threshold=10, actions=(TELL,))
    begin(driver, plans=[data()], card_rows=[{"iccid": "1"}])
    driver.take(Entry(on(1), change=Catalogue(rules=(rule,))))
    use(driver, 8, on(2), "a")
    use(driver, 7, on(2), "b")
    correct(driver, on(3), "b")
    say(driver, Activate(rule="r"), at=on(4))
    use(driver, 2, on(5), "c")
    assert [] == driver.fired
    use(driver, 1, on(6), "d")
    assert [("fired", "2026-10", 11)] == kinds(driver)


def test_a_sim_that_left_the_pool_is_released_without_a_total(driver: Driver) -> None:
    """What a pool rule holds recovers when the SIM draws on no pool, or on that of its device (L2, L8)."""
    pools = [Pool(id=name, account="a", kind="static", size=(PoolSize(service="data", amount=9),)) for name in "qr"]
    rule = held("recovered", trigger="pool_data_usage", threshold="100 %")
    rows = [{"iccid": "1", "pool": "r"}, {"iccid": "2", "pool": "q", "device": "d"}]
    begin(driver, rule, plans=[data(entity="device")], card_rows=rows, pools=tuple(pools))
    use(driver, 9, on(2), "a")
    use(driver, 9, on(2), "b", iccid="2")
    gone = cards(rows[1] | {"plan": "p", "pool_until": dt.date(2026, 10, 2)})
    driver.take(Entry(on(3), change=Catalogue(cards=gone)))
    assert ("released", "2026-10", None) == kinds(driver)[-1]
    assert [("released", "2", None, None)] == [
        (row["kind"], row["iccid"], row["pool_id"], row["size"]) for row in driver.fired[2:]
    ]


@pytest.mark.parametrize("ends", [(), (1,)])
def test_a_daily_rule_repeats_in_the_current_window(driver: Driver, ends: tuple[int, ...]) -> None:
    """A SIM that changed plan has two cycles at once: it fires once a day, of the cycle of its plan (L10)."""
    rule = Rule(id="r", trigger="data_usage_cycle", threshold=10, repetition="daily", actions=(TELL,))
    rows = [{"iccid": "1", "plan_from": dt.date(2026, 1, 1)}]
    begin(driver, rule, plans=[data(), data("q", cycle=Cycle(anchor_day=15))], card_rows=rows)
    moved = cards({"iccid": "1", "plan": "q", "plan_from": dt.date(2026, 10, 20)})
    driver.take(Entry(on(19), change=Catalogue(cards=moved)))
    late = [{"record_key": str(day), "quantity": 11, "used_at": on(day)} for day in (20, 18)]
    batch = usage(*late, received=on(21))
    for first, last in zip((0, *ends), (*ends, 2), strict=True):
        piece = usage(*late[first:last], received=on(21), first_row=first + 1) if ends else batch
        driver.take(Entry(on(21), usage=piece))
    driver.take(Entry(on(22)))
    repeated = [(row["firing_id"], row["window"]) for row in driver.fired[2:]]
    assert [("0.5.1.r", "2026-10-15")] == repeated


def test_a_sim_that_two_windows_hold_is_released_once(driver: Driver) -> None:
    """Of two cycles that suspended a SIM the later one ends its suspension, with one resume (L1)."""
    rows = [{"iccid": "1", "plan_from": dt.date(2026, 1, 1)}]
    begin(driver, held("window_end"), plans=[data(), data("q", cycle=Cycle(anchor_day=15))], card_rows=rows)
    moved = cards({"iccid": "1", "plan": "q", "plan_from": dt.date(2026, 10, 20)})
    driver.take(Entry(on(19), change=Catalogue(cards=moved)))
    for day in (18, 20):
        row = {"record_key": str(day), "quantity": 11, "used_at": on(day)}
        driver.take(Entry(on(21), usage=usage(row, received=on(21))))
    driver.take(Entry(on(1, month=11)))
    assert 2 == len(driver.fired)  # the cycle from the 15th on holds it still
    driver.take(Entry(on(15, month=11)))
    assert [("released", "2026-10-15")] == [(row["kind"], row["window"]) for row in driver.fired[2:]]
    assert ["suspend", "suspend", "resume"] == [row["action"] for row in driver.asked]
