"""The cases of cases.json, facts from the tests of other rating engines, each as a Weir plan and usage.

An adapter turns one case into plans, cards and records and asserts its outcome to the last digit. Every case has an
adapter and every adapter a case.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from pipeline.feeds.mappings import load_mapping
from rating.engine import Engine
from rating.mediation.records import mediate
from rating.queries.views import state_views
from rating.rules.hard_cut import hard_cut_units
from rating.rules.limits import rules_of
from rating.tariff.fees import prorate
from rating.units.money import format_amount, parse_amount
from rating.usage.rerating import Moment
from schemas.cards import Account
from schemas.commands import Suspended
from schemas.plans import (
    Band,
    Increment,
    IncrementStart,
    Plan,
    PlanVersion,
    Price,
    Rate,
    Rounding,
    Tier,
)
from schemas.rules import Action, Limit, Rule
from schemas.usage import RecordType, Service, UsageBatch
from tests.support.fold_case import NOON, RECEIVED, Row, charges, engine, plan, rerate, rows_of, us, usage
from tests.support.rules_case import Fold, begin, say
from tests.support.strategies.rules_strategies import Entry

Case = dict[str, Any]

CASES: dict[str, Case] = {
    case["id"]: case for case in json.loads((Path(__file__).parent / "cases.json").read_text(encoding="utf-8"))
}
RAW = Rate(service="data", increment=Increment(round="none"))  # counted by the byte
TELL = Action(sequence=1, type="notify", by=("system",))
ADAPTERS: dict[str, Callable[[Case], None]] = {}


def adapter(name: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Enter the adapter of one case."""

    def enter(function: Callable[[Case], None]) -> Callable[[Case], None]:
        assert name not in ADAPTERS
        ADAPTERS[name] = function
        return function

    return enter


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    """The case comes out as it does in the engine that it was read from, to the last digit."""
    ADAPTERS[name](CASES[name])


def test_every_case_has_an_adapter_and_every_adapter_a_case() -> None:
    """No case is left out, and none is only imagined."""
    assert len(CASES) == 29
    assert set(CASES) == set(ADAPTERS)


def call(seconds: int, **fields: Any) -> Row:
    """A call of so many seconds."""
    return {"service": Service.VOICE, "quantity": seconds} | fields


def outcome(weir: Engine, *rows: Row) -> list[str]:
    """What each record costs, as decimal text, each in a batch of its own."""
    return [
        format_amount(charges(weir.usage(usage(row, first_row=number)))[row.get("record_key", f"k{number}")])
        for number, row in enumerate(rows, 1)
    ]


def alone(rate: Rate, *quantities: int, service: Service = Service.SMS) -> list[str]:
    """What each quantity costs when it is all that its card uses in the cycle."""
    weir = engine(plan(rate), card_rows=tuple({"iccid": str(card)} for card in range(len(quantities))))
    rows = [{"service": service, "quantity": units, "iccid": str(card)} for card, units in enumerate(quantities)]
    return outcome(weir, *rows)


def scaled(amount: Any, by: int) -> int:
    """A figure of the case in parts of its unit, so that it is whole."""
    units = Fraction(str(amount)) * by
    assert units.denominator == 1
    return int(units)


@adapter("connect-fee-and-evening-band")
def connect_fee_and_evening_band(case: Case) -> None:
    tariff = case["tariff"]
    day, evening = tariff["bands"]
    assert [day["days"], evening["days"]] == ["weekdays", "weekdays"]
    bands = (Band(name="day", days="weekdays", start=day["from"]), Band(name="late", days="weekdays", start="18:00"))
    assert evening["from"] == "18:00"
    rates = [
        Rate(service="voice", band=name, price=Price(model="flat", price=price, connect_fee=tariff["connect_fee"]))
        for name, price in (("day", day["price_per_second"]), ("late", evening["price_per_second"]), (None, "0"))
    ]
    weir = engine(plan(*rates, bands=bands))
    thursday = dt.datetime(2026, 10, 1, 17, 30, tzinfo=dt.UTC)
    assert thursday.strftime("%A 17:30:00") == case["usage"][0]["start"]
    span = {"used_at": thursday, "started_at": thursday, "ended_at": thursday + dt.timedelta(hours=1)}
    first = call(3600, session_id="s", record_type=RecordType.START, **span)
    assert case["usage"][1]["continuation"]
    assert case["expect"] == outcome(weir, first, first | {"record_type": RecordType.INTERIM, "record_key": "again"})


@adapter("half-per-second")
def half_per_second(case: Case) -> None:
    rate = Rate(service="voice", price=Price(model="flat", price=case["tariff"]["price_per_second"]))
    assert case["expect"] == outcome(engine(plan(rate)), *(call(used["seconds"]) for used in case["usage"]))


@adapter("group-start-60-then-1")
def group_start(case: Case) -> None:
    first, then = case["tariff"]["increments"]
    increment = Increment(step=first["increment"], starts=(IncrementStart(start=then["from"], step=then["increment"]),))
    price = Price(model="flat", price=case["tariff"]["price_per_unit"])
    rate = Rate(service="voice", increment=increment, price=price)
    assert case["expect"] == alone(rate, *(used["units"] for used in case["usage"]), service=Service.VOICE)


@adapter("connect-plus-per-minute-by-second-rounded-up")
def connect_plus_per_minute(case: Case) -> None:
    tariff = case["tariff"]
    rate = Rate(
        service="voice",
        increment=Increment(step=tariff["increment"]),
        price=Price(
            model="flat", price=tariff["price"], per=tariff["per_seconds"], connect_fee=tariff["connect_fee"],
            basis="record",
        ),
        rounding=Rounding(mode=tariff["round"]["mode"], decimals=tariff["round"]["decimals"], at="record"),
    )  # fmt: skip
    assert case["expect"] == alone(rate, *(used["seconds"] for used in case["usage"]), service=Service.VOICE)


@adapter("max-cost-then-free")
def maximum_then_free(case: Case) -> None:
    tariff = case["tariff"]
    price = Price(model="flat", price=tariff["price_per_second"], maximum=tariff["maximum"])
    weir = engine(plan(Rate(service="voice", price=price)))
    assert case["expect"] == outcome(weir, call(case["usage"][0]["seconds"]))
    assert outcome(weir, call(1, record_key="more")) == ["0"]


@adapter("small-unit-prices")
def small_unit_prices(case: Case) -> None:
    price = Price(model="flat", price=case["tariff"]["price"], per=case["tariff"]["per_units"])
    assert case["expect"] == alone(Rate(service="sms", price=price), case["usage"][0]["units"])


@adapter("bucket-then-balance")
def bucket_then_balance(case: Case) -> None:
    tariff = case["tariff"]
    rate = Rate(
        service="voice",
        allowance=tariff["allowance_seconds"],
        increment=Increment(step=tariff["increment"]),
        price=Price(model="flat", price=tariff["price_per_second"], connect_fee=tariff["connect_fee"]),
    )
    step = engine(plan(rate)).usage(usage(call(case["usage"][0]["seconds"])))
    (row,) = rows_of(step.rated)
    assert case["expect"] == [format_amount(row["charge_nanos"])]
    assert case["allowance_left_seconds"] == tariff["allowance_seconds"] - row["from_allowance"]


@adapter("re-rate-in-time-order")
def rerate_in_time_order(case: Case) -> None:
    tariff = case["tariff"]
    price = Price(model="flat", price=tariff["price"], per=tariff["per_seconds"])
    weir = engine(plan(Rate(service="voice", allowance=tariff["free_seconds"], price=price)))
    records = [
        call(used["seconds"], record_key=used["at"], used_at=at(f"2026-10-05T{used['at']}:00+00:00"))
        for used in case["usage"]
    ]
    step = weir.usage(usage(*records))
    assert case["expect"] == [format_amount(nanos) for nanos in charges(step).values()]
    adjustments = rerate(step.rated, weir, Moment(us(RECEIVED)))
    assert {"rerate"} == {row["kind"] for row in rows_of(adjustments)}
    total = dict(charges(step))
    for row in rows_of(adjustments):
        total[row["record_key"]] += row["charge_nanos"]
    assert case["after_rerate_by_time"] == {key: format_amount(nanos) for key, nanos in total.items()}
    assert case["total"] == format_amount(sum(total.values()))


@adapter("thirty-six")
def thirty_six(case: Case) -> None:
    first, then = case["tariff"]["increments"]
    assert (first["from"], then["from"]) == (0, first["increment"])
    rate = Rate(
        service="voice",
        increment=Increment(minimum=first["increment"], step=then["increment"]),
        price=Price(model="flat", price=case["tariff"]["price"], per=case["tariff"]["per_seconds"]),
    )
    assert case["expect"] == outcome(engine(plan(rate)), *(call(used["seconds"]) for used in case["usage"]))


@adapter("steps-with-intervals-1")
def steps_with_intervals(case: Case) -> None:
    steps = case["tariff"]["graduated"]
    assert [0, *(step["to"] for step in steps[:-1])] == [step["from"] for step in steps]
    tiers = tuple(Tier(to=step["to"], price=step["price"], per=step["per"]) for step in steps)
    rate = Rate(service="sms", price=Price(model="graduated", tiers=tiers, last_tier="stop"))
    assert case["expect"] == alone(rate, case["usage"][0]["units"])


@adapter("ceil-or-not")
def ceil_or_not(case: Case) -> None:
    tariff, (started, exact) = case["tariff"], case["usage"]
    tenths = 10
    per = scaled(tariff["per_units"], tenths)
    whole = Rate(service="sms", price=Price(model="package", price=tariff["price"], per=per))
    part = Rate(service="sms", price=Price(model="flat", price=tariff["price"], per=per))
    assert (started["ceil"], exact["ceil"]) == (True, False)
    found = alone(whole, scaled(started["units"], tenths)) + alone(part, scaled(exact["units"], tenths))
    assert case["expect"] == found


@adapter("negative-volume")
def negative_volume(case: Case) -> None:
    tariff = case["tariff"]
    price = Price(model="flat", price=tariff["price"], per=tariff["per_units"])
    weir = engine(plan(Rate(service="sms", price=price)))
    record = {"service": Service.SMS, "quantity": -case["usage"][0]["units"]}
    rated = weir.usage(usage(record)).rated
    reversal = record | {"record_key": "r", "record_type": RecordType.REVERSE, "corrects_key": "k1"}
    (row,) = rows_of(weir.usage(usage(reversal), rated).rated)
    assert case["usage"][0]["units"] == row["quantity_raw"]
    assert case["expect"] == [format_amount(row["charge_nanos"])]


@adapter("three-allowances-then-two-steps")
def three_allowances(case: Case) -> None:
    tariff = case["tariff"]
    tiers = tuple(Tier(to=step.get("to"), price=step["price"], per=step["per"]) for step in tariff["overage"])
    rate = Rate(service="sms", allowance=tuple(tariff["allowances"]), price=Price(model="graduated", tiers=tiers))
    weir = engine(plan(rate))
    step = weir.usage(usage(*({"service": Service.SMS, "quantity": units} for units in case["usage"])))
    assert case["expect"] == [format_amount(nanos) for nanos in charges(step).values()]
    last = rows_of(step.rated)[-1]
    assert case["last_record"] == {"in_allowance": last["from_allowance"], "overage": last["overage"]}


@adapter("voice-allowance-then-blocks")
def voice_allowance_then_blocks(case: Case) -> None:
    tariff = case["tariff"]
    overage = tariff["overage"]
    assert overage["blocks"] == "started"
    price = Price(model="package", price=overage["price"], per=overage["per_seconds"])
    weir = engine(plan(Rate(service="voice", allowance=tariff["allowance_seconds"], price=price)))
    step = weir.usage(usage(*(call(used["seconds"]) for used in case["usage"])))
    assert [parse_amount(text) for text in case["expect"]] == list(charges(step).values())
    last = rows_of(step.rated)[-1]
    assert case["last_record"] == {"in_allowance": last["from_allowance"], "overage": last["overage"]}


@adapter("one-cycle-allowance")
def one_cycle_allowance(case: Case) -> None:
    tariff = case["tariff"]
    overage = tariff["overage"]
    assert overage["blocks"] == "started"
    price = Price(model="package", price=overage["price"], per=overage["per_bytes"])
    first = dt.date.fromisoformat(f"{tariff['only_cycle']}-01")
    versions = (
        PlanVersion(
            version=1,
            effective=first,
            rates=(Rate(service="data", allowance=tariff["allowance_bytes"], price=price),),
        ),
        PlanVersion(version=2, effective=dt.date(2017, 10, 1), rates=(Rate(service="data", price=price),)),
    )
    terms = Plan(id="p", currency="EUR", versions=versions)
    weir = engine(terms, account=Account(id="a", time_zone="Europe/Moscow"))
    rows = [{"used_at": at(used["at"]), "volume_up_bytes": used["bytes"]} for used in case["usage"]]
    step = weir.usage(usage(*rows, received=at("2017-10-01T06:00:00+03:00")))
    assert case["expect"] == [format_amount(nanos) for nanos in charges(step).values()]


@adapter("graduated-with-flat-fees")
def graduated_with_flat_fees(case: Case) -> None:
    thousandths = 1000
    tiers = tuple(
        Tier(
            to=None if "to" not in tier else scaled(tier["to"], thousandths),
            price=tier.get("price", "0"),
            per=thousandths,
            flat=tier.get("flat", "0"),
        )
        for tier in case["tariff"]["graduated"]
    )
    note, *usages = case["usage"]
    assert note == "each alone"
    rate = Rate(service="sms", price=Price(model="graduated", tiers=tiers))
    assert case["expect"] == alone(rate, *(scaled(units, thousandths) for units in usages))


@adapter("package-of-10")
def package_of_ten(case: Case) -> None:
    tariff = case["tariff"]
    rate = Rate(service="sms", price=Price(model="package", price=tariff["price"], per=tariff["package"]))
    note, *units, then = case["usage"]
    assert (note, then) == ("each alone", "then: 17 used before, 5 more")
    rows = [{"service": Service.SMS, "quantity": quantity} for quantity in (17, 5)]
    assert case["expect"] == alone(rate, *units) + outcome(engine(plan(rate)), *rows)[-1:]


@adapter("convert-round-price")
def convert_round_price(case: Case) -> None:
    tariff = case["tariff"]
    size = tariff["divide_by"]
    tiers = tuple(
        Tier(to=None if "to" not in tier else tier["to"] * size, price=tier["price"], per=size)
        for tier in tariff["graduated"]
    )
    increment = Increment(step=size, round=tariff["round"])
    rate = Rate(service="data", increment=increment, price=Price(model="graduated", tiers=tiers))
    step = engine(plan(rate)).usage(usage(*({"volume_up_bytes": units} for units in case["usage"])))
    assert [units * size for units in case["billable"]] == step.rated["billable_quantity"].to_pylist()
    assert case["expect"] == [format_amount(nanos) for nanos in charges(step).values()]


@adapter("one-thousand-same-key")
def one_thousand_same_key(case: Case) -> None:
    assert case["usage"] == "1000 records with one key and source"
    weir = engine(plan(Rate(service="data")))
    step = weir.usage(usage(*([{"record_key": "one", "quantity": 5}] * 1000)))
    assert case["expect"] == {"rated": step.rated_records, "duplicate": step.duplicates}
    assert (1, 0) == (step.rated.num_rows, len(step.rejects))


@adapter("bad-values-do-not-cost-their-neighbours")
def bad_values(case: Case) -> None:
    texts = [None if value == "missing" else str(value) for value in case["usage"]]
    raw = pl.DataFrame(
        {
            "record_key": [f"k{number}" for number in range(len(texts))],
            "service": "data",
            "iccid": "1",
            "used_at": "2026-10-05T12:00:00Z",
            "quantity": texts,
            "source_row": range(2, 2 + len(texts)),
        },
        schema_overrides={"quantity": pl.String, "source_row": pl.Int64},
    )
    rows, rejects = mediate(raw, load_mapping("plain"), "bad.csv")
    step = engine(plan(Rate(service="data"))).usage(UsageBatch("plain", "bad.csv", us(RECEIVED), False, rows))
    total = sum(step.rated["quantity_raw"].to_pylist())
    assert case["expect"] == {"sum": str(total), "rejected": len(rejects) + len(step.rejects)}


@adapter("daily-windows-across-dst")
def daily_windows(case: Case) -> None:
    """A rule of each day counts from local midnight up to the next: the first and last record of each day exceed it."""
    first, last = (dt.date.fromisoformat(case[edge].split()[0]) for edge in ("from", "to"))
    zone, day, instant = ZoneInfo(case["zone"]), dt.timedelta(days=1), dt.timedelta(microseconds=1)
    days = [first + number * day for number in range((last - first).days + 1)]
    assert case["expect"].startswith(f"{len(days)} contiguous windows")
    edges = [dt.datetime.combine(one, dt.time(), zone).astimezone(dt.UTC) for one in (*days, last + day)]
    assert {23, 24} == {(end - start) // dt.timedelta(hours=1) for start, end in pairwise(edges)}
    rule = Rule(
        id="day", trigger="data_usage_24h", threshold=1, window="day", repetition="once_per_window", actions=(TELL,)
    )
    account = Account(id="a", time_zone=case["zone"])
    weir = Fold()
    since = edges[0] - day
    begin(weir, rule, plans=[plan(RAW)], card_rows=[{"iccid": "1"}], at=since, accounts=(account,))
    for number, (start, end) in enumerate(pairwise(edges)):
        rows: list[Row] = [
            {"used_at": moment, "quantity": 1, "record_key": f"{number} {place}"}
            for place, moment in enumerate((start, end - instant))
        ]
        weir.take(Entry(end, usage=usage(*rows, received=end)))
    rated = [(row["day"], row["quantity_raw"]) for table in weir.rated for row in rows_of(table)]
    assert rated == [(one, 1) for one in days for _ in range(2)]
    fired = [(row["window"], row["value_before"], row["value_now"]) for row in weir.fired]
    assert fired == [(one.isoformat(), 1, 2) for one in days]


@adapter("graduated-with-entry-fees")
def graduated_with_entry_fees(case: Case) -> None:
    tiers = tuple(
        Tier(to=tier.get("to"), price=tier["price"], flat=tier["flat"]) for tier in case["tariff"]["graduated"]
    )
    note, *units = case["usage"]
    assert note == "each alone"
    assert case["expect"] == alone(Rate(service="sms", price=Price(model="graduated", tiers=tiers)), *units)


@adapter("packages-and-free-units")
def packages_and_free_units(case: Case) -> None:
    tariff = case["tariff"]
    found = []
    for free in tariff["free_units"]:
        price = Price(model="package", price=tariff["price"], per=tariff["package"], free_units=free)
        found += alone(Rate(service="sms", price=price), *case["usage"])
    assert case["expect"] == found


@adapter("day-proration")
def day_proration(case: Case) -> None:
    days, of_days = (int(number) for number in case["days"].split(" of "))
    assert parse_amount(case["expect"]) == prorate(parse_amount(case["amount"]), days, of_days)


@adapter("all-tiers-or-top-tier")
def all_tiers_or_top_tier(case: Case) -> None:
    end, tiers = 0, []
    for tier in case["tariff"]["tiers"]:
        end += tier["size"]
        tiers.append(Tier(to=end, price=tier["price_per_unit"]))
    graduated = Rate(service="sms", price=Price(model="graduated", tiers=tuple(tiers)))
    volume = Rate(service="sms", price=Price(model="volume", tiers=tuple(tiers)))
    (all_tiers,), (top_tier,) = alone(graduated, *case["usage"]), alone(volume, *case["usage"])
    assert case["expect"] == {"all_tiers": all_tiers, "top_tier": top_tier}


@adapter("late-usage-bills-the-difference")
def late_usage_bills_the_difference(case: Case) -> None:
    tariff = case["tariff"]
    assert case["usage"] == ["1 billed already", "total becomes 401"]
    price = Price(model="package", price=tariff["price"], per=tariff["package"])
    weir = engine(plan(Rate(service="sms", price=price)))
    record = {"service": Service.SMS, "used_at": NOON}
    billed = weir.usage(usage(record | {"quantity": 1}))
    after_the_cycle = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)
    late = weir.usage(usage(record | {"quantity": 400, "record_key": "late"}, received=after_the_cycle))
    assert case["expect"] == [format_amount(sum(charges(step).values())) for step in (billed, late)]


@adapter("term-ends")
def term_ends(case: Case) -> None:
    days = [dt.date.fromisoformat(text) for text in case["activated"]]
    terms = Plan(id="p", currency="EUR", versions=plan(RAW).versions, term_months=case["months"])
    weir = engine(
        terms, card_rows=tuple({"iccid": str(number), "activated_on": one} for number, one in enumerate(days))
    )
    assert case["expect"] == [one.isoformat() for one in state_views(weir).cards["term_ends_on"]]


@adapter("overage-suspension")
def overage_suspension(case: Case) -> None:
    """The limit asks for the suspension once usage is past allowance and margin, and for its end in the next cycle."""
    size = 1 << 20
    allowance, margin = (case["tariff"][name] * size for name in ("allowance_mb", "overage_margin_mb"))
    assert case["usage_total_mb"] == ["40", "40 and 1 byte"]
    found = []
    for total in (40 * size, 40 * size + 1):
        (rule,) = rules_of(Limit(id="l", kind="overage_suspension", margin=f"{margin} bytes"))
        weir = Fold()
        rate = Rate(service="data", allowance=allowance, increment=Increment(round="none"))
        begin(weir, rule, plans=[plan(rate)], card_rows=[{"iccid": "1"}])
        weir.take(Entry(NOON, usage=usage({"quantity": total}, received=NOON)))
        for action in list(weir.asked):
            say(weir, Suspended(iccid="1", action_id=action["action_id"]), at=NOON)
        (status,) = state_views(weir.engine).cards["status"]
        asked = [(row["action"], row["created_at"].date()) for row in weir.asked]
        for moment in (dt.datetime(2026, 10, 31, 23, 59, tzinfo=dt.UTC), dt.datetime(2026, 11, 1, tzinfo=dt.UTC)):
            weir.take(Entry(moment))
        later = [(row["action"], row["created_at"].date()) for row in weir.asked[len(asked) :]]
        if asked:
            assert (asked, later) == ([("suspend", NOON.date())], [("resume", dt.date(2026, 11, 1))])
        found.append("suspended until the next cycle" if (status, later) != ("activated", []) else "active")
    assert case["expect"] == found


@adapter("hard-cut-by-tier")
def hard_cut_by_tier(case: Case) -> None:
    tiers = np.array(case["tier_mb"], np.int64) << 20
    assert [gigabytes << 30 for gigabytes in case["cut_gb"]] == hard_cut_units(tiers).tolist()


def at(text: str) -> dt.datetime:
    """An instant as ISO text."""
    return dt.datetime.fromisoformat(text)
