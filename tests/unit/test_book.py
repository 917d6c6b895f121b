"""Which rate a record finds in its plan (P1, P4, P5), and plans that no record could follow."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest

from rating.engine import Engine
from rating.errors import PlanError
from schemas.plans import Band, Plan, PlanVersion, Price, Rate, Zone, ZoneSet
from schemas.usage import Direction, Service
from tests.support.fold_case import NOON, Row, engine, plan, rows_of, usage

ZONES = ZoneSet(
    id="z",
    zones=(
        Zone(name="home", countries=("DE",), plmns=("20801",), home=True),
        Zone(name="near", countries=("FR", "GB")),
        Zone(name="rest"),
    ),
)
DAY = Band(name="day", start="08:00", end="18:00")


def zoned(*rates: Rate, **version: Any) -> Engine:
    """An engine with zones."""
    return engine(plan(*rates, zones="z", **version), zones=(ZONES,))


def found(weir: Engine, *rows: Row) -> list[str]:
    """The counter that each record is priced by, or why it is refused."""
    names = []
    for number, row in enumerate(rows):
        step = weir.usage(usage(row | {"record_key": str(number)}))
        names.append(step.rated["rate"][0].as_py() if step.rated.num_rows else step.rejects["reason"][0])
    return names


def test_zone_before_band_before_direction() -> None:
    """Of the rates that fit, the one with a zone wins, then the one with a band, then the one with a direction."""
    weir = zoned(
        Rate(service="voice"),
        Rate(service="voice", direction="mo"),
        Rate(service="voice", band="day"),
        Rate(service="voice", zone="home"),
        Rate(service="voice", zone="home", direction="mt"),
        bands=(DAY,),
    )
    call = {"service": Service.VOICE, "quantity": 1}
    night = {"used_at": NOON.replace(hour=3)}
    assert ["voice@day", "voice@day", "voice/home", "voice/mt/home", "voice/mo", "voice"] == found(
        weir,
        call | {"direction": Direction.MO},
        call | {"direction": Direction.MT},
        call | {"direction": Direction.MO, "country": "DE"},
        call | {"direction": Direction.MT, "country": "DE"},
        call | {"direction": Direction.MO} | night,
        call | {"direction": Direction.MT} | night,
    )


def test_the_zone_of_a_place() -> None:
    """A zone that the feed names wins, then the PLMN, then the country, then the default."""
    rates = [Rate(service="data", zone=name) for name in ("home", "near", "rest")]
    places: list[Row] = [
        {"plmn": "26201", "country": "DE"},
        {"plmn": "20801", "country": "FR"},
        {"plmn": "20810", "country": "FR"},
        {"country": "US"},
        {},
        {"plmn": "20801", "country": "FR", "zone": "near"},
        {"zone": "elsewhere", "country": "DE"},
    ]
    assert ["data/home", "data/home", "data/near", "data/rest", "data/rest", "data/near", "data/home"] == found(
        zoned(*rates, default_zone="rest"), *places
    )
    assert ["no_rate", "no_rate"] == found(zoned(*rates), {"country": "US"}, {})
    assert ["data"] == found(zoned(*rates, Rate(service="data")), {"country": "US"})


def test_a_service_without_a_rate_is_refused() -> None:
    """The reason names service, direction, place and plan version."""
    weir = zoned(Rate(service="data", zone="home"))
    step = weir.usage(usage({"country": "FR"}))
    assert [("no_rate", "plmn")] == step.rejects.select("reason", "field").rows()
    assert (
        "found data/both in PLMN none, country FR, which plan p version 1 has no rate for" in step.rejects["message"][0]
    )


def test_versions_hold_from_their_local_day() -> None:
    """The version in force when the record was used rates it, in the account's own time."""
    versions = tuple(
        PlanVersion(version=number, effective=day, rates=(Rate(service="data"),))
        for number, day in ((2, dt.date(2026, 10, 5)), (1, dt.date(2026, 10, 1)))
    )
    weir = engine(Plan(id="p", currency="EUR", versions=versions))
    midnight = dt.datetime(2026, 10, 5, tzinfo=dt.UTC)
    rows = [{"used_at": at} for at in (midnight - dt.timedelta(microseconds=1), midnight, SINCE_NOON)]
    step = weir.usage(usage(*rows))
    assert [1, 2] == step.rated["plan_version"].to_pylist()
    assert ["no_plan"] == step.rejects["reason"].to_list()


SINCE_NOON = dt.datetime(2026, 9, 30, 12, tzinfo=dt.UTC)


def test_directions_are_priced_apart_where_the_plan_does() -> None:
    """One record becomes a part a direction; its volumes stand on the first."""
    weir = engine(plan(Rate(service="data", direction="up"), Rate(service="data", direction="down")))
    rows = rows_of(weir.usage(usage({"volume_up_bytes": 3, "volume_down_bytes": 7})).rated)
    assert [(0, "up", 3, 3, 7), (1, "down", 7, None, None)] == [
        tuple(row[name] for name in ("part", "direction", "quantity_raw", "volume_up_bytes", "volume_down_bytes"))
        for row in rows
    ]


def test_a_record_without_directions_on_a_plan_that_needs_them_is_refused() -> None:
    """Where only up and down have prices, a bare total cannot be rated; with a rate for both it can."""
    apart = (Rate(service="data", direction="up"), Rate(service="data", direction="down"))
    assert ["no_rate"] == found(engine(plan(*apart)), {"quantity": 5})
    half = {"quantity": 5, "volume_up_bytes": 5, "volume_down_bytes": None}
    assert ["no_rate"] == found(engine(plan(*apart)), half)
    assert ["data"] == found(engine(plan(*apart, Rate(service="data"))), {"quantity": 5})


def test_a_call_over_a_boundary_of_bands_is_split() -> None:
    """17:50 to 18:20 is a third by day; also where another record of the batch was refused."""
    call = {"service": Service.VOICE, "quantity": 1800, "used_at": NOON.replace(hour=17, minute=50)}
    terms = plan(Rate(service="voice"), Rate(service="voice", band="day"), bands=(DAY,))
    rows = rows_of(engine(terms).usage(usage({"iccid": "404", **call}, call)).rated)
    assert [("k2", 0, "voice@day", 600, 2), ("k2", 1, "voice", 1200, 2)] == [
        tuple(row[name] for name in ("record_key", "part", "rate", "quantity_raw", "source_row")) for row in rows
    ]


def test_a_running_total_is_split_by_what_it_grew() -> None:
    """The duration of a cumulative call is what it grew by, not its total."""
    terms = plan(Rate(service="voice"), Rate(service="voice", band="day"), bands=(DAY,))
    weir = engine(terms)
    call = {"service": Service.VOICE, "session_id": "s"}
    weir.usage(usage(call | {"quantity": 3600, "used_at": NOON}, cumulative=True))
    later = call | {"quantity": 4200, "used_at": NOON.replace(hour=17, minute=55), "record_key": "later"}
    rows = rows_of(weir.usage(usage(later, cumulative=True)).rated)
    assert [("voice@day", 300), ("voice", 300)] == [(row["rate"], row["quantity_raw"]) for row in rows]


def test_rates_of_one_counter_share_their_allowance() -> None:
    """The allowance of the first of them that has one is for all of them together."""
    rates = [
        Rate(service="data", zone=zone, counter="all", allowance=size) for zone, size in (("home", 100), ("near", 0))
    ]
    step = zoned(*rates).usage(usage({"country": "DE", "quantity": 70}, {"country": "FR", "quantity": 70}))
    assert [(70, 0, 0), (30, 40, 70)] == [
        (row["from_allowance"], row["overage"], row["counter_before"]) for row in rows_of(step.rated)
    ]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (plan(Rate(service="data", zone="moon"), zones="z"), "plan p version 1, data/moon: found zone 'moon'"),
        (plan(Rate(service="data", band="noon")), "plan p version 1, data@noon: found band 'noon'"),
        (plan(Rate(service="data", price=Price(model="flat", price="x"))), "plan p version 1, data, price: found 'x'"),
        (plan(Rate(service="data", allowance="3 h")), "found '3 h'"),
        (
            plan(Rate(service="data", band="day"), bands=(DAY,)),
            "plan p version 1, bands: found rates for data in some bands and none outside its bands",
        ),
        (
            plan(Rate(service="voice", band="day"), bands=(DAY, Band(name="rest", weight=-1))),
            "found rates for voice in some bands and none in band 'rest'",
        ),
    ],
)
def test_a_plan_that_no_record_can_follow_is_refused(terms: Plan, message: str) -> None:
    """The error says which plan, version and rate, what was found and what would be right."""
    with pytest.raises(PlanError) as refused:
        engine(terms, zones=(ZONES,))
    assert message in str(refused.value)
    assert "expected" in str(refused.value)


def test_bands_that_cover_all_times_need_no_rate_beside_them() -> None:
    """Two bands that share the day leave no time without a price."""
    rest = Band(name="rest", weight=-1)
    rates = (Rate(service="data", band="day"), Rate(service="data", band="rest"))
    assert ["data@day"] == found(engine(plan(*rates, bands=(DAY, rest))), {})


def test_a_record_beyond_all_measure_is_refused() -> None:
    """A call of a hundred years is a fault of the feed, and does not stop the others."""
    weir = engine(plan(Rate(service="voice", price=Price(model="flat", price="1000"))))
    calls = [{"service": Service.VOICE, "quantity": seconds} for seconds in (1 << 40, 1)]
    step = weir.usage(usage(*calls))
    assert ["bad_value"] == step.rejects["reason"].to_list()
    assert [1000 * 10**9] == step.rated["charge_nanos"].to_pylist()


def test_cost_beyond_64_bits_is_exact() -> None:
    """Some billion of the currency into a cycle, further usage costs what it costs, and so does the sum."""
    weir = engine(plan(Rate(service="voice", price=Price(model="flat", price="1000"))))
    calls = [{"service": Service.VOICE, "quantity": 1 << 22, "record_key": str(number)} for number in range(3)]
    nanos = weir.usage(usage(*calls)).rated["charge_nanos"].to_pylist()
    assert [(1 << 22) * 1000 * 10**9] * 3 == nanos
    (row,) = np.flatnonzero(weir.state.counters["records"])
    assert [sum(nanos)] == list(weir.state.counters.charges(int(row)).values())
