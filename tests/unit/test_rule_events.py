"""Rules on what happened to a SIM: sessions, blocks, another device or cell, changes of the catalogue (L7)."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas.commands import Blocked, Connected, NetworkEvent, SessionStarted, SessionStopped
from schemas.plans import Rate
from schemas.rules import Filter, Rule
from schemas.usage import Service
from tests.support.fold_case import NOON, Row, cards, engine, plan
from tests.support.rule_scene import Scene, iccids

CARDS: tuple[Row, ...] = ({"iccid": "1", "plan": "p"}, {"iccid": "2", "plan": "p", "tags": ["red"]})


def scene(*rules: Rule, card_rows: tuple[Row, ...] = CARDS) -> Scene:
    """Two SIMs on one of two plans."""
    plans = (plan(Rate(service="data")), plan(Rate(service="data"), name="q"))
    return Scene(engine(*plans, card_rows=card_rows), *rules)


def later(hours: float) -> dt.datetime:
    """So many hours after noon."""
    return NOON + dt.timedelta(hours=hours)


def pairs(rows: list[Row]) -> list[tuple[str | None, str | None]]:
    """From and to of firings."""
    return [(row["from_value"], row["to_value"]) for row in rows]


class TestSessions:
    @pytest.mark.parametrize(
        ("trigger", "flag", "event"),
        [("data_session_started", "started", SessionStarted), ("data_session_stopped", "stopped", SessionStopped)],
    )
    def test_each_session_fires(self, trigger: Any, flag: str, event: type[NetworkEvent]) -> None:
        """A session that begins, or ends, fires by its record and by its command; nothing else does."""
        one = scene(Rule(id="r", trigger=trigger))
        other = "stopped" if flag == "started" else "started"
        assert [1, 3] == [row["offset"] for row in one.hear({other: 1}, {flag: 1}, {}, {flag: 1, "card": 1})]
        assert ["2"] == iccids(one.told(event(iccid="2")))
        wrong = SessionStopped if event is SessionStarted else SessionStarted
        assert [] == one.told(wrong(iccid="2"), Connected(iccid="2"), Blocked(iccid="2", service="data"))

    def test_a_sim_that_is_unknown(self) -> None:
        """An event of a SIM that is not in the directory fires nothing, and its neighbours keep their offsets."""
        one = scene(Rule(id="r", trigger="data_session_started"))
        told = one.told(SessionStarted(iccid="1"), SessionStarted(iccid="9"), SessionStarted(iccid="2"))
        assert [("1", 0), ("2", 2)] == [(row["iccid"], row["offset"]) for row in told]

    @pytest.mark.parametrize(
        ("repetition", "fired"), [("once", 1), ("once_per_window", 3), ("always", 3), ("daily", 2)]
    )
    def test_repetition(self, repetition: Any, fired: int) -> None:
        """The window of an event is the event itself; once is for ever, daily by day of arrival (L10)."""
        one = scene(Rule(id="r", trigger="data_session_started", repetition=repetition))
        one.hear({"started": 1}, {"started": 1})
        one.hear({"started": 1}, received=later(24))
        assert fired == len(one.fired)


class TestBlocked:
    @pytest.mark.parametrize("service", ["data", "sms", "voice"])
    def test_each_service_has_its_own_trigger(self, service: Any) -> None:
        """A block fires the rule on its service and on no other."""
        rules = [Rule(id=name, trigger=f"{name}_blocked") for name in ("data", "sms", "voice")]  # type: ignore[arg-type]
        assert [service] == [row["rule"] for row in scene(*rules).told(Blocked(iccid="1", service=service))]

    def test_a_block_is_no_connection(self) -> None:
        """A SIM whose service was blocked has not been heard of."""
        one = scene(Rule(id="r", trigger="not_connected_24h"))
        one.told(Blocked(iccid="1", service="data"), Connected(iccid="2"), at=later(23))
        assert ["1"] == iccids(one.tick(later(24)))


class TestImei:
    RULE = Rule(id="r", trigger="imei_changed")

    def test_another_device_fires(self) -> None:
        """The first device heard of is no change; another one is, back again too, also within a batch."""
        one = scene(self.RULE)
        found = one.hear(
            {"imei": "A"}, {"imei": "A"}, {"imei": "B"}, {"imei": None}, {"imei": "A"}, {"imei": "C", "card": 1}
        )
        assert [("A", "B"), ("B", "A")] == pairs(found)
        assert [2, 4] == [row["offset"] for row in found]
        assert [("A", "D")] == pairs(one.told(Connected(iccid="1", imei="D")))

    def test_the_catalogue_knows_the_first_one(self) -> None:
        """A SIM that is catalogued in one device and heard of in another has changed it."""
        one = scene(self.RULE, card_rows=({"iccid": "1", "imei": "A"},))
        assert [("A", "B")] == pairs(one.hear({"imei": "B"}))

    def test_records_out_of_order(self) -> None:
        """A record used before the last one heard of is no change, nor is the next one in the known device."""
        one = scene(self.RULE)
        one.hear({"imei": "A"}, {"imei": "B", "used_at": later(2)})
        assert 1 == len(one.fired)
        assert [] == one.hear({"imei": "A", "used_at": later(1)}, {"imei": "B", "used_at": later(3)})
        assert [] == one.told(Connected(iccid="1", imei="C", at=later(2)), at=later(4))
        assert [("B", "C")] == pairs(one.told(Connected(iccid="1", imei="C", at=later(3)), at=later(4)))

    def test_an_event_of_the_future_happened_on_arrival(self) -> None:
        """A clock that is ahead does not hide what comes after it."""
        one = scene(self.RULE)
        one.told(Connected(iccid="1", imei="A", at=later(900)), at=later(1))
        assert [("A", "B")] == pairs(one.hear({"imei": "B", "used_at": later(2)}))

    def test_by_the_catalogue(self) -> None:
        """Another IMEI in the catalogue fires, from the one that was known; the traffic of the same device does not."""
        one = scene(self.RULE)
        one.hear({"imei": "A"})
        assert [("A", "B")] == pairs(one.apply(cards=cards(CARDS[0] | {"imei": "B"})))
        assert [] == one.hear({"imei": "B"})
        assert [] == one.apply(cards=cards(CARDS[0] | {"imei": None}))
        assert [] == one.apply(cards=cards(CARDS[1] | {"imei": "X"}))

    def test_from_and_to(self) -> None:
        """A rule that names the device it was in, or is in, fires for those alone."""
        one = scene(Rule(id="f", trigger="imei_changed", from_="A"), Rule(id="t", trigger="imei_changed", to="A"))
        one.hear({"imei": "A"}, {"imei": "B"}, {"imei": "C"}, {"imei": "A"})
        assert [("f", "A", "B"), ("t", "C", "A")] == [
            (row["rule"], row["from_value"], row["to_value"]) for row in one.fired
        ]


class TestLocation:
    def test_during_and_across_sessions(self) -> None:
        """Rules distinguish a change of cell within a data session from a change between two sessions."""
        rules = [Rule(id=name, trigger="location_changed", across=name) for name in ("any", "during", "across")]  # type: ignore[arg-type]
        one = scene(*rules)
        found = one.hear(
            {"cell_id": "c", "session_id": "s"},
            {"cell_id": "c", "session_id": "s"},
            {"cell_id": "d", "session_id": "s"},
            {"cell_id": "d", "session_id": "t"},
            {"cell_id": "e", "session_id": "u"},
            {"cell_id": "f"},
            {"cell_id": "g"},
        )
        assert [2, 2, 4, 4, 5, 5, 6, 6] == [row["offset"] for row in found]
        assert ["any", "during"] + ["across", "any"] * 3 == [row["rule"] for row in found]
        assert ("c", "d") == pairs(found)[0]
        assert ["across", "any"] == [row["rule"] for row in one.told(Connected(iccid="1", cell_id="h"))]

    def test_from_and_to(self) -> None:
        """A rule that names a cell fires for it alone."""
        one = scene(Rule(id="r", trigger="location_changed", to="d"))
        assert [("c", "d")] == pairs(one.hear({"cell_id": "c"}, {"cell_id": "d"}, {"cell_id": "e"}))


class TestPlaces:
    """Filters on the network and the zone (L9)."""

    RAT = (Filter(type="rat", values=("4G",)),)

    def test_a_record_is_looked_at_itself(self) -> None:
        """A record that names no network does not match, whatever the one before it did."""
        one = scene(Rule(id="r", trigger="data_session_started", filters=self.RAT))
        found = one.hear(
            {"started": 1, "rat": "4G"}, {"started": 1, "rat": "5G"}, {"started": 1}, {"started": 1, "rat": "4G"}
        )
        assert [0, 3] == [row["offset"] for row in found]
        zoned = (Filter(type="zone", values=("far",)),)
        one = scene(Rule(id="r", trigger="data_session_started", owner="a", filters=zoned))
        assert [1] == [
            row["offset"]
            for row in one.hear({"started": 1}, {"started": 1, "zone": "far"}, {"started": 1, "zone": None})
        ]

    def test_an_event_is_where_the_sim_was_last_seen(self) -> None:
        """Commands and catalogues name no network: that of the last record or attachment before them counts."""
        rules = (
            Rule(id="block", trigger="data_blocked", filters=self.RAT),
            Rule(id="plan", trigger="price_plan_changed", filters=self.RAT),
        )
        one = scene(*rules)
        block = Blocked(iccid="1", service="data")
        assert [] == one.told(block)
        attached = [Connected(iccid="1", rat=rat) for rat in ("4G", "5G")]
        assert [2] == [row["offset"] for row in one.told(attached[0], block, attached[1], block)]
        assert [] == one.apply(cards=cards(CARDS[0] | {"plan": "q"}))
        one.hear({"rat": "4G"})
        assert ["1"] == iccids(one.apply(cards=cards(CARDS[0] | {"plan": "p"})))

    def test_filters_on_cards(self) -> None:
        """A rule with a tag watches the SIMs that have it."""
        one = scene(Rule(id="r", trigger="data_session_started", filters=(Filter(type="sim_tag", values=("red",)),)))
        assert ["2"] == iccids(one.hear({"started": 1}, {"started": 1, "card": 1}))


class TestChanges:
    @pytest.mark.parametrize(
        ("trigger", "column", "old", "new"),
        [
            ("billing_status_changed", "status", "suspended", "deactivated"),
            ("msisdn_changed", "msisdn", "491", "492"),
            ("price_plan_changed", "plan", "p", "q"),
            ("imei_changed", "imei", "A", "B"),
        ],
    )
    def test_each_column(self, trigger: Any, column: str, old: str, new: str) -> None:
        """A changed column of a card fires its own rule, from and to; the other columns, and new cards, do not."""
        start: Row = CARDS[0] | {column: old}
        names = ("billing_status_changed", "msisdn_changed", "price_plan_changed", "imei_changed")
        one = scene(*(Rule(id=name, trigger=name) for name in names), card_rows=(start, CARDS[1]))  # type: ignore[arg-type]
        found = one.apply(cards=cards(start | {column: new}, {"iccid": "3", "plan": "q", column: new}))
        assert [(trigger, "1")] == [(row["rule"], row["iccid"]) for row in found]
        assert [(old, new)] == pairs(found)
        assert [] == one.apply(cards=cards(start | {column: new, "carrier": "x"}))

    def test_a_status_that_is_not_said_is_activated(self) -> None:
        """From null to activated is no change; from null to suspended is one from activated (C1)."""
        one = scene(Rule(id="r", trigger="billing_status_changed", from_="activated", to="suspended"))
        assert [] == one.apply(cards=cards(CARDS[0] | {"status": "activated"}))
        assert [("activated", "suspended")] == pairs(one.apply(cards=cards(CARDS[0] | {"status": "suspended"})))
        assert [] == one.apply(cards=cards(CARDS[0] | {"status": "activated"}))

    def test_from_nothing(self) -> None:
        """A first MSISDN is a change, from null, but not from a number that a rule names; a first IMEI is none."""
        one = scene(
            Rule(id="any", trigger="msisdn_changed"), Rule(id="from", trigger="msisdn_changed", from_="491"),
            Rule(id="imei", trigger="imei_changed"),
        )  # fmt: skip
        found = one.apply(cards=cards(CARDS[0] | {"msisdn": "492", "imei": "A"}))
        assert [("any", None, "492")] == [(row["rule"], row["from_value"], row["to_value"]) for row in found]

    def test_a_custom_field(self) -> None:
        """A rule on one field gets its values. A rule on no field gets one object of all changed fields, once."""
        before = CARDS[0] | {"custom": '{"a": "1", "b": "2", "c": 3}'}
        one = scene(
            Rule(id="a", trigger="custom_attribute_changed", attribute="a"),
            Rule(id="all", trigger="custom_attribute_changed"),
            Rule(id="b", trigger="custom_attribute_changed", attribute="b"),
            Rule(id="to", trigger="custom_attribute_changed", attribute="a", to="9"),
            card_rows=(before,),
        )
        found = one.apply(cards=cards(before | {"custom": '{"b": "2", "c": 4, "a": "5", "d": "6"}'}))
        assert [
            ("a", "1", "5"),
            ("all", '{"a":"1","c":"3"}', '{"a":"5","c":"4","d":"6"}'),
        ] == [(row["rule"], row["from_value"], row["to_value"]) for row in found]
        assert [("a", "5", None), ("all", '{"a":"5"}', "{}")] == [
            (row["rule"], row["from_value"], row["to_value"])
            for row in one.apply(cards=cards(before | {"custom": '{"b": "2", "c": 4, "d": "6"}'}))
        ]
        assert [] == one.apply(cards=cards(before | {"custom": '{"d": "6", "b": "2", "c": 4}'}))

    def test_any_field_from_and_to(self) -> None:
        """A rule on any field that names values fires for the fields that have them."""
        before = CARDS[0] | {"custom": '{"a": "1", "b": "2"}'}
        one = scene(Rule(id="r", trigger="custom_attribute_changed", from_="2", to="3"), card_rows=(before,))
        assert [] == one.apply(cards=cards(before | {"custom": '{"a": "3", "b": "2"}'}))
        assert [('{"b":"2"}', '{"b":"3"}')] == pairs(
            one.apply(cards=cards(before | {"custom": '{"a": "4", "b": "3"}'}))
        )

    def test_several_cards_in_directory_order(self) -> None:
        """Each changed card fires once, whatever the order in the catalogue."""
        one = scene(Rule(id="r", trigger="price_plan_changed"))
        assert ["1", "2"] == iccids(one.apply(cards=cards(CARDS[1] | {"plan": "q"}, CARDS[0] | {"plan": "q"})))


def test_what_was_heard_of_data_alone() -> None:
    """A session of data is heard as data, an SMS is not."""
    one = scene(Rule(id="r", trigger="no_data_session_24h"))
    one.hear({"service": Service.SMS, "used_at": later(2)}, {"card": 1, "used_at": later(2)}, received=later(2))
    one.told(SessionStarted(iccid="2"), at=later(3))
    assert ["1"] == iccids(one.tick(later(24)))
