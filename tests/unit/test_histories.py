"""A history of partitions is read as a data directory is, by queries and commands, as far as no state is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.demo.generate import generate
from jobs.show.sql import run_sql
from pipeline.catalogue import load_catalogue
from pipeline.embedded.driver import Embedded
from pipeline.feeds.mappings import load_mapping
from pipeline.journal.entries import Commands
from pipeline.streaming.land import folder as landing
from pipeline.streaming.land.folder import PartitionLanding, folder_of
from rating.errors import UsageError
from schemas.commands import Activate
from schemas.tables import TABLES
from schemas.usage import RecordType
from tests.support.fold_case import usage
from tests.support.landing_case import parts_of
from tests.support.weir_command import printed

OCTOBER_US = 1_790_812_800_000_000  # 2026-10-01T00:00:00Z
NOVEMBER_US = 1_793_534_400_000_000  # 2026-11-01T12:00:00Z
PLACES = {"journal_partition", "journal_offset", "firing_id", "action_id", "charge_id"}  # are those of each journal
PARTITIONS = 2
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
"""


@dataclass(frozen=True)
class Both:
    """The same entries in a data directory and in a history of partitions."""

    data: Path
    history: Path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A month with rules, one of which starts late, with refused records; landed by partition as it is folded.

    What a rule begins with comes from the landed rows in both.
    """
    folder = tmp_path_factory.mktemp("both")
    fleet = generate(folder / "fleet", 300, 6000, seed=7, bad_share="0.01")
    (folder / "rules.toml").write_text(RULES)
    with Embedded.open(folder / "data", write=True) as driver:
        driver.apply(load_catalogue([fleet.catalogue, fleet.cards_file, folder / "rules.toml"]), OCTOBER_US)
        driver.command([Activate(rule="much")], OCTOBER_US)
        driver.ingest(load_mapping("plain"), [fleet.usage], NOVEMBER_US, fixed_as_of=True)
        driver.acknowledge()
        driver.command([Activate(rule="burst")], NOVEMBER_US)
        driver.tick(NOVEMBER_US + 1)
    history = folder / "history"
    baselines = 0
    for parts, entries in parts_of(folder / "data", PARTITIONS):
        for part, entry in zip(parts, entries, strict=True):
            if isinstance(entry, Commands) and entry.baseline is not None and part.outputs:
                place = folder_of(history, part.partition)
                with PartitionLanding(place, part.partition, None) as landed:
                    landed.land(part.outputs)
                before = part.engine.state.offset
                found = landing.baseline(place, part.partition, part.engine, entry.at_us, before)
                assert found.equals(entry.baseline)
                baselines += found.height
    assert baselines
    for part in parts:
        with PartitionLanding(folder_of(history, part.partition), part.partition, None) as landed:
            landed.land(part.outputs)
    return Both(folder / "data", history)


def rows_of(data: Path, name: str) -> list[str]:
    """All rows of a table or view, without their places in a journal, in an order of their own."""
    found: list[dict[str, Any]] = run_sql(data, f"select * from {name}").to_pylist()
    return sorted(str({key: value for key, value in row.items() if key not in PLACES}) for row in found)


@pytest.mark.parametrize("name", [*TABLES, "daily", "cycles", "action_states"])
def test_partitions_are_read_as_one_history(both: Both, name: str) -> None:
    """Tables and views over two partitions have the rows of one run over the same entries (Q5)."""
    assert rows_of(both.data, name) == rows_of(both.history, name)
    if name not in ("gaps", "results"):
        assert rows_of(both.history, name)


def test_both_partitions_have_a_share(both: Both) -> None:
    """The comparison is of two partitions in truth."""
    found = run_sql(both.history, "select journal_partition, count(*) as rows from rated group by all order by all")
    assert [0, 1] == found["journal_partition"].to_pylist()


def test_originals_are_those_of_the_embedded_run(both: Both) -> None:
    """F6: the rows of a key below an offset are found, those at and after it are not, whatever has landed."""
    wanted = run_sql(both.history, "select record_key, journal_offset from rated where journal_partition = 1")
    at = wanted["journal_offset"].to_pylist()[40]
    key = wanted["record_key"].to_pylist()[40]
    rows = [
        {"record_key": f"c{place}", "record_type": RecordType.REVERSE, "corrects_key": one, "quantity": 0}
        for place, one in enumerate((key, None, "nobody's"))
    ]
    corrections, folder = usage(*rows, feed="plain"), folder_of(both.history, 1)
    with Embedded.open(both.data, write=False) as driver:
        engine, expected = driver.engine, driver.rated_rows().touched(driver.engine, corrections)
    assert 0 == landing.originals(folder, 1, engine, corrections, at).num_rows
    assert 0 == landing.originals(folder, 1, engine, corrections, 0).num_rows
    found = landing.originals(folder, 1, engine, corrections, at + 1)
    assert key in found["record_key"].to_pylist()
    assert at == max(found["journal_offset"].to_pylist())
    whole = landing.originals(folder, 1, engine, corrections, engine.state.offset // 2)
    kept = [name for name in whole.column_names if name not in PLACES]
    assert {*map(str, whole.select(kept).to_pylist())} <= {*map(str, expected.select(kept).to_pylist())}
    with pytest.raises(ValueError, match="wait for it"):
        landing.originals(folder, 1, engine, corrections, 10**9)


@pytest.mark.parametrize(
    "arguments",
    [
        ("sql", "select account_id, sum(charge)::varchar as cards from cycles group by all order by all"),
        ("rules", "firings", "--rule", "much", "--limit", "1000"),
        ("rules", "actions", "--state", "told", "--limit", "1000"),
        ("rejected", "list", "--limit", "1000"),
    ],
    ids=" ".join,
)
def test_commands_that_read_the_history(both: Both, arguments: tuple[str, ...]) -> None:
    """What analysts ask of a data directory they ask of a history of partitions (Q5, L10, L12)."""
    found = [json.loads(printed("--data", data, *arguments, "--json")) for data in (both.data, both.history)]
    rows = [one if isinstance(one, list) else one.pop("rows") for one in found]
    ours, theirs = (sorted(map(_told, one)) for one in rows)
    assert ours == theirs
    assert ours
    if isinstance(found[0], dict):
        assert found[0] == found[1]  # how many there are in all, and by reason


def _told(row: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in row.items() if name not in PLACES})


def test_rejected_records_are_exported(both: Both) -> None:
    """F5: the export has every refused record of all partitions."""
    found = [sorted(printed("--data", data, "rejected", "export").splitlines()) for data in (both.data, both.history)]
    assert found[0] == found[1]
    assert found[0]


@pytest.mark.parametrize(
    "arguments",
    [("explain", "key"), ("tick",), ("rules", "activate", "much"), ("sql", "select * from counters")],
    ids=" ".join,
)
def test_what_needs_the_state_says_so(both: Both, arguments: tuple[str, ...]) -> None:
    """Commands that write, or ask the state itself, say who has it and what works without; nothing is written."""
    before = sorted(both.history.iterdir())
    with pytest.raises(UsageError, match=r"history of streaming workers, which keep the state.*`weir sql`"):
        printed("--data", both.history, *arguments)
    assert before == sorted(both.history.iterdir())
