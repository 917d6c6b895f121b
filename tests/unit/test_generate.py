"""The generator writes a valid fleet, the same for the same seed, and counts what must come of it."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from jobs.demo.fleet import TENANTS
from jobs.demo.generate import BAD_REASONS, HEADER, Generated, generate
from pipeline.catalogue.load import load_catalogue
from rating.catalogue.check_digits import luhn_valid_column
from rating.errors import StorageError, UsageError

FILES = ("catalogue.toml", "cards.csv", "usage.csv")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """2,000 cards in 20 pools, 30,000 records."""
    return generate(tmp_path_factory.mktemp("made"), 2000, 30_000, seed=7, pools=20, bad_share="0.002")


def lines(made: Generated) -> list[bytes]:
    """The lines of usage without the header."""
    header, *rest = made.usage.read_bytes().splitlines()
    assert HEADER.encode() == header
    return rest


def test_same_seed_same_bytes(made: Generated, tmp_path: Path) -> None:
    """The same arguments write the same files, another seed other ones."""
    again = generate(tmp_path / "again", 2000, 30_000, seed=7, pools=20, bad_share="0.002")
    other = generate(tmp_path / "other", 2000, 30_000, seed=8, pools=20, bad_share="0.002")
    for name in FILES:
        assert (made.usage.parent / name).read_bytes() == (again.usage.parent / name).read_bytes()
    assert made.usage.read_bytes() != other.usage.read_bytes()


def test_counts_are_those_of_the_file(made: Generated) -> None:
    """Lines, repeats and lines to reject are as many as said, and every kind of bad line is there."""
    rows = lines(made)
    bad = sum(made.rejected.values())
    assert made.records == len(rows) == made.rated + made.duplicate + bad
    assert made.duplicate == 300
    assert bad == 60
    assert len(rows) - len(set(rows)) == made.duplicate
    assert set(BAD_REASONS) == set(made.rejected)


def test_keys_are_unique_but_for_repeats_and_conflicts(made: Generated) -> None:
    """Each key that comes twice belongs to a repeated line or to a line in conflict with an earlier one."""
    keys = [line.split(b",")[0] for line in set(lines(made))]
    assert made.rejected["conflict"] == len(keys) - len(set(keys))


def test_repeats_are_near_and_far(made: Generated) -> None:
    """Some lines come again soon after, others many thousand lines later."""
    first: dict[bytes, int] = {}
    distances = []
    for number, line in enumerate(lines(made)):
        if line in first:
            distances.append(number - first[line])
        first.setdefault(line, number)
    assert made.duplicate == len(distances)
    assert min(distances) < 100
    assert max(distances) > 10_000


def test_catalogue_follows_the_documents(made: Generated) -> None:
    """The catalogue is one that `weir apply` takes, with every card on a plan and in a pool that fit."""
    fleet = load_catalogue([made.catalogue, made.cards_file])
    cards = pl.read_csv(made.cards_file, infer_schema=False)
    plans = {plan.id: plan for plan in fleet.plans}
    pools = {pool.id: pool for pool in fleet.pools}
    assert made.pools == len(pools) == 20
    assert {"dynamic", "static", "same_tier"} == {pool.kind for pool in fleet.pools}
    assert {tenant.name for tenant in TENANTS} == {account.id for account in fleet.accounts}
    assert (
        len(cards) == made.cards == cards["iccid"].n_unique() == cards["imsi"].n_unique() == cards["msisdn"].n_unique()
    )
    assert luhn_valid_column(cards["iccid"]).all()
    assert {19, 20} == set(cards["iccid"].str.len_bytes())
    for account, plan, pool in cards[:-1].select("account", "plan", "pool").unique().iter_rows():
        assert plan in plans
        if pool is None:
            assert "single" == plans[plan].type
        else:
            assert (account, pools[pool].kind) == (pools[pool].account, plans[plan].type)
    assert (None, "inventory") == cards.select("plan", "status").row(-1)


@pytest.mark.parametrize("month", ["2026-10", "2026-12", "2027-03"])
def test_usage_lies_in_the_month_of_its_account(tmp_path: Path, month: str) -> None:
    """Every record is dated in the month, in UTC and in the zone of its account, and after its card became active."""
    made = generate(tmp_path, 500, 5000, seed=3, month=month, bad_share="0")
    zones = {tenant.name: tenant.time_zone for tenant in TENANTS}
    usage = pl.read_csv(made.usage, schema_overrides={"iccid": pl.String, "plmn": pl.String, "used_at": pl.String})
    usage = usage.join(pl.read_csv(made.cards_file, infer_schema=False), on="iccid", how="left", maintain_order="left")
    assert usage["account"].null_count() == 0
    for used_at, account, active in usage.select("used_at", "account", "activated_on").iter_rows():
        at = dt.datetime.fromisoformat(used_at)
        local = at.astimezone(ZoneInfo(zones[account]))
        assert month == f"{at:%Y-%m}" == f"{local:%Y-%m}"
        assert f"{local:%Y-%m-%d}" >= active


def test_usage_arrives_roughly_in_order(made: Generated) -> None:
    """Times rise over the file, with some records a little late."""
    times = [
        line.split(b",")[7] for line in lines(made) if line.count(b",") == 8 and line.split(b",")[7] < b"2026-10-32"
    ]
    falls = sum(a > b for a, b in pairwise(times))
    assert 0 < falls < len(times)
    assert sorted(times)[len(times) // 4] < times[len(times) // 2] < sorted(times)[3 * len(times) // 4]


def test_no_pools(tmp_path: Path) -> None:
    """A fleet without pools has no card on a plan that pools."""
    made = generate(tmp_path, 50, 100, seed=1, pools=0)
    cards = pl.read_csv(made.cards_file, infer_schema=False)
    assert {"fleet-single", "zoned-single", "tracker-device", None} == set(cards["plan"])
    assert 0 == made.pools


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cards": 9}, "--cards: found 9"),
        ({"records": 0}, "--records: found 0"),
        ({"pools": 26}, "--pools: found 26"),
        ({"month": "2026-13"}, "--month: found '2026-13'"),
        ({"duplicates_share": "many"}, "--duplicates: found 'many'"),
        ({"bad_share": "0.6"}, "--bad: found 0.6"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, changed: dict[str, int | str], message: str) -> None:
    """An argument that makes no fleet is refused with what was found, and nothing is written."""
    arguments = {"cards": 50, "records": 100, "seed": 1, **changed}
    with pytest.raises(UsageError, match=message):
        generate(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Where a file stands in the way, the message names the folder."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="out"):
        generate(tmp_path / "out", 50, 100, seed=1)
