"""What falls due at ticks: silences, ends of terms, repeats of daily rules, and the end of suspensions (L1 to L10)."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from schemas.cards import Account, Addon
from schemas.commands import Connected, SessionStarted, SessionStopped
from schemas.plans import Cycle, Plan, Rate
from schemas.rules import Action, Filter, Rule
from schemas.usage import Service
from tests.support.fold_case import NOON, Row, cards, engine, plan
from tests.support.rule_scene import Scene, iccids

DAY = dt.timedelta(days=1)
TICK = dt.timedelta(microseconds=1)
CARDS: tuple[Row, ...] = ({"iccid": "1"}, {"iccid": "2"})


def utc(*fields: int) -> dt.datetime:
    """An instant."""
    return dt.datetime(*fields, tzinfo=dt.UTC)  # type: ignore[arg-type]


def billed(months: int = 1, anchor_day: int = 1, allowance: str | int = "100 MB") -> Plan:
    """A plan of data, SMS and speech with cycles of its own."""
    rates = (Rate(service="data", allowance=allowance), Rate(service="sms"), Rate(service="voice"))
    return msgspec.structs.replace(plan(*rates), cycle=Cycle(months=months, anchor_day=anchor_day))


def scene(
    *rules: Rule,
    since: dt.datetime = NOON,
    known: dt.datetime | None = None,
    zone: str = "UTC",
    card_rows: tuple[Row, ...] = CARDS,
    **cycle: Any,
) -> Scene:
    """SIMs of an account in a time zone, rules that are active since then and cards known since then."""
    built = engine(billed(**cycle), card_rows=card_rows, account=Account(id="a", time_zone=zone))
    return Scene(built, *rules, since=since, known=known or since)


class TestDay:
    """No … for 24 hours."""

    @pytest.mark.parametrize(
        ("trigger", "heard"),
        [
            ("no_data_session_24h", [Service.DATA]),
            ("no_sms_24h", [Service.SMS]),
            ("no_voice_24h", [Service.VOICE]),
            ("not_connected_24h", list(Service)),
        ],
    )
    def test_to_the_microsecond(self, trigger: Any, heard: list[Service]) -> None:
        """It fires once 24 hours have gone by since the last use of its own service, and not a microsecond before."""
        for service in Service:
            one = scene(Rule(id="r", trigger=trigger), since=NOON - DAY)
            at = NOON - 2 * TICK
            one.hear({"service": service, "used_at": at}, {"card": 1, "service": service, "used_at": NOON})
            assert ([] if service in heard else ["1", "2"]) == iccids(one.tick(NOON))
            if service in heard:
                assert [] == one.tick(at + DAY - TICK)
                assert ["1"] == iccids(one.tick(at + DAY))
                assert ["2"] == iccids(one.tick(NOON + DAY))

    def test_once_until_heard_again(self) -> None:
        """A silence fires once; the next one, after use, fires anew."""
        one = scene(Rule(id="r", trigger="no_data_session_24h"), card_rows=CARDS[:1])
        assert ["1"] == iccids(one.tick(NOON + DAY))
        assert [] == one.tick(NOON + DAY + TICK)
        assert [] == one.tick(NOON + 5 * DAY)
        one.hear({"used_at": NOON + 5 * DAY})
        assert [] == one.tick(NOON + 6 * DAY - TICK)
        assert ["1"] == iccids(one.tick(NOON + 6 * DAY))

    @pytest.mark.parametrize(
        ("repetition", "days"),
        [("once", [1]), ("once_per_window", [1, 6]), ("always", [1, 6]), ("daily", [1, 2, 3, 6])],
    )
    def test_repetition(self, repetition: Any, days: list[int]) -> None:
        """Daily repeats on each local day while the silence goes on; once is for ever."""
        one = scene(Rule(id="r", trigger="no_data_session_24h", repetition=repetition), card_rows=CARDS[:1])
        fired = []
        for day in (1, 2, 3, 6):
            if day == 6:
                one.hear({"used_at": NOON + 5 * DAY})
            fired += [day for _ in one.tick(NOON + day * DAY) + one.tick(NOON + day * DAY + TICK)]
        assert days == fired

    def test_what_was_before_the_rule_and_the_card(self) -> None:
        """Silence counts from when the rule became active and the SIM was known, the later of them."""
        one = scene(Rule(id="r", trigger="not_connected_24h"), since=NOON + DAY, known=NOON, card_rows=CARDS[:1])
        assert [] == one.tick(NOON + 2 * DAY - TICK)
        assert ["1"] == iccids(one.tick(NOON + 2 * DAY))
        one.apply(at=NOON + 3 * DAY, cards=cards({"iccid": "2", "plan": "p"}))
        assert [] == one.tick(NOON + 4 * DAY - TICK)
        assert ["2"] == iccids(one.tick(NOON + 4 * DAY))

    @pytest.mark.parametrize(("status", "watched"), [(None, True), ("activated", True), ("suspended", False)])
    def test_only_sims_in_service(self, status: str | None, watched: bool) -> None:
        """A SIM that is not in service is silent of course."""
        one = scene(Rule(id="r", trigger="no_sms_24h"), card_rows=({"iccid": "1", "status": status},))
        assert watched == bool(one.tick(NOON + DAY))

    def test_commands_of_the_network(self) -> None:
        """A session or an attachment without usage is heard too, each by the rules that it concerns."""
        rules = (Rule(id="data", trigger="no_data_session_24h"), Rule(id="none", trigger="not_connected_24h"))
        for event, heard in ((SessionStarted, True), (SessionStopped, True), (Connected, False)):
            one = scene(*rules, card_rows=CARDS[:1])
            one.told(event(iccid="1"), at=NOON + TICK)
            assert ([] if heard else ["data"]) == [row["rule"] for row in one.tick(NOON + DAY)]
            assert {"data", "none"} == {row["rule"] for row in one.fired + one.tick(NOON + DAY + TICK)}

    def test_hours_and_not_the_local_day(self) -> None:
        """On a day of 25 hours 24 hours go by before the same time of day."""
        one = scene(Rule(id="r", trigger="no_sms_24h"), since=utc(2026, 10, 24, 10), zone="Europe/Berlin")
        assert [] == one.tick(utc(2026, 10, 25, 10) - TICK)
        assert ["1", "2"] == iccids(one.tick(utc(2026, 10, 25, 10)))

    def test_filters(self) -> None:
        """Filters hold, on the card as it is and on where the SIM was last seen."""
        far = (Filter(type="zone", values=("far",)),)
        red = (Filter(type="sim_tag", values=("red",)),)
        one = scene(
            Rule(id="far", trigger="no_sms_24h", owner="a", filters=far),
            Rule(id="red", trigger="no_sms_24h", filters=red),
            card_rows=({"iccid": "1"}, {"iccid": "2", "tags": ["red"]}),
        )
        one.hear({"zone": "far"}, {"card": 1, "zone": "far"}, {"card": 1, "zone": None})
        assert [("far", "1"), ("red", "2")] == [(row["rule"], row["iccid"]) for row in one.tick(NOON + DAY)]


class TestCycle:
    """No … in a whole billing cycle."""

    @pytest.mark.parametrize(
        ("trigger", "heard"), [("no_voice_cycle", [Service.VOICE]), ("not_connected_cycle", list(Service))]
    )
    def test_anchored_over_a_change_of_clocks(self, trigger: Any, heard: list[Service]) -> None:
        """The cycle of the plan, from local midnight to local midnight, has to be silent from its first instant on."""
        begins, ends = utc(2026, 2, 15, 8), utc(2026, 3, 15, 7)  # midnights of 15 February and March in Los Angeles
        rule = Rule(id="r", trigger=trigger)
        for service in Service:
            one = scene(rule, since=begins - DAY, zone="America/Los_Angeles", anchor_day=15)
            one.hear({"service": service, "used_at": begins - TICK}, {"card": 1, "service": service, "used_at": begins})
            assert [] == one.tick(ends - TICK)
            found = one.tick(ends)
            assert (["1"] if service in heard else ["1", "2"]) == iccids(found)
            assert {"2026-02-15"} == {row["label"] for row in found}
            assert [] == one.tick(ends + DAY)
            assert ["1", "2"] == iccids(one.tick(utc(2026, 4, 15, 7)))

    def test_use_at_the_last_and_the_next_instant(self) -> None:
        """Use at the last instant was in the cycle; use before the tick but after the cycle was not."""
        begins, ends = utc(2026, 10, 1), utc(2026, 11, 1)
        for used_at, fires in ((ends - TICK, False), (ends, True), (ends + DAY, True)):
            one = scene(Rule(id="r", trigger="not_connected_cycle"), since=begins, card_rows=CARDS[:1])
            one.hear({"used_at": begins - TICK}, {"used_at": used_at})
            assert fires == bool(one.tick(ends + 2 * DAY))

    def test_a_record_that_comes_late(self) -> None:
        """A record of the cycle that comes after one of the next cycle, and before the tick, was heard in it."""
        one = scene(Rule(id="r", trigger="not_connected_cycle"), since=utc(2026, 10, 1))
        one.hear({"used_at": utc(2026, 11, 1)}, {"used_at": utc(2026, 11, 1), "card": 1}, {"used_at": utc(2026, 10, 9)})
        assert ["2"] == iccids(one.tick(utc(2026, 11, 2)))

    def test_a_cycle_of_three_months(self) -> None:
        """A quarter has to be silent as a whole."""
        one = scene(Rule(id="r", trigger="not_connected_cycle"), since=utc(2026, 7, 1), months=3)
        one.hear({"used_at": utc(2026, 7, 20), "card": 1})
        assert [] == one.tick(utc(2026, 8, 1)) + one.tick(utc(2026, 9, 1)) + one.tick(utc(2026, 10, 1) - TICK)
        assert [("1", "2026-07")] == [(row["iccid"], row["label"]) for row in one.tick(utc(2026, 10, 1))]

    @pytest.mark.parametrize(("late", "fires"), [(0, True), (1, False)])
    def test_the_whole_cycle_was_watched(self, late: int, fires: bool) -> None:
        """A rule, or a SIM, that came after the cycle began has not seen all of it."""
        begins, ends = utc(2026, 10, 1), utc(2026, 11, 1)
        rule = Rule(id="r", trigger="no_voice_cycle")
        assert fires == bool(scene(rule, since=begins + late * TICK, known=begins).tick(ends))
        assert fires == bool(scene(rule, since=begins, known=begins + late * TICK).tick(ends))

    def test_without_a_plan(self) -> None:
        """A SIM on no plan has no cycle."""
        one = scene(
            Rule(id="r", trigger="no_voice_cycle"), since=utc(2026, 10, 1), card_rows=({"iccid": "1", "plan": None},)
        )
        assert [] == one.tick(utc(2026, 11, 1))


TERM: Row = {"iccid": "1", "activated_on": dt.date(2021, 7, 12), "term_months": 12}  # ends 2022-06-30 (T3)
NONE: Row = {"iccid": "2", "activated_on": dt.date(2021, 7, 12)}


class TestTerm:
    RULE = Rule(id="r", trigger="term_ends", threshold=(30, 7, 0))

    def test_levels_count_days_before_the_last(self) -> None:
        """Each level fires on its day, the last on the last day of the term; after it nothing does (L4, L5)."""
        one = scene(self.RULE, card_rows=(TERM, NONE))
        fired = {}
        for day in range(80):
            at = utc(2022, 5, 20) + day * DAY
            for row in one.tick(at) + one.tick(at + DAY - TICK):
                fired[f"{at:%m-%d}"] = (row["iccid"], row["known"], row["level"], row["now"], row["threshold"])
                assert "2022-06-30" == row["label"]
        assert {"05-31": ("1", 0, 1, 30, 30), "06-23": ("1", 1, 2, 7, 7), "06-30": ("1", 2, 3, 0, 0)} == fired

    def test_several_levels_at_once(self) -> None:
        """A tick that comes when two levels hold records both, in one firing (L12)."""
        (row,) = scene(self.RULE, card_rows=(TERM,)).tick(utc(2022, 6, 25))
        assert (0, 2, 5, 7) == (row["known"], row["level"], row["now"], row["threshold"])

    def test_local_days(self) -> None:
        """The day changes at local midnight (T1)."""
        one = scene(self.RULE, card_rows=(TERM,), zone="America/Los_Angeles")
        assert [] == one.tick(utc(2022, 5, 31, 7) - TICK)
        assert ["1"] == iccids(one.tick(utc(2022, 5, 31, 7)))

    def test_a_term_that_goes_on(self) -> None:
        """After a renewal the new end fires again."""
        one = scene(self.RULE, card_rows=(TERM,))
        assert ["1"] == iccids(one.tick(utc(2022, 6, 29)))
        one.apply(cards=cards(TERM | {"plan": "p", "term_months": 24}))
        assert [] == one.tick(utc(2022, 6, 30))
        assert ["2023-06-30"] == [row["label"] for row in one.tick(utc(2023, 6, 1))]

    def test_daily(self) -> None:
        """A daily rule fires on each day on which a level holds, once."""
        rule = msgspec.structs.replace(self.RULE, threshold=2, repetition="daily")
        one = scene(rule, card_rows=(TERM,))
        for day in range(6):
            one.tick(utc(2022, 6, 27) + day * DAY)
            one.tick(utc(2022, 6, 27, 5) + day * DAY)
        assert [2, 1, 0] == [row["now"] for row in one.fired]

    @pytest.mark.parametrize(("by", "fires"), [("any", True), ("time", True), ("data", False)])
    def test_expired_by_time(self, by: Any, fires: bool) -> None:
        """The plan has expired on the day after the last of the term, once."""
        one = scene(Rule(id="r", trigger="price_plan_expired", by=by), card_rows=(TERM, NONE), since=utc(2022, 6, 1))
        assert [] == one.tick(utc(2022, 7, 1) - TICK)
        found = one.tick(utc(2022, 7, 1))
        assert ([("1", "2022-06-30")] if fires else []) == [(row["iccid"], row["label"]) for row in found]
        assert [] == one.tick(utc(2022, 7, 2))


MB = 1 << 20


class TestDaily:
    """Daily rules on usage repeat while their condition holds (L3)."""

    RULE = Rule(id="r", trigger="data_usage_cycle", threshold=("10 MB", "20 MB"), repetition="daily")

    def test_without_usage(self) -> None:
        """Once a local day, until the cycle ends; only SIMs that have fired, with the total as it stands."""
        one = scene(self.RULE, zone="Europe/Berlin")
        assert ["1"] == iccids(one.hear({"units": 25 * MB}, {"card": 1, "units": 5 * MB}))
        assert [] == one.tick(utc(2026, 10, 5, 22) - TICK)
        (row,) = one.tick(utc(2026, 10, 5, 22))
        facts = ("iccid", "before", "now", "threshold", "level", "label")
        assert ("1", 25 * MB, 25 * MB, 20 * MB, 2, "2026-10") == tuple(row[name] for name in facts)
        assert [] == one.tick(utc(2026, 10, 6, 22) - TICK)
        assert ["1"] == iccids(one.tick(utc(2026, 10, 31, 23) - TICK))
        assert [] == one.tick(utc(2026, 10, 31, 23))

    def test_other_repetitions_wait_for_usage(self) -> None:
        """Rules that are not daily do not fire at ticks."""
        for repetition in ("once", "once_per_window", "always"):
            one = scene(msgspec.structs.replace(self.RULE, repetition=repetition))
            one.hear({"units": 25 * MB})
            assert [] == one.tick(NOON + DAY)

    def test_the_quota_as_it_is_now(self) -> None:
        """An alert on what remains stops as an add-on comes, and goes on when it has expired (C5)."""
        rule = Rule(id="r", trigger="data_usage_cycle", measure="remaining", threshold="10 %", repetition="daily")
        one = scene(rule, card_rows=CARDS[:1])
        one.hear({"units": 95 * MB})
        one.apply(addons=(_addon(amount="100 MB", expires_on=dt.date(2026, 10, 7)),))
        assert [] == one.tick(NOON + DAY) + one.tick(NOON + 2 * DAY)
        (row,) = one.tick(NOON + 3 * DAY)
        assert (100 * MB, 95 * MB) == (row["size"], row["now"])


def _addon(amount: str, expires_on: dt.date = dt.date(2026, 10, 31)) -> Addon:
    return Addon(id="x", iccid="1", service="data", amount=amount, purchased_at=NOON, expires_on=expires_on)


def suspending(until: Any, **fields: Any) -> Rule:
    """A rule that suspends."""
    return Rule(id="r", actions=(Action(sequence=1, type="suspend", until=until),), **fields)


PAST: Any = {"units": 111 * MB, "overage": 11 * MB}  # of 100 MB
OVER: Any = {"trigger": "data_usage_cycle", "measure": "over", "threshold": "10 MB"}


class TestReleases:
    def test_as_the_next_cycle_begins(self) -> None:
        """A SIM that was suspended for overage is resumed at the first tick of the next cycle, once (L1)."""
        one = scene(suspending("window_end", **OVER), zone="America/Los_Angeles")
        assert ["1"] == iccids(one.hear(PAST))
        assert [] == one.tick(utc(2026, 11, 1, 7) - TICK)
        (row,) = one.tick(utc(2026, 11, 1, 7))
        facts = ("iccid", "released", "label", "level", "known", "now", "size")
        assert ("1", True, "2026-10", 0, 0, 111 * MB, 100 * MB) == tuple(row[name] for name in facts)
        assert [] == one.tick(utc(2026, 11, 2))
        assert ["1"] == iccids(one.hear(PAST | {"used_at": utc(2026, 11, 3)}, received=utc(2026, 11, 3)))

    def test_as_the_next_day_begins(self) -> None:
        """A suspension of a daily total ends with the local day."""
        one = scene(suspending("window_end", trigger="data_usage_24h", threshold="10 MB"), zone="Europe/Berlin")
        one.hear({"units": 11 * MB})
        assert [] == one.tick(utc(2026, 10, 5, 22) - TICK)
        assert [("1", "2026-10-05")] == [(row["iccid"], row["label"]) for row in one.tick(utc(2026, 10, 5, 22))]

    @pytest.mark.parametrize(("until", "recovers"), [("window_end", False), ("recovered", True), ("released", False)])
    def test_by_an_addon(self, until: Any, recovers: bool) -> None:
        """An add-on puts the SIM under its hard cut at once; used up, it is cut again in the same cycle (L2)."""
        one = scene(suspending(until, trigger="data_usage_cycle", measure="hard_cut"), card_rows=CARDS[:1])
        assert ["1"] == iccids(one.hear({"units": 3072 * MB}))
        assert [] == one.apply(at=NOON, cards=cards({"iccid": "1", "plan": "p", "carrier": "x"}))
        released = one.apply(at=NOON, addons=(_addon(amount="1 MB"),))
        assert ([True] if recovers else []) == [row["released"] for row in released]
        assert [] == one.tick(NOON + TICK)
        assert [] == one.hear({"units": 1 * MB - 1})
        assert recovers == bool(one.hear({"units": 1}))

    def test_once_for_ever(self) -> None:
        """A rule that fires once for ever resumes the SIM too, and does not fire again."""
        one = scene(suspending("window_end", repetition="once", **OVER), anchor_day=15, since=utc(2026, 10, 1))
        one.hear(PAST)
        assert [] == one.tick(utc(2026, 10, 15) - TICK)
        assert [("1", True)] == [(row["iccid"], row["released"]) for row in one.tick(utc(2026, 10, 15))]
        assert [] == one.hear(PAST | {"used_at": utc(2026, 10, 16)}, received=utc(2026, 10, 16))

    def test_by_a_renewal(self) -> None:
        """A SIM that was suspended as its term was over is resumed when the term goes on."""
        one = scene(suspending("recovered", trigger="price_plan_expired"), card_rows=(TERM,), since=utc(2022, 1, 1))
        assert ["1"] == iccids(one.tick(utc(2022, 7, 1)))
        assert [] == one.tick(utc(2022, 7, 2))
        renewed = cards(TERM | {"plan": "p", "term_months": 24})
        assert [("1", True)] == [
            (row["iccid"], row["released"]) for row in one.apply(at=utc(2022, 7, 2), cards=renewed)
        ]
        assert [("1", False)] == [(row["iccid"], row["released"]) for row in one.tick(utc(2023, 7, 1))]

    def test_many_at_once(self) -> None:
        """Each SIM by its own total: what one recovers the other does not."""
        one = scene(suspending("recovered", **OVER))
        one.hear(PAST, {"card": 1, "units": 200 * MB, "overage": 100 * MB})
        bigger = msgspec.structs.replace(billed(allowance="150 MB"), id="q")
        found = one.apply(plans=(bigger,), cards=cards({"iccid": "1", "plan": "q"}, {"iccid": "2", "plan": "q"}))
        assert ["1"] == iccids(found)
        assert ["2"] == iccids(one.tick(utc(2026, 11, 1)))
