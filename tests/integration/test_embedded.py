"""The embedded driver over real directories: journal, checkpoints, resumption, refusal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.demo.generate import Generated, generate
from pipeline.catalogue import load_catalogue
from pipeline.embedded.driver import Embedded
from pipeline.feeds.mappings import load_mapping
from pipeline.journal import segments as journal
from rating.engine import Engine
from rating.errors import LockedError, RuleError, SourceError, StorageError, UsageError
from rating.state import State
from schemas.commands import Activate, Suspended
from tests.support.progress import completed
from tests.support.weir_command import WEIR

AS_OF_US = 1_793_534_400_000_000  # 2026-11-01T12:00:00Z


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """A made-up fleet of 300 cards and 6,000 records."""
    return generate(tmp_path_factory.mktemp("fleet"), 300, 6000, seed=7, bad_share="0.01")


def loaded(data: Path, fleet: Generated) -> None:
    """Make a data directory that holds the fleet's catalogue."""
    with Embedded.open(data, write=True) as driver:
        driver.apply(load_catalogue([fleet.catalogue, fleet.cards_file]))


def ingest(data: Path, fleet: Generated) -> dict[str, object]:
    """Ingest the fleet's usage; the tally for machines."""
    with Embedded.open(data, write=True) as driver:
        tally = driver.ingest(load_mapping("plain"), [fleet.usage], AS_OF_US, fixed_as_of=True).to_dict()
        driver.acknowledge()
        return tally


def rated_rows(data: Path) -> pl.DataFrame:
    """All landed rated rows in journal order."""
    with Embedded.open(data, write=False) as driver:
        files = [driver.directory.locate(entry) for entry in driver.directory.manifest.group("rated")]
    return pl.concat([pl.read_parquet(file, hive_partitioning=False) for file in files]).sort("journal_offset", "part")


def test_every_record_ends_as_the_generator_foretold(fleet: Generated, tmp_path: Path) -> None:
    """Rated, duplicate and rejected by reason are what was written into the file (F5)."""
    loaded(tmp_path, fleet)
    tally = ingest(tmp_path, fleet)
    assert tally["rated"] == fleet.rated
    assert tally["duplicate"] == fleet.duplicate
    assert tally["rejected"] == fleet.rejected
    assert tally["records"] == fleet.records
    assert len(rated_rows(tmp_path)) == fleet.rated


def test_the_same_file_again_is_all_duplicates_and_moves_nothing(fleet: Generated, tmp_path: Path) -> None:
    """F4: what was rated is a duplicate now; what was refused is refused again."""
    loaded(tmp_path, fleet)
    ingest(tmp_path, fleet)
    with Embedded.open(tmp_path, write=False) as driver:
        before = driver.engine.state.counters.to_table()
    again = ingest(tmp_path, fleet)
    with Embedded.open(tmp_path, write=False) as driver:
        assert driver.engine.state.counters.to_table().equals(before)
    assert again["rated"] == 0
    assert again["charge"] == {}
    assert len(rated_rows(tmp_path)) == fleet.rated


def test_a_tally_that_was_never_told_is_told_again(fleet: Generated, tmp_path: Path) -> None:
    """Dying between the last commit and the report costs nothing: the same ingest says the same and adds nothing."""
    loaded(tmp_path, fleet)
    with Embedded.open(tmp_path, write=True) as driver:
        told = driver.ingest(load_mapping("plain"), [fleet.usage], AS_OF_US, fixed_as_of=True).to_dict()
        checkpoint = driver.directory.manifest.checkpoint
    with Embedded.open(tmp_path, write=True) as driver:
        again = driver.ingest(load_mapping("plain"), [fleet.usage], AS_OF_US, fixed_as_of=True).to_dict()
        assert again == told
        assert driver.directory.manifest.checkpoint == checkpoint
        assert driver.facts.total.to_dict() == told


def test_the_journal_folded_anew_gives_the_state_and_the_rows(
    fleet: Generated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot changes cost, never meaning: without any, the journal gives the same counters and rated rows."""
    monkeypatch.setenv("WEIR_CHECKPOINT_RECORDS", "1000")
    loaded(tmp_path, fleet)
    ingest(tmp_path, fleet)
    engine = Engine(State())
    steps, ticks = [], []
    with Embedded.open(tmp_path, write=False) as driver:
        for offset, entry in journal.read(driver.directory):
            assert offset == engine.state.offset
            steps.append(engine.step(entry))
            if isinstance(entry, journal.Tick):
                ticks.append(entry.now_us)
        assert engine.state.counters.to_table().equals(driver.engine.state.counters.to_table())
        assert engine.state.offset == driver.engine.state.offset
        assert driver.directory.manifest.checkpoint > 4
    assert [AS_OF_US] == ticks  # the ingest ends with one, however many checkpoints it took
    folded = pl.from_arrow(pa.concat_tables([step.rated for step in steps]))
    assert isinstance(folded, pl.DataFrame)
    landed = rated_rows(tmp_path)
    text = [pl.col(pl.Categorical).cast(pl.String)]
    assert folded.with_columns(text).equals(landed.select(folded.columns).with_columns(text))


def test_checkpoints_at_other_places_give_the_same_rows(
    fleet: Generated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the stream is cut changes files, never rows."""
    for name, every in (("few", "100000"), ("many", "700")):
        monkeypatch.setenv("WEIR_CHECKPOINT_RECORDS", every)
        loaded(tmp_path / name, fleet)
        ingest(tmp_path / name, fleet)
    few, many = rated_rows(tmp_path / "few"), rated_rows(tmp_path / "many")
    assert few.equals(many)


def test_a_second_writer_is_refused_by_name(fleet: Generated, tmp_path: Path) -> None:
    """The refusal names the process that holds the directory, and readers are not refused."""
    loaded(tmp_path, fleet)
    with Embedded.open(tmp_path, write=True):
        with pytest.raises(LockedError, match=str(os.getpid())):
            Embedded.open(tmp_path, write=True)
        done = completed([WEIR, "--data", str(tmp_path), "ingest", "--feed", "plain", str(fleet.usage)])
        assert done.returncode == 3
        assert str(os.getpid()) in done.stderr
        Embedded.open(tmp_path, write=False).directory.close()


def test_a_full_disk_stops_with_nothing_half_done(fleet: Generated, tmp_path: Path) -> None:
    """Past the file size limit of the process the command ends with status 3; given again, it completes."""
    loaded(tmp_path, fleet)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"}
    words = [WEIR, "--data", str(tmp_path), "ingest", "--feed", "plain", str(fleet.usage), "--json"]
    words += ["--as-of", "2026-11-01T12:00:00Z"]
    limited = f"ulimit -f 64; exec {' '.join(words)}"  # 64 KiB, and SIGXFSZ is ignored by Python
    done = completed(["bash", "-c", limited])
    assert done.returncode == 3, done.stderr
    assert "ulimit" in done.stderr
    after = {path: path.read_bytes() for path in before}
    assert after == before
    again = completed(words)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["rated"] == fleet.rated


def test_an_unreadable_file_stops_with_nothing_half_done(fleet: Generated, tmp_path: Path) -> None:
    """A file that is not there is the world's failure, and nothing of the others is taken in."""
    loaded(tmp_path, fleet)
    with Embedded.open(tmp_path, write=True) as driver:
        checkpoint = driver.directory.manifest.checkpoint
        with pytest.raises(SourceError, match="missing"):
            driver.ingest(load_mapping("plain"), [fleet.usage, tmp_path / "missing.csv"], AS_OF_US, fixed_as_of=True)
    with Embedded.open(tmp_path, write=False) as driver:
        assert driver.directory.manifest.checkpoint == checkpoint


def test_ingest_without_a_catalogue_says_what_comes_first(fleet: Generated, tmp_path: Path) -> None:
    """Nothing could be rated, so nothing is taken in."""
    with Embedded.open(tmp_path, write=True) as driver, pytest.raises(UsageError, match="weir apply"):
        driver.ingest(load_mapping("plain"), [fleet.usage], AS_OF_US, fixed_as_of=True)


def test_a_damaged_state_is_refused(fleet: Generated, tmp_path: Path) -> None:
    """A state file that was cut short is a clear refusal, not a guess."""
    loaded(tmp_path, fleet)
    ingest(tmp_path, fleet)
    counters = next((tmp_path / "state").rglob("counters.arrow"))
    counters.write_bytes(counters.read_bytes()[:100])
    with pytest.raises(StorageError, match="backup"):
        Embedded.open(tmp_path, write=True)


def test_a_state_with_unknown_digests_is_refused(fleet: Generated, tmp_path: Path) -> None:
    """Sessions are found by digest: with those of another algorithm, usage would be charged twice."""
    loaded(tmp_path, fleet)
    ingest(tmp_path, fleet)
    facts = next((tmp_path / "state").rglob("facts.json"))
    facts.write_bytes(facts.read_bytes().replace(b"xxh3-128", b"blake3-x"))
    with pytest.raises(StorageError, match=r"found digests of the algorithm 'blake3-x'; .* knows xxh3-128"):
        Embedded.open(tmp_path, write=True)


CORRECTED = """record_key,iccid,service,volume_up_bytes,volume_down_bytes,used_at,plmn,record_type,corrects_key
undo-1,{iccid},data,0,0,2026-10-20T10:00:00Z,{plmn},reverse,{first}
swap-1,{iccid},data,0,1000,2026-10-20T10:00:00Z,{plmn},replace,{second}
undo-2,{iccid},data,0,0,2026-10-20T10:00:00Z,{plmn},reverse,{first}
"""


def test_corrections_are_adjustment_rows_beside_the_landed_ones(fleet: Generated, tmp_path: Path) -> None:
    """F6: a reversal and a replacement by key add rows; a second reversal of the same record is refused."""
    loaded(tmp_path, fleet)
    ingest(tmp_path, fleet)
    before = rated_rows(tmp_path)
    data = before.filter((pl.col("service") == "data") & (pl.col("subject_kind") == "sim"))
    first, second = data.row(0, named=True), data.row(1, named=True)
    file = tmp_path.parent / "corrections.csv"
    file.write_text(
        CORRECTED.format(
            iccid=second["iccid"], plmn=second["plmn"], first=first["record_key"], second=second["record_key"]
        )
    )
    with Embedded.open(tmp_path, write=True) as driver:
        tally = driver.ingest(load_mapping("plain"), [file], AS_OF_US, fixed_as_of=True).to_dict()
    assert (tally["rated"], tally["rejected"]) == (2, {"unknown_key": 1})
    after = rated_rows(tmp_path)
    assert after.head(len(before)).equals(before)
    added = after.tail(len(after) - len(before))
    assert added["kind"].cast(pl.String).to_list() == ["reversal", "reversal", "usage"]
    assert added["quantity_raw"].to_list() == [-first["quantity_raw"], -second["quantity_raw"], 1000]


def test_the_history_is_readable_in_place(fleet: Generated, tmp_path: Path) -> None:
    """The Parquet files are partitioned by cycle and day, each row in the partition of its own."""
    loaded(tmp_path, fleet)
    ingest(tmp_path, fleet)
    for file in (tmp_path / "history" / "rated").rglob("*.parquet"):
        table = pq.read_table(file, partitioning=None)
        day = file.parent.name.removeprefix("day=")
        cycle = file.parent.parent.name.removeprefix("cycle=")
        assert {str(one) for one in set(table["day"].to_pylist())} == {day}
        assert set(table["cycle"].to_pylist()) == {cycle}


RULES = """
[[rules]]
id = "much"
trigger = "data_usage_cycle"
threshold = ["1 MB", "20 MB"]
actions = [{ sequence = 1, type = "suspend", reason = "over_quota", until = "window_end" }]
[[rules]]
id = "burst"
trigger = "data_usage_24h"
threshold = "100 KB"
window = "rolling"
repetition = "daily"
actions = [{ sequence = 1, type = "notify", by = ["system"], text = "{iccid}" }]
[[rules]]
id = "silent"
trigger = "no_voice_24h"
actions = [{ sequence = 1, type = "add_tag", tag = "silent" }]
"""
OCTOBER_US = 1_790_812_800_000_000  # 2026-10-01T00:00:00Z
TABLES = ("rated", "firings", "actions", "results")


def landed(data: Path, name: str) -> list[dict[str, object]]:
    """All landed rows of a table in journal order."""
    with Embedded.open(data, write=False) as driver:
        files = [driver.directory.locate(entry) for entry in driver.directory.manifest.group(name)]
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def ruled(data: Path, fleet: Generated, folder: Path) -> None:
    """A directory with the fleet, its rules started, its usage, a result, and a tick after the cycle."""
    rules = folder / "rules.toml"
    rules.write_text(RULES)
    with Embedded.open(data, write=True) as driver:
        driver.apply(load_catalogue([fleet.catalogue, fleet.cards_file, rules]), OCTOBER_US)
        driver.command([Activate(rule="much"), Activate(rule="silent")], OCTOBER_US)
    ingest(data, fleet)
    with Embedded.open(data, write=True) as driver:
        driver.command([Activate(rule="burst")], AS_OF_US)
    fired = next(row for row in landed(data, "firings") if row["rule_id"] == "much")
    with Embedded.open(data, write=True) as driver:
        driver.command([Suspended(iccid=str(fired["iccid"]), reason="over_quota")], AS_OF_US + 1)
        driver.tick(AS_OF_US + 86_400_000_000)


def test_the_journal_folded_anew_fires_the_same(
    fleet: Generated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands, ticks and catalogues come back from the journal; state, firings, actions and results are the same."""
    monkeypatch.setenv("WEIR_CHECKPOINT_RECORDS", "1000")
    data = tmp_path / "data"
    ruled(data, fleet, tmp_path)
    engine = Engine(State())
    steps = []
    with Embedded.open(data, write=False) as driver:
        kinds = set()
        for offset, entry in journal.read(driver.directory):
            assert offset == engine.state.offset
            kinds.add(type(entry))
            steps.append(engine.step(entry))
        assert {journal.Apply, journal.Tick, journal.Commands, journal.Usage} == kinds
        engine.expire()
        mine, kept = engine.snapshot(), driver.engine.snapshot()
        assert mine[0] == kept[0]
        assert mine[1].keys() == kept[1].keys()
        for name, table in mine[1].items():
            assert table.equals(kept[1][name]), name
    for name in ("firings", "actions", "results"):
        assert landed(data, name) == [row for step in steps for row in getattr(step, name).to_pylist()], name
    assert {"much", "silent"} == {row["rule_id"] for row in landed(data, "firings")}
    assert 1 == len(landed(data, "results"))


def test_checkpoints_at_other_places_fire_the_same(
    fleet: Generated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the stream is cut changes neither a firing nor an action, nor what either is called."""
    rows = []
    for name, every in (("few", "100000"), ("many", "700")):
        monkeypatch.setenv("WEIR_CHECKPOINT_RECORDS", every)
        (tmp_path / name).mkdir()
        ruled(tmp_path / name / "data", fleet, tmp_path / name)
        rows.append({table: landed(tmp_path / name / "data", table) for table in TABLES[1:]})
    assert rows[0] == rows[1]


def test_a_rule_started_late_begins_with_the_history(fleet: Generated, tmp_path: Path) -> None:
    """A rule that starts after the usage has the totals of one that watched all along: it need only the next use."""
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    totals = []
    for name in ("early", "late"):
        data = tmp_path / name
        with Embedded.open(data, write=True) as driver:
            driver.apply(load_catalogue([fleet.catalogue, fleet.cards_file, rules]), OCTOBER_US)
            if name == "early":
                driver.command([Activate(rule="much"), Activate(rule="burst")], OCTOBER_US)
        ingest(data, fleet)
        with Embedded.open(data, write=True) as driver:
            if name == "late":
                driver.command([Activate(rule="much"), Activate(rule="burst")], AS_OF_US)
            driver.tick(AS_OF_US)  # what no window reaches any more is dropped
            tables = driver.engine.state.rules.tables()
            totals.append({at: sorted(map(str, tables[at].to_pylist())) for at in ("rule_totals", "rule_rolling")})
    assert totals[0] == totals[1]


def test_a_refused_command_changes_nothing(fleet: Generated, tmp_path: Path) -> None:
    """All commands or none: after a refusal the directory is as it was."""
    loaded(tmp_path, fleet)
    with Embedded.open(tmp_path, write=True) as driver:
        before = driver.directory.manifest.checkpoint
        with pytest.raises(RuleError, match="which is no rule"):
            driver.command([Activate(rule="none")], AS_OF_US)
        assert (before, 0) == (driver.directory.manifest.checkpoint, driver.command([], AS_OF_US).actions.num_rows)
        assert before == driver.directory.manifest.checkpoint
