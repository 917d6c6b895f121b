"""Fees follow the days of service, account by account, as a model that asks day by day works them out (P9)."""

from __future__ import annotations

import datetime as dt

import numpy as np
from hypothesis import given, settings

from rating.engine import Engine
from rating.queries.fees import fees_view
from rating.state import State
from rating.tariff.fees import prorate
from rating.units.money import parse_amount
from rating.usage.cycles import cycle_code
from schemas.plans import Fee
from tests.support.reference.reference import Model
from tests.support.reference.reference_terms import Day, cycle_days
from tests.support.strategies.fold_strategies import World, worlds

DAYS = [dt.date(2026, 9, 20), dt.date(2026, 10, 20), dt.date(2026, 11, 20)]
Row = tuple[str, str, str, int, str, int, int]


def expected(model: Model, day: Day) -> list[Row]:
    """The fees of the cycles that contain a day, as the model works them out."""
    found: list[Row] = []
    for iccid in model.cards:
        for name, one in model.plans.items():
            cycle = cycle_days(one.cycle, day)
            for version in one.versions:
                for fee in version.fees:
                    found += owed(model, iccid, (name, version.version), fee, cycle)
    return sorted(found)


def owed(model: Model, iccid: str, version: tuple[str, int], fee: Fee, cycle: tuple[Day, Day]) -> list[Row]:
    """What a card owes of one fee: (account, card, plan, version, fee, days, nanos) for each account."""
    of_days = (cycle[1] - cycle[0]).days + 1
    days: dict[str, list[Day]] = {}
    for place in range(of_days):
        day = cycle[0] + dt.timedelta(days=place)
        if model.days_served(iccid, (day, day), lambda _: True).get(version):
            days.setdefault(model.fact_on(iccid, "account", day), []).append(day)
    nanos = parse_amount(fee.amount)
    if fee.per == "activation":
        begins = {who for who, own in days.items() for day in own if model.fact_on(iccid, "activated_on", day) == day}
        return [(who, iccid, *version, fee.name, of_days, nanos) for who in begins]
    if not fee.prorate:
        return [(who, iccid, *version, fee.name, of_days, nanos) for who in list(days)[:1]]
    return [(who, iccid, *version, fee.name, len(own), prorate(nanos, len(own), of_days)) for who, own in days.items()]


def found(weir: Engine, day: Day) -> list[Row]:
    """The fees of the cycles that contain a day, of cards, without the price of an add-on and least amounts."""
    number = np.array([(day - dt.date(1970, 1, 1)).days], np.int32)
    calendars = weir.compiled.book.cycle_calendars
    codes = [int(cycle_code(kind, one.index(number).astype(np.int64))[0]) for kind, one in enumerate(calendars)]
    names = ("account_id", "subject", "plan_id", "plan_version", "name", "days", "amount_nanos")
    view = fees_view(weir.compiled, weir.state.counters, weir.state.closed, codes)
    return sorted(view.filter(kind="fee").select(names).rows())


@settings(max_examples=40)
@given(worlds())
def test_fees_are_those_of_a_slow_model(world: World) -> None:
    """Before and after a change of cards with any days, also from a snapshot."""
    weir, model = Engine(State()), Model()
    weir.apply(world.catalogue)
    model.apply(world.catalogue)
    assert [expected(model, day) for day in DAYS] == [found(weir, day) for day in DAYS]
    for batch in world.before:
        weir.usage(batch)
        model.usage(batch)
    weir.apply(world.change)
    model.apply(world.change)
    weir = Engine(State.restore(*weir.snapshot(), weir.state.seen))
    assert [expected(model, day) for day in DAYS] == [found(weir, day) for day in DAYS]
