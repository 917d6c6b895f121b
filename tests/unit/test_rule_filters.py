"""Filters of rules by type and context, and the nearest setting of a name (L1, L6, L9)."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any, get_args

import numpy as np
import pytest

from rating.engine import Engine
from rating.rules.select.filters import LEGAL, Context, Filters, context
from schemas.cards import Account, Catalogue
from schemas.plans import Plan, PlanVersion
from schemas.rules import Filter, FilterType, Rule
from tests.support.fold_case import SINCE, cards, engine

TODAY = (dt.date(2026, 10, 5) - dt.date(1970, 1, 1)).days


def plan(name: str, kind: Any = "single") -> Plan:
    """A plan without rates."""
    return Plan(id=name, currency="EUR", type=kind, versions=(PlanVersion(version=1, effective=SINCE, rates=()),))


def fleet() -> Engine:
    """Cards 1 to 3 from account a downwards, card 4 in b; what filters ask for differs from card to card."""
    accounts = (
        Account(id="a11", parent="a1"),
        Account(id="a", tags=("vip",)),
        Account(id="a1", parent="a", status="blocked"),
        Account(id="b", tags=("big", "vip")),
    )
    rows = (
        {"iccid": "1", "account": "a", "plan": "p", "tags": ["red", "old"]},
        {"iccid": "2", "account": "a1", "plan": "p", "status": "suspended", "custom": '{"site": "Kiel"}'},
        {"iccid": "3", "account": "a11", "plan": "q", "status": "activated", "custom": '{"place": "Kiel"}'},
        {"iccid": "4", "account": "b", "plan": "p", "tags": ["red"]},
    )
    return engine(plan("p"), plan("q", "dynamic"), card_rows=rows, accounts=accounts)


def compiled(weir: Engine, *rules: Rule, former: Filters | None = None) -> Filters:
    """The filters of rules over the catalogue of an engine."""
    return Filters(rules, weir.state.catalogue, weir.compiled.book, weir.compiled.directory, former)


def rule(*filters: Filter, name: str = "r", **fields: Any) -> Rule:
    """A rule on data in the cycle."""
    return Rule(id=name, trigger="data_usage_cycle", threshold="1 GB", filters=filters, **fields)


def watched(weir: Engine, one: Rule, *others: Rule, day: int = TODAY) -> str:
    """The ICCIDs that a rule watches, one after the other."""
    card = np.arange(len(weir.compiled.directory))
    flags = compiled(weir, one, *others).cards(0, card, np.full(len(card), day))
    return "".join(weir.compiled.directory.cards["iccid"].filter(flags))


def seen(one: Rule, zone: int, rat: int) -> bool:
    """Whether a rule looks at a record in a zone and on a radio network, as places in lists; -1 is none."""
    of = np.array([zone]), ["home", "world"], np.array([rat]), ["NB-IoT", "LTE"]
    return bool(compiled(fleet(), one).places(0, *of)[0])


CARD_FILTERS: list[tuple[Filter, Context, str]] = [
    (Filter(type="account", values=("a",)), "root", "1"),
    (Filter(type="account_status", values=("blocked",)), "root", "2"),
    (Filter(type="account_tag", values=("vip",)), "root", "14"),
    (Filter(type="sub_account", values=("a1",)), "account", "23"),
    (Filter(type="sub_account_status", values=("active",)), "account", "3"),
    (Filter(type="plan", values=("p",)), "account", "12"),
    (Filter(type="plan_type", values=("dynamic",)), "account", "3"),
    (Filter(type="custom_attribute", name="site", values=("Kiel",)), "account", "2"),
    (Filter(type="sim_tag", values=("red",)), "root", "14"),
    (Filter(type="sim_tag", values=("red",)), "account", "1"),
    (Filter(type="sim_status", values=("activated",)), "root", "134"),
    (Filter(type="sim_status", values=("activated",)), "account", "13"),
]


@pytest.mark.parametrize(
    ("one", "where", "expected"), CARD_FILTERS, ids=lambda value: str(getattr(value, "type", value))
)
def test_filters_on_cards(one: Filter, where: Context, expected: str) -> None:
    """Each filter on cards, in each context that may have it, leaves the cards that have what it asks for."""
    owned = rule(one, owner="a" if where == "account" else None)
    assert where == context(owned)
    assert where in LEGAL[one.type]
    assert expected == watched(fleet(), owned)


@pytest.mark.parametrize("owner", [None, "a"])
def test_filters_on_radio_access(owner: str | None) -> None:
    """Rules of root and of accounts can ask for the RAT of a record; an unknown one is none (L9)."""
    lte = rule(Filter(type="rat", values=("LTE",)), owner=owner)
    assert [False, False, True] == [seen(lte, 0, rat) for rat in (-1, 0, 1)]
    assert compiled(fleet(), lte).looks_at(0, "rat")
    assert not compiled(fleet(), lte).looks_at(0, "zone")


def test_filters_on_zone() -> None:
    """Rules of accounts can ask for the zone of a record, alone or with the RAT; an unknown one is none (L9)."""
    home = rule(Filter(type="zone", values=("home", "moon")), owner="a")
    assert [False, True, False] == [seen(home, zone, 1) for zone in (-1, 0, 1)]
    both = rule(*home.filters, Filter(type="rat", values=("LTE",)), owner="a")
    assert [True, False, False] == [seen(both, 0, 1), seen(both, 0, 0), seen(both, 1, 1)]
    assert compiled(fleet(), home).looks_at(0, "zone")
    assert "123" == watched(fleet(), home)


def test_every_filter_type_has_its_contexts() -> None:
    """The table of L9: three for root alone, six for accounts alone, three for both."""
    tested = {(one.type, where) for one, where, _ in CARD_FILTERS}
    tested |= {("rat", "root"), ("rat", "account"), ("zone", "account")}
    assert set(get_args(FilterType)) == LEGAL.keys()
    assert tested == {(kind, where) for kind, contexts in LEGAL.items() for where in contexts}


def test_context_is_the_scope_of_a_rule_without_filters() -> None:
    """Root watches every SIM, an account its own and those of its sub-accounts at any depth (L6)."""
    assert "1234" == watched(fleet(), rule())
    assert "123" == watched(fleet(), rule(owner="a"))
    assert "23" == watched(fleet(), rule(owner="a1"))
    assert "3" == watched(fleet(), rule(owner="a11"))
    assert "" == watched(fleet(), rule(owner="nobody"))


def test_individual_scope_is_within_the_context() -> None:
    """Named SIMs alone are watched, those that are unknown or of other accounts not (L6)."""
    assert "24" == watched(fleet(), rule(sims=("4", "404", "2")))
    assert "2" == watched(fleet(), rule(sims=("4", "404", "2"), owner="a"))
    assert "4" == watched(fleet(), rule(sims=("4",)), rule(sims=("2",), name="s"))


def test_types_are_joined_by_and_values_and_filters_of_a_type_by_or() -> None:
    """Two filters of one type are alternatives as two values of one filter are; another type narrows (L9)."""
    red, old = Filter(type="sim_tag", values=("red", "blue")), Filter(type="sim_tag", values=("old",))
    active = Filter(type="account_status", values=("active",))
    assert "14" == watched(fleet(), rule(red, old))
    assert "1" == watched(fleet(), rule(old, active))
    assert "" == watched(fleet(), rule(old, Filter(type="account", values=("b",))))
    either = (
        Filter(type="custom_attribute", name="site", values=("Kiel",)),
        Filter(type="custom_attribute", name="place", values=("Kiel",)),
    )
    assert "23" == watched(fleet(), rule(*either, owner="a"))


def test_sub_accounts_are_those_below_the_owner() -> None:
    """Naming the owner, an account above it or beside it asks for no sub-account of its own (L9)."""
    named = Filter(type="sub_account", values=("a", "a1", "b"))
    assert "" == watched(fleet(), rule(named, owner="a1"))
    assert "3" == watched(fleet(), rule(Filter(type="sub_account", values=("a11", "a")), owner="a1"))
    blocked = Filter(type="sub_account_status", values=("blocked",))
    assert "" == watched(fleet(), rule(blocked, owner="a1"))
    assert "2" == watched(fleet(), rule(blocked, owner="a"))


def test_plan_filters_go_by_the_local_day() -> None:
    """A card is looked at under the plan that holds on the day of arrival, not under its last one (L9)."""
    weir = fleet()
    weir.apply(Catalogue(cards=cards({"iccid": "1", "account": "a", "plan": "q", "plan_from": dt.date(2026, 10, 6)})))
    for one in (Filter(type="plan", values=("q",)), Filter(type="plan_type", values=("dynamic",))):
        assert ["3", "13"] == [watched(weir, rule(one, owner="a"), day=day) for day in (TODAY, TODAY + 1)]
    filters = compiled(weir, rule(Filter(type="plan", values=("q",)), owner="a"))
    days = np.arange(TODAY - 2, TODAY + 4)
    expected = [False] * 3 + [True] * 3
    assert expected == filters.cards(0, np.zeros(6, np.int64), days).tolist()
    one_by_one = [filters.cards(0, np.zeros(1, np.int64), days[place : place + 1])[0] for place in range(6)]
    assert expected == one_by_one
    assert [False, True] == filters.cards(0, np.zeros(2, np.int64), days[2:4]).tolist()


def test_custom_fields_compare_as_json_writes_them() -> None:
    """Numbers and booleans match their text, null and what has parts nothing; names are taken as they are."""
    custom: list[str | None] = [
        json.dumps({"a b": 'x\u00e9"', "n": 5}),
        '{"n": 1.50, "a b": true}',
        '{"n": null, "a b": [1]}',
        None,
        "[]",
        "{",
    ]
    rows = tuple({"iccid": str(number), "custom": text} for number, text in enumerate(custom))
    weir = engine(plan("p"), card_rows=rows)

    def having(name: str, *values: str) -> str:
        return watched(weir, rule(Filter(type="custom_attribute", name=name, values=values), owner="a"))

    assert "0" == having("a b", 'xé"')
    assert "1" == having("a b", "true", "1", "[1]")
    assert "0" == having("n", "5", "1.5", "null", "None", "")
    assert "1" == having("n", "1.50")
    assert "" == having("N", "5")


def test_the_nearest_setting_holds() -> None:
    """Of rules of one nearest name that of the SIM holds, then of its plan, its account, and root's (L1)."""
    weir = fleet()
    on_plan = Filter(type="plan", values=("p",))
    everyone, deep = rule(nearest="n"), rule(owner="a1", nearest="n", name="deep")
    by_plan, by_sim = rule(on_plan, nearest="n", name="plan"), rule(sims=("1",), nearest="n", name="sim")
    wide = rule(owner="a", nearest="n", name="wide")
    settings = [everyone, wide, deep, by_plan, by_sim]
    assert ["", "", "3", "24", "1"] == [watched(weir, one, *(s for s in settings if s != one)) for one in settings]
    assert ["4", "1", "23"] == [watched(weir, one, *(s for s in settings[:3] if s != one)) for one in settings[:3]]
    other = rule(sims=("4",), nearest="m", name="other")
    assert "1234" == watched(weir, everyone, other)
    assert "1234" == watched(weir, rule(), deep, by_sim)


def test_a_setting_whose_filters_leave_a_card_out_is_no_setting_of_it() -> None:
    """What does not watch a SIM does not keep a wider setting from it; equally near ones watch it both."""
    weir = fleet()
    red = rule(Filter(type="sim_tag", values=("old",)), owner="a", nearest="n", name="red")
    assert "234" == watched(weir, rule(nearest="n"), red)
    assert "1" == watched(weir, red, rule(nearest="n"))
    here = rule(Filter(type="zone", values=("home",)), owner="a", nearest="n", name="here")
    assert "4" == watched(weir, rule(nearest="n"), here)
    levels = [rule(owner="a", nearest="n", name=name) for name in ("low", "high")]
    assert ["123", "123"] == [watched(weir, one, rule(nearest="n"), *levels) for one in levels]
    foreign = rule(sims=("4",), owner="a", nearest="n", name="foreign")
    assert "1234" == watched(weir, rule(nearest="n"), foreign)
    strangers = rule(Filter(type="plan", values=("p",)), owner="b", nearest="n", name="strangers")
    assert "123" == watched(weir, rule(nearest="n"), strangers)
    assert "123" == watched(weir, rule(owner="a", nearest="n"), strangers)
    nobody = rule(owner="nobody", nearest="n", name="nobody")
    assert "1234" == watched(weir, rule(nearest="n"), nobody)


def test_former_filters_are_taken_over_only_where_nothing_changed() -> None:
    """After a change of tags the holders of tags are others, those of a status the same object as before."""
    weir = fleet()
    rules = (rule(Filter(type="sim_tag", values=("red",))), rule(Filter(type="sim_status", values=("activated",))))
    card, day = np.arange(4), np.full(4, TODAY)
    before = compiled(weir, *rules)
    assert [[True, False, False, True], [True, False, True, True]] == [
        before.cards(p, card, day).tolist() for p in (0, 1)
    ]
    weir.apply(Catalogue(cards=cards({"iccid": "2", "account": "a1", "status": "suspended", "tags": ["red"]})))
    after = compiled(weir, *rules, former=before)
    assert [True, True, False, True] == after.cards(0, card, day).tolist()
    assert [True, False, True, True] == after.cards(1, card, day).tolist()
    assert before._holders["sim_status", None] is after._holders["sim_status", None]
    more = compiled(weir, rule(Filter(type="sim_status", values=("suspended",))), former=after)
    assert [False, True, False, False] == more.cards(0, card, day).tolist()


def test_an_empty_directory_and_no_records() -> None:
    """Nothing in, nothing out, whatever the rule asks."""
    weir = engine(plan("p"), card_rows=())
    none = np.zeros(0, np.int64)
    for one, _, _ in CARD_FILTERS:
        assert [] == compiled(weir, rule(one, owner="a")).cards(0, none, none).tolist()
