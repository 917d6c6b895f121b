"""A change of the catalogue takes effect as a whole, or not at all; plan versions never change (P1)."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from rating.engine import Engine
from rating.errors import PlanError
from rating.state import State
from schemas.cards import Account, Catalogue
from schemas.plans import Plan, PlanVersion, Price, Rate
from tests.support.fold_case import SINCE, cards, charges, engine, plan, usage

ONE, TWO = (Rate(service="data", price=Price(model="flat", price=price)) for price in ("1", "2"))


def test_a_version_in_force_cannot_change() -> None:
    """Usage was rated by it: the error names plan and version, and asks for a new one."""
    weir = engine(plan(ONE))
    changed = Catalogue(plans=(plan(TWO),))
    for refuse in (weir.check, weir.apply):
        with pytest.raises(PlanError) as refused:
            refuse(changed)
        assert "plan p: found version 1 with other content than the one in force" in str(refused.value)
        assert "expected a new version number" in str(refused.value)
    assert {"k1": 5 * 10**9} == charges(weir.usage(usage({"quantity": 5})))


def test_the_same_version_again_changes_nothing() -> None:
    """A plan file can be applied as often as one likes."""
    weir = engine(plan(ONE))
    weir.apply(Catalogue(plans=(plan(ONE),)))
    assert {"k1": 5 * 10**9} == charges(weir.usage(usage({"quantity": 5})))


def test_a_new_version_is_added_to_those_in_force() -> None:
    """A file with the new version alone keeps the old ones, for usage of their days."""
    weir = engine(plan(ONE))
    fresh = PlanVersion(version=2, effective=dt.date(2026, 10, 10), rates=(TWO,))
    weir.apply(Catalogue(plans=(Plan(id="p", currency="EUR", versions=(fresh,)),)))
    days = [dt.datetime(2026, 10, day, tzinfo=dt.UTC) for day in (9, 10)]
    step = weir.usage(usage(*({"quantity": 5, "used_at": day} for day in days)))
    assert [1, 2] == step.rated["plan_version"].to_pylist()
    assert [5 * 10**9, 10 * 10**9] == step.rated["charge_nanos"].to_pylist()


def test_what_is_not_in_the_change_stays() -> None:
    """Accounts, plans and cards are upserts by id."""
    weir = engine(plan(ONE), card_rows=({"iccid": "1"}, {"iccid": "2"}))
    weir.apply(
        Catalogue(accounts=(Account(id="a", name="renamed"), Account(id="b")), cards=cards({"iccid": "3", "plan": "p"}))
    )
    catalogue = weir.state.catalogue
    assert [("a", "renamed"), ("b", "")] == [(account.id, account.name) for account in catalogue.accounts]
    assert ["1", "2", "3"] == catalogue.cards["iccid"].to_list()
    assert 3 == weir.usage(usage(*({"iccid": iccid} for iccid in "123"))).rated_records


def test_check_changes_nothing() -> None:
    """A change that would do is not in force after it was checked."""
    weir = engine(plan(ONE))
    before = weir.snapshot()[0]
    weir.check(Catalogue(plans=(plan(TWO, name="q"),)))
    assert before == weir.snapshot()[0]


def test_a_change_that_cannot_be_compiled_leaves_the_state_alone() -> None:
    """Whether it was checked before or not, the engine goes on with what was in force."""
    weir = engine(plan(ONE))
    before = weir.snapshot()[0]
    wrong = plan(Rate(service="data", zone="moon"), name="q")
    for refuse in (weir.check, weir.apply):
        with pytest.raises(PlanError):
            refuse(Catalogue(plans=(wrong,)))
    assert before == weir.snapshot()[0]
    weir.apply(Catalogue(plans=(plan(TWO, name="r"),)))
    assert 1 == weir.usage(usage({"quantity": 1})).rated_records


def test_counters_know_their_plans_after_others_were_added() -> None:
    """Rows of plans, counters and cycles keep their numbers as the catalogue grows, also over a snapshot."""
    first = msgspec.structs.replace(plan(ONE, name="m"), voucher="V")
    weir = engine(first)
    weir.usage(usage({"quantity": 3}))
    weir.apply(Catalogue(plans=(plan(Rate(service="sms"), TWO, name="a"),), accounts=(Account(id="0"),)))
    facts, tables = weir.snapshot()
    for going_on in (weir, Engine(State.restore(facts, tables, weir.state.seen))):
        step = going_on.usage(usage({"quantity": 4, "record_key": f"k{id(going_on)}"}))
        assert ("m", 3) == (step.rated["plan_id"][0].as_py(), step.rated["counter_before"][0].as_py())


def test_a_snapshot_of_another_version_is_refused() -> None:
    """The error says what was found and what would be right."""
    facts, tables = engine(plan(ONE)).snapshot()
    other = facts.replace(b'"snapshot_version":2', b'"snapshot_version":9')
    with pytest.raises(ValueError, match="found snapshot version 9; expected 2"):
        State.restore(other, tables, State().seen)


def test_digests_of_a_snapshot_have_a_name() -> None:
    """A snapshot without one is from before the name was written; one of another algorithm is refused by name."""
    facts, tables = engine(plan(ONE)).snapshot()
    assert b',"digests":"xxh3-128"' in facts
    State.restore(facts.replace(b',"digests":"xxh3-128"', b""), tables, State().seen)
    with pytest.raises(
        ValueError, match="found digests of the algorithm 'blake3'; this version of weir knows xxh3-128"
    ):
        State.restore(facts.replace(b"xxh3-128", b"blake3"), tables, State().seen)


def test_versions_may_come_in_any_order() -> None:
    """The effective day decides, not the place in the file."""
    versions = tuple(
        PlanVersion(version=number, effective=day, rates=(rate,))
        for number, day, rate in ((2, dt.date(2026, 10, 1), TWO), (1, SINCE, ONE))
    )
    weir = engine(Plan(id="p", currency="EUR", versions=versions))
    assert [2] == weir.usage(usage({"quantity": 1})).rated["plan_version"].to_pylist()
