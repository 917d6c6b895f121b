"""Slices and their totals, and what history says of them (L7, L8)."""

from __future__ import annotations

import datetime as dt
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from rating.rules.totals.cycle_and_day import BASELINE, Slice, Totals, baseline_sql, total_key
from rating.rules.triggers import TRIGGERS
from schemas.plans import Rate
from schemas.rules import Rule
from schemas.usage import Direction, RecordType, Service
from tests.support.fold_case import engine, plan, usage


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("data/cycle", Rule(id="r", trigger="data_usage_cycle")),
        ("data/day", Rule(id="r", trigger="data_usage_24h")),
        ("data/rolling", Rule(id="r", trigger="data_usage_24h", window="rolling")),
        ("sms.mo/day", Rule(id="r", trigger="sms_mo_count_24h")),
        ("voice.mt/cycle", Rule(id="r", trigger="voice_mt_duration_cycle")),
        ("data/country=DE/cycle", Rule(id="r", trigger="data_usage_country_cycle", country="DE")),
        ("sms.mt/zone=a/b/cycle", Rule(id="r", trigger="sms_mt_count_zone_cycle", zone="a/b")),
        ("sessions/rolling", Rule(id="r", trigger="data_session_count_24h", window="rolling")),
        ("data/home/cycle", Rule(id="r", trigger="home_data_allowance")),
        ("pool/data/cycle", Rule(id="r", trigger="pool_data_usage")),
        ("pool/sms.mo/cycle", Rule(id="r", trigger="pool_sms_mo_usage")),
        ("data/cycle", Rule(id="r", trigger="price_plan_expired", by="data")),
        (None, Rule(id="r", trigger="price_plan_expired", by="time")),
        (None, Rule(id="r", trigger="data_session_started")),
        (None, Rule(id="r", trigger="not_connected_cycle")),
    ],
)
def test_slices_by_trigger(text: str | None, rule: Rule) -> None:
    """What a rule totals follows from its trigger and its fields."""
    found = Slice.of(rule, TRIGGERS[rule.trigger])
    assert text == (found and found.text)


def test_slices_of_different_usage_have_different_names() -> None:
    """No two triggers that count different things share a total."""
    slices = {Slice.of(Rule(id="r", trigger=name, country="DE", zone="z"), one) for name, one in TRIGGERS.items()}
    texts = [one.text for one in slices if one is not None]
    assert len(texts) == len(set(texts)) == 27


def filled() -> Totals:
    """Units of cards 1 and 2 in two slices of one family."""
    totals = Totals()
    totals.use("data/cycle", "sim/cycle")
    rows = totals.rows("sim/cycle", total_key(np.array([1, 2]), np.array([7, 7])))
    totals.column("data/cycle")[rows] = [30, 40]
    totals.use("sms.mo/cycle", "sim/cycle")
    totals.column("sms.mo/cycle")[rows[1:]] = 5
    return totals


def value(totals: Totals, text: str, *cards: int, window: int = 7) -> list[int]:
    """The units of cards in a window."""
    found: list[int] = totals.value(text, np.array(cards), np.full(len(cards), window)).tolist()
    return found


def test_values_by_slice_subject_and_window() -> None:
    """A total that nothing was added to is 0."""
    totals = filled()
    assert [40, 30, 0] == value(totals, "data/cycle", 2, 1, 3)
    assert [0, 5] == value(totals, "sms.mo/cycle", 1, 2)
    assert [0] == value(totals, "data/cycle", 1, window=8)
    assert [0] == value(totals, "voice.mo/cycle", 1)


def test_totals_survive_a_snapshot_and_its_order_does_not_matter() -> None:
    """The table holds what is not 0 and which slices are kept; the same totals give the same table."""
    totals = filled()
    totals.use("data/day", "sim/day")
    restored = Totals.from_table(totals.to_table())
    assert {"data/cycle", "sms.mo/cycle", "data/day"} == restored.slices
    assert [30, 40] == value(restored, "data/cycle", 1, 2)
    assert restored.to_table().equals(totals.to_table())


def test_dropping_rows_and_slices() -> None:
    """A dropped row leaves the others as they are, and a slice that comes back starts with nothing."""
    totals = filled()
    totals.keep("sim/cycle", np.array([False, True]))
    assert [0, 40] == value(totals, "data/cycle", 1, 2)
    totals.drop("data/cycle")
    totals.use("data/cycle", "sim/cycle")
    assert [0] == value(totals, "data/cycle", 2)
    assert [5] == value(totals, "sms.mo/cycle", 2)


def frame(session: duckdb.DuckDBPyConnection, scope: dict[str, Any]) -> pl.DataFrame:
    """What the SQL of a baseline finds."""
    found = pl.from_arrow(session.sql(baseline_sql(), params=scope).to_arrow_table())
    assert isinstance(found, pl.DataFrame)
    return found


def test_the_baseline_sums_rated_rows() -> None:
    """Rows of all kinds are summed, so that reversals cancel; sessions count once, and old days have no day."""
    weir = engine(plan(Rate(service="data"), Rate(service="sms")))
    old, new = dt.datetime(2026, 10, 2, tzinfo=dt.UTC), dt.datetime(2026, 10, 30, 10, 20, tzinfo=dt.UTC)
    batch = usage(
        {"quantity": 5, "used_at": old},
        {"quantity": 6, "used_at": old},
        {"quantity": 7, "used_at": new, "session_id": "s"},
        {"quantity": 8, "used_at": new, "session_id": "s"},
        {"quantity": 1, "used_at": new, "service": Service.SMS, "direction": Direction.MT},
    )
    rated = weir.usage(batch).rated
    back = {"record_key": "back", "record_type": RecordType.REVERSE, "corrects_key": "k2", "quantity": 0}
    with duckdb.connect() as session:
        session.register("first", rated)
        session.register("second", weir.usage(usage(back), originals=rated).rated)
        session.execute("create table rated as select * from first union all select * from second")
        scope = {"cycles": ["2026-10"], "first_day": dt.date(2026, 10, 25)}
        found = frame(session, scope)
        none = frame(session, scope | {"cycles": ["2026-09"]})
    assert list(BASELINE) == found.columns
    quarter = int(new.timestamp()) // 900
    assert [
        ("both", None, None, 5, 2),
        ("both", dt.date(2026, 10, 30), quarter, 15, 1),
        ("mt", dt.date(2026, 10, 30), quarter, 1, 0),
    ] == found.select("direction", "day", "quarter", "units", "sessions").sort("direction", "day").rows()
    assert none.is_empty()
    assert found.cast(pl.Schema(BASELINE)).height == found.height


def test_the_baseline_counts_what_live_totals_counted() -> None:
    """What adjusts a closed cycle takes nothing from the open one in which it is billed."""
    weir = engine(plan(Rate(service="data")))
    in_time, late = dt.datetime(2026, 10, 30, tzinfo=dt.UTC), dt.datetime(2026, 11, 10, tzinfo=dt.UTC)
    first = weir.usage(usage({"quantity": 5, "used_at": in_time}, received=in_time)).rated
    # Late usage counts in the open cycle, and what takes it back does so too.
    second = weir.usage(usage({"quantity": 7, "used_at": in_time, "record_key": "late"}, received=late)).rated
    rated = pa.concat_tables([first, second])
    backs = [
        {"record_key": f"back {key}", "record_type": RecordType.REVERSE, "corrects_key": key, "quantity": 0}
        for key in ("k1", "late")
    ]
    with duckdb.connect() as session:
        session.register("known", rated)
        scope = {"cycles": ["2026-11"], "first_day": dt.date(2026, 11, 1)}
        session.execute("create table rated as select * from known")
        assert [7] == frame(session, scope)["units"].to_list()
        adjusted = "'rerate' as kind, '2026-11' as cycle, '2026-10' as adjusts_cycle"
        session.execute(f"insert into rated select * replace ({adjusted}) from known")
        assert [7] == frame(session, scope)["units"].to_list()
        session.register("first_back", weir.usage(usage(backs[0], received=late), originals=rated).rated)
        session.execute("insert into rated select * from first_back")
        assert [7] == frame(session, scope)["units"].to_list()
        session.register("second_back", weir.usage(usage(backs[1], received=late), originals=rated).rated)
        session.execute("insert into rated select * from second_back")
        assert [] == frame(session, scope)["units"].to_list()
