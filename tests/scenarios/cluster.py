"""Two workers on a real broker, and the driver of scenarios that speaks to them."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import subprocess
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import polars as pl
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.workers import start_worker
from pipeline.config import Config, load_config
from pipeline.feeds.source_file import Source
from pipeline.journal.entries import Apply, Commands, Entry, Tick
from pipeline.journal.messages import messages_of, read_message
from pipeline.store.directory import DataDirectory
from pipeline.streaming.kafka import Log, Publisher, client_settings, ensure_topics, publisher_of
from pipeline.streaming.land.folder import baseline, folder_of, landed_of, originals
from pipeline.streaming.rate import checkpoints as base
from pipeline.streaming.rate.fold import PartitionFold
from pipeline.streaming.raw.chunks import chunks_of
from pipeline.streaming.topics import Topics
from schemas.cards import Catalogue
from schemas.commands import Command
from schemas.tables import TABLES
from tests.scenarios.drivers import File, Found, rows_in, views_of
from tests.support.fold_case import Row, us
from tests.support.progress import Movement, ended, require_running

PARTITIONS: Final = 3
RAW_PARTITIONS: Final = 2
WORKERS: Final = 2


class Cluster:
    """Worker processes of one group, with topics of their own on a broker that runs."""

    def __init__(self, folder: Path, address: str, feeds: Sequence[Path] = (), base_records: int = 50) -> None:
        name = f"scenarios-{uuid.uuid4().hex[:8]}"
        self.folder = folder
        self.history = folder / "history"
        self._workers: list[subprocess.Popen[bytes]] = []
        toml = folder / "weir.toml"
        toml.write_text(
            f'[kafka]\nservers = "{address}"\nprefix = "{name}."\npartitions = {PARTITIONS}\n'
            f"raw_partitions = {RAW_PARTITIONS}\nsession_timeout_s = 10\n"
            f'[worker]\napp = "{name}"\nhistory = "{self.history}"\ntick_s = 0\nland_every_s = 0\n'
            f'base_records = {base_records}\nlog_level = "warning"\nfeeds = {[str(path) for path in feeds]}\n'
        )
        self.toml = toml
        self.config: Config = load_config(toml)

    def start(self) -> None:
        """Start the workers; they may not have joined yet on return."""
        for number in range(WORKERS):
            process, _ = start_worker(self.toml, self.folder / f"worker-{number}.log")
            self._workers.append(process)

    def stop(self) -> list[int]:
        """Stop the workers gracefully and return their exit statuses."""
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        statuses = [ended(worker, self.logs) for worker in self._workers]
        self._workers = []
        return statuses

    def kill(self) -> None:
        """End what runs, in any order."""
        for worker in self._workers:
            worker.kill()
            worker.wait()
        self._workers = []

    @property
    def logs(self) -> list[Path]:
        """What the workers write: a pattern of files."""
        return [self.folder / "worker-*.log"]

    def check(self, movement: Movement) -> None:
        """Raises Standstill if a worker has ended, or if nothing moves any more."""
        require_running(self._workers, movement)
        movement.check()


class OnKafka:
    """Scenarios on workers: what happens is sent to the topics, and waited for in them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._kafka = cluster.config.kafka
        self._topics = Topics(self._kafka.prefix)
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._publisher: Publisher
        self._consumer: Any
        self._parts: dict[tuple[int, int], int] = {}  # by raw partition and last offset: how many are in the journal
        self._replies: dict[int, Any] = {}
        self._commands = 0
        self._files = 0
        self._looks: list[dict[int, int]] = []
        self._log = Log(self._kafka)
        self._ends: dict[int, int] = {}
        self.bases: list[int] = []  # that states began with
        self.messages: list[tuple[bytes, dict[str, Any]]] = []  # of the topic of actions: key, message
        self.statuses: dict[bytes, dict[str, Any]] = {}
        self.refused: list[bytes] = []
        self.ended: list[int] = []

    @classmethod
    @contextmanager
    def at(cls, cluster: Cluster) -> Iterator[Self]:
        """On a cluster, which is started."""
        driver = cls(cluster)
        with driver._runner:
            try:
                driver._run(driver._open())
                yield driver
            finally:
                cluster.kill()
                driver._run(driver._stack.aclose())

    def apply(self, change: Catalogue, at: dt.datetime) -> None:
        """A catalogue."""
        self._say(Apply(change, us(at)), Tick(us(at)))

    def ingest(self, file: File, at: dt.datetime) -> None:
        """A feed file, to one partition of the raw topic after another."""
        chunks = [one for one, _ in chunks_of(file.path, file.mapping, Source.of(file.path), us(at), limit_bytes=2000)]
        self._send([(one.value, one.headers) for one in chunks], file.expected, at)

    def singles(self, file: File, lines: Sequence[bytes], header: bytes, at: dt.datetime) -> None:
        """Single records."""
        headers = (("feed", file.mapping.name.encode()), ("csv-header", header), ("as-of", str(us(at)).encode()))
        self._send([(line, headers) for line in lines], file.expected, at)

    def command(self, commands: tuple[Command, ...], at: dt.datetime) -> None:
        """Commands."""
        self._say(Commands(commands, us(at)), Tick(us(at)))

    def tick(self, at: dt.datetime) -> None:
        """The clock."""
        self._say(Tick(us(at)))

    def actions(self, wanted: Callable[[Row], bool], count: int) -> list[Row]:
        """The actions so far that are wanted, once there are so many."""

        def found() -> list[Row]:
            rows = [
                {"iccid": one["iccid"], "rule_id": one["rule"], "sequence": int(one["id"].split(".")[3])}
                | {"action_id": one["id"]}
                for _, one in self.messages
            ]
            return [row for row in rows if wanted(row)]

        self._run(self._until(lambda: len(found()) >= count, "actions"))
        return found()

    def finish(self) -> None:
        """Wait until everything has landed, and end the workers."""
        self._run(self._until(self._all_landed, "rows to land"))
        self.ended = self._cluster.stop()
        self._run(self._poll())

    def history(self) -> Found:
        """All rows by table."""
        parts = [DataDirectory.open(self._folder(partition), write=False) for partition in range(PARTITIONS)]
        return {name: pl.concat([rows_in(part, name) for part in parts]) for name in TABLES}

    def look(self) -> None:
        """Remember up to where the journal goes."""
        self._run(self._looked())

    @property
    def states(self) -> list[Found]:
        """The states looked at: of each partition its newest base before that, and the journal after it."""
        return [self._state(ends) for ends in self._looks]

    def _state(self, ends: dict[int, int]) -> Found:
        found = [views_of(self._run(self._restored(one, ends[one])).engine) for one in range(PARTITIONS)]
        return {name: pl.concat([one[name] for one in found]) for name in found[0]}

    def _folder(self, partition: int) -> Path:
        return folder_of(self._cluster.history, partition)

    def _say(self, *entries: Entry) -> None:
        self._run(self._said(entries))

    async def _said(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            for content in messages_of(entry):
                await self._publisher.acknowledged(await self._publisher.send(self._topics.commands, 0, content))
                self._commands += 1
        await self._until(lambda: len(self._replies) >= self._commands, "replies")
        refused = [one["message"] for one in self._replies.values() if not one["accepted"]]
        assert not refused, refused

    def _send(self, messages: Sequence[tuple[bytes, Any]], expected: int, at: dt.datetime) -> None:
        self._files += 1
        self._run(self._sent(self._files % RAW_PARTITIONS, messages, expected))
        self.tick(at)

    async def _sent(self, partition: int, messages: Sequence[tuple[bytes, Any]], expected: int) -> None:
        sent = [
            await self._publisher.send(self._topics.raw, partition, value, headers=held) for value, held in messages
        ]
        offsets = [await self._publisher.acknowledged(one) for one in sent]

        def arrived() -> bool:
            parts = [n for (raw, offset), n in self._parts.items() if raw == partition and offset >= offsets[0]]
            return sum(parts) >= expected

        await self._until(arrived, "usage in the journal")

    def _all_landed(self) -> bool:
        landing = self._landing()
        return len(landing) == PARTITIONS and all(
            landed_of(self._folder(partition)) + 1 >= self._ends.get(partition, 0) for partition in landing
        )

    async def _open(self) -> None:
        await ensure_topics(self._kafka)
        self._cluster.start()
        self._publisher = await self._stack.enter_async_context(publisher_of(self._kafka))
        self._consumer = AIOKafkaConsumer(**client_settings(self._kafka), enable_auto_commit=False)
        await self._consumer.start()
        self._stack.push_async_callback(self._consumer.stop)
        topics = self._topics
        wanted = [(topics.replies, 0)]
        for name in (topics.journal, topics.actions, topics.status, topics.rejected):
            wanted += [(name, partition) for partition in range(PARTITIONS)]
        self._consumer.assign([TopicPartition(*one) for one in wanted])
        for one in wanted:
            self._consumer.seek(TopicPartition(*one), 0)

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        movement = Movement(what, self._seen, self._cluster.logs)
        while not holds():
            self._cluster.check(movement)
            await self._poll()

    def _seen(self) -> dict[str, object]:
        """What has come so far."""
        landed = {partition: landed_of(self._folder(partition)) for partition in self._landing()}
        return {"replies": len(self._replies), "of commands": self._commands, "ends of the journal": dict(self._ends),
                "landed": landed, "actions": len(self.messages)}  # fmt: skip

    def _landing(self) -> list[int]:
        return [partition for partition in range(PARTITIONS) if self._folder(partition).exists()]

    async def _poll(self) -> None:
        for place, records in (await self._consumer.getmany(timeout_ms=100)).items():
            for record in records:
                self._take(place.topic, place.partition, record)

    def _take(self, topic: str, partition: int, record: Any) -> None:
        if topic == self._topics.journal:
            self._ends[partition] = record.offset + 1
            message = read_message(record.value, f"{topic}[{partition}]@{record.offset}")
            fence = message.fence
            if fence is not None and fence.topic == self._topics.raw:
                place = (fence.partition, fence.offset)
                self._parts[place] = self._parts.get(place, 0) + message.parts
        elif topic == self._topics.replies:
            reply = msgspec.json.decode(record.value)
            self._replies[reply["offset"]] = reply
        elif topic == self._topics.actions:
            self.messages.append((record.key, msgspec.json.decode(record.value)))
        elif topic == self._topics.status:
            self.statuses[record.key] = msgspec.json.decode(record.value)
        else:
            self.refused.append(record.value)

    async def _looked(self) -> None:
        self._looks.append(await self._log.ends(self._topics.journal, range(PARTITIONS)))

    async def _restored(self, partition: int, end: int) -> PartitionFold:
        """The state once the messages before `end` are folded."""
        changelog = f"{self._cluster.config.worker.app}-state-changelog"
        items: dict[bytes, bytes] = {}
        async for message in self._log.read(changelog, partition, 0, await self._log.end_offset(changelog, partition)):
            key = message.key or b""
            # Bases before the newest two have been removed since, with empty values.
            if message.value and int(key.split(b"/")[2 if b"/base/" in key else 3]) < end:
                items[key] = message.value
        restored = base.restore(partition, items)
        fold = PartitionFold(partition) if restored is None else restored.fold
        self.bases.append(fold.applied)
        topic, folder = self._topics.journal, self._folder(partition)
        async for message in self._log.read(topic, partition, fold.applied + 1, end):
            opened = fold.open(message.offset, message.value, f"{topic}[{partition}]@{message.offset}")
            assert opened is not None
            before, undone, held = fold.engine.state.offset, None, None
            if opened.corrections is not None:
                undone = originals(folder, partition, opened.corrections, before)
            elif opened.wants_baseline:
                held = baseline(folder, partition, fold.engine, opened.at_us, before)
            fold.step(opened, undone, held)
        return fold

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)
