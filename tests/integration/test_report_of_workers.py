"""What is asked of a history that workers landed, with its state from Kafka, is what one run over the entries says."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.demo.generate import generate
from pipeline.broker import free_port
from pipeline.catalogue import load_catalogue
from pipeline.config import Config, load_config
from pipeline.embedded.driver import Embedded
from pipeline.feeds.mappings import load_mapping
from pipeline.journal import segments as journal
from pipeline.journal.entries import Commands, Entry, Rejects, Tick
from pipeline.journal.messages import messages_of
from pipeline.journal.router import Router
from pipeline.store.directory import DataDirectory
from pipeline.streaming.kafka import ensure_topics, publisher_of
from pipeline.streaming.land.folder import PartitionLanding, baseline, folder_of
from pipeline.streaming.rate import checkpoints as base
from pipeline.streaming.rate.fold import PartitionFold
from pipeline.streaming.rate.restore import changelog_of
from pipeline.streaming.topics import Topics
from rating.errors import ConfigError, StorageError, WorldError
from schemas.commands import Activate
from tests.support.broker import SharedBroker, make_topic
from tests.support.landing_case import pieces, table_of
from tests.support.weir_command import printed

OCTOBER_US = 1_790_812_800_000_000  # 2026-10-01T00:00:00Z
NOVEMBER_US = 1_793_534_400_000_000  # 2026-11-01T12:00:00Z
PARTITIONS = 2
OF_THE_FOLD = ["conflict", "future", "no_plan", "no_rate", "unknown_card"]  # what it refuses by itself of that usage
PLACES = ("firing_id", "action_id", "latest")  # ids have places in a journal; firings of one moment its order
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
    """The same entries in a data directory, and in a history with its journal and bases in Kafka."""

    data: Path
    history: Path
    config: Path


def configuration(folder: Path, address: str, name: str) -> Path:
    """A configuration of workers."""
    folder.mkdir(exist_ok=True)
    path = folder / "weir.toml"
    path.write_text(
        f'[kafka]\nservers = "{address}"\nprefix = "{name}."\npartitions = {PARTITIONS}\n[worker]\napp = "{name}"\n'
    )
    return path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, kafka: SharedBroker) -> Both:
    """A month with pools, rules, one of which starts late, and refused records.

    Partition 0 has bases, of which the newest is of a message that has not landed; partition 1 has none.
    """
    folder = tmp_path_factory.mktemp("both")
    fleet = generate(folder / "fleet", 300, 6000, seed=7, bad_share="0.01", pools=3)
    (folder / "rules.toml").write_text(RULES)
    with Embedded.open(folder / "data", write=True) as driver:
        driver.apply(load_catalogue([fleet.catalogue, fleet.cards_file, folder / "rules.toml"]), OCTOBER_US)
        driver.command([Activate(rule="much")], OCTOBER_US)
        driver.ingest(load_mapping("plain"), [fleet.usage], NOVEMBER_US, fixed_as_of=True)
        driver.acknowledge()
        driver.command([Activate(rule="burst")], NOVEMBER_US)
        driver.tick(NOVEMBER_US + 1)
    name = f"t{uuid.uuid4().hex[:10]}"
    config = configuration(folder, kafka.address, name)
    asyncio.run(ensure_topics(load_config(config).kafka))
    make_topic(kafka.address, changelog_of(name), PARTITIONS)
    journals = entries_of(folder / "data")
    bases: list[tuple[bytes, bytes | None]] = []
    for partition, messages in enumerate(journals):
        bases += land(folder / "history", partition, messages)
    asyncio.run(publish(load_config(config), journals, bases))
    return Both(folder / "data", folder / "history", config)


def entries_of(data: Path) -> list[list[bytes]]:
    """The messages of each partition of the journal that has what a data directory has; rules get no baseline."""
    router, found = Router(PARTITIONS), [list[bytes]() for _ in range(PARTITIONS)]

    def say(partition: int, entry: Entry | Rejects) -> None:
        found[partition] += messages_of(entry)

    with DataDirectory.open(data, write=False) as directory:
        for _, whole in journal.read(directory):
            for entry in pieces(whole):
                for partition, own in enumerate(router.split(entry)):
                    if isinstance(own, Commands):
                        own = Commands(own.commands, own.at_us)
                    if own is not None:
                        say(partition, own)
        refused = table_of(directory, "rejected")
    folded = pc.is_in(refused["reason"].cast(pa.string()), pa.array(OF_THE_FOLD))
    refused = refused.filter(pc.invert(folded))
    for partition in range(PARTITIONS):
        rows = list(range(partition, refused.num_rows, PARTITIONS))
        say(partition, Rejects(refused.take(rows).combine_chunks()))
    return found


def land(history: Path, partition: int, messages: list[bytes]) -> list[tuple[bytes, bytes | None]]:
    """Fold and land messages; the bases of partition 0, after 3 messages and after one more than has landed."""
    fold, bases, former = PartitionFold(partition), list[tuple[bytes, bytes | None]](), None
    with PartitionLanding(folder_of(history, partition), partition, None) as landing:
        for offset, content in enumerate(messages):
            opened = fold.open(offset, content, "journal")
            assert opened is not None
            before = fold.engine.state.offset
            held = None
            if opened.wants_baseline:
                held = baseline(folder_of(history, partition), partition, fold.engine, opened.at_us, before)
            landing.land([fold.step(opened, None, held)])
            if partition == 0 and offset == 2:
                draft = base.draft(fold, None)
                bases += draft.messages()
                former = draft.kept
    if partition == 0:
        opened = fold.open(len(messages), later(), "journal")
        assert opened is not None
        fold.step(opened)
        bases += base.draft(fold, former).messages()
    return bases


def later() -> bytes:
    """A message that has not landed: the clock a month on, when the counters of October are held no more."""
    (content,) = messages_of(Tick(NOVEMBER_US + 40 * 86_400_000_000))
    return content


async def publish(config: Config, journals: list[list[bytes]], bases: list[tuple[bytes, bytes | None]]) -> None:
    """Send what workers would have sent, and one message more to each partition, which has not landed."""
    async with publisher_of(config.kafka) as publisher:
        topic = Topics(config.kafka.prefix).journal
        for partition, messages in enumerate(journals):
            for content in [*messages, later()]:
                await publisher.send(topic, partition, content)
        for key, value in bases:
            await publisher.send(changelog_of(config.worker.app), 0, value, key=key)


def document(data: Path, config: Path, *arguments: str) -> Any:
    """The JSON that a command prints; raises what it raises."""
    return json.loads(printed("--config", config, "--data", data, *arguments, "--json"))


def test_the_report_is_that_of_one_run(both: Both, tmp_path: Path) -> None:
    """Q4: every section of the report, row for row, with fees, pools and rules."""
    made = {}
    for data in (both.data, both.history):
        out = tmp_path / data.name
        words = ("report", "--cycle", "2026-10", "--format", "parquet", "--out", str(out))
        told = document(data, both.config, *words)
        files = {path.name: pl.read_parquet(path) for path in sorted(out.iterdir())}
        told.pop("files")
        made[data.name] = told, files
    ours, theirs = made.values()
    assert ours[1].keys() == theirs[1].keys()
    for name, frame in ours[1].items():
        assert frame.equals(theirs[1][name], null_equal=True), name
    assert ours[0] == theirs[0]
    assert all(ours[1][f"usage-2026-10-{name}.parquet"].height for name in ("sims", "pools", "accounts", "rejected"))


def test_lists_are_those_of_one_run(both: Both) -> None:
    """Q1, Q2, L6: cards, one card, pools, one pool, rules and one rule."""
    iccid = document(both.data, both.config, "cards", "--limit", "1")["rows"][0]["iccid"]
    pool = document(both.data, both.config, "pools", "--cycle", "2026-10")[0]["pool_id"]
    for arguments in (
        ("cards", "--limit", "1000"),
        ("cards", "--until-midnight", "--limit", "1000"),
        ("card", iccid),
        ("pools",),
        ("pools", "--cycle", "2026-10"),
        ("pool", pool),
        ("rules", "list"),
        ("rules", "show", "much"),
    ):
        ours, theirs = (document(data, both.config, *arguments) for data in (both.data, both.history))
        assert told(ours) == told(theirs), arguments
        assert ours


def told(found: Any) -> Any:
    """JSON without what follows from places of rows in a journal."""
    if isinstance(found, dict):
        return {name: told(value) for name, value in found.items() if name not in PLACES}
    return [told(one) for one in found] if isinstance(found, list) else found


def test_status_says_what_has_landed(both: Both) -> None:
    """Counts are those of one run; each partition says how far it has landed."""
    ours, theirs = (document(data, both.config, "status") for data in (both.data, both.history))
    assert list(theirs["journal_offsets"]) == ["0", "1"]
    for name in ("accounts", "cards", "pools", "open_cycles", "rated_rows", "charge", "rejected", "plans_in_use"):
        assert ours[name] == theirs[name], name


def test_what_prevents_it_is_told(both: Both, tmp_path: Path, kafka: SharedBroker) -> None:
    """A broker that is away, a journal that is not there, and one of another history: what was found, what to do."""
    away = configuration(tmp_path / "away", f"127.0.0.1:{free_port()}", "nobody")
    with pytest.raises(WorldError, match=r"history of streaming workers, whose state.*is in Kafka.*--config"):
        document(both.history, away, "cards")
    other = configuration(tmp_path / "other", kafka.address, f"t{uuid.uuid4().hex[:10]}")
    with pytest.raises(ConfigError, match=r"found no such topic.*name the Kafka of the workers"):
        document(both.history, other, "cards")
    asyncio.run(ensure_topics(load_config(other).kafka))
    with pytest.raises(StorageError, match=r"found 0 messages; expected more than the \d+ that .* has landed"):
        document(both.history, other, "cards")
