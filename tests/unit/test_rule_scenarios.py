"""Scenarios of rules, limits and alerts as the sources tell them; the slow model is held to the same figures."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from rating.errors import RuleError
from schemas.cards import Addon, Catalogue, Pool, PoolSize
from schemas.commands import Activate, Deactivate, PlanChanged, Resumed, Suspended
from schemas.plans import Increment, Plan, Rate
from schemas.rules import Action, Filter, Rule
from schemas.usage import Direction, Service
from tests.support.fold_case import Row, cards, plan, usage
from tests.support.rules_case import START, Driver, Fold, Slow, begin, say
from tests.support.strategies.rules_strategies import Entry

MB, GB = 1 << 20, 1 << 30
SUSPEND = Action(sequence=1, type="suspend", reason="over_quota")
TELL = Action(sequence=2, type="notify", by=("system",))


@pytest.fixture(params=[Fold, Slow], ids=["fold", "model"])
def driver(request: pytest.FixtureRequest) -> Driver:
    """The engine, and the model that it is compared with."""
    made: Driver = request.param()
    return made


def on(day: int, hour: int = 12, month: int = 10) -> dt.datetime:
    """A moment of 2026."""
    return dt.datetime(2026, month, day, hour, tzinfo=dt.UTC)


class Usage:
    """Usage of data, one record a batch; keys go up."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.keys = 0

    def use(self, iccid: str, quantity: int, at: dt.datetime, **fields: Any) -> list[str]:
        """One record at a moment that arrives an hour later; returns the rules that fired, in order."""
        before = len(self.driver.fired)
        self.keys += 1
        row = {"iccid": iccid, "quantity": quantity, "used_at": at, "record_key": f"u{self.keys}"} | fields
        self.driver.take(Entry(at, usage=usage(row, received=at + dt.timedelta(hours=1))))
        return [row["rule_id"] for row in self.driver.fired[before:]]


def data(allowance: str | int, name: str = "p") -> Plan:
    """A plan with so much data, counted by the byte (which the slow model would do one after another)."""
    return plan(Rate(service="data", allowance=allowance, increment=Increment(round="none")), name=name)


def asked(driver: Driver, *names: str) -> list[tuple[Any, ...]]:
    """The actions asked for so far, by columns."""
    return [tuple(row[name] for name in names) for row in driver.asked]


def test_every_sim_of_a_pool_that_goes_on_using_is_suspended(driver: Driver) -> None:
    """The SIM that crosses the pool's threshold is suspended, then each that uses on, a fast one but once (L8)."""
    rule = Rule(
        id="c", trigger="pool_data_usage", threshold=1000, repetition="once", pools=("q",), owner="a",
        actions=(SUSPEND,),
    )  # fmt: skip
    rows = [{"iccid": iccid, "pool": "q"} for iccid in ("c1", "c2", "c3")]
    pool = Pool(id="q", account="a", kind="static", size=(PoolSize(service="data", amount=5000),))
    begin(driver, rule, plans=[data(0)], card_rows=rows, pools=(pool,))
    sims = Usage(driver)
    assert [] == sims.use("c1", 600, on(2)) + sims.use("c2", 399, on(2))
    assert ["c"] == sims.use("c1", 1, on(3))  # the threshold is reached
    say(driver, Suspended(iccid="c1"), at=on(3, 14))
    # C.3 is fast: two more grants before its suspension takes hold, and one target.
    assert ["c"] == sims.use("c3", 50, on(3, 15))
    assert [] == sims.use("c3", 60, on(3, 15)) + sims.use("c3", 70, on(3, 15))
    say(driver, Suspended(iccid="c3"), at=on(3, 17))
    assert ["c"] == sims.use("c2", 5, on(4))
    assert [("suspend", "c1"), ("suspend", "c3"), ("suspend", "c2")] == asked(driver, "action", "iccid")
    figures = [(row["pool_id"], row["value_before"], row["value_now"], row["threshold"]) for row in driver.fired]
    assert [("q", 999, 1000, 1000), ("q", 1000, 1050, 1000), ("q", 1180, 1185, 1000)] == figures


def test_a_share_of_a_dynamic_pool_is_of_its_size_now(driver: Driver) -> None:
    """A percentage is of the pool's size at that moment, and may be over 100 % (L8, P7)."""
    rule = Rule(id="half", trigger="pool_data_usage", threshold=("50 %", "120 %"), actions=(SUSPEND,))
    pool = Pool(id="q", account="a", kind="dynamic")
    rows = [{"iccid": iccid, "pool": "q"} for iccid in ("1", "2")]
    begin(driver, rule, plans=[data(1000)], card_rows=rows, pools=(pool,))
    sims = Usage(driver)
    assert [] == sims.use("1", 999, on(2))
    driver.take(Entry(on(2, 15), change=Catalogue(cards=cards({"iccid": "3", "plan": "p", "pool": "q"}))))
    assert [] == sims.use("1", 400, on(2, 16))  # 1399 of 3000
    assert ["half"] == sims.use("2", 101, on(2, 17))
    assert ["half"] == sims.use("2", 2100, on(3))  # 3600 of 3000 is 120 %
    assert [(3000, 1500, ["50 %"]), (3000, 3600, ["120 %"])] == [
        (row["size"], row["threshold"], row["levels"]) for row in driver.fired
    ]


def test_overage_suspends_until_the_next_cycle(driver: Driver) -> None:
    """A 30 MB plan with a margin of 10 MB: suspended above 40 MB in the month, and resumed as the next begins (L1)."""
    suspend = Action(sequence=1, type="suspend", reason="over_quota", until="window_end")
    rule = Rule(
        id="over", trigger="data_usage_cycle", measure="over", threshold="10 MB", actions=(suspend, TELL)
    )  # fmt: skip
    begin(driver, rule, plans=[data("30 MB")], card_rows=[{"iccid": "1"}])
    sims = Usage(driver)
    assert [] == sims.use("1", 40 * MB, on(20))  # at the margin, not above it
    assert ["over"] == sims.use("1", 1, on(21))
    assert [] == sims.use("1", 5, on(22))
    say(driver, Suspended(iccid="1", reason="over_quota"), at=on(22, 15))
    driver.take(Entry(on(31, 23)))
    assert [("suspend", 1), ("notify", 2)] == asked(driver, "action", "sequence")
    driver.take(Entry(on(1, 0, month=11)))
    assert ("resume", 1) == asked(driver, "action", "sequence")[-1]
    assert ["fired", "released"] == [row["kind"] for row in driver.fired]
    fired = driver.fired[0]
    assert (40 * MB, 40 * MB + 1, 30 * MB, 40 * MB) == tuple(
        fired[name] for name in ("value_before", "value_now", "size", "threshold")
    )
    assert f"{fired['firing_id']}" == driver.asked[0]["firing_id"]
    driver.take(Entry(on(2, 0, month=11)))
    assert 3 == len(driver.asked)  # once only
    assert ["over"] == sims.use("1", 41 * MB, on(3, month=11))  # and again in the next cycle


@pytest.mark.parametrize(
    ("tier", "cut"),
    [("30 MB", 3 * GB), ("300 MB", 3 * GB), ("500 MB", 4 * GB), ("1 GB", 5 * GB), ("2 GB", 5 * GB), ("4 GB", 8 * GB)],
)
def test_tiers_are_cut_at_their_hard_limits(driver: Driver, tier: str, cut: int) -> None:
    """Each plan tier has its cut, which is reached, not exceeded (L2)."""
    rule = Rule(id="cut", trigger="data_usage_cycle", measure="hard_cut", actions=(SUSPEND,))
    begin(driver, rule, plans=[data(tier)], card_rows=[{"iccid": "1"}])
    sims = Usage(driver)
    assert [] == sims.use("1", cut - 1, on(2))
    assert ["cut"] == sims.use("1", 1, on(3))


def test_a_tier_without_a_cut_is_never_cut(driver: Driver) -> None:
    """Above the 4 GB tier there is no cut (L2)."""
    rule = Rule(id="cut", trigger="data_usage_cycle", measure="hard_cut", actions=(SUSPEND,))
    begin(driver, rule, plans=[data("5 GB")], card_rows=[{"iccid": "1"}])
    assert [] == Usage(driver).use("1", 900 * GB, on(2))


@pytest.mark.parametrize("how", ["addon", "upgrade", "cycle"])
def test_a_hard_cut_recovers(driver: Driver, how: str) -> None:
    """An add-on, an upgrade or the next cycle brings a card back (L2)."""
    suspend = Action(sequence=4, type="suspend", reason="hard_cut", until="recovered")
    rule = Rule(id="cut", trigger="data_usage_cycle", measure="hard_cut", actions=(suspend,))
    begin(driver, rule, plans=[data("30 MB"), data("500 MB", "big")], card_rows=[{"iccid": "1"}])
    sims = Usage(driver)
    assert ["cut"] == sims.use("1", 3 * GB, on(20))
    driver.take(Entry(on(21)))
    assert 1 == len(driver.asked)
    if how == "addon":
        bought = Addon(
            id="x", iccid="1", service="data", amount="1 GB", purchased_at=on(21), expires_on=dt.date(2026, 10, 31)
        )
        driver.take(Entry(on(22), change=Catalogue(addons=(bought,))))
    elif how == "upgrade":
        say(driver, PlanChanged(iccid="1", plan="big"), at=on(22))
    else:
        driver.take(Entry(on(1, 1, month=11)))
    assert [("suspend", 4), ("resume", 4)] == asked(driver, "action", "sequence")


def test_a_balance_alert_tells_once_a_day_for_as_long_as_it_lasts(driver: Driver) -> None:
    """Three descending levels of the balance. There is at most one notification a day, also without usage (L3)."""
    rule = Rule(
        id="left", trigger="data_usage_cycle", measure="remaining", threshold=("30 %", "20 %", "10 %"),
        repetition="daily", actions=(TELL,),
    )  # fmt: skip
    begin(driver, rule, plans=[data(1000)], card_rows=[{"iccid": "1"}])
    sims = Usage(driver)
    assert [] == sims.use("1", 699, on(5))
    assert ["left"] == sims.use("1", 1, on(5, 13))  # 300 left: reached (L11)
    assert [] == sims.use("1", 150, on(5, 15))  # There was a notification today already.
    driver.take(Entry(on(5, 22)))
    assert 1 == len(driver.fired)
    driver.take(Entry(on(6, 1)))
    driver.take(Entry(on(6, 2)))
    assert ["left"] == sims.use("1", 60, on(7, 8))
    assert [
        (1000, 700, ["30 %"]), (1000, 850, ["20 %"]), (1000, 910, ["10 %"])
    ] == [(row["size"], row["value_now"], row["levels"]) for row in driver.fired]  # fmt: skip
    driver.take(Entry(on(1, 1, month=11)))
    assert 3 == len(driver.fired)  # a new cycle, a new quota


def test_usage_and_expiry_alerts_fire_once_a_level(driver: Driver) -> None:
    """Two thresholds of usage and two of days before the end, each once (L4)."""
    used = Rule(id="used", trigger="data_usage_cycle", threshold=("10 MB", "20 MB"), actions=(TELL,))
    ends = Rule(id="ends", trigger="term_ends", threshold=(14, 7), actions=(TELL,))
    row = {"iccid": "1", "activated_on": dt.date(2026, 9, 10), "term_months": 2}
    begin(driver, used, ends, plans=[data(0)], card_rows=[row])
    sims = Usage(driver)
    found = [sims.use("1", size * MB, on(day)) for day, size in ((2, 10), (3, 1), (4, 2), (5, 8), (6, 9))]
    assert [[], ["used"], [], ["used"], []] == found
    for day in range(7, 32):
        driver.take(Entry(on(day)))
    told = [(row["fired_at"].day, row["value_now"], row["levels"]) for row in driver.fired if row["rule_id"] == "ends"]
    assert [(17, 14, ["14"]), (24, 7, ["7"])] == told
    driver.take(Entry(on(3, month=11)))
    assert 4 == len(driver.fired)


def test_the_device_is_told_before_the_end(driver: Driver) -> None:
    """30 and 7 days before the end and on the last day (L5)."""
    tell = Action(sequence=1, type="notify", by=("device",))
    rule = Rule(id="notice", trigger="term_ends", threshold=(30, 7, 0), actions=(tell,))
    row = {"iccid": "1", "activated_on": dt.date(2026, 9, 10), "term_months": 2}
    begin(driver, rule, plans=[data(0)], card_rows=[row])
    for day in range(1, 32):
        driver.take(Entry(on(day)))
    assert [1, 24, 31] == [row["fired_at"].day for row in driver.fired]
    assert [["30"], ["7"], ["0"]] == [row["levels"] for row in driver.fired]


def test_rules_begin_inactive_and_cannot_change_while_active() -> None:
    """A rule watches from its activation on; an active one, its filters included, takes no change (L6)."""
    fold = Fold()
    rule = Rule(id="r", trigger="data_usage_cycle", threshold=10, actions=(TELL,))
    begin(fold, plans=[data(0)], card_rows=[{"iccid": "1"}])
    fold.take(Entry(START, change=Catalogue(rules=(rule,))))
    sims = Usage(fold)
    assert [] == sims.use("1", 50, on(2))
    say(fold, Activate(rule="r"), at=on(2, 15))
    fold.take(Entry(on(2, 15), change=Catalogue(rules=(rule,))))  # as it is: no change
    other = Rule(
        id="r", trigger="data_usage_cycle", threshold=10, actions=(TELL,),
        filters=(Filter(type="sim_tag", values=("red",)),),
    )  # fmt: skip
    with pytest.raises(RuleError):
        fold.engine.apply(Catalogue(rules=(other,)), Entry(on(2, 16)).at_us)
    assert ["r"] == sims.use("1", 11, on(3))
    say(fold, Deactivate(rule="r"), at=on(4))
    assert [] == sims.use("1", 11, on(5))
    fold.take(Entry(on(6), change=Catalogue(rules=(other,))))


def test_an_activation_forgets_what_fired(driver: Driver) -> None:
    """A rule that is activated again fires again, at the next use (L6)."""
    rule = Rule(id="r", trigger="data_usage_cycle", threshold=10, repetition="once", actions=(TELL,))
    begin(driver, rule, plans=[data(0)], card_rows=[{"iccid": "1"}])
    sims = Usage(driver)
    assert ["r"] == sims.use("1", 50, on(2))
    say(driver, Deactivate(rule="r"), at=on(3))
    say(driver, Activate(rule="r"), at=on(4))
    assert ["r"] == sims.use("1", 50, on(5))


@pytest.mark.parametrize(
    ("repetition", "days"),
    [
        ("once", [2]),
        ("once_per_window", [2, 33]),
        ("daily", [2, 3, 33]),
        ("always", [2, 2, 3, 33]),
    ],
)
def test_repetitions(driver: Driver, repetition: Any, days: list[int]) -> None:
    """Once for ever, once in the cycle, once a day, or with each record (L10)."""
    rule = Rule(id="r", trigger="data_usage_cycle", threshold=10, repetition=repetition, actions=(TELL,))
    begin(driver, rule, plans=[data(0)], card_rows=[{"iccid": "1"}])
    sims = Usage(driver)
    for moment in (on(2), on(2, 15), on(3), on(2, month=11)):
        sims.use("1", 11, moment)
    first = dt.date(2026, 10, 1)
    assert days == [(row["fired_at"].date() - first).days + 1 for row in driver.fired]


def test_actions_run_in_ascending_sequence(driver: Driver) -> None:
    """Whatever the order in which the rule writes them, with ids of their own (L10)."""
    actions = tuple(Action(sequence=number, type="notify", by=("system",)) for number in (9, 2, 30))
    rule = Rule(id="r", trigger="data_usage_cycle", threshold=10, actions=actions)
    begin(driver, rule, plans=[data(0)], card_rows=[{"iccid": "1"}])
    Usage(driver).use("1", 11, on(2))
    assert [(2, "0.2.1.2.r"), (9, "0.2.1.9.r"), (30, "0.2.1.30.r")] == asked(driver, "sequence", "action_id")
    assert {"0.2.1.r"} == {row["firing_id"] for row in driver.asked}


@pytest.mark.parametrize(("at", "least"), [(None, 101), ("exceeded", 101), ("reached", 100)])
def test_usage_exceeds_unless_the_rule_says_reached(driver: Driver, at: Any, least: int) -> None:
    """Usage rules fire above their threshold; a rule may name the other (L11)."""
    rule = Rule(id="r", trigger="sms_mo_count_cycle", threshold=100, at=at, actions=(TELL,))
    begin(driver, rule, plans=[plan(Rate(service="sms"))], card_rows=[{"iccid": "1"}])
    sims = Usage(driver)
    messages: Row = {"service": Service.SMS, "direction": Direction.MO}
    assert [] == sims.use("1", least - 1, on(2), **messages)
    assert [] == sims.use("1", 5, on(2), **messages | {"direction": Direction.MT})
    assert ["r"] == sims.use("1", 1, on(2), **messages)


@pytest.mark.parametrize(("at", "least"), [(None, 100), ("exceeded", 101), ("reached", 100)])
def test_pools_are_reached_unless_the_rule_says_exceeded(driver: Driver, at: Any, least: int) -> None:
    """Pool rules fire at their threshold; a rule may name the other (L11)."""
    rule = Rule(id="r", trigger="pool_data_usage", threshold="10 %", at=at, actions=(TELL,))
    pool = Pool(id="q", account="a", kind="static", size=(PoolSize(service="data", amount=1000),))
    begin(driver, rule, plans=[data(0)], card_rows=[{"iccid": "1", "pool": "q"}], pools=(pool,))
    sims = Usage(driver)
    assert [] == sims.use("1", least - 1, on(2))
    assert ["r"] == sims.use("1", 1, on(2))


def test_tags_of_actions_hold_from_the_next_entry_that_is_no_usage(driver: Driver) -> None:
    """A tag that a rule adds is seen by filters after the next tick, however usage is cut into batches (L10)."""
    mark = Rule(
        id="mark", trigger="data_usage_cycle", threshold=10, actions=(Action(sequence=1, type="add_tag", tag="hot"),)
    )
    tagged = Rule(
        id="tagged", trigger="data_usage_cycle", threshold=20, repetition="always",
        filters=(Filter(type="sim_tag", values=("hot",)),), actions=(TELL,),
    )  # fmt: skip
    begin(driver, mark, tagged, plans=[data(0)], card_rows=[{"iccid": "1"}])
    sims = Usage(driver)
    assert ["mark"] == sims.use("1", 30, on(2))
    assert [] == sims.use("1", 30, on(3))
    driver.take(Entry(on(4)))
    assert ["tagged"] == sims.use("1", 30, on(5))


def test_a_result_changes_the_card_and_fires_what_watches_it(driver: Driver) -> None:
    """A suspension that was carried out is a change of status, and so is its end (L7)."""
    rule = Rule(id="r", trigger="billing_status_changed", actions=(TELL,))
    begin(driver, rule, plans=[data(0)], card_rows=[{"iccid": "1"}])
    say(driver, Suspended(iccid="1", reason="over_quota"), at=on(2))
    say(driver, Resumed(iccid="1"), at=on(3))
    assert [("activated", "suspended"), ("suspended", "activated")] == [
        (row["from_value"], row["to_value"]) for row in driver.fired
    ]
