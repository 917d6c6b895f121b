"""Rating again from history (P10): new minus old, in order of use, and nothing the second time."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa

from rating.engine import Engine
from rating.position import JournalPosition
from rating.usage.rerating import Moment
from schemas.cards import Addon, Catalogue
from schemas.plans import Plan, PlanVersion, Price, Rate, TestAllowance
from schemas.usage import RecordType
from tests.support.fold_case import NOON, RECEIVED, Row, cards, engine, plan, rerate, rows_of, us, usage

FLAT = Price(model="flat", price="1")
EURO = 10**9
LATER = us(RECEIVED) + 5


def again(weir: Engine, *history: pa.Table) -> tuple[list[Row], pa.Table]:
    """The adjustments of rating again, and the history with them; twice gives nothing more."""
    table = pa.concat_tables(history)
    adjustments = rerate(table, weir, Moment(LATER, JournalPosition(3, 77)))
    whole = pa.concat_tables([table, adjustments])
    assert 0 == rerate(whole, weir, Moment(LATER)).num_rows
    return rows_of(adjustments), whole


def at(hour: int) -> dt.datetime:
    """That hour of the day of NOON."""
    return NOON.replace(hour=hour)


def test_usage_that_came_in_order_needs_no_adjustment() -> None:
    """What was rated in order of use comes out the same."""
    terms = plan(
        Rate(service="data", direction="up", allowance=10, price=FLAT),
        Rate(service="data", direction="down", price=Price(model="flat", price="0.5", connect_fee="1")),
    )
    weir = engine(terms)
    rows = [
        {"used_at": at(hour), "volume_up_bytes": hour, "volume_down_bytes": 3, "session_id": session}
        for hour, session in ((3, None), (4, "s"), (5, "s"))
    ]
    assert [] == again(weir, weir.usage(usage(*rows)).rated)[0]
    none = weir.usage(usage({"iccid": "404"})).rated
    assert 0 == rerate(none, weir, Moment(LATER)).num_rows


def test_an_adjustment_is_new_minus_old() -> None:
    """It carries the record's own place in time, and its own arrival; what changed and nothing else."""
    weir = engine(plan(Rate(service="data", allowance=100, price=FLAT)))
    step = weir.usage(usage({"quantity": 80, "used_at": at(9)}, {"quantity": 60, "used_at": at(8)}))
    before = weir.state.counters.to_table()
    first, second = again(weir, step.rated)[0]
    assert before == weir.state.counters.to_table()
    assert ("k2", 40, -40, -40 * EURO) == tuple(
        first[n] for n in ("record_key", "from_allowance", "overage", "charge_nanos")
    )
    assert ("k1", -40, 40, 40 * EURO) == tuple(
        second[n] for n in ("record_key", "from_allowance", "overage", "charge_nanos")
    )
    assert ("rerate", 0, 0, at(8), "2026-10", 3, 77) == tuple(
        first[name]
        for name in (
            "kind", "quantity_raw", "billable_quantity", "used_at", "cycle", "journal_partition", "journal_offset"
        )
    )  # fmt: skip
    assert RECEIVED + dt.timedelta(microseconds=5) == first["received_at"]


def test_another_plan_takes_the_old_rows_back() -> None:
    """Where plan or version changed, the old row comes back in full and the new one stands beside it."""
    weir = engine(plan(Rate(service="data", price=FLAT)))
    step = weir.usage(usage({"quantity": 10}))
    weir.apply(
        Catalogue(
            plans=(plan(Rate(service="data", price=Price(model="flat", price="3")), name="q"),),
            cards=cards({"iccid": "1", "plan": "q", "plan_from": dt.date(2026, 10, 1)}),
        )
    )
    assert {("p", -10, -10 * EURO), ("q", 10, 30 * EURO)} == {
        (row["plan_id"], row["billable_quantity"], row["charge_nanos"]) for row in again(weir, step.rated)[0]
    }


def test_a_new_version_and_a_record_that_has_none_any_more() -> None:
    """A record that the catalogue cannot rate now stays as it was."""
    weir = engine(plan(Rate(service="data", price=FLAT)))
    step = weir.usage(
        usage({"quantity": 10, "used_at": at(1)}, {"quantity": 10, "used_at": NOON + dt.timedelta(days=9)})
    )
    sms_only = PlanVersion(version=2, effective=dt.date(2026, 10, 10), rates=(Rate(service="sms"),))
    weir.apply(Catalogue(plans=(Plan(id="p", currency="EUR", versions=(sms_only,)),)))
    assert [] == again(weir, step.rated)[0]


def test_reversed_records_do_not_count() -> None:
    """What a reversal took back takes no allowance, and its rows are left alone or evened out."""
    weir = engine(plan(Rate(service="data", allowance=100, price=FLAT)))
    rated = weir.usage(usage({"quantity": 100, "used_at": at(9)}, {"quantity": 60, "used_at": at(8)})).rated
    reversal = {"record_key": "r", "record_type": RecordType.REVERSE, "corrects_key": "k1", "quantity": 0}
    back = weir.usage(usage(reversal), rated).rated
    adjustments, whole = again(weir, rated, back)
    by_key: dict[str, int] = {}
    for row in rows_of(whole):
        by_key[row["record_key"]] = by_key.get(row["record_key"], 0) + row["charge_nanos"]
    assert {"k1": 0, "k2": 0} == by_key
    assert 0 == sum(row["charge_nanos"] for row in adjustments)


def test_test_units_and_addons_are_not_used_twice() -> None:
    """What other cycles used of them is gone."""
    bought = NOON - dt.timedelta(days=60)
    addon = Addon(id="x", iccid="1", service="data", amount=50, purchased_at=bought, expires_on=dt.date(2026, 12, 1))
    terms = plan(Rate(service="data", price=FLAT), test=TestAllowance(amount=30))
    weir = engine(terms, card_rows=({"iccid": "1", "test_from": dt.date(2026, 9, 1)},), addons=(addon,))
    september = dt.datetime(2026, 9, 20, tzinfo=dt.UTC)
    old = weir.usage(usage({"quantity": 50, "used_at": september, "record_key": "old"}, received=september)).rated
    rated = weir.usage(usage({"quantity": 40, "used_at": at(9)})).rated
    assert [(0, 30, 10)] == [(row["from_test"], row["from_addon"], row["overage"]) for row in rows_of(rated)]
    assert [] == again(weir, old, rated)[0]
    assert {"x": 50} == weir.compiled.addons.usage()


def test_a_rerated_record_is_reversed_as_it_stands() -> None:
    """A reversal takes back usage and adjustments together."""
    weir = engine(plan(Rate(service="data", allowance=100, price=Price(model="flat", price="1", basis="record"))))
    step = weir.usage(usage({"quantity": 80, "used_at": at(9)}, {"quantity": 60, "used_at": at(8)}))
    _, whole = again(weir, step.rated)
    reversal = {"record_key": "r", "record_type": RecordType.REVERSE, "corrects_key": "k2", "quantity": 0}
    weir.state.counters.keep(np.zeros(len(weir.state.counters), bool))
    back, other = rows_of(weir.usage(usage(reversal), whole).rated)
    assert (-60, 0, 0) == tuple(back[name] for name in ("from_allowance", "overage", "charge_nanos"))
    assert ("k1", 40, -40, -40 * EURO) == tuple(
        other[n] for n in ("record_key", "from_allowance", "overage", "charge_nanos")
    )
