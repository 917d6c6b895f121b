"""Money through the command line: small catalogues and files whose right amounts were worked out by hand."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import app as cli

CASES = Path(__file__).parent / "cases" / "money"


class Scene:
    """A case in a folder of its own, with a fresh data directory."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._capsys, self._monkeypatch = folder, capsys, monkeypatch

    def weir(self, *arguments: str, status: int = 0) -> str:
        """Run a command in the folder of the case, and return what it printed."""
        self._monkeypatch.setattr(sys, "argv", ["weir", "--data", "data", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = self._capsys.readouterr()
        assert status == int(end.value.code or 0), captured.err
        return captured.out + captured.err

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query, with columns in the order of their names."""
        return [tuple(row[name] for name in sorted(row)) for row in json.loads(self.weir("sql", "--json", query))]

    def ingest(self, file: str, as_of: str) -> None:
        """Ingest a file of the feed `plain`."""
        self.weir("ingest", "--feed", "plain", file, "--as-of", as_of)


@pytest.fixture
def scene(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Scene:
    """The case named by the test's parameter or marker."""
    folder = tmp_path / "case"
    shutil.copytree(CASES / request.param, folder)
    monkeypatch.chdir(folder)
    return Scene(folder, capsys, monkeypatch)


def case(name: str) -> pytest.MarkDecorator:
    """Name the case of a test."""
    return pytest.mark.parametrize("scene", [name], indirect=True)


@case("charge-stops-at-4-6-billion")
def test_a_charge_may_be_larger_than_64_bits(scene: Scene) -> None:
    """Charges of billions of a small currency are exact in rows, live totals and the report."""
    scene.weir("apply", "catalogue.toml", "--as-of", "2026-10-01")
    scene.ingest("usage.csv", "2026-10-05")
    by_subject = "SELECT subject, sum({}) AS charge FROM {} GROUP BY subject ORDER BY subject"
    expected = [("89000000000000000009", 12_000_000_000), ("fleet", 11_999_400_000)]
    for table in ("rated", "counters"):
        sums = scene.sql(by_subject.format("charge_nanos", table).replace("ORDER", "HAVING charge > 0 ORDER"))
        assert expected == [(subject, int(nanos) // 10**9) for nanos, subject in sums], table
    assert "12000000000 IDR" in scene.weir("cards")
    assert ["11999400000"] == [gauge["charge"] for gauge in json.loads(scene.weir("pools", "--json"))]
    scene.weir("report", "--cycle", "2026-10", "--format", "csv", "--out", "report", "--as-of", "2026-11-01")
    totals = (scene.folder / "report" / "usage-2026-10-totals.csv").read_text()
    assert ",23999400000," in totals


@case("live-totals-add-currencies")
def test_currencies_are_never_added(scene: Scene) -> None:
    """A card that changes from a plan in EUR to one in USD has a sum of each, in every view."""
    scene.weir("apply", "catalogue.toml", "cards.csv", "--as-of", "2026-10-01")
    scene.ingest("u1.csv", "2026-10-06")
    scene.weir("apply", "oct07.csv", "--as-of", "2026-10-07")
    scene.ingest("u2.csv", "2026-10-08T01:00:00Z")
    expected = [("EUR", 50), ("USD", 20)]
    found = scene.sql("SELECT currency, charge_nanos FROM counters ORDER BY currency")
    assert expected == [(currency, int(nanos) // 10**9) for nanos, currency in found]
    assert [(60, 160)] == scene.sql("SELECT sum(overage)::BIGINT AS a, sum(billable)::BIGINT AS b FROM counters")
    assert "50 EUR, 20 USD" in scene.weir("cards")
    (card,) = json.loads(scene.weir("cards", "--json"))["rows"]
    assert (None, None, "50 EUR, 20 USD") == (card["charge"], card["currency"], card["charges"])
    shown = json.loads(scene.weir("card", "8949000000000000018", "--json"))["counters"]
    assert [("EUR", "50"), ("USD", "20")] == [(row["currency"], row["charge"]) for row in shown]
    until = json.loads(scene.weir("card", "8949000000000000018", "--json", "--until-midnight"))["counters"]
    assert [("EUR", "50", 150)] == [(row["currency"], row["charge"], row["billable"]) for row in until]


@case("unanswered-call-costs-a-connect-fee")
def test_a_call_of_no_seconds_costs_nothing(scene: Scene) -> None:
    """A connect fee is due for units only; a record of zero units is free, before and after the allowance is used."""
    scene.weir("apply", "catalogue.toml", "--as-of", "2026-10-01")
    scene.ingest("usage.csv", "2026-10-02")
    columns = "record_key AS a, billable_quantity AS b, charge_nanos AS c"
    rows = scene.sql(f"SELECT {columns} FROM rated WHERE service = 'voice' ORDER BY a")
    cents = 10**7
    assert [("v0", 0, 0), ("v1", 60, 5 * cents), ("v2", 600, 15 * cents), ("v3", 0, 0)] == rows


@case("addons-that-are-not-charged-or-not-used")
def test_an_addon_has_its_price_and_can_be_used(scene: Scene) -> None:
    """The price is in the fees and in the report. An add-on that could never be used is refused, with the reason."""
    refused = scene.weir("apply", "catalogue.toml", "--as-of", "2026-10-01", status=2)
    assert "on plan gateway, which bills by device; expected a card that is billed for itself" in refused
    assert "addons.x3.expires_on: found 2026-10-20; expected 2026-10-21 or later" in refused
    text = (scene.folder / "catalogue.toml").read_text()
    (scene.folder / "catalogue.toml").write_text(text[: text.index('[[addons]]\nid = "x2"')])
    scene.weir("apply", "catalogue.toml", "--as-of", "2026-10-01")
    scene.ingest("usage.csv", "2026-10-08")
    fees = scene.sql("SELECT amount_nanos, name, subject FROM fees")
    assert [(2_500_000_000, "add-on", "8949000000000000018")] == fees
    scene.weir("report", "--cycle", "2026-10", "--format", "csv", "--out", "report")
    totals = (scene.folder / "report" / "usage-2026-10-totals.csv").read_text().splitlines()
    assert "EUR,2,2,40,0,0,2.5,42.5" == totals[1]


@case("addon-price-and-size")
def test_an_addon_is_as_large_as_its_plan_says(scene: Scene) -> None:
    """A gigabyte of an add-on has the base of the plan, 1000 here, and the price is in the total."""
    scene.weir("apply", "catalogue.toml", "--as-of", "2026-10-01")
    scene.ingest("usage.csv", "2026-10-06")
    (addon,) = json.loads(scene.weir("card", "89000000000000000001", "--json"))["addons"]
    assert (10**9, 10**9, "5", "EUR") == tuple(addon[name] for name in ("size", "used", "price", "currency"))
    scene.weir("report", "--cycle", "2026-10", "--format", "csv", "--out", "report")
    totals = (scene.folder / "report" / "usage-2026-10-totals.csv").read_text().splitlines()
    assert "EUR,1,3,10,0,0,5,15" == totals[1]


@case("idle-month-has-no-report")
def test_a_month_without_usage_has_a_report(scene: Scene) -> None:
    """Fees are due in a month in which nothing was used. A month that has not begun has no report."""
    scene.weir("apply", "catalogue.toml", "--as-of", "2026-09-01")
    scene.weir("tick", "--as-of", "2026-10-01T00:00:00Z")
    for _ in range(2):
        scene.weir("report", "--cycle", "2026-09", "--format", "csv", "--out", "report")
        totals = (scene.folder / "report" / "usage-2026-09-totals.csv").read_text().splitlines()
        assert "EUR,2,0,0,0,0,62,62" == totals[1]
        scene.ingest("october.csv", "2026-10-21")
    said = scene.weir("report", "--cycle", "2026-12", "--format", "csv", status=2)
    assert "no cycle '2026-12' in the history; there are: 2026-10" in said
    scene.weir("report", "--cycle", "2026-09", "--account", "b", "--format", "csv", "--out", "report")


@case("idle-month-has-no-report")
def test_a_closed_cycle_stands(scene: Scene) -> None:
    """When its grace is over a cycle closes once: what is owed is written down, and the report reads only that."""
    scene.weir("apply", "catalogue.toml", "--as-of", "2026-09-01")
    columns = "account_id AS a, cycle AS b, days AS c, amount_nanos AS d, kind AS e, charge_id AS f"
    for moment in ("2026-10-03T23:59:59Z", "2026-10-04T00:00:00Z"):
        scene.weir("tick", "--as-of", moment)
        assert [] == scene.sql(f"SELECT {columns} FROM charges"), moment
    for moment in ("2026-10-04T00:00:00.000001Z", "2026-10-04T00:00:01Z", "2026-11-01"):
        scene.weir("tick", "--as-of", moment)
        fee = ("2026-09", 30, 31 * 10**9, "fee")
        closed = [("a", *fee, "0.3.0"), ("b", *fee, "0.3.1")]
        assert closed == scene.sql(f"SELECT {columns} FROM charges ORDER BY a, b"), moment
    said = scene.weir("close", "--as-of", "2027-01-01", "--force")
    assert "closed 2026-10 of account a: 1 charge, 31 EUR\n" in said
    assert "no cycle was closed" in scene.weir("close", "--as-of", "2027-01-01", "--force")
    found = scene.sql("SELECT cycle AS a, count(*) AS b FROM charges GROUP BY ALL ORDER BY a")
    assert [("2026-09", 2), ("2026-10", 2), ("2026-11", 2)] == found
    provisional = scene.sql("SELECT cycle AS a, count(*) AS b FROM fees WHERE NOT closed GROUP BY ALL ORDER BY a")
    assert [("2027-01", 2)] == provisional
    scene.weir("report", "--cycle", "2026-09", "--format", "csv", "--out", "report")
    totals = (scene.folder / "report" / "usage-2026-09-totals.csv").read_text().splitlines()
    assert "EUR,2,0,0,0,0,62,62" == totals[1]


@case("minimum-of-a-price")
def test_an_idle_card_owes_the_minimum_of_its_price(scene: Scene) -> None:
    """A minimum is due with usage, with a record of no units, and without a record; once when the cycle closes."""
    scene.weir("apply", "catalogue.toml", "cards.csv", "--as-of", "2026-10-01")
    scene.ingest("usage.csv", "2026-10-08")
    for moment in ("2026-10-08", "2026-11-05", "2026-11-06"):
        scene.weir("tick", "--as-of", moment)
        scene.weir("report", "--cycle", "2026-10", "--format", "csv", "--out", "report")
        totals = (scene.folder / "report" / "usage-2026-10-totals.csv").read_text().splitlines()
        assert "EUR,3,2,10,0,0,5,15" == totals[1], moment
    found = scene.sql("SELECT amount_nanos AS a, kind AS b, name AS c, subject AS d FROM charges")
    assert [(5 * 10**9, "minimum", "minimum data", "8949000000000000034")] == found


@case("minimum-spend-of-a-plan")
def test_a_plan_tops_fees_and_usage_up_to_its_minimum_spend(scene: Scene) -> None:
    """Fee and usage count together, and each card pays at least the minimum spend, used or not."""
    scene.weir("apply", "catalogue.toml", "--as-of", "2026-10-01")
    scene.ingest("four.csv", "2026-10-07")
    columns = "subject AS a, name AS b, amount_nanos AS c"
    units = 10**9
    expected = [
        ("89000000000000000011", "base", 40 * units),
        ("89000000000000000011", "minimum spend", 22 * units),
        ("89000000000000000012", "base", 40 * units),
        ("89000000000000000012", "minimum spend", 50 * units),
    ]
    assert expected == scene.sql(f"SELECT {columns} FROM fees ORDER BY a, b")
    scene.weir("close", "--as-of", "2026-11-05")
    assert expected == scene.sql(f"SELECT {columns} FROM charges ORDER BY a, b")
