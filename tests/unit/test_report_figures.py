"""The monthly report's figures: what the sections say against what the history and the fees say (Q4)."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.known import account_tree
from jobs.report.build import build_report
from jobs.report.model import SECTIONS, Report
from rating.errors import InputError, UsageError
from rating.queries.schemas import StateViews
from tests.support.rated_rows import MB, Event, history, rated_table, reject_table, small_events, small_views, views

NOVEMBER = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


def small_report(directory: Path, account: str | None = None, as_of: dt.datetime = NOVEMBER) -> Report:
    """The report of October over the small history."""
    rejects = reject_table(
        [{}, {"reason": "unknown_card"}, {}, {"received_at": dt.datetime(2026, 9, 30, tzinfo=dt.UTC)}]
    )
    connection = history(directory, rated_table(small_events()), rejects)
    return build_report(connection, small_views(), "2026-10", account, as_of)


def test_every_section_has_its_columns(tmp_path: Path) -> None:
    """Each section of the report has the columns that its plan names, in order, amounts as exact decimals."""
    report = small_report(tmp_path)
    assert list(SECTIONS) == list(report.sections)
    for name, plan in SECTIONS.items():
        frame = report.sections[name]
        assert [column.name for column in plan.columns] == frame.columns
        assert {pl.Decimal(38, 9)} >= {frame.schema[column.name] for column in plan.columns if column.kind == "amount"}


def test_totals_are_those_of_the_history_and_the_fees(tmp_path: Path) -> None:
    """Totals by currency are the sums of the cycle's rated rows, split by kind, and of its fees."""
    rows = [row for row in rated_table(small_events()).to_pylist() if row["cycle"] == "2026-10"]
    nanos = {
        "charge": sum(row["charge_nanos"] for row in rows if row["currency"] == "EUR" and row["kind"] == "usage"),
        "adjustments": sum(row["charge_nanos"] for row in rows if row["currency"] == "EUR" and row["kind"] != "usage"),
        "late_charge": sum(row["charge_nanos"] for row in rows if row["currency"] == "EUR" and row["late"]),
        "fees": small_views().fees["amount_nanos"].sum(),
    }
    expected = {name: Decimal(value).scaleb(-9) for name, value in nanos.items()}
    expected["total"] = expected["charge"] + expected["adjustments"] + expected["fees"]
    totals = small_report(tmp_path).sections["totals"].filter(pl.col("currency") == "EUR").to_dicts()[0]
    assert expected == {name: totals[name] for name in expected}
    assert (7, 5) == (totals["records"], totals["sims"])


def test_services_say_what_covered_the_usage(tmp_path: Path) -> None:
    """Used data is what the allowances, add-ons and overage sum to, reversals taken off."""
    data = small_report(tmp_path).sections["services"].filter(pl.col("service") == "data", pl.col("currency") == "EUR")
    row = data.to_dicts()[0]
    assert 180 * MB + 1000 == row["used"]
    assert row["used"] == row["from_test"] + row["from_allowance"] + row["from_addon"] + row["overage"]
    assert (1, -5 * MB) == (row["adjustment_rows"], row["adjustment_quantity"])
    assert (1, 1000) == (row["late_records"], row["late_quantity"])


def test_account_includes_those_below_it(tmp_path: Path) -> None:
    """A report of an account covers its sub-accounts, shows nobody else, and leaves rejected records out."""
    report = small_report(tmp_path, "acme")
    assert {"acme", "acme-eu"} == set(report.sections["accounts"]["account_id"])
    assert {"acme", "acme-eu"} == set(report.sections["sims"]["account_id"])
    assert ["EUR"] == report.sections["totals"]["currency"].to_list()
    assert 0 == report.sections["rejected"].height
    assert "globex" not in str(report.as_dict())


def test_account_below_another_stands_alone(tmp_path: Path) -> None:
    """A report of a sub-account does not cover its parent."""
    assert {"acme-eu"} == set(small_report(tmp_path, "acme-eu").sections["accounts"]["account_id"])


def test_rejected_are_those_that_arrived_in_the_cycle(tmp_path: Path) -> None:
    """Rejected records are counted by reason where they arrived between the cycle's first and last day."""
    rejected = small_report(tmp_path).sections["rejected"].select("reason", "records").rows()
    assert [("bad_value", 2), ("unknown_card", 1)] == rejected


def test_unknown_cycle_names_those_that_exist(tmp_path: Path) -> None:
    """A cycle without usage is refused with the cycles that there are."""
    connection = history(tmp_path, rated_table(small_events()))
    with pytest.raises(InputError, match=r"no cycle '2020-01'.*there are: 2026-10, 2026-09"):
        build_report(connection, small_views(), "2020-01", None, NOVEMBER)
    with pytest.raises(InputError, match="'2026-13' is not a billing cycle; write 2026-10"):
        build_report(connection, small_views(), "2026-13", None, NOVEMBER)
    with pytest.raises(InputError, match=r"of the account.*there are: 2026-10$"):
        build_report(connection, small_views(), "2026-09", "=globex", NOVEMBER)


def test_fees_alone_make_a_cycle_that_has_begun(tmp_path: Path) -> None:
    """A cycle in which fees are due is reported, whether or not anybody used anything; not before it begins."""
    fee = {"subject_kind": "sim", "subject": "1", "name": "base", "amount_nanos": 5, "currency": "EUR"}
    cycles = ("2026-09", "2026-10", "2026-12")
    fees = [fee | {"account_id": account, "cycle": cycle} for account in ("a", "b") for cycle in cycles]
    state = views(fees=fees, accounts=[{"account_id": "a"}, {"account_id": "b"}, {"account_id": "c"}])
    connection = history(tmp_path, rated_table([Event("8949000000000000001", 1, 1, account="a")]))
    for cycle, account, nanos in (("2026-09", None, 10), ("2026-09", "b", 5), ("2026-10", "b", 5)):
        totals = build_report(connection, state, cycle, account, NOVEMBER).sections["totals"]["total"]
        assert [Decimal(nanos).scaleb(-9)] == totals.to_list(), (cycle, account)
    with pytest.raises(InputError, match=r"no cycle '2026-12' in the history; there are: 2026-10$"):
        build_report(connection, state, "2026-12", None, NOVEMBER)
    with pytest.raises(InputError, match="nothing has been rated yet"):
        build_report(connection, state, "2026-10", "c", NOVEMBER)


def test_empty_history_says_so(tmp_path: Path) -> None:
    """Before anything is rated the refusal says that nothing has been rated."""
    with pytest.raises(InputError, match="nothing has been rated yet"):
        build_report(history(tmp_path, rated_table([])), StateViews(), "2026-10", None, NOVEMBER)


def test_unknown_account_names_those_that_exist(tmp_path: Path) -> None:
    """An account that does not exist is refused with those that do."""
    connection = history(tmp_path, rated_table(small_events()))
    with pytest.raises(UsageError, match="found account 'akme'; expected an account: one of =globex, acme, acme-eu"):
        build_report(connection, small_views(), "2026-10", "akme", NOVEMBER)


def test_as_of_needs_an_offset(tmp_path: Path) -> None:
    """A time without UTC offset is refused: the report must not depend on where it is made."""
    connection = history(tmp_path, rated_table(small_events()))
    with pytest.raises(UsageError, match="UTC offset"):
        build_report(connection, small_views(), "2026-10", None, dt.datetime(2026, 11, 1))


def test_forecast_is_linear_in_local_time(tmp_path: Path) -> None:
    """Ten local days into October, an account in Berlin is forecast by the 31 days and one hour of that month."""
    as_of = dt.datetime(2026, 10, 10, 22, tzinfo=dt.UTC)
    report = small_report(tmp_path, "acme-eu", as_of)
    month_s, elapsed_s = 31 * 86_400 + 3_600, 10 * 86_400
    pool = report.sections["pools"].filter(pl.col("service") == "data").to_dicts()[0]
    assert 120 * MB * month_s // elapsed_s == pool["forecast"]
    assert "10.00" == report.elapsed_days
    assert pool["forecast"] == report.sections["services"]["forecast"][0]
    assert Decimal("120.00") == pool["percent"]
    assert Decimal("372.50") == pool["forecast_percent"]


def test_late_usage_is_counted_once_in_a_forecast(tmp_path: Path) -> None:
    """Usage of an earlier cycle that is charged in this one adds to the forecast as it is, not by the pace."""
    own = Event("8901000000000000004", 2, 1000, account="=globex", plan="us-flat", currency="USD")
    connection = history(tmp_path, rated_table([own, replace(own, quantity=7, late=True)]))
    as_of = dt.datetime(2026, 10, 11, 4, tzinfo=dt.UTC)  # ten days into October in New York
    report = build_report(connection, small_views(), "2026-10", None, as_of)
    assert [3100 + 7] == report.sections["services"]["forecast"].to_list()
    assert [3100 + 7] == report.sections["sims"].filter(pl.col("service") == "data")["forecast"].to_list()


def test_forecast_starts_from_one_day(tmp_path: Path) -> None:
    """In the first hours of a cycle a forecast takes a whole day as elapsed."""
    report = small_report(tmp_path, "acme-eu", dt.datetime(2026, 9, 30, 22, 5, tzinfo=dt.UTC))
    assert 120 * MB * (31 * 86_400 + 3_600) // 86_400 == report.sections["services"]["forecast"][0]


def test_closed_cycle_has_no_forecast(tmp_path: Path) -> None:
    """After its last day a cycle shows no forecast anywhere."""
    report = small_report(tmp_path)
    assert not report.is_open
    assert report.elapsed_days is None
    for name in ("services", "accounts_by_service", "plans_by_service", "pools", "sims"):
        assert 0 == report.sections[name]["forecast"].count()


def test_cycle_that_the_state_no_longer_holds(tmp_path: Path) -> None:
    """An older cycle is reported from history alone, without sizes."""
    connection = history(tmp_path, rated_table(small_events()))
    report = build_report(connection, small_views(), "2026-09", None, NOVEMBER)
    assert [(12 * MB, None)] == report.sections["sims"].select("used", "allowance_size").rows()
    assert (dt.date(2026, 9, 1), dt.date(2026, 9, 30)) == (report.cycle_from, report.cycle_until)


def test_sums_past_64_bits_stay_exact(tmp_path: Path) -> None:
    """Totals of a large fleet in a small currency go past 64 bits of nanos and lose nothing."""
    event = Event("8949000000000000001", 1, 1, currency="VND", nanos_per_unit=9_000_000_000_000_000_001)
    rated = rated_table(
        [
            Event(f"89490000000000000{at:02d}", 1, 1, currency="VND", nanos_per_unit=event.nanos_per_unit)
            for at in range(5)
        ]
    )
    report = build_report(history(tmp_path, rated), small_views(), "2026-10", None, NOVEMBER)
    total = report.sections["totals"].filter(pl.col("currency") == "VND")["total"][0]
    assert Decimal("45000000000.000000005") == total


def test_a_sim_keeps_its_last_plan_and_one_row(tmp_path: Path) -> None:
    """A SIM that changed plan and joined a pool has one row a service, with the plan and entity it used last."""
    sim = "8949000000000000009"
    events = [Event(sim, 2, 5, plan="old", pool="zz"), Event(sim, 9, 7, plan="new"), Event(sim, 4, 1, plan="xx")]
    report = build_report(history(tmp_path, rated_table(events)), StateViews(), "2026-10", None, NOVEMBER)
    row = report.sections["sims"].select("plan_id", "subject_kind", "subject", "used").rows()
    assert [("new", "sim", sim, 13)] == row


def test_dearest_sims_include_fees(tmp_path: Path) -> None:
    """The SIMs with the highest totals are ranked with their fees, by currency."""
    dearest = small_report(tmp_path).dearest_sims().select("currency", "iccid").rows()
    assert [
        ("EUR", "8949000000000000001"),
        ("EUR", "8949000000000000006"),
        ("EUR", "8949000000000000003"),
        ("USD", "8901000000000000004"),
    ] == dearest


def test_account_tree_survives_a_circle() -> None:
    """Accounts that name each other as parents do not hang the report."""
    accounts = views(accounts=[{"account_id": "a", "parent": "b"}, {"account_id": "b", "parent": "a"}]).accounts
    assert ["a", "b"] == account_tree(accounts, "a")


_EVENTS = st.lists(
    st.builds(
        Event,
        iccid=st.sampled_from([f"89490000000000000{at:02d}" for at in range(6)]),
        day=st.integers(1, 31),
        quantity=st.integers(-(10**9), 10**12),
        account=st.sampled_from(["acme", "acme-eu", "=globex"]),
        plan=st.sampled_from(["m2m-50", "pool-100"]),
        pool=st.sampled_from([None, "fleet"]),
        service=st.sampled_from(["data", "sms", "voice"]),
        currency=st.sampled_from(["EUR", "USD"]),
        country=st.sampled_from(["DE", "FR"]),
        allowance=st.integers(0, 10**10),
        nanos_per_unit=st.integers(0, 1000),
        kind=st.sampled_from(["usage", "usage", "reversal", "rerate"]),
        late=st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


@given(events=_EVENTS)
@settings(max_examples=8)
def test_every_section_adds_up_to_the_totals(events: list[Event], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Accounts, plans, SIMs, rates, days and countries are cuts of the same rows: each sums to the same totals."""
    rated = rated_table(events)
    report = build_report(history(tmp_path_factory.mktemp("h"), rated), small_views(), "2026-10", None, NOVEMBER)
    sections = report.sections

    def money(name: str, column: str) -> dict[str, Decimal]:
        sums = sections[name].group_by("currency").agg(pl.col(column).sum())
        return {currency: amount for currency, amount in sums.iter_rows() if amount}

    total = money("totals", "total")
    for name in ("accounts", "accounts_by_service", "plans", "plans_by_service"):
        assert total == money(name, "total"), name
    usage_only = {currency: amount - money("fees", "amount").get(currency, 0) for currency, amount in total.items()}
    usage_only = {currency: amount for currency, amount in usage_only.items() if amount}
    for name in ("rates", "days", "countries"):
        assert usage_only == money(name, "total"), name
    billed = sum(rated["billable_quantity"].to_pylist())
    for name in ("services", "accounts_by_service", "plans_by_service", "sims", "rates", "days", "countries"):
        assert billed == sections[name]["used"].sum(), name
