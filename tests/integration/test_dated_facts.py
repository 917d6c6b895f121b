"""What a card was on a day decides who pays, which fee is due and how large an allowance is, whatever it is now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.weir_command import CommandLine

HEADER = "record_key,service,iccid,msisdn,imsi,quantity,used_at\n"
ONE, TWO, THREE, FOUR = (f"89490000000000000{number}" for number in ("018", "026", "034", "042"))
FEES = "select account_id, subject, plan_id, cycle, days, amount_nanos // 10000000 as cents from fees order by all"


@pytest.fixture
def weir(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line over an empty data directory."""
    return CommandLine(tmp_path, capsys, monkeypatch)


def usage(*records: tuple[str, str, int, str]) -> str:
    """A feed file of records: key, ICCID, bytes, time of use."""
    return HEADER + "".join(f"{key},data,{iccid},,,{size},{at}\n" for key, iccid, size, at in records)


def plan(name: str, allowance: int, fee: str = "31.00", more: str = "", rate: str = "", version: str = "") -> str:
    """A plan in euros with a monthly fee, an allowance of data and 1 EUR for each byte past it."""
    return f"""
[[plans]]
id = "{name}"
currency = "EUR"
{more}
[[plans.versions]]
version = 1
effective = 2026-01-01
fees = [{{ name = "base", amount = "{fee}" }}]
{version}
rates = [{{ service = "data", allowance = {allowance}, {rate} price = {{ model = "flat", price = "1" }} }}]
"""


def accounts(*names: str, zone: str = "UTC") -> str:
    """Accounts."""
    return "".join(f'[[accounts]]\nid = "{name}"\ntime_zone = "{zone}"\n' for name in names)


def test_a_cancelled_card_owes_its_fee_to_the_last_day(weir: CommandLine) -> None:
    """A status that comes later changes no fee of the days before it; the day of the change is the last that counts."""
    weir.write(
        catalogue_toml=accounts("acme") + plan("basic", 100),
        cards_csv=f"iccid,account,plan,status\n{ONE},acme,basic,\n{TWO},acme,basic,\n{THREE},acme,basic,\n",
        october_csv=f"iccid,account,status\n{TWO},acme,cancelled\n",
        november_csv=f"iccid,account,status\n{THREE},acme,deactivated\n",
        usage_csv=usage(("a", ONE, 1, "2026-10-07T00:00:00Z")),
        later_csv=usage(("b", ONE, 1, "2026-11-01T01:00:00Z")),
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-10-01")
    weir.ingest("usage.csv", "2026-10-08")
    weir.apply("october.csv", day="2026-10-11")
    weir.ingest("later.csv", "2026-11-01T12:00:00Z")
    october = [
        ("acme", ONE, "basic", "2026-10", 31, 3100),
        ("acme", TWO, "basic", "2026-10", 11, 1100),
        ("acme", THREE, "basic", "2026-10", 31, 3100),
    ]
    before = [row for row in weir.rows(FEES) if row[3] == "2026-10"]
    weir.apply("november.csv", day="2026-11-02")
    found = weir.rows(FEES)
    assert october == before == [row for row in found if row[3] == "2026-10"]
    november = [("acme", ONE, "basic", "2026-11", 30, 3100), ("acme", THREE, "basic", "2026-11", 2, 206)]
    assert november == [row for row in found if row[3] == "2026-11"]
    weir.run("report", "--cycle", "2026-10", "--format", "csv", "--out", str(weir.folder / "report"))
    assert "acme,basic,1,base,EUR,3,73" in (weir.folder / "report" / "usage-2026-10-fees.csv").read_text()


def test_a_command_that_says_when_it_happened_counts_from_that_day(weir: CommandLine) -> None:
    """A deactivation of the 21st that is heard of on the 25th ends the fee on the 21st."""
    weir.write(
        catalogue_toml=accounts("acme") + plan("basic", 100),
        cards_csv=f"iccid,account,plan\n{ONE},acme,basic\n",
        stop_ndjson=json.dumps(
            {"type": "status_changed", "iccid": ONE, "status": "deactivated", "at": "2026-11-21T05:00:00Z"}
        ),
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-11-01")
    weir.run("command", "stop.ndjson", "--as-of", "2026-11-25")
    assert [("acme", ONE, "basic", "2026-11", 21, 2170)] == weir.rows(FEES)


def test_a_card_that_moves_leaves_its_past_with_the_account_that_owned_it(weir: CommandLine) -> None:
    """Late usage, counters and fees of the days before a move are the former account's."""
    weir.write(
        catalogue_toml=accounts("old", "new") + plan("basic", 100),
        cards_csv=f"iccid,account,plan\n{ONE},old,basic\n{TWO},old,basic\n",
        move_csv=f"iccid,account\n{ONE},new\n{TWO},new\n",
        first_csv=usage(("a1", ONE, 80, "2026-10-05T00:00:00Z")),
        second_csv=usage(("a2", ONE, 50, "2026-10-11T00:00:00Z"), ("b1", TWO, 150, "2026-10-05T00:00:00Z")),
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-10-01")
    weir.ingest("first.csv", "2026-10-06")
    weir.apply("move.csv", day="2026-10-10")
    weir.ingest("second.csv", "2026-10-12")
    query = "select record_key, account_id, from_allowance, overage from rated order by record_key"
    assert [("a1", "old", 80, 0), ("a2", "new", 50, 0), ("b1", "old", 100, 50)] == weir.rows(query)
    assert [
        ("new", ONE, "basic", "2026-10", 22, 2200),
        ("new", TWO, "basic", "2026-10", 22, 2200),
        ("old", ONE, "basic", "2026-10", 9, 900),
        ("old", TWO, "basic", "2026-10", 9, 900),
    ] == weir.rows(FEES)
    counters = "select account_id, subject, billable, overage from counters order by all"
    assert [("new", ONE, 50, 0), ("old", ONE, 80, 0), ("old", TWO, 150, 50)] == weir.rows(counters)


def test_a_move_may_be_told_afterwards(weir: CommandLine) -> None:
    """`from` names the first day of the new account; a second list can correct the day."""
    weir.write(
        catalogue_toml=accounts("old", "new") + plan("basic", 100),
        cards_csv=f"iccid,account,plan\n{ONE},old,basic\n",
        move_csv=f"iccid,account,from\n{ONE},new,2026-10-11\n",
        earlier_csv=f"iccid,account,from\n{ONE},new,2026-10-02\n",
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-10-01")
    weir.apply("move.csv", day="2026-10-20")
    assert [("new", 21), ("old", 10)] == weir.rows("select account_id, days from fees order by all")
    weir.apply("earlier.csv", day="2026-10-21")
    assert [("new", 30), ("old", 1)] == weir.rows("select account_id, days from fees order by all")


def test_a_fee_in_full_is_owed_by_the_first_account_only(weir: CommandLine) -> None:
    """A fee that is not prorated does not come twice because the card changed hands."""
    full = plan("basic", 100).replace('"31.00" }', '"31.00", prorate = false }')
    weir.write(
        catalogue_toml=accounts("old", "new") + full,
        cards_csv=f"iccid,account,plan\n{ONE},old,basic\n",
        move_csv=f"iccid,account\n{ONE},new\n",
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-10-01")
    weir.apply("move.csv", day="2026-10-10")
    assert [("old", ONE, "basic", "2026-10", 31, 3100)] == weir.rows(FEES)


def test_a_number_names_the_card_that_had_it_then(weir: CommandLine) -> None:
    """A record of the 6th that names a number which changed cards on the 11th is the former card's."""
    weir.write(
        catalogue_toml=accounts("old", "new") + plan("basic", 0),
        cards_csv=f"iccid,account,plan,msisdn\n{ONE},old,basic,491700000001\n{TWO},new,basic,491700000002\n",
        numbers_csv=f"iccid,account,msisdn\n{ONE},old,491700000009\n{TWO},new,491700000001\n",
        usage_csv=HEADER
        + "k1,data,,491700000001,,5,2026-10-06T10:00:00Z\n"
        + "k2,data,,491700000001,,5,2026-10-11T10:00:00Z\n"
        + "k3,data,,491700000002,,5,2026-10-11T10:00:00Z\n"
        + "k4,data,,491700000002,,5,2026-10-10T10:00:00Z\n",
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-10-01")
    weir.apply("numbers.csv", day="2026-10-11")
    weir.ingest("usage.csv", "2026-10-12")
    query = "select record_key, iccid, account_id from rated order by record_key"
    assert [("k1", ONE, "old"), ("k2", TWO, "new"), ("k4", TWO, "new")] == weir.rows(query)
    assert [("k3", "unknown_card")] == weir.rows("select record_key, reason from rejected")


def test_a_change_of_plan_without_a_day_leaves_the_past_alone(weir: CommandLine) -> None:
    """It holds from the day on which it comes."""
    weir.write(
        catalogue_toml=accounts("acme") + plan("small", 100) + plan("large", 200, fee="62.00"),
        cards_csv=f"iccid,account,plan\n{ONE},acme,small\n",
        large_csv=f"iccid,account,plan\n{ONE},acme,large\n",
        usage_csv=usage(("a", ONE, 1, "2026-10-10T00:00:00Z"), ("b", ONE, 1, "2026-10-11T00:00:00Z")),
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-10-01")
    weir.apply("large.csv", day="2026-10-11")
    weir.ingest("usage.csv", "2026-10-12")
    assert [("a", "small"), ("b", "large")] == weir.rows("select record_key, plan_id from rated order by all")
    assert [("large", 21, 4200), ("small", 10, 1000)] == sorted(row[2:3] + row[4:] for row in weir.rows(FEES))


def test_allowances_follow_the_days_of_service(weir: CommandLine) -> None:
    """By days from activation, on a plan from a day on, over two plans, and to the end of a term."""
    by_day = "prorate_allowance = true,"
    weir.write(
        catalogue_toml=accounts("acme")
        + plan("p310", 310, rate=by_day)
        + plan("p620", 620, fee="62.00", rate=by_day)
        + plan("mid", 310, more="cycle = { anchor_day = 15 }", rate=by_day),
        cards_csv="iccid,account,plan,plan_from,activated_on,term_months\n"
        f"{ONE},acme,p310,,2026-10-14,\n{TWO},acme,p310,2026-10-14,,\n{THREE},acme,p310,,,\n"
        f"{FOUR},acme,mid,,2026-09-20,2\n",
        large_csv=f"iccid,account,plan,plan_from\n{THREE},acme,p620,2026-10-11\n",
        usage_csv=usage(*((iccid, iccid, 1000, "2026-10-31T00:00:00Z") for iccid in (ONE, TWO, THREE, FOUR))),
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-10-01")
    weir.apply("large.csv", day="2026-10-11")
    weir.ingest("usage.csv", "2026-10-31T12:00:00Z")
    sizes = weir.rows("select subject, allowance_size, overage from counters order by subject")
    assert [(ONE, 180, 820), (TWO, 180, 820), (THREE, 520, 480), (FOUR, 170, 830)] == sizes


@pytest.mark.parametrize(("setting", "rated", "rejected"), [("", [("a1", 0, 150)], []), ("reject", [], ["no_plan"])])
def test_after_the_term_there_is_no_allowance(
    weir: CommandLine, setting: str, rated: list[tuple[str, int, int]], rejected: list[str]
) -> None:
    """Usage after the term is rated without an allowance, or rejected if the plan says so."""
    more = "term_months = 2" + (f'\nafter_term = "{setting}"' if setting else "")
    weir.write(
        catalogue_toml=accounts("acme") + plan("year", 100, more=more),
        cards_csv=f"iccid,account,plan,activated_on\n{ONE},acme,year,2026-08-10\n",
        usage_csv=usage(("a1", ONE, 150, "2026-10-07T00:00:00Z")),
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-08-01")
    weir.ingest("usage.csv", "2026-10-08")
    assert rated == weir.rows("select record_key, from_allowance, overage from rated")
    assert rejected == [row[0] for row in weir.rows("select reason from rejected")]


def test_a_list_changes_only_the_columns_that_it_has(weir: CommandLine) -> None:
    """A column that is not there leaves the value; an empty cell of one that is there clears it."""
    pool = '[[pools]]\nid = "pool"\naccount = "acme"\nkind = "dynamic"\n'
    weir.write(
        catalogue_toml=accounts("acme") + plan("m", 100, more='type = "dynamic"') + pool,
        cards_csv="iccid,imsi,account,plan,pool,status,status_reason,activated_on,term_months,tags\n"
        f"{ONE},262011234567890,acme,m,pool,suspended,over_quota,2026-08-10,12,bow;deck\n",
        retag_csv=f"iccid,account,tags\n{ONE},acme,stern\n",
        noplan_csv=f"iccid,account,plan,pool\n{ONE},acme,,\n",
        usage_csv=HEADER + "k1,data,,,262011234567890,5,2026-10-05T00:00:00Z\n",
        later_csv=usage(("k2", ONE, 5, "2026-10-08T00:00:00Z")),
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-10-01")
    weir.apply("retag.csv", day="2026-10-02")
    query = "select imsi, plan_id, pool_id, status, status_reason, term_ends_on::varchar, tags from cards"
    kept = ("262011234567890", "m", "pool", "suspended", "over_quota", "2027-07-31", ["stern"])
    assert [kept] == weir.rows(query)
    weir.ingest("usage.csv", "2026-10-06")
    assert [("k1",)] == weir.rows("select record_key from rated")
    weir.apply("noplan.csv", day="2026-10-07")
    assert [(None, None)] == weir.rows("select plan_id, pool_id from cards")
    weir.ingest("later.csv", "2026-10-09")
    assert [("k2", "no_plan")] == weir.rows("select record_key, reason from rejected")
    assert [("m", 6)] == weir.rows("select plan_id, days from fees")


POOLS = (
    accounts("acme")
    + plan("m", 100, more='type = "dynamic"')
    + '[[pools]]\nid = "x"\naccount = "acme"\nkind = "dynamic"\n'
    + '[[pools]]\nid = "y"\naccount = "acme"\nkind = "dynamic"\n'
)


def test_days_of_plans_and_pools_need_their_plan_or_pool(weir: CommandLine) -> None:
    """`pool_until` alone ends the membership; a day without anything that begins on it is a finding."""
    weir.write(
        catalogue_toml=POOLS,
        cards_csv=f"iccid,account,plan,pool\n{ONE},acme,m,x\n{TWO},acme,m,\n",
        leave_csv=f"iccid,account,pool_until\n{ONE},acme,2026-10-09\n",
        from_csv=f"iccid,account,plan_from\n{TWO},acme,2026-10-09\n",
        join_csv=f"iccid,account,pool_from\n{TWO},acme,2026-10-09\n",
        never_csv=f"iccid,account,pool_until\n{TWO},acme,2026-10-09\n",
        moved_csv=f"iccid,account,pool\n{TWO},acme,y\n",
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-10-01")
    weir.apply("leave.csv", day="2026-10-02")
    for file, field in (("from.csv", "plan_from"), ("join.csv", "pool_from"), ("never.csv", "pool_until")):
        status, _, errors = weir.ended("apply", file, "--as-of", "2026-10-02")
        assert (2, True) == (status, f"{file}:2: {field}: found " in errors), errors
    weir.apply("moved.csv", day="2026-10-03")  # the plan is the one that the card has
    weir.run("tick", "--as-of", "2026-10-12")
    query = "select pool_id, members, size from pools order by pool_id"
    assert [("x", 0, 0), ("y", 1, 100)] == weir.rows(query)


def test_cards_of_a_cycle_without_counters_are_refused(weir: CommandLine) -> None:
    """A list of a cycle whose counters are gone would show no usage, so it is refused, with what shows it."""
    weir.write(
        catalogue_toml=accounts("acme") + plan("basic", 100),
        cards_csv=f"iccid,account,plan\n{ONE},acme,basic\n",
        october_csv=usage(("a1", ONE, 150, "2026-10-05T00:00:00Z")),
        november_csv=usage(("a2", ONE, 1, "2026-11-10T00:00:00Z")),
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-10-01")
    weir.ingest("october.csv", "2026-10-06")
    (row,) = json.loads(weir.run("cards", "--as-of", "2026-10-20", "--json"))["rows"]
    assert (150, "50") == (row["data_used_bytes"], row["charge"])
    weir.ingest("november.csv", "2026-11-11")
    status, _, errors = weir.ended("cards", "--as-of", "2026-10-20", "--over-quota")
    assert (2, True) == (status, "in cycle 2026-10, which takes no more usage" in errors), errors
    assert "150 bytes" in weir.run("card", ONE, "--as-of", "2026-10-20")


def test_pools_and_cards_are_those_of_the_day_that_is_asked(weir: CommandLine) -> None:
    """Members and sizes come from the facts of that day, whatever day it is for the state."""
    weir.write(
        catalogue_toml=POOLS.replace('"x"', '"joins"').replace('"y"', '"leaves"'),
        cards_csv="iccid,account,plan,pool,pool_from,pool_until\n"
        f"{ONE},acme,m,joins,,\n{TWO},acme,m,joins,2026-10-16,\n"
        f"{THREE},acme,m,leaves,,\n{FOUR},acme,m,leaves,,2026-10-10\n",
        stop_csv=f"iccid,account,status\n{FOUR},acme,cancelled\n",
        usage_csv=usage(("a1", ONE, 1, "2026-10-05T00:00:00Z")),
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-10-01")
    weir.ingest("usage.csv", "2026-10-06")
    shown = {
        day: [
            (one["pool_id"], one["members"], one["size"])
            for one in sorted(json.loads(weir.run("pools", "--as-of", day, "--json")), key=lambda one: one["pool_id"])
        ]
        for day in ("2026-10-06", "2026-10-20", "2026-11-01")
    }
    later = [("joins", 2, 200), ("leaves", 1, 100)]
    assert {"2026-10-06": [("joins", 1, 100), ("leaves", 2, 200)], "2026-10-20": later, "2026-11-01": later} == shown
    weir.apply("stop.csv", day="2026-10-12")
    for day, status in (("2026-10-11", "activated"), ("2026-10-12", "cancelled")):
        found = json.loads(weir.run("cards", "--as-of", day, "--status", status, "--json"))["rows"]
        assert [FOUR] == [row["iccid"] for row in found if row["iccid"] == FOUR]


def test_a_month_without_usage_has_a_report(weir: CommandLine) -> None:
    """Fees are due in it; a month that has not begun has none."""
    weir.write(
        catalogue_toml=accounts("acme") + plan("basic", 100),
        cards_csv=f"iccid,account,plan,activated_on\n{ONE},acme,basic,2026-01-01\n{TWO},acme,basic,2026-01-01\n",
        october_csv=usage(("a1", ONE, 1, "2026-10-20T11:00:00Z")),
    )
    weir.apply("catalogue.toml", "cards.csv", day="2026-09-01")
    weir.run("tick", "--as-of", "2026-10-01")
    report = ("report", "--format", "csv", "--out", str(weir.folder / "report"))
    for _ in range(2):
        weir.run(*report, "--cycle", "2026-09")
        assert "acme,basic,1,base,EUR,2,62" in (weir.folder / "report" / "usage-2026-09-fees.csv").read_text()
        weir.ingest("october.csv", "2026-10-20T12:00:00Z")
    status, _, errors = weir.ended(*report, "--cycle", "2026-12")
    assert (2, True) == (status, "no cycle '2026-12'" in errors), errors
