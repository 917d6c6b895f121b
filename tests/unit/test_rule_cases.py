"""Cases from the field: suspensions that meet, late usage, silence, sizes and devices; the slow model agrees."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from rating.engine import Engine
from rating.errors import PlanError, UsageError
from rating.queries.views import state_views
from rating.rules.holds import Holds
from rating.rules.limits import rules_of
from rating.state import State
from schemas.cards import Account, Addon, Catalogue, Pool
from schemas.commands import Deactivate, Failed, PlanChanged, Resumed, SessionStarted, StatusChanged, Suspended
from schemas.plans import Increment, Plan, Rate, Zone, ZoneSet
from schemas.rules import Action, Limit, Rule
from schemas.usage import RecordType
from tests.support.fold_case import cards, plan, usage
from tests.support.rules_case import START, Driver, Fold, Slow, begin, say
from tests.support.strategies.rules_strategies import Entry

MB, GB = 1 << 20, 1 << 30
TELL = (Action(sequence=1, type="notify", by=("system",)),)
LIMIT = "limit.overage_suspension.o"
CUT = "limit.hard_cut.h"
BYTE = Increment(round="none")


@pytest.fixture(params=[Fold, Slow], ids=["fold", "model"])
def driver(request: pytest.FixtureRequest) -> Driver:
    """The engine, and the model that it is compared with."""
    made: Driver = request.param()
    return made


def on(day: int, hour: int = 0, month: int = 10) -> dt.datetime:
    """A moment of 2026."""
    return dt.datetime(2026, month, day, hour, tzinfo=dt.UTC)


def limit(kind: Any = "overage_suspension", name: str = "o", **fields: Any) -> Rule:
    """The rule of a limit; of an overage suspension, with a margin of 10 MB."""
    fields |= {"margin": "10 MB"} if kind == "overage_suspension" and "margin" not in fields else {}
    (rule,) = rules_of(Limit(id=name, kind=kind, **fields))
    return rule


def data(allowance: str | int = "30 MB", name: str = "p", **fields: Any) -> Plan:
    """A plan with so much data, by the byte."""
    return msgspec.structs.replace(plan(Rate(service="data", allowance=allowance, increment=BYTE), name=name), **fields)


def use(driver: Driver, received: dt.datetime, *rows: dict[str, Any]) -> None:
    """Take a batch of records, used an hour before they arrive."""
    known = {"used_at": received - dt.timedelta(hours=1)}
    keyed = [known | {"record_key": f"{received}-{place}"} | row for place, row in enumerate(rows)]
    driver.take(Entry(received, usage=usage(*keyed, received=received)))


def fired(driver: Driver, *names: str) -> list[Any]:
    """These columns of all firings so far; of one column its values."""
    rows = [tuple(row[name] for name in names) for row in driver.fired]
    return [row[0] for row in rows] if len(names) == 1 else rows


def asked(driver: Driver, since: dt.datetime = START) -> list[tuple[str, str, str]]:
    """(ICCID, action, rule) of the actions asked for since a moment, without messages."""
    return [
        (row["iccid"], row["action"], row["rule_id"])
        for row in driver.asked
        if row["created_at"] >= since and row["action"] != "notify"
    ]


def holds(driver: Driver, iccid: str) -> list[str]:
    """What holds a SIM, as `weir card` shows it; the model has reasons only."""
    if isinstance(driver, Slow):
        return sorted(key[2] for key in driver.model.on(iccid))
    (row,) = state_views(driver.engine).cards.filter(iccid=iccid).iter_rows(named=True)
    return sorted(text.split(" ")[0] for text in row["holds"] or ())


def status(driver: Driver, iccid: str) -> tuple[str, str | None]:
    """Network status and reason of a card."""
    if isinstance(driver, Slow):
        card = driver.model.cards[iccid]
    else:
        (card,) = driver.engine.state.catalogue.cards.filter(iccid=iccid).iter_rows(named=True)
    return card["status"] or "activated", card["status_reason"]


class TestHolds:
    """A SIM is suspended as long as one hold is on it, and each hold is lifted by what lifts its reason."""

    LOCK = Rule(
        id="lock", trigger="imei_changed", actions=(Action(sequence=1, type="suspend", reason="device_change"),)
    )

    def begun(self, driver: Driver) -> None:
        """Three SIMs past their quota; the first in another device, the second cancelled, the third cut."""
        begin(driver, limit(), limit("hard_cut", "h"), self.LOCK, plans=[data()], card_rows=[{"iccid": "1"},
              {"iccid": "2"}, {"iccid": "3"}])  # fmt: skip
        use(
            driver, on(2, 11), {"iccid": "1", "quantity": 41 * MB, "imei": "356938035643809"},
            {"iccid": "1", "quantity": 1, "imei": "490154203237518"}, {"iccid": "2", "quantity": 41 * MB},
            {"iccid": "3", "quantity": 3 * GB},
        )  # fmt: skip
        say(
            driver, *(Suspended(iccid=one, reason="over_quota") for one in "123"),
            Suspended(iccid="1", reason="device_change"), Suspended(iccid="3", reason="hard_cut"),
            StatusChanged(iccid="2", status="cancelled"), at=on(2, 12),
        )  # fmt: skip

    def test_a_release_resumes_only_what_nothing_else_holds(self, driver: Driver) -> None:
        """The device lock stays, the cancelled SIM stays, and of two limits the last one resumes."""
        self.begun(driver)
        assert ["device_change", "over_quota"] == holds(driver, "1")
        assert [] == holds(driver, "2")
        assert ["hard_cut", "over_quota"] == holds(driver, "3")
        more = Addon(id="a", iccid="3", service="data", amount="500 MB", purchased_at=on(2, 13),
                     expires_on=dt.date(2026, 10, 31))  # fmt: skip
        driver.take(Entry(on(2, 13), change=Catalogue(addons=(more,))))
        assert ["over_quota"] == holds(driver, "3")
        assert [] == asked(driver, on(2, 13))
        driver.take(Entry(on(1, month=11)))
        assert [("3", "resume", LIMIT)] == asked(driver, on(2, 13))
        assert [["device_change"], [], []] == [holds(driver, one) for one in "123"]

    def test_a_person_releases_what_a_person_may(self, driver: Driver) -> None:
        """A resume by hand lifts the lock; the SIM stays suspended over its quota until the cycle ends."""
        self.begun(driver)
        say(driver, Resumed(iccid="1"), at=on(3))
        assert (["over_quota"], ("suspended", "over_quota")) == (holds(driver, "1"), status(driver, "1"))
        driver.take(Entry(on(1, month=11)))
        assert ("1", "resume", LIMIT) in asked(driver, on(3))
        say(driver, Resumed(iccid="1"), at=on(1, 1, 11))
        assert ("activated", None) == status(driver, "1")

    def test_a_resume_with_a_reason_lifts_that_reason(self, driver: Driver) -> None:
        """Nothing is left to be resumed of it, and the other hold stays."""
        self.begun(driver)
        say(driver, Resumed(iccid="1", reason="over_quota"), at=on(3))
        assert (["device_change"], ("suspended", "device_change")) == (holds(driver, "1"), status(driver, "1"))
        driver.take(Entry(on(1, month=11)))
        assert "1" not in [iccid for iccid, _, _ in asked(driver, on(3))]

    def test_nothing_brings_a_cancelled_card_back(self, driver: Driver) -> None:
        """A result that comes late does not suspend or resume it."""
        self.begun(driver)
        say(driver, Resumed(iccid="2"), Suspended(iccid="2", reason="manual"), at=on(3))
        assert (("cancelled", None), []) == (status(driver, "2"), holds(driver, "2"))

    def test_a_day_that_ends_leaves_the_suspension_of_the_month(self, driver: Driver) -> None:
        """Two rules of one's own with different windows."""

        def hold(name: str, trigger: Any) -> Rule:
            return Rule(id=name, trigger=trigger, threshold=10,
                        actions=(Action(sequence=1, type="suspend", until="window_end"),))  # fmt: skip

        begin(driver, hold("day", "data_usage_24h"), hold("cycle", "data_usage_cycle"), plans=[data()],
              card_rows=[{"iccid": "1"}])  # fmt: skip
        use(driver, on(2, 11), {"quantity": 11})
        driver.take(Entry(on(3)))
        assert [] == asked(driver, on(3))
        driver.take(Entry(on(1, month=11)))
        assert [("1", "resume", "cycle")] == asked(driver, on(3))

    def test_a_rule_that_was_stopped_lets_go_as_it_would_have(self, driver: Driver) -> None:
        """At the end of the window, once."""
        begin(driver, limit(), plans=[data()], card_rows=[{"iccid": "1"}])
        use(driver, on(2, 11), {"quantity": 41 * MB})
        say(driver, Deactivate(rule=LIMIT), at=on(3))
        driver.take(Entry(on(4)))
        assert [] == asked(driver, on(3))
        driver.take(Entry(on(1, month=11)))
        driver.take(Entry(on(1, month=12)))
        assert [("1", "resume", LIMIT)] == asked(driver, on(3))

    def test_a_limit_that_was_switched_off_lets_go_at_once(self, driver: Driver) -> None:
        """Its rule suspends nobody any more."""
        begin(driver, limit(), plans=[data()], card_rows=[{"iccid": "1"}])
        use(driver, on(2, 11), {"quantity": 41 * MB})
        say(driver, Deactivate(rule=LIMIT), at=on(3))
        driver.take(Entry(on(4), change=Catalogue(rules=(limit(margin="off"),))))
        assert [("1", "resume", LIMIT)] == asked(driver, on(3))

    def test_a_suspension_that_failed_is_asked_for_again(self, driver: Driver) -> None:
        """With the next usage. Nothing is resumed that was never suspended."""
        begin(driver, limit(), plans=[data()], card_rows=[{"iccid": "1"}])
        use(driver, on(2, 11), {"quantity": 41 * MB})
        say(driver, Failed(action_id=driver.asked[-1]["action_id"], message="no answer"), at=on(2, 12))
        assert [] == holds(driver, "1")
        use(driver, on(5, 11), {"quantity": 500 * MB})
        assert [("1", "suspend", LIMIT)] == asked(driver, on(3))
        driver.take(Entry(on(1, month=11)))
        assert [("1", "suspend", LIMIT)] == asked(driver, on(3))

    def test_a_suspension_that_comes_late_is_resumed(self, driver: Driver) -> None:
        """It was carried out after its cycle had ended."""
        begin(driver, limit(), plans=[data()], card_rows=[{"iccid": "1"}])
        use(driver, on(2, 11), {"quantity": 41 * MB})
        suspend = driver.asked[-1]["action_id"]
        driver.take(Entry(on(1, month=11)))
        say(driver, Suspended(iccid="1", reason="over_quota", action_id=suspend), at=on(1, 1, 11))
        driver.take(Entry(on(1, 2, 11)))
        assert [("1", "resume", LIMIT)] * 2 == asked(driver, on(3))
        say(driver, Resumed(iccid="1", action_id=driver.asked[-1]["action_id"]), at=on(1, 3, 11))
        assert (("activated", None), []) == (status(driver, "1"), holds(driver, "1"))

    def test_a_card_list_that_comes_again_undoes_nothing(self, driver: Driver) -> None:
        """It says no status and no custom field, and nothing of the tag that the rule added."""
        rule = Rule(
            id="r", trigger="data_usage_cycle", threshold="10 MB", actions=(
                Action(sequence=1, type="suspend", reason="over_quota", until="window_end"),
                Action(sequence=2, type="add_tag", tag="hot"),
                Action(sequence=3, type="set_attribute", attribute="seen", value="yes"),
            ),
        )  # fmt: skip
        row = {"iccid": "1", "plan": "p", "tags": ["meter"]}
        begin(driver, rule, plans=[data()], card_rows=[row])
        use(driver, on(2, 11), {"quantity": 11 * MB})
        suspend = driver.asked[0]["action_id"]
        say(driver, Suspended(iccid="1", reason="over_quota", action_id=suspend), at=on(2, 12))
        driver.take(Entry(on(3), change=Catalogue(cards=cards(row, row | {"iccid": "2"}))))
        card = driver.model.cards["1"] if isinstance(driver, Slow) else driver.engine.state.catalogue.cards.row(
            0, named=True)  # fmt: skip
        assert (("suspended", "over_quota"), ["meter", "hot"]) == (status(driver, "1"), card["tags"])
        assert {"seen": "yes"} == msgspec.json.decode(card["custom"])
        driver.take(Entry(on(4), change=Catalogue(cards=cards(row | {"tags": ["gauge"], "status": "cancelled"}))))
        assert (("cancelled", None), []) == (status(driver, "1"), holds(driver, "1"))

    def test_a_card_list_that_says_activated_is_a_person(self, driver: Driver) -> None:
        """It releases what a person may release."""
        self.begun(driver)
        listed = cards({"iccid": "1", "plan": "p", "status": "activated"})
        driver.take(Entry(on(3), change=Catalogue(cards=listed)))
        assert (["over_quota"], ("suspended", "over_quota")) == (holds(driver, "1"), status(driver, "1"))

    def test_a_card_list_suspends_too(self, driver: Driver) -> None:
        """A limit that ends does not resume what the list suspends."""
        begin(driver, limit(), plans=[data()], card_rows=[{"iccid": "1"}])
        use(driver, on(2, 11), {"quantity": 41 * MB})
        listed = cards({"iccid": "1", "plan": "p", "status": "suspended", "status_reason": "security"})
        driver.take(Entry(on(3), change=Catalogue(cards=listed)))
        driver.take(Entry(on(1, month=11)))
        assert [] == asked(driver, on(3))
        say(driver, Resumed(iccid="1", reason="security"), at=on(1, 1, 11))
        assert ("activated", None) == status(driver, "1")

    def test_a_rule_that_resumes_is_no_exception(self, driver: Driver) -> None:
        """It releases what a person may release, and asks for a resume if nothing else holds the SIM."""
        back = Rule(id="back", trigger="imei_changed", to="490154203237518",
                    actions=(Action(sequence=1, type="resume"),))  # fmt: skip
        begin(
            driver, limit(), back, plans=[data()], card_rows=[{"iccid": "1", "imei": "1"}, {"iccid": "2", "imei": "1"}]
        )
        use(driver, on(2, 11), {"iccid": "1", "quantity": 41 * MB})
        say(driver, *(Suspended(iccid=one, reason="manual") for one in "12"), at=on(2, 12))
        use(driver, on(3, 11), *({"iccid": one, "quantity": 1, "imei": "490154203237518"} for one in "12"))
        assert [("2", "resume", "back")] == asked(driver, on(3))

    def test_an_old_snapshot_keeps_its_holds(self) -> None:
        """One of before there were holds: they follow from what awaits its resume, and from suspended cards."""
        fold = Fold()
        self.begun(fold)
        facts, tables = fold.engine.snapshot()
        old = {name: table for name, table in tables.items() if name not in ("rule_holds", "rule_listed")}
        state = State.restore(facts, old, fold.engine.state.seen)
        # The snapshot did not say who suspended SIM 1, only that its device changed; SIM 3 awaits two resumes.
        assert (
            fold.engine.state.rules.holds.to_table()["key"].to_pylist()[-2:]
            == (state.rules.holds.to_table()["key"].to_pylist()[-2:])
        )
        fold.engine = Engine(state)
        assert ["device_change", "over_quota"] == holds(fold, "1")
        fold.take(Entry(on(1, month=11)))
        assert [("3", "resume", CUT)] == asked(fold, on(3))

    def test_holds_are_in_the_snapshot(self) -> None:
        """Equal holds give equal tables, and are read back."""
        fold = Fold()
        self.begun(fold)
        table = fold.engine.state.rules.holds.to_table()
        assert table == Holds.from_table(table).to_table()


def test_late_usage_suspends_nobody_for_a_window_that_is_over(driver: Driver) -> None:
    """It is recorded, and people are notified. The limit of the open cycle still suspends."""
    day = Rule(id="day", trigger="data_usage_24h", threshold="100 MB", sims=("2",),
               actions=(Action(sequence=1, type="suspend", until="window_end"), Action(sequence=2, type="webhook",
               url="https://example.com"), Action(sequence=3, type="throttle", rate_bps=1)))  # fmt: skip
    begin(driver, limit(to=("a@example.com",)), day, plans=[data()], card_rows=[{"iccid": "1"}, {"iccid": "2"}])
    use(driver, on(31, 12), {"iccid": "1", "quantity": 30 * MB})
    late = on(2, month=11) + dt.timedelta(minutes=10)
    use(
        driver, late, {"iccid": "1", "quantity": 11 * MB, "used_at": on(31, 20)},
        {"iccid": "2", "quantity": 101 * MB, "used_at": on(1, 23, 11)},
    )  # fmt: skip
    driver.take(Entry(late))
    assert [("1", LIMIT, "2026-10"), ("2", "day", "2026-11-01"), ("2", LIMIT, "2026-11")] == sorted(
        fired(driver, "iccid", "rule_id", "window")
    )
    assert [("2", "suspend", LIMIT), ("2", "webhook", "day")] == sorted(asked(driver))
    assert 2 == sum(row["action"] == "notify" for row in driver.asked)


def correct(driver: Driver, at: dt.datetime, key: str, corrects: str, **row: Any) -> None:
    """Take a reversal of a record, or with a quantity its replacement."""
    kind = RecordType.REPLACE if "quantity" in row else RecordType.REVERSE
    facts = {"record_key": key, "corrects_key": corrects, "record_type": kind, "used_at": on(2, 10)} | row
    driver.take(Entry(at, usage=usage(facts, received=at), corrects=True))


def test_usage_that_is_taken_back_ends_its_suspension(driver: Driver) -> None:
    """The next crossing fires again in the same cycle; a replacement that is as large changes nothing."""
    begin(driver, limit(), plans=[data()], card_rows=[{"iccid": "1"}])
    use(driver, on(2, 11), {"quantity": 50 * MB, "record_key": "wrong"})
    correct(driver, on(2, 12), "same", "wrong", quantity=45 * MB)
    assert [("1", "suspend", LIMIT)] == asked(driver)
    correct(driver, on(2, 13), "less", "same", quantity=39 * MB)
    assert ([("1", "resume", LIMIT)], []) == (asked(driver, on(2, 13)), holds(driver, "1"))
    use(driver, on(3, 11), {"quantity": 2 * MB, "record_key": "more"})
    assert [("1", "suspend", LIMIT)] == asked(driver, on(3))
    correct(driver, on(4), "undone", "more")
    assert [("1", "resume", LIMIT)] == asked(driver, on(4))
    driver.take(Entry(on(1, month=11)))
    assert 1 == len(asked(driver, on(4)))


def test_silence_counts_from_the_activation(driver: Driver) -> None:
    """Of a SIM that comes out of stock, and of one that is resumed."""
    rules = [Rule(id=name, trigger=name, actions=TELL) for name in ("no_data_session_24h", "not_connected_24h")]
    rows = [{"iccid": "1", "status": "silent"}, {"iccid": "2", "status": "suspended"}]
    begin(driver, *rules, plans=[data()], card_rows=rows)
    driver.take(Entry(on(3, 12), change=Catalogue(cards=cards({"iccid": "1", "plan": "p", "status": "activated"}))))
    say(driver, Resumed(iccid="2"), at=on(3, 12))
    driver.take(Entry(on(3, 13)))
    driver.take(Entry(on(4, 11)))
    assert [] == driver.fired
    driver.take(Entry(on(4, 12)))
    assert 4 == len(driver.fired)


def test_an_imei_names_a_device_by_14_digits(driver: Driver) -> None:
    """A check digit or a software version makes no other device, neither in the catalogue nor in a rule."""
    lock = Rule(id="lock", trigger="imei_changed", repetition="always", actions=TELL)
    first = msgspec.structs.replace(lock, id="from", from_="356938035643809")
    begin(driver, lock, first, plans=[data()], card_rows=[{"iccid": "1", "imei": "356938035643809"}, {"iccid": "2"}])
    versions = ("3569380356438011", "3569380356438012")
    for hour, imei in enumerate(versions, 10):
        use(driver, on(2, hour), *({"iccid": one, "quantity": 1, "imei": imei} for one in "12"))
    driver.take(Entry(on(3), change=Catalogue(cards=cards({"iccid": "1", "plan": "p", "imei": versions[1]}))))
    assert [] == driver.fired
    use(driver, on(4), {"iccid": "2", "quantity": 1, "imei": "490154203237518"})
    assert [("from", "3569380356438011"), ("lock", "3569380356438011")] == sorted(
        (rule, "3569380356438011" if old.startswith("35693803564380") else old)
        for rule, old in fired(driver, "rule_id", "from_value")
    )


def test_sessions_that_the_network_tells_of_are_counted(driver: Driver) -> None:
    """The second one is more than one."""
    for window in ("day", "rolling"):
        many = Rule(id=window, trigger="data_session_count_24h", threshold=1, window=window, actions=TELL)  # type: ignore[arg-type]
        made = type(driver)()
        begin(made, many, plans=[data()], card_rows=[{"iccid": "1"}])
        say(made, *(SessionStarted(iccid="1", at=on(2, hour)) for hour in (10, 11, 12)), at=on(2, 13))
        assert [(1, 2)] == fired(made, "value_before", "value_now")


SESSION_RULES = (
    Rule(id="begun", trigger="data_session_started", actions=TELL),
    Rule(id="counted", trigger="data_session_count_24h", threshold=0, actions=TELL),
)


@pytest.mark.parametrize("cumulative", [False, True])
def test_a_session_begins_with_its_first_record_even_without_units(driver: Driver, cumulative: bool) -> None:
    """A Start carries zero. What has no session is one by itself, even without units."""
    begin(driver, *SESSION_RULES, plans=[data()], card_rows=[{"iccid": "1"}])
    for hour, kind, quantity in ((11, "START", 0), (12, "INTERIM", 5), (13, "STOP", 5)):
        row = {"iccid": "1", "session_id": "s", "quantity": quantity, "record_type": RecordType[kind]}
        row |= {"record_key": kind, "used_at": on(2, hour)}
        driver.take(Entry(on(2, hour), usage=usage(row, received=on(2, hour), cumulative=cumulative)))
    assert [("begun", "START"), ("counted", "START")] == fired(driver, "rule_id", "record_key")
    alone = {"iccid": "1", "session_id": None, "quantity": 0, "record_key": "alone", "used_at": on(2, 14)}
    driver.take(Entry(on(2, 14), usage=usage(alone, received=on(2, 14), cumulative=cumulative)))
    assert [("begun", "alone")] == fired(driver, "rule_id", "record_key")[2:]


def test_a_replacement_begins_a_session_that_was_not_known(driver: Driver) -> None:
    """The first of its records does, even without units; then the session is known, and another record begins none."""
    begin(driver, SESSION_RULES[0], plans=[data()], card_rows=[{"iccid": "1"}])
    use(driver, on(2, 11), *({"iccid": "1", "session_id": "s", "quantity": 5, "record_key": key} for key in "ab"))
    again = [
        {"iccid": "1", "session_id": session, "quantity": quantity, "record_key": f"{key}2", "corrects_key": key,
         "record_type": RecordType.REPLACE, "used_at": on(2, 10)}
        for key, session, quantity in (("a", "t", 0), ("b", "t", 7))
    ]  # fmt: skip
    driver.take(Entry(on(2, 12), usage=usage(*again, received=on(2, 12)), corrects=True))
    back = {"iccid": "1", "record_key": "b3", "corrects_key": "b2", "record_type": RecordType.REVERSE}
    driver.take(Entry(on(2, 13), usage=usage(back | {"used_at": on(2, 10)}, received=on(2, 13)), corrects=True))
    use(driver, on(2, 14), *({"iccid": "1", "session_id": one, "quantity": 9} for one in "st"))
    assert ["a", "a2"] == fired(driver, "record_key")


@pytest.mark.parametrize(("days", "begins"), [(35, 1), (36, 2)])
def test_a_replacement_keeps_its_session_alive(driver: Driver, days: int, begins: int) -> None:
    """A session is over if nothing is heard of it for more than 35 days; a replacement is heard too."""
    begin(driver, SESSION_RULES[0], plans=[data()], card_rows=[{"iccid": "1"}])
    use(driver, on(2), {"iccid": "1", "session_id": "s", "quantity": 5, "record_key": "a"})
    again = {"iccid": "1", "session_id": "s", "quantity": 6, "record_key": "b", "corrects_key": "a",
             "record_type": RecordType.REPLACE, "used_at": on(1, 23)}  # fmt: skip
    driver.take(Entry(on(22), usage=usage(again, received=on(22)), corrects=True))
    use(driver, on(22) + dt.timedelta(days=days), {"iccid": "1", "session_id": "s", "quantity": 7})
    assert begins == len(driver.fired)


def test_daily_does_not_wait_for_usage(driver: Driver) -> None:
    """Neither of a SIM that used its quota before the rule began, nor of a pool or of the rolling 24 hours."""
    rules = [
        limit("balance_alert", "low", sims=("1", "2"), levels=(30,)),
        Rule(id="rolling", trigger="data_usage_24h", window="rolling", repetition="daily", sims=("3",), threshold=100,
             actions=TELL),
        Rule(id="pool", trigger="pool_data_usage", repetition="daily", threshold="50 %", actions=TELL),
    ]  # fmt: skip
    shared = data(1000, "dyn", type="dynamic")
    more = Addon(id="a", iccid="2", service="data", amount=1000, purchased_at=on(1), expires_on=dt.date(2026, 10, 10))
    begin(
        driver, *rules, plans=[data(1000), shared], addons=(more,), pools=(Pool(id="P", account="a", kind="dynamic"),),
        card_rows=[{"iccid": "1"}, {"iccid": "2"}, {"iccid": "3"}, {"iccid": "4", "plan": "dyn", "pool": "P"}],
    )  # fmt: skip
    use(driver, on(8, 21), {"iccid": "3", "quantity": 600}, {"iccid": "4", "quantity": 1000})
    use(driver, on(8, 22), {"iccid": "1", "quantity": 950}, {"iccid": "2", "quantity": 1000})
    for day in (8, 9, 11):
        driver.take(Entry(on(day, 23 if day == 8 else 0)))
    days = [(row["rule_id"].split(".")[-1], row["iccid"], row["fired_at"].day) for row in driver.fired]
    assert [("low", "1", day) for day in (8, 9, 11)] == [one for one in days if one[1] == "1"]
    assert [("low", "2", 11)] == [one for one in days if one[1] == "2"]
    assert [("rolling", "3", day) for day in (8, 9)] == [one for one in days if one[1] == "3"]
    assert [("pool", "4", day) for day in (8, 9, 11)] == [one for one in days if one[1] == "4"]


ZONES = (
    ZoneSet(id="z", zones=(Zone(name="home", countries=("DE",), home=True), Zone(name="eu", countries=("FR",)))),
    ZoneSet(id="flat", zones=(Zone(name="a", countries=("DE", "FR")),)),
)


def zoned(name: str, *rates: tuple[str, str | None, int | str | None], zones: str = "z", **fields: Any) -> Plan:
    """A plan with rates by zone: (zone, counter, allowance)."""
    made = [Rate(service="data", zone=zone, counter=counter, increment=BYTE, allowance=0 if size is None else size)
            for zone, counter, size in rates]  # fmt: skip
    return msgspec.structs.replace(plan(*made, name=name, zones=zones), **fields)


def test_overage_is_what_rating_priced(driver: Driver) -> None:
    """Members of a pool or device that is not used up have none; a SIM may have some in one zone."""
    plans = [
        data(name="dyn", type="dynamic"), data(name="dev", entity="device"),
        zoned("two", ("home", None, "30 MB"), ("eu", None, "30 MB")),
    ]  # fmt: skip
    begin(
        driver, limit(), plans=plans, zones=ZONES, pools=(Pool(id="P", account="a", kind="dynamic"),),
        card_rows=[
            {"iccid": "1", "pool": "P"}, {"iccid": "2", "pool": "P"}, {"iccid": "3", "plan": "dev", "device": "gw"},
            {"iccid": "4", "plan": "dev", "device": "gw"}, {"iccid": "5", "plan": "two"},
        ],
    )  # fmt: skip
    use(
        driver, on(2, 11), {"iccid": "1", "quantity": 45 * MB}, {"iccid": "3", "quantity": 45 * MB},
        {"iccid": "5", "quantity": 50 * MB, "country": "DE"},
    )  # fmt: skip
    assert [("5", 50 * MB, 30 * MB, 40 * MB)] == fired(driver, "iccid", "value_now", "size", "threshold")
    use(driver, on(2, 12), {"iccid": "2", "quantity": 25 * MB}, {"iccid": "4", "quantity": 26 * MB})
    assert ["5", "4"] == fired(driver, "iccid")  # SIM 2 has exactly 10 MB of overage, SIM 4 has 11 MB
    driver.take(Entry(on(3)))
    assert ["5", "4"] == fired(driver, "iccid")


def test_a_pool_is_used_up_from_other_zones_too(driver: Driver) -> None:
    """If they are on the counter that its size is for; if no zone is the home, all usage counts."""
    counters = (("home", "europe", 1000), ("eu", "europe", None))
    plans = [
        zoned("dyn", *counters, type="dynamic"), zoned("flat", ("a", None, 1000), zones="flat", type="dynamic"),
        zoned("single", *counters),
    ]  # fmt: skip
    full = Rule(id="full", trigger="pool_data_usage", threshold="100 %", actions=TELL)
    home = Rule(id="home", trigger="home_data_allowance", threshold="100 %", actions=TELL)
    pools = tuple(Pool(id=name, account="a", kind="dynamic") for name in "PQ")
    begin(
        driver, full, home, plans=plans, zones=ZONES, pools=pools, card_rows=[
            {"iccid": "1", "pool": "P"}, {"iccid": "2", "plan": "flat", "pool": "Q"}, {"iccid": "3", "plan": "single"},
        ],
    )  # fmt: skip
    use(driver, on(2, 11), *({"iccid": one, "quantity": 1500, "country": land}
                             for one, land in (("1", "FR"), ("2", "DE"), ("3", "FR"))))  # fmt: skip
    assert [("full", "1"), ("full", "2"), ("home", "1"), ("home", "3")] == sorted(fired(driver, "rule_id", "iccid"))


@pytest.mark.parametrize("margin", [10, "10", " 10 ", "0.5"])
def test_a_margin_has_a_unit(margin: Any) -> None:
    """Ten of nothing is neither ten bytes nor ten megabytes."""
    with pytest.raises(PlanError, match=r'margin: found .*; expected data with its unit such as "10 MB", 0, or "off"'):
        rules_of(Limit(id="o", kind="overage_suspension", margin=margin))
    assert rules_of(Limit(id="o", kind="overage_suspension", margin="0"))


def test_terms_of_cancelled_cards_and_of_long_ago_are_not_told(driver: Driver) -> None:
    """A term that ends after the rule began is, on the day after it."""
    rules = [
        limit("expiry_notice", "n"), limit("expiry_alert", "a", levels=(30, 15), to=("a@example.com",)),
        Rule(id="expired", trigger="price_plan_expired", by="time", actions=TELL),
    ]  # fmt: skip
    rows = [
        {"iccid": "1", "activated_on": dt.date(2025, 12, 1), "status": "cancelled"},
        {"iccid": "2", "activated_on": dt.date(2019, 3, 1), "status": "cancelled"},
        {"iccid": "3", "activated_on": dt.date(2019, 3, 1)},
        {"iccid": "4", "activated_on": dt.date(2025, 11, 1)},
    ]
    begin(driver, *rules, plans=[data(term_months=12)], card_rows=rows)
    for day in (on(2), on(31), on(1, month=11)):
        driver.take(Entry(day))
    assert {"4"} == set(fired(driver, "iccid"))
    assert [("4", "2026-10-31")] == [
        (row["iccid"], row["window"]) for row in driver.fired if row["rule_id"] == "expired"
    ]


def test_a_hard_cut_has_its_level(driver: Driver) -> None:
    """In the unit that a person reads."""
    begin(driver, limit("hard_cut", "h"), plans=[data()], card_rows=[{"iccid": "1"}])
    use(driver, on(2, 11), {"quantity": 3 * GB})
    assert [["3 GB"]] == fired(driver, "levels")


def test_a_plan_changes_when_it_is_in_force(driver: Driver) -> None:
    """Not when it is announced."""
    changed = Rule(id="plan", trigger="price_plan_changed", actions=TELL)
    begin(driver, changed, plans=[data(name="m30"), data("100 MB", "m100")], card_rows=[{"iccid": "1"}, {"iccid": "2"}])
    say(driver, PlanChanged(iccid="2", plan="m100", from_=dt.date(2026, 10, 20)), at=on(3))
    driver.take(Entry(on(19)))
    assert [] == driver.fired
    driver.take(Entry(on(20)))
    driver.take(Entry(on(21)))
    say(driver, PlanChanged(iccid="1", plan="m100"), at=on(21))
    assert [("2", "m30", "m100"), ("1", "m30", "m100")] == fired(driver, "iccid", "from_value", "to_value")


def test_a_result_is_of_the_sim_of_its_action() -> None:
    """One for another SIM is refused."""
    fold = Fold()
    begin(fold, plans=[data()], card_rows=[{"iccid": "1"}, {"iccid": "2"}], accounts=(Account(id="a"),))
    with pytest.raises(UsageError, match="action_id: found an action of SIM 2; expected one of SIM 1"):
        fold.engine.check_commands([Suspended(iccid="1", action_id="0.2.2.1.r")])
