"""Every trigger, filter, repetition and action there is, each with what makes it fire and what must not (L7 to L10).

The cases are read off the types themselves: one that is added without a scenario fails here.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest

from rating.rules.select.filters import LEGAL
from rating.rules.triggers import TRIGGERS, Trigger
from schemas.commands import Blocked, Connected, PlanChanged, SessionStarted, SessionStopped
from schemas.rules import Action, ActionType, Filter, FilterType, Measure, Repetition, Rule
from schemas.usage import Direction, RecordType, Service
from tests.support.fold_case import Row
from tests.support.rule_stories import TELL, WAYS, Step, Story, changed, hours_to, last_fires, said, used, world

_OTHER_WAY = {Direction.MO: Direction.MT, Direction.MT: Direction.MO}


@dataclass
class Scenario:
    """Further fields of a rule with the trigger, and stories whose last entry makes it fire (or must not)."""

    fires: list[Story]
    quiet: list[Story]
    rule: Row = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """What the name of a trigger on usage says of it, whatever the table of triggers has."""

    name: str

    @property
    def service(self) -> Service:
        """What is counted; of allowances and plans it is data."""
        named = [one for one in Service if f"_{one.name.lower()}_" in f"_{self.name}_"]
        return named[0] if named else Service.DATA

    @property
    def direction(self) -> Direction | None:
        """MO or MT, of some names."""
        return next((one for one in (Direction.MO, Direction.MT) if f"_{one.name.lower()}_" in self.name), None)

    @property
    def of_pool(self) -> bool:
        """Whether a pool is watched."""
        return self.name.startswith("pool_")

    @property
    def place(self) -> str | None:
        """Where usage counts; None: anywhere."""
        narrow = next((one for one in ("country", "zone", "home") if f"{one}_" in self.name), None)
        return "home" if self.of_pool else narrow

    @property
    def reached(self) -> bool:
        """Whether the threshold is enough (L11)."""
        return self.of_pool or self.name == "home_data_allowance"


def totals(name: str) -> Scenario:
    """Past 10 units of the trigger's own service, direction, place and window fires; with any other it does not."""
    told = Told(name)
    own: Row = {"service": told.service, "iccid": "2" if told.of_pool else "1"}
    own["direction"] = told.direction or WAYS[told.service]
    rule: Row = {"threshold": 10}
    if told.place in ("country", "zone"):
        rule[told.place] = {"country": "DE", "zone": "home"}[told.place]
    least = 10 if told.reached else 11

    def story(*amounts: int, at: tuple[float, ...] = (24, 25), **other: Any) -> Story:
        return [used(hours, amount, **own | other) for hours, amount in zip(at, amounts, strict=False)]

    apart = (6, 25) if name.endswith("_24h") else (6, hours_to(1))
    quiet = [story(least - 1), story(least - 1, 1, at=apart)]
    quiet += [story(99, service=one, direction=WAYS[one]) for one in Service if one != told.service]
    if told.direction is not None:
        quiet.append(story(99, direction=_OTHER_WAY[told.direction]))
    fires = [story(least), story(least - 1, 1)]
    if not name.endswith("_24h"):
        fires.append(story(least - 1, 1, at=(6, 25)))
    # SMS and voice of the plan have one counter for all zones, and so has the size of the pool.
    anywhere = told.place is None or (told.of_pool and told.service != Service.DATA)
    (fires if anywhere else quiet).append(story(99, country="FR"))
    if told.of_pool:
        quiet += [story(99, iccid="1"), story(99, iccid="3")]
    return Scenario(fires, quiet, rule)


def blocked(service: Any, *others: Any) -> Scenario:
    """A violation that concerns one service."""
    return Scenario(
        [[said(1, Blocked(iccid="1", service=service))]], [[said(1, Blocked(iccid="1", service=one))] for one in others]
    )


def silent(service: Service, *others: Service) -> Scenario:
    """A service that is not used for 24 hours, whatever else is."""
    return Scenario(
        [[Step(24)], *([used(1, service=one), Step(24)] for one in others), [used(1, service=service), Step(25)]],
        [[Step(23.9)], [used(1, service=service), Step(24.9)], [changed(1, status="suspended"), Step(24)]],
    )


_IN_SESSION: Row = {"session_id": "s", "record_type": RecordType.INTERIM}
_OCTOBER, _NOVEMBER = hours_to(1, hour=1), hours_to(1, 11, 1)
_LAST_DAY = hours_to(31)  # of the term

OTHERS: dict[str, Scenario] = {
    "data_session_started": Scenario(
        [[used(1)], [used(1, **_IN_SESSION)], [said(1, SessionStarted(iccid="1"))]],
        [[used(1, **_IN_SESSION), used(2, **_IN_SESSION)], [used(1, service=Service.SMS)],
         [said(1, SessionStopped(iccid="1"))]],
    ),
    "data_session_stopped": Scenario(
        [[used(1)], [used(1, session_id="s", record_type=RecordType.STOP)], [said(1, SessionStopped(iccid="1"))]],
        [[used(1, **_IN_SESSION)], [used(1, service=Service.VOICE)], [said(1, SessionStarted(iccid="1"))]],
    ),
    "data_session_count_24h": Scenario(
        [[used(24), used(25), used(26)], [used(24), used(25, session_id="s"), used(26, session_id="t")]],
        [[used(24), used(25)], [used(24), used(25, **_IN_SESSION), used(26, **_IN_SESSION)],
         [used(24), used(25), used(26, service=Service.SMS)], [used(6), used(25), used(26)]],
        {"threshold": 2},
    ),
    "data_blocked": blocked("data", "sms", "voice"),
    "sms_blocked": blocked("sms", "data", "voice"),
    "voice_blocked": blocked("voice", "data", "sms"),
    "no_data_session_24h": silent(Service.DATA, Service.SMS, Service.VOICE),
    "no_sms_24h": silent(Service.SMS, Service.DATA, Service.VOICE),
    "no_voice_24h": silent(Service.VOICE, Service.DATA, Service.SMS),
    "no_voice_cycle": Scenario(
        [[Step(_NOVEMBER)], [used(_OCTOBER + 9, service=Service.SMS), Step(_NOVEMBER)]],
        [[Step(_OCTOBER)], [used(_OCTOBER + 9, service=Service.VOICE), Step(_NOVEMBER)]],
    ),
    "not_connected_24h": Scenario(
        [[Step(24)]],
        [[Step(23.9)], *([used(1, service=one), Step(24.9)] for one in Service),
         [said(1, Connected(iccid="1")), Step(24.9)]],
    ),
    "not_connected_cycle": Scenario(
        [[Step(_NOVEMBER)]],
        [[Step(_OCTOBER)], *([used(_OCTOBER + 9, service=one), Step(_NOVEMBER)] for one in Service),
         [said(_OCTOBER + 9, Connected(iccid="1")), Step(_NOVEMBER)]],
    ),
    "billing_status_changed": Scenario(
        [[changed(1, status="suspended")]], [[changed(1, status="activated")], [changed(1, tags=["blue"])]]
    ),
    "custom_attribute_changed": Scenario(
        [[changed(1, custom='{"line":"two"}')], [changed(1, custom=None)]],
        [[changed(1, custom='{"line":"one","site":"x"}')], [changed(1, tags=["blue"])]],
        {"attribute": "line"},
    ),
    "imei_changed": Scenario(
        [[changed(1, imei="i2")], [used(1, imei="i2")], [said(1, Connected(iccid="1", imei="i2"))]],
        [[used(1, imei="i1")], [used(2), used(1, imei="i2")], [changed(1, msisdn="82")]],
    ),
    "location_changed": Scenario(
        [[used(1, cell_id="c"), used(2, cell_id="d")],
         [used(1, cell_id="c"), said(2, Connected(iccid="1", cell_id="d"))]],
        [[used(1, cell_id="c")], [used(1, cell_id="c"), used(2, cell_id="c")], [used(1, cell_id="c"), used(2)]],
    ),
    "msisdn_changed": Scenario([[changed(1, msisdn="82")]], [[changed(1, imei="i2")]]),
    "price_plan_changed": Scenario(
        [[changed(1, plan="big", plan_from=dt.date(2026, 9, 20))], [said(1, PlanChanged(iccid="1", plan="big"))]],
        [[changed(1, status="suspended")]],
    ),
    "price_plan_expired": Scenario(
        [[used(24, 1500)], [used(24, 1499), used(25)], [Step(_LAST_DAY + 24)]],
        [[used(24, 1499)], [used(24, 1500, Service.SMS)], [used(6, 900), used(hours_to(1), 900)], [Step(_LAST_DAY)]],
    ),
    "term_ends": Scenario([[Step(_LAST_DAY - 7 * 24)]], [[Step(_LAST_DAY - 8 * 24)]], {"threshold": 7}),
}  # fmt: skip


def scenario(name: str) -> Scenario:
    """The stories of a trigger."""
    return OTHERS[name] if name in OTHERS else totals(name)


def rule_of(name: str) -> Rule:
    """A rule with the trigger that looks at cards 1 and 2 and, of pools, at q."""
    own = scenario(name).rule
    scope: Row = {"pools": ("q",)} if Told(name).of_pool else {"sims": ("1",)}
    return Rule(id="r", trigger=name, actions=(TELL,), **own, **scope)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_trigger_fires_for_what_it_watches(name: str) -> None:
    """Each story of the trigger ends with one firing for the SIM that it is of."""
    own, iccid = scenario(name), "2" if Told(name).of_pool else "1"
    assert own.fires
    for place, story in enumerate(own.fires):
        assert [iccid] == last_fires(world(rule_of(name)), story), (place, story)


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_trigger_does_not_fire_for_anything_else(name: str) -> None:
    """Another service, direction, place, time or event, or a little less, fires nothing."""
    own = scenario(name)
    assert own.quiet
    for place, story in enumerate(own.quiet):
        assert [] == last_fires(world(rule_of(name)), story), (place, story)


# What is used of a quota or pool: the most that does not fire, and the least that does.
_QUOTA = {Service.DATA: 1500, Service.SMS: 50, Service.VOICE: 600}
_GB = 1 << 30


def ends(trigger: Trigger, measure: str) -> tuple[Row, int]:
    """Fields of a rule that compares a measure, and the usage at its threshold."""
    assert trigger.service is not None
    at_home = trigger.place == "home" or (measure == "over" and trigger.service == Service.DATA)
    size = 1000 if at_home else _QUOTA[trigger.service]
    found: dict[str, tuple[Row, int]] = {
        "used": ({"threshold": 10}, 10),
        "percent": ({"threshold": "80 %"}, size * 4 // 5),
        "over": ({"threshold": 10, "measure": "over"}, size + 10),
        "remaining": ({"threshold": 10, "measure": "remaining"}, size - 10),
        "hard_cut": ({"measure": "hard_cut"}, 3 * _GB),
    }
    return found[measure]


_MEASURES = [
    (name, measure) for name, one in TRIGGERS.items() for measure in one.measures if one.kind in ("usage", "pool")
]


@pytest.mark.parametrize(("name", "measure"), _MEASURES)
def test_a_trigger_compares_each_of_its_measures(name: str, measure: Measure) -> None:
    """One unit less than what meets the threshold fires nothing (L1, L2, L3, L11)."""
    trigger = TRIGGERS[name]
    rule, at = ends(trigger, measure)
    least = at if Told(name).reached or measure in ("remaining", "hard_cut") else at + 1
    rule |= {key: text for key, text in scenario(name).rule.items() if key in ("country", "zone")}
    made = Rule(id="r", trigger=trigger.name, actions=(TELL,), pools=("q",) if trigger.kind == "pool" else (), **rule)
    if trigger.unit == "sessions":
        story = [used(24 + place / 60) for place in range(least)]
    else:
        own: Row = {"iccid": "2" if trigger.kind == "pool" else "1", "service": trigger.service}
        own["direction"] = trigger.direction or WAYS[own["service"]]
        story = [used(24, least - 1, **own), used(25, 1, **own)]
    assert [] == last_fires(world(made), story[:-1])
    assert 1 == len(last_fires(world(made), story))


# Of card 1: a value that it has, and one that it has not.
FILTERS: dict[FilterType, tuple[str, str]] = {
    "account": ("a1", "a"),
    "account_status": ("active", "closed"),
    "account_tag": ("gold", "tin"),
    "sub_account": ("a1", "a2"),
    "sub_account_status": ("active", "closed"),
    "plan": ("p", "big"),
    "plan_type": ("single", "dynamic"),
    "custom_attribute": ("one", "two"),
    "zone": ("home", "world"),
    "sim_tag": ("red", "blue"),
    "sim_status": ("activated", "suspended"),
    "rat": ("LTE", "GSM"),
}
_IN_CONTEXT = [(kind, context) for kind in get_args(FilterType) for context in LEGAL[kind]]


@pytest.mark.parametrize("trigger", ["data_usage_cycle", "not_connected_24h"])
@pytest.mark.parametrize(("kind", "context"), _IN_CONTEXT)
def test_a_filter_lets_through_what_has_its_value(kind: FilterType, context: str, trigger: Any) -> None:
    """In every context that it is for, with usage and at ticks; one of several values is enough (L9)."""
    story = [used(1)] if trigger == "data_usage_cycle" else [used(1), Step(25)]
    fits, other = FILTERS[kind]
    for values, expected in (((fits,), True), ((other,), False), ((other, fits), True)):
        one = Filter(type=kind, values=values, name="line" if kind == "custom_attribute" else None)
        threshold: Row = {"threshold": 0} if trigger == "data_usage_cycle" else {}
        owner = "a" if context == "account" else None
        rule = Rule(id="r", trigger=trigger, owner=owner, filters=(one,), actions=(TELL,), **threshold)
        fold = world(rule)
        assert expected == ("1" in last_fires(fold, story)), (values, fold.fired)


@pytest.mark.parametrize(
    ("kind", "card"),
    [
        ("sim_status", {"status": "suspended"}), ("sim_tag", {"tags": ["blue"]}),
        ("custom_attribute", {"custom": '{"line":"two"}'}),
        ("plan", {"plan": "big", "plan_from": dt.date(2026, 9, 20)}),
    ],
)  # fmt: skip
def test_a_filter_follows_the_card(kind: FilterType, card: Row) -> None:
    """A change of the catalogue lets a rule look at a SIM, and ends that it does (L9)."""
    for value, expected in zip(FILTERS[kind], ([], ["1"]), strict=True):
        one = Filter(type=kind, values=(value,), name="line" if kind == "custom_attribute" else None)
        rule = Rule(
            id="r", trigger="data_usage_cycle", threshold=0, owner="a", filters=(one,), repetition="always",
            actions=(TELL,),
        )  # fmt: skip
        assert expected == last_fires(world(rule), [used(0.5), changed(1, **card), used(2)])


# 11 of 10 are used on two days of September and one of October, with ticks: which of the six entries fire.
REPEATS: dict[Repetition, list[int]] = {
    "once": [0],
    "once_per_window": [0, 5],
    "daily": [0, 2, 5],
    "always": [0, 1, 3, 5],
}


@pytest.mark.parametrize("repetition", get_args(Repetition))
def test_a_repetition_fires_as_often_as_it_says(repetition: Repetition) -> None:
    """For ever, in the window, on a day or with each record (L10)."""
    rule = Rule(id="r", trigger="data_usage_cycle", threshold=10, repetition=repetition, sims=("1",), actions=(TELL,))
    fold = world(rule)
    story = [used(1, 11), used(2, 11), Step(24), used(25, 11), Step(hours_to(1, hour=1)), used(hours_to(1), 11)]
    assert REPEATS[repetition] == [place for place, step in enumerate(story) if last_fires(fold, [step])]


# An action of each type, and what leaves of it.
ACTIONS: dict[ActionType, tuple[Row, str]] = {
    "suspend": ({"reason": "over_quota"}, '{"reason":"over_quota"}'),
    "resume": ({}, '{"reason":"manual"}'),
    "throttle": ({"rate_bps": 64_000}, '{"rate_bps":64000}'),
    "change_status": ({"status": "silent"}, '{"status":"silent"}'),
    "change_plan": ({"plan": "big"}, '{"plan":"big"}'),
    "add_tag": ({"tag": "hot"}, '{"tag":"hot"}'),
    "set_attribute": ({"attribute": "line", "value": "two"}, '{"attribute":"line","value":"two"}'),
    "notify": ({"by": ("email",), "to": ("a@example.com",), "text": "{iccid}"},
               '{"by":["email"],"text":"{iccid}","to":["a@example.com"]}'),
    "webhook": ({"url": "https://example.com"}, '{"url":"https://example.com"}'),
}  # fmt: skip


@pytest.mark.parametrize("kind", get_args(ActionType))
def test_an_action_leaves_with_what_it_needs(kind: ActionType) -> None:
    """One row with the fields of the action; tags and custom fields are on the card from the next tick on (L10)."""
    fields, parameters = ACTIONS[kind]
    action = Action(sequence=4, type=kind, **fields)
    fold = world(Rule(id="r", trigger="data_usage_cycle", threshold=10, sims=("1",), actions=(action,)))

    def card() -> Row:
        row: Row = fold.engine.state.catalogue.cards.row(0, named=True)
        return row

    before = card()
    last_fires(fold, [used(1, 11)])
    assert [(kind, 4, parameters)] == [(row["action"], row["sequence"], row["parameters"]) for row in fold.asked]
    assert before == card()
    fold.take(Step(2).entry())
    own: dict[str, Row] = {"add_tag": {"tags": ["red", "hot"]}, "set_attribute": {"custom": '{"line":"two"}'}}
    assert before | own.get(kind, {}) == card()


def test_every_case_there_is_has_a_test() -> None:
    """The tables above are of the types that there are, no fewer and no more."""
    assert set(OTHERS) <= set(TRIGGERS)
    assert set(get_args(FilterType)) == set(FILTERS) == set(LEGAL)
    assert set(get_args(Repetition)) == set(REPEATS)
    assert set(get_args(ActionType)) == set(ACTIONS)
    assert set(get_args(Measure)) <= {measure for _, measure in _MEASURES}
