"""Property: filters, contexts, scope and nearest settings say of each SIM what a look at it alone says (L1, L6, L9)."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rating.engine import Engine
from rating.rules.select.filters import LEGAL, Filters, context
from rating.state import State
from schemas.cards import Account, Catalogue
from schemas.plans import Plan, PlanVersion
from schemas.rules import Filter, FilterType, Rule
from tests.support.fold_case import SINCE, Row, cards
from tests.support.reference.reference_terms import FOR_EVER, LONG_AGO, Spell, follow, held

DAYS = [dt.date(2026, 10, day) for day in (4, 5, 6, 7, 8, 9)]
EPOCH = dt.date(1970, 1, 1)
TYPES = {"p0": "single", "p1": "dynamic", "p2": "single"}
ZONES, RATS = ["home", "world", "home"], ["LTE", "NB-IoT"]
OFFERED: dict[FilterType, list[str]] = {
    "account": ["a0", "a1", "a2", "a5", "gone"],
    "account_status": ["active", "blocked", "gone"],
    "account_tag": ["x", "y", "gone"],
    "sub_account": ["a0", "a1", "a2", "a3", "a5", "gone"],
    "sub_account_status": ["active", "blocked"],
    "plan": ["p0", "p1", "gone"],
    "plan_type": ["single", "dynamic", "static"],
    "custom_attribute": ["Kiel", "5", "true", "1.5", "null", ""],
    "zone": ["home", "world", "gone"],
    "sim_tag": ["x", "y", "gone"],
    "sim_status": ["activated", "suspended", "inventory"],
    "rat": ["LTE", "NB-IoT", "gone"],
}


@dataclass(frozen=True)
class Case:
    """A catalogue, a change of plans, and rules."""

    accounts: tuple[Account, ...]
    rows: list[Row]
    change: list[Row]
    rules: tuple[Rule, ...]


def some(*values: Any) -> st.SearchStrategy[Any]:
    """One of a few values."""
    return st.sampled_from(values)


@st.composite
def trees(draw: st.DrawFn) -> tuple[Account, ...]:
    """Accounts a0, a1 … each below an earlier one or at the top, in any order."""
    count = draw(st.integers(1, 7))
    found = []
    for number in range(count):
        parent = draw(st.integers(-1, number - 1))
        tags = draw(some((), ("x",), ("x", "y")))
        status = draw(some("active", "blocked"))
        above = f"a{parent}" if parent >= 0 else None
        found.append(Account(id=f"a{number}", parent=above, status=status, tags=tags))
    return tuple(draw(st.permutations(found)))


@st.composite
def filters(draw: st.DrawFn, kinds: list[FilterType]) -> Filter:
    """A filter of one of the kinds."""
    kind = draw(some(*kinds))
    values = draw(st.lists(some(*OFFERED[kind]), min_size=1, max_size=2))
    name = draw(some("site", "n")) if kind == "custom_attribute" else None
    return Filter(type=kind, values=tuple(values), name=name)


@st.composite
def rules(draw: st.DrawFn, number: int, owners: list[str], iccids: list[str]) -> Rule:
    """A rule with filters that are legal in its context, or of individual scope; a plan may stand at root too (L1)."""
    owner = draw(some(None, *owners, "gone"))
    sims = tuple(draw(st.lists(some(*iccids, "404"), max_size=2))) if draw(some(False, False, True)) else ()
    where = "root" if owner is None else "account"
    kinds: list[FilterType] = [kind for kind, contexts in LEGAL.items() if where in contexts or kind == "plan"]
    found = () if sims else tuple(draw(st.lists(filters(kinds), max_size=3)))
    nearest = draw(some(None, "n", "n", "m"))
    return Rule(id=f"r{number}", trigger="data_usage_cycle", owner=owner, sims=sims, filters=found, nearest=nearest)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Up to seven accounts, six cards and six rules."""
    accounts = draw(trees())
    owners = sorted(account.id for account in accounts)
    iccids = [str(number) for number in range(1, 1 + draw(st.integers(1, 6)))]
    value = some(None, "Kiel", 5, 1.5, True, "5", [1], "")
    rows = [
        {
            "iccid": iccid,
            "account": draw(some(*owners)),
            "plan": draw(some("p0", "p0", "p1", "p2", None)),
            "plan_from": draw(some(None, None, *DAYS[:2])),
            "status": draw(some(None, "activated", "suspended", "inventory")),
            "tags": draw(some(None, [], ["x"], ["y", "x"])),
            "custom": draw(some(None, "{}", json.dumps({"site": draw(value), "n": draw(value)}))),
        }
        for iccid in iccids
    ]
    changed = [row for row in rows if draw(st.booleans())]
    change = [row | {"plan": draw(some("p1", "p2")), "plan_from": draw(some(*DAYS[1:5]))} for row in changed]
    count = draw(st.integers(1, 6))
    return Case(accounts, rows, change, tuple(draw(rules(number, owners, iccids)) for number in range(count)))


class Model:
    """The same, one SIM at a time."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.accounts = {account.id: account for account in case.accounts}
        self.cards = {row["iccid"]: row for row in case.rows}
        self.plans: dict[str, list[Spell]] = {iccid: [] for iccid in self.cards}
        for row in [*case.rows, *case.change]:
            if row["plan"] is not None:
                fresh = Spell(row["plan_from"] or LONG_AGO, FOR_EVER, row["plan"])
                self.plans[row["iccid"]] = follow(self.plans[row["iccid"]], fresh)

    def above(self, account: str | None) -> list[str]:
        """An account and those above it, the nearest first."""
        return [] if account is None else [account, *self.above(self.accounts[account].parent)]

    def has(self, one: Filter, rule: Rule, row: Row, day: dt.date) -> bool:
        """Whether a SIM has what a filter asks for."""
        chain = self.above(row["account"])
        account = self.accounts[row["account"]]
        plan = held(self.plans[row["iccid"]], day)
        custom = json.loads(row["custom"] or "{}").get(one.name)
        found: set[str | None] = {
            "account": lambda: {account.id},
            "account_status": lambda: {account.status},
            "account_tag": lambda: set(account.tags),
            "sub_account": lambda: set(chain[: chain.index(rule.owner or "")]),
            "sub_account_status": lambda: {account.status} if account.id != rule.owner else set(),
            "plan": lambda: {plan},
            "plan_type": lambda: {TYPES.get(plan or "")},
            "custom_attribute": lambda: (
                set() if custom is None or isinstance(custom, list)
                else {custom if isinstance(custom, str) else json.dumps(custom)}
            ),
            "sim_tag": lambda: set(row["tags"] or ()),
            "sim_status": lambda: {row["status"] or "activated"},
            "zone": lambda: set(one.values),
            "rat": lambda: set(one.values),
        }[one.type]()  # fmt: skip
        return not found.isdisjoint(one.values)

    def in_scope(self, rule: Rule, iccid: str, day: dt.date) -> bool:
        """Whether a rule would watch a SIM if there were no other."""
        row = self.cards[iccid]
        if rule.owner is not None and rule.owner not in self.above(row["account"]):
            return False
        if rule.sims and iccid not in rule.sims:
            return False
        kinds = {one.type for one in rule.filters}
        return all(any(one.type == kind and self.has(one, rule, row, day) for one in rule.filters) for kind in kinds)

    def near(self, rule: Rule) -> tuple[int, int]:
        """How near a setting is."""
        if rule.sims:
            return 3, 0
        if any(one.type == "plan" for one in rule.filters):
            return 2, 0
        return (1, len(self.above(rule.owner))) if rule.owner is not None else (0, 0)

    def watches(self, rule: Rule, iccid: str, day: dt.date) -> bool:
        """Whether a rule watches a SIM on a day."""
        if not self.in_scope(rule, iccid, day) or rule.nearest is None:
            return self.in_scope(rule, iccid, day)
        rivals = [one for one in self.case.rules if one.nearest == rule.nearest and self.in_scope(one, iccid, day)]
        return self.near(rule) == max(self.near(one) for one in rivals)


def start(case: Case) -> Engine:
    """An engine with the catalogue of a case, changed."""
    versions = (PlanVersion(version=1, effective=SINCE, rates=()),)
    plans = tuple(Plan(id=name, currency="EUR", type=kind, versions=versions) for name, kind in TYPES.items())  # type: ignore[arg-type]
    weir = Engine(State())
    weir.apply(Catalogue(accounts=case.accounts, plans=plans, cards=cards(*case.rows)))
    weir.apply(Catalogue(cards=cards(*case.change)))
    return weir


def compiled(case: Case, weir: Engine, former: Filters | None = None) -> Filters:
    """The filters of the rules of a case."""
    return Filters(case.rules, weir.state.catalogue, weir.compiled.book, weir.compiled.directory, former)


@given(case=cases())
@settings(max_examples=100, deadline=None)
def test_cards_are_those_that_fit_one_by_one(case: Case) -> None:
    """Every rule watches, on every day and in whatever order it is asked, the SIMs that the model says it does."""
    weir, model = start(case), Model(case)
    tried = compiled(case, weir)
    iccids = list(model.cards)
    card = np.repeat(np.arange(len(iccids)), len(DAYS))
    days = np.tile([(day - EPOCH).days for day in DAYS], len(iccids))
    for _ in range(2):
        for place, rule in enumerate(case.rules):
            expected = [model.watches(rule, iccid, day) for iccid in iccids for day in DAYS]
            assert expected == tried.cards(place, card, days).tolist()
            for number, day in enumerate(DAYS):  # few days at once are looked up in another way than many
                at = slice(number, None, len(DAYS))
                wanted = [model.watches(rule, iccid, day) for iccid in iccids]
                assert wanted == tried.cards(place, card[at], days[at]).tolist()
        tried = compiled(case, weir, tried)


@given(kind=some(*get_args(FilterType)), case=cases(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_each_filter_alone_in_each_context(kind: FilterType, case: Case, data: st.DataObject) -> None:
    """One filter in each of its contexts leaves the SIMs that have what it asks for, with former filters or without."""
    weir, model = start(case), Model(case)
    former = compiled(case, weir)
    card = np.arange(len(model.cards))
    for where in LEGAL[kind]:
        owner = None if where == "root" else data.draw(some(*sorted(model.accounts)))
        one = Rule(id="one", trigger="data_usage_cycle", owner=owner, filters=(data.draw(filters([kind])),))
        assert where == context(one)
        tried = Filters([one], weir.state.catalogue, weir.compiled.book, weir.compiled.directory, former)
        day = data.draw(some(*DAYS))
        expected = [model.watches(one, iccid, day) for iccid in model.cards]
        assert expected == tried.cards(0, card, np.full(len(card), (day - EPOCH).days)).tolist()


@given(case=cases(), places=st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 1)), max_size=6))
@settings(max_examples=60, deadline=None)
def test_records_are_those_that_fit_one_by_one(case: Case, places: list[tuple[int, int]]) -> None:
    """Zone and RAT of each record are compared with all values of each type; -1 fits no filter."""
    tried = compiled(case, start(case))
    zone, rat = np.array([one for one, _ in places], np.int64), np.array([one for _, one in places], np.int64)
    for place, rule in enumerate(case.rules):
        asked: dict[str, set[str]] = {}
        for one in rule.filters:
            asked.setdefault(one.type, set()).update(one.values)
        expected = [
            ("zone" not in asked or (z >= 0 and ZONES[z] in asked["zone"]))
            and ("rat" not in asked or (r >= 0 and RATS[r] in asked["rat"]))
            for z, r in places
        ]
        assert expected == tried.places(place, zone, ZONES, rat, RATS).tolist()
        assert [tried.looks_at(place, "zone"), tried.looks_at(place, "rat")] == ["zone" in asked, "rat" in asked]
