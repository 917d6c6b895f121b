"""Corrections, backdated catalogues and `weir rerate` through the command line: charges are those of what stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli import app as cli
from pipeline.embedded.driver import Embedded
from pipeline.journal import segments as journal
from rating.engine import Engine
from rating.state import State

HEAD = (
    "record_key,service,direction,record_type,corrects_key,iccid,quantity,used_at,started_at,ended_at,session_id,"
    "sequence,country"
)
CARDS = [f"89490000000000000{number}" for number in (18, 26, 34, 42, 59)]
ACCOUNT = '[[accounts]]\nid = "acme"\n'
SHARED = (
    ACCOUNT
    + """
[[zones]]
id = "z"
zones = [{ name = "home", countries = ["DE"], home = true }, { name = "eu", countries = ["FR"] }]
[[plans]]
id = "shared"
currency = "EUR"
[[plans.versions]]
version = 1
effective = 2026-01-01
zones = "z"
rates = [
    { service = "data", zone = "home", counter = "d", allowance = 100, price = { model = "flat", price = "1" } },
    { service = "data", zone = "eu", counter = "d", price = { model = "flat", price = "2" } },
]
[[plans]]
id = "versions"
currency = "EUR"
[[plans.versions]]
version = 1
effective = 2026-01-01
rates = [{ service = "data", allowance = 100, price = { model = "flat", price = "1" } }]
[[plans.versions]]
version = 2
effective = 2026-10-05
rates = [{ service = "data", allowance = 100, price = { model = "flat", price = "2" } }]
[[plans]]
id = "pool-a"
currency = "EUR"
type = "dynamic"
[[plans.versions]]
version = 1
effective = 2026-01-01
rates = [{ service = "data", allowance = 50, price = { model = "flat", price = "1" } }]
[[plans]]
id = "pool-b"
currency = "EUR"
type = "dynamic"
[[plans.versions]]
version = 1
effective = 2026-01-01
rates = [{ service = "data", allowance = 50, price = { model = "flat", price = "2" } }]
[[pools]]
id = "pool"
account = "acme"
kind = "dynamic"
"""
)


def basic(*versions: tuple[str, str], allowance: int = 100) -> str:
    """A plan of one flat price; each version has its first day and its price."""
    rate = '[{{ service = "data", allowance = {}, price = {{ model = "flat", price = "{}" }} }}]'
    terms = [
        f"[[plans.versions]]\nversion = {number}\neffective = {day}\nrates = {rate.format(allowance, price)}\n"
        for number, (day, price) in enumerate(versions, 1)
    ]
    return '[[plans]]\nid = "basic"\ncurrency = "EUR"\n' + "".join(terms)


class Fleet:
    """A data directory, and files beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = 0

    def weir(self, *arguments: str) -> str:
        """Return what a command prints; raises what it raises."""
        done = CliRunner().invoke(cli.app, ["--data", str(self.folder / "data"), *arguments])
        if done.exception is not None:
            raise done.exception
        return done.stdout

    def write(self, text: str, suffix: str) -> str:
        """Write a file; returns its path."""
        self.files += 1
        path = self.folder / f"file-{self.files}{suffix}"
        path.write_text(text)
        return str(path)

    def apply(self, toml: str, at: str, cards: list[str] | None = None) -> dict[str, Any]:
        """Apply a catalogue, and cards as lines `iccid,account,plan,pool`."""
        files = [self.write(toml, ".toml")]
        if cards is not None:
            files.append(self.write("\n".join(["iccid,account,plan,pool", *cards, ""]), ".csv"))
        document: dict[str, Any] = json.loads(self.weir("apply", *files, "--as-of", at, "--json"))
        return document

    def ingest(self, at: str, *lines: str, force: bool = False) -> dict[str, Any]:
        """Ingest lines of the plain feed. With `force` they may arrive after today."""
        path = self.write("\n".join([HEAD, *lines, ""]), ".csv")
        more = ["--force"] if force else []
        text = self.weir("ingest", "--feed", "plain", path, "--as-of", at, "--json", *more)
        document: dict[str, Any] = json.loads(text)
        return document

    def sums(self, by: str, where: str = "true") -> dict[str, tuple[int, int, int]]:
        """Return units, overage and charge (whole units of the currency) by a column of `rated`."""
        query = (
            f"select {by} as name, sum(billable_quantity) as units, sum(overage) as overage, "
            f"sum(charge_nanos) as charge from rated where {where} group by all order by all"
        )
        rows = json.loads(self.weir("sql", query, "--json"))
        return {row["name"]: (int(row["units"]), int(row["overage"]), int(row["charge"]) // 10**9) for row in rows}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """An empty data directory."""
    return Fleet(tmp_path)


def line(key: str, card: int, quantity: str, day: str = "07", country: str = "") -> str:
    """A usage record of the plain feed."""
    return f"{key},data,,,,{CARDS[card]},{quantity},2026-10-{day}T00:00:00Z,,,,,{country}"


def back(key: str, of: str, card: int, day: str = "07") -> str:
    """A reversal."""
    return f"{key},data,,reverse,{of},{CARDS[card]},,2026-10-{day}T00:00:00Z,,,,,"


def instead(key: str, of: str, card: int, quantity: str) -> str:
    """A replacement."""
    return f"{key},data,,replace,{of},{CARDS[card]},{quantity},2026-10-07T00:00:00Z,,,,,"


def test_a_reversal_on_a_counter_of_several_prices_leaves_the_charge_of_what_stands(fleet: Fleet) -> None:
    """F6, P2: zones, versions and plans of a pool share an allowance. Once all is within it, every charge is 0."""
    plans = ["shared,", "shared,", "versions,", "pool-a,pool", "pool-b,pool"]
    fleet.apply(SHARED, "2026-10-01", [f"{card},acme,{plan}" for card, plan in zip(CARDS, plans, strict=True)])
    usage = [
        line("a1", 0, "80", country="DE"), line("a2", 0, "50", country="FR"), line("a3", 0, "10", country="DE"),
        line("b1", 1, "80", country="DE"), line("b2", 1, "50", country="FR"), line("b3", 1, "10", country="DE"),
        line("c1", 2, "80", "04"), line("c2", 2, "50", "06"), line("d1", 3, "80"), line("e1", 4, "60"),
    ]  # fmt: skip
    fleet.ingest("2026-10-08", *usage)
    assert [(140, 40, 70), (140, 40, 70), (130, 30, 60), (80, 0, 0), (60, 40, 80)] == [*fleet.sums("iccid").values()]
    backs = [back("ra", "a1", 0), back("rb", "b2", 1), back("rc", "c1", 2, "04"), back("rd", "d1", 3)]
    tally = fleet.ingest("2026-10-08T01:00:00Z", *backs)
    assert (4, 4, {"EUR": "-280"}, 6, 4) == tuple(
        tally[name] for name in ("records", "rated", "charge", "rerated_records", "rerated_subjects")
    )
    assert [(60, 0, 0), (90, 0, 0), (50, 0, 0), (0, 0, 0), (60, 0, 0)] == [*fleet.sums("iccid").values()]
    adjusted = fleet.weir("sql", "select distinct because, cause from rated where kind = 'rerate'", "--csv")
    assert ["because,cause", "correction,ra and 3 more"] == adjusted.splitlines()


def test_usage_and_its_corrections_may_be_in_one_file(fleet: Fleet) -> None:
    """The corrections of a file are applied together at its end, wherever they stand in it."""
    fleet.apply(ACCOUNT + basic(("2026-01-01", "1")), "2026-10-01", [f"{CARDS[0]},acme,basic,"])
    tally = fleet.ingest(
        "2026-10-08", line("a1", 0, "80"), back("r", "a1", 0), line("a2", 0, "150"), instead("n", "a2", 0, "130")
    )
    assert (4, 4, {"EUR": "30"}) == tuple(tally[name] for name in ("records", "rated", "charge"))
    assert {"a1": (0, 0, 0), "a2": (0, 0, 0), "n": (130, 30, 30)} == fleet.sums("record_key")


@pytest.mark.parametrize("together", [False, True])
def test_a_record_is_corrected_again_and_again_by_its_own_key(fleet: Fleet, together: bool) -> None:
    """F6: a key names its newest replacement, in one file and over several."""
    fleet.apply(ACCOUNT + basic(("2026-01-01", "1")), "2026-10-01", [f"{CARDS[0]},acme,basic,"])
    fleet.ingest("2026-10-08", line("a1", 0, "150"))
    corrections = [instead("a1-v2", "a1", 0, "50"), instead("a1-v3", "a1", 0, "20"), back("a1-r", "a1", 0)]
    if together:
        assert 3 == fleet.ingest("2026-10-09", *corrections)["rated"]
    else:
        used = []
        for number, one in enumerate(corrections):
            assert 1 == fleet.ingest(f"2026-10-{9 + number:02}", one)["rated"]
            used.append(sum(units for units, _, _ in fleet.sums("record_key").values()))
        assert [50, 20, 0] == used
    assert [(0, 0, 0)] * 3 == [*fleet.sums("record_key").values()]
    assert {"unknown_key": 1} == fleet.ingest("2026-10-13", back("a1-r2", "a1", 0))["rejected"]


def test_a_version_in_the_past_rates_again_what_it_touches(fleet: Fleet) -> None:
    """P1, P10: a record is rated by the version in force at its time of use, whenever that version comes."""
    fleet.apply(ACCOUNT + basic(("2026-01-01", "1"), allowance=0), "2026-10-01", [f"{CARDS[0]},acme,basic,"])
    fleet.ingest("2026-10-06", line("a0", 0, "10", "01"), line("a1", 0, "10", "05"))
    second = basic(("2026-01-01", "1"), ("2026-10-02", "3"), allowance=0)
    applied = fleet.apply(second, "2026-10-07")
    assert (2, 1) == (applied["rerated_records"], applied["rerated_subjects"])
    fleet.ingest("2026-10-08", line("a2", 0, "10", "05"))
    assert {"a0": (10, 10, 10), "a1": (10, 10, 30), "a2": (10, 10, 30)} == fleet.sums("record_key")
    assert 0 == fleet.apply(second, "2026-10-09").get("rerated_records", 0)


def test_a_correction_of_a_closed_cycle_is_billed_in_the_open_one(fleet: Fleet) -> None:
    """T5: the adjustment names the cycle that it belongs to, which is rated again as a whole."""
    fleet.apply(ACCOUNT + basic(("2026-01-01", "1")), "2026-10-01", [f"{CARDS[0]},acme,basic,"])
    fleet.ingest("2026-10-08", line("a1", 0, "80"), line("a2", 0, "80"))
    fleet.ingest("2026-12-10", back("r", "a1", 0), force=True)
    names = "kind || ' ' || record_key || ' ' || cycle || ' ' || coalesce(adjusts_cycle, '')"
    assert {
        "rerate a2 2026-12 2026-10": (0, -60, -60),
        "reversal a1 2026-12 2026-10": (-80, 0, 0),
        "usage a1 2026-10 ": (80, 0, 0),
        "usage a2 2026-10 ": (80, 60, 60),
    } == fleet.sums(names)
    assert {"adjustments": 0, "records": 1} == {
        name: value
        for name, value in json.loads(fleet.weir("rerate", "--cycle", "2026-10", "--json")).items()
        if name in ("adjustments", "records")
    }


@pytest.fixture
def disordered(fleet: Fleet) -> Fleet:
    """A fleet whose records came out of order, on a price of which the tiers differ by zone."""
    cards = [f"{CARDS[0]},acme,shared,", f"{CARDS[1]},acme,versions,"]
    fleet.apply(SHARED, "2026-10-01", cards)
    fleet.ingest("2026-10-08", line("late", 0, "100", "07", "FR"), line("other", 1, "150", "06"))
    fleet.ingest("2026-10-09", line("early", 0, "100", "02", "DE"))
    return fleet


def test_rerate_shows_what_it_changes_and_changes_it_once(disordered: Fleet) -> None:
    """P10: the order of use decides; a dry run changes nothing; a second run gives nothing more."""
    arguments = ("rerate", "--cycle", "2026-10", "--because", "audit", "--json")
    before = disordered.sums("record_key")
    tried = json.loads(disordered.weir(*arguments, "--dry-run"))
    assert before == disordered.sums("record_key")
    done = json.loads(disordered.weir(*arguments))
    assert tried | {"dry_run": False} == done
    assert {"EUR": "100"} == done["difference"]
    assert [("sim", CARDS[0], "100", 2)] == [
        (row["subject_kind"], row["subject"], row["charge"], row["records"]) for row in done["largest"]
    ]
    assert {"early": (100, 0, 0), "late": (100, 100, 200), "other": (150, 50, 100)} == disordered.sums("record_key")
    assert 0 == json.loads(disordered.weir(*arguments))["adjustments"]
    explained = disordered.weir("explain", "late")
    assert "`weir rerate` was called (audit)" in " ".join(explained.split())
    assert "the record costs 200 EUR" in explained


@pytest.mark.parametrize(
    ("option", "records"),
    [
        (lambda _: ["--plan", "versions"], 1),
        (lambda _: ["--account", "acme"], 3),
        (lambda fleet: ["--iccid-file", fleet.write(f"{CARDS[0]}\n", ".txt")], 2),
    ],
)
def test_rerate_takes_what_is_chosen(disordered: Fleet, option: Callable[[Fleet], list[str]], records: int) -> None:
    """By plan, by account, by cards; and what shares a total with it."""
    found = json.loads(disordered.weir("rerate", "--cycle", "2026-10", "--json", *option(disordered)))
    assert records == found["records"]


def test_the_journal_alone_gives_the_same_rows(disordered: Fleet) -> None:
    """A replay needs no history: corrections and re-ratings bring the rows that they need."""
    disordered.ingest("2026-10-10", back("r", "late", 0), instead("n", "other", 1, "20"))
    disordered.weir("rerate", "--cycle", "2026-10")
    disordered.apply(basic(("2026-01-01", "1")), "2026-10-11")
    totals: dict[str, int] = {}
    with Embedded.open(disordered.folder / "data", write=False) as driver:
        engine = Engine(State())
        for _, entry in journal.read(driver.directory):
            for row in engine.step(entry).rated.to_pylist():
                totals[row["record_key"]] = totals.get(row["record_key"], 0) + row["charge_nanos"] // 10**9
        assert engine.state.counters.to_table() == driver.engine.state.counters.to_table()
    assert {key: charge for key, (_, _, charge) in disordered.sums("record_key").items()} == totals
