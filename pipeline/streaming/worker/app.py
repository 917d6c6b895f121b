"""A worker of the streaming driver: the Faust app, its tables and agents, and the stages of its partitions.

    worker = Worker(config); await worker.run(stop, begun)

Faust assigns partitions to workers. After each rebalance the worker stops the stages of revoked partitions. It starts
the stages of new partitions once Faust has read their changelogs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Mapping as Named
from pathlib import Path
from typing import Any, Final, TypeVar

import faust
import msgspec
from faust.types import TP

from pipeline.clickhouse import Sink, connect, migrate
from pipeline.config import Config, Kafka
from pipeline.feeds.mappings import load_mapping, ready_mappings
from pipeline.journal.entries import Tick
from pipeline.journal.messages import messages_of
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.commands.follower import Follower
from pipeline.streaming.commands.stage import Accept
from pipeline.streaming.kafka import (
    BROKERS_TIME,
    Log,
    Publisher,
    client_settings,
    ensure_topics,
    publisher_of,
    require_topics,
)
from pipeline.streaming.land.stage import Land, LandPace
from pipeline.streaming.mediate.process import Lanes
from pipeline.streaming.mediate.stage import Mediate, Progress
from pipeline.streaming.rate.recent import RecentPieces, RecentRaw
from pipeline.streaming.rate.send import Sender
from pipeline.streaming.rate.stage import Pace, Rate
from pipeline.streaming.raw.headers import Origins
from pipeline.streaming.stage.in_order import other_log
from pipeline.streaming.stage.position import StagePosition
from pipeline.streaming.topics import Topics, largest_message_bytes
from pipeline.streaming.worker.agents import Stages, define, ending, told
from pipeline.streaming.worker.changelogs import SegmentTable, TableOfBases, segment_table, send
from pipeline.streaming.worker.http import own_url, serving, waits
from pipeline.streaming.worker.metrics import Metrics
from pipeline.streaming.worker.threads import work_in_one_thread
from rating.errors import ConfigError, WorldError
from schemas.mapping import Mapping

T = TypeVar("T")

_BUFFERED_MESSAGES: Final = 64  # for each agent; a message may have a megabyte
_FINISH_S: Final = 30.0
_TURN_S: Final = 0.002
_WATCH_EVERY_S: Final = 1.0
_LOOK_EVERY_S: Final = 10.0  # at the topics themselves
_SHORT_TIMES: Final = 5  # a partition that ends too early so many times in a row is not the log that was read
_MOST_SKEW_US: Final = 3_600_000_000
_CLICKHOUSE_PATIENCE_S: Final = 2.0  # after this, landing continues without ClickHouse for a while

_log = logging.getLogger(__name__)


def faust_app(config: Config, folder: str) -> faust.App:
    """Create the Faust app from the configuration. `folder` is for Faust's own files."""
    kafka, worker = config.kafka, config.worker
    session_s = float(kafka.session_timeout_s)
    return faust.App(
        worker.app,
        broker=[f"kafka://{address}" for address in kafka.addresses],
        broker_credentials=_credentials(kafka),
        datadir=folder,
        autodiscover=False,
        web_enabled=False,
        canonical_url=own_url(worker),
        store="memory://",
        topic_replication_factor=kafka.replication,
        topic_partitions=kafka.partitions,
        table_standby_replicas=worker.standby,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=max(4 << 20, largest_message_bytes(kafka)),
        producer_max_request_size=largest_message_bytes(kafka),
        broker_session_timeout=session_s,
        broker_heartbeat_interval=max(0.3, session_s / 5),
        broker_commit_interval=1.0,
        broker_commit_every=None,
        stream_buffer_maxsize=_BUFFERED_MESSAGES,
        stream_wait_empty=False,
    )


def _credentials(kafka: Kafka) -> Any:
    settings = client_settings(kafka)
    context = settings.get("ssl_context")
    if kafka.sasl:
        return faust.SASLCredentials(
            username=settings["sasl_plain_username"],
            password=settings["sasl_plain_password"],
            ssl_context=context,
            mechanism=kafka.mechanism,
        )
    return None if context is None else faust.SSLCredentials(context=context)


class Worker:
    """One process of the worker group: its stages, and the answers to questions about them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.topics = Topics(config.kafka.prefix)
        self.metrics = Metrics()
        origins = Origins(config.worker.origins, config.kafka.raw)
        limit_bytes = config.kafka.worker_limit_bytes
        self._lanes = Lanes(self.topics.raw, config.kafka.partitions, _mappings(config), origins, limit_bytes)
        self.follower = Follower(config.kafka.partitions, self._lanes.know, limit_bytes)
        self.log = Log(config.kafka)
        self._raw = RecentRaw(self.log)
        self._recent = RecentPieces()
        self._folder = tempfile.TemporaryDirectory(prefix="weir-worker-")
        self.app = faust_app(config, self._folder.name)
        self.stages = Stages(self.app)
        self._states = segment_table(self.app, "state", config.kafka.partitions)
        self._mediated = segment_table(self.app, "mediated", config.kafka.raw)
        self._landed = segment_table(self.app, "landed", config.kafka.partitions)
        self._accepted = segment_table(self.app, "accepted", 1)
        self._wrong_clock: str | None = None
        self._told_waiting: set[tuple[str, int]] = set()
        self._publisher: Publisher | None = None
        self._begun = self._stopping = False
        self._commands_at_start = 0
        topics = self.topics
        agents = {"mediate": topics.raw, "accept": topics.commands, "rate": topics.journal, "land": topics.rated}
        self._topics = frozenset(agents.values())  # the topics that its stages read
        define(self.app, self.stages, agents)
        self.app.on_partitions_assigned.connect(self._on_assigned, weak=False)  # type: ignore[arg-type]  # Faust's is narrow
        self.app.on_rebalance_complete.connect(self._on_recovered, weak=False)

    async def run(self, stop: asyncio.Event, begun: Callable[[], None]) -> None:
        """Work until `stop` is set, then shut down gracefully.

        Calls `begun` once brokers, topics and port are available. Raises WorldError if the brokers are unreachable at
        the start or the port is in use, ConfigError if the topics do not match the configuration. Later failures end
        the process (pipeline.streaming.worker.agents).
        """
        # Work on columns is many short calls that release the interpreter lock and take it again.
        # With the default switch interval, each call would wait a long time for the lock.
        sys.setswitchinterval(_TURN_S)
        work_in_one_thread()
        made = await ensure_topics(self.config.kafka)
        if made:
            _log.info("created topics: %s", ", ".join(made))
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._lanes.close)
            await stack.enter_async_context(serving(self, self.config.worker))
            self._commands_at_start = await self.log.end_offset(self.topics.commands, 0)
            begun()
            self._publisher = await stack.enter_async_context(publisher_of(self.config.kafka))
            tasks = [
                asyncio.create_task(ending(self.follower.run(self.log.read(self.topics.commands, 0, 0)), "commands")),
                asyncio.create_task(ending(self._tick(), "the clock")),
                asyncio.create_task(ending(self._watch_ends(), "watching the ends of partitions")),
            ]
            try:
                await self.app.start()
                await stop.wait()
                self._stopping = True
                await self._finish()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self.stages.keep(())
                await self.app.stop()
                self._folder.cleanup()

    def rate(self, partition: int) -> Rate | None:
        """Return the rate stage of a partition, or None if this worker does not run it."""
        found = self.stages.get(TP(self.topics.journal, partition))
        return found if isinstance(found, Rate) else None

    @property
    def rates(self) -> list[Rate]:
        """The rate stages that run in this worker."""
        found = (self.rate(partition) for partition in range(self.config.kafka.partitions))
        return [one for one in found if one is not None]

    def owner_of(self, partition: int) -> str | None:
        """Return the URL of the worker that owns the partition, or None if it is unassigned."""
        changelog = self._states.changelog_topic.get_topic_name()
        for url, topics in self.app.router.tables_metadata().items():
            if partition in topics.get(changelog, ()):
                return str(url)
        return None

    @property
    def registry(self) -> Registry:
        """The command log, which maps cards and pools to partitions."""
        return self.follower.registry

    def waits_for(self) -> list[str]:
        """Return the reasons why the worker is not ready; empty if it is ready."""
        if self._stopping:
            return ["is stopping"]
        assigned = sorted(self.app.consumer.assignment()) if self._begun else ()
        stages = {f"{tp.topic}[{tp.partition}]": self.stages.get(tp) for tp in assigned if tp.topic in self._topics}
        found = waits(self._begun, self.app.rebalancing, stages, self.follower.next_offset, self._commands_at_start)
        return found if self._wrong_clock is None else [*found, self._wrong_clock]

    def measure(self) -> None:
        """Update the gauges that are only computed when metrics are scraped."""
        self.metrics.is_ready(not self.waits_for())
        self.metrics.stands_by(self._states.store.standing_by())
        for rate in self.rates:
            if rate.fold is not None:
                self.metrics.holds(rate.partition, *rate.fold.sizes)

    async def _on_assigned(self, _: Any, *assigned: Any, **__: Any) -> None:
        """Stop the stages of revoked partitions, so that they do not overlap for long with those of the next owner."""
        await self.stages.keep(*assigned)
        _log.info("assigned partitions: %s", told(tp for tps in assigned for tp in tps if tp.topic in self._topics))

    async def _on_recovered(self, *_: object, **__: object) -> None:
        """Start the stages of new partitions. Faust calls this once it has read their changelogs."""
        assigned = self.app.consumer.assignment()
        self._begun = True
        self.metrics.keep({tp.partition for tp in assigned if tp.topic in (self.topics.journal, self.topics.rated)})
        for tp in sorted(assigned):
            if tp not in self.stages and (stage := self._stage(tp)) is not None:
                self.stages.start(tp, stage)

    def _stage(self, tp: TP) -> Any:
        config, topics, partition = self.config, self.topics, tp.partition
        worker = config.worker
        history = Path(worker.history)
        if tp.topic == topics.raw:
            progress = self._saved(self._mediated, partition, Progress)
            save = functools.partial(self._save, self._mediated, partition)
            publish, metrics = self._publish, self.metrics
            follower = self.follower
            return Mediate(
                partition,
                self._lanes,
                follower,
                self.log,
                self._raw,
                publish,
                progress,
                save,
                metrics,
                skips_lost=worker.skip_lost_usage,
            )
        if tp.topic == topics.commands:
            position = self._saved(self._accepted, partition, StagePosition)
            keep = functools.partial(self._save, self._accepted, partition)
            return Accept(topics, config.kafka.raw, self.follower, self.log, self._publish, position, keep)
        if tp.topic == topics.journal:
            limit_bytes, publish, metrics = config.kafka.worker_limit_bytes, self._publish, self.metrics
            sender = Sender(partition, self.log, self._raw, self._recent, limit_bytes, publish, metrics)
            pace = Pace(worker.base_records, worker.base_every_s)
            bases = TableOfBases(self._states)
            return Rate(partition, sender, bases, self.log, topics, history, pace, self.metrics)
        if tp.topic == topics.rated:
            pace_of_landing = LandPace(worker.land_rows, worker.land_every_s)
            sink = functools.partial(_sink, config, history) if worker.clickhouse else None
            start, save = (
                self._saved(self._landed, partition, int),
                functools.partial(self._save, self._landed, partition),
            )
            rated, recent = topics.rated, self._recent
            return Land(partition, history, self.log, rated, start, recent, save, sink, pace_of_landing, self.metrics)
        return None

    def _saved(self, table: SegmentTable, partition: int, kind: type[T]) -> T | None:
        """Return the value that `_save` stored last for a partition, on any worker; None if there is none."""
        held = table.store.held.get(partition, {}).get(_key(partition))
        return None if held is None else msgspec.json.decode(held, type=kind)

    async def _save(self, table: SegmentTable, partition: int, what: object) -> None:
        """Make a small value of a partition durable."""
        content = msgspec.json.encode(what)
        await (await send(table, partition, _key(partition), content))
        table.store.held.setdefault(partition, {})[_key(partition)] = content

    async def _publish(
        self, topic: str, partition: int | None, value: bytes | None, key: bytes | None = None, headers: Any = ()
    ) -> asyncio.Future[Any]:
        assert self._publisher is not None
        return await self._publisher.send(topic, partition, value, key, headers)

    async def _tick(self) -> None:
        """Send a tick of the clock at the configured interval, if this worker owns the topic of commands."""
        every_s = self.config.worker.tick_s
        while every_s:
            await asyncio.sleep(every_s - time.time() % every_s)
            if TP(self.topics.commands, 0) not in self.stages:
                continue
            if self._wrong_clock is not None:
                self.metrics.refused_tick()
                continue
            now_us = time.time_ns() // 1000
            for content in messages_of(Tick(now_us)):
                sent = await (await self._publish(self.topics.commands, 0, content))
                self._wrong_clock = wrong_clock(now_us, sent.timestamp, sent.timestamp_type == BROKERS_TIME)
            if self._wrong_clock is not None:
                _log.error("%s; no more ticks are sent", self._wrong_clock)

    async def _watch_ends(self) -> None:
        """Tell each stage the current end of its partition, and update metrics of lags and waiting stages.

        Raises ConfigError if a partition is not the log any more that a stage has read, or if the topics have changed.
        """
        while True:
            with contextlib.suppress(WorldError):  # the broker is unreachable; try again later
                looked_s = time.monotonic()
                async with self.log.watching() as ends:
                    short: Counter[tuple[str, int]] = Counter()
                    while True:
                        running = {(tp.topic, tp.partition): stage for tp, stage in self.stages.items()}
                        before = {place: stage.next_offset for place, stage in running.items()}
                        found = await ends.of(running)
                        short = Counter({place: short[place] + 1 for place in found if found[place] < before[place]})
                        for place, times in short.items():
                            if times >= _SHORT_TIMES:  # right after an election a broker may not know the end yet
                                raise ConfigError(other_log(*place, found[place], before[place]))
                        self._tell_waiting(running)
                        for place, end in found.items():
                            await running[place].inbox.note_end(end)
                        self.metrics.lags({place: end - running[place].next_offset for place, end in found.items()})
                        if time.monotonic() - looked_s > _LOOK_EVERY_S:
                            await require_topics(self.config.kafka)
                            looked_s = time.monotonic()
                        await asyncio.sleep(_WATCH_EVERY_S)
            await asyncio.sleep(_WATCH_EVERY_S)

    def _tell_waiting(self, running: Named[tuple[str, int], Any]) -> None:
        """Update the metric of waiting stages, and log once of each that it has waited for long."""
        waiting = {place: stage.waiting for place, stage in running.items() if hasattr(stage, "waiting")}
        self.metrics.waits({place: one.seconds for place, one in waiting.items()})
        long = {place: one.problem for place, one in waiting.items() if one.problem is not None}
        for (topic, partition), problem in long.items():
            if (topic, partition) not in self._told_waiting:
                _log.warning("%s[%d]: %s", topic, partition, problem, extra={"partition": partition})
        self._told_waiting = set(long)

    async def _finish(self) -> None:
        """Write checkpoints and flush results on shutdown, so that the next owner replays little."""
        landing = {tp.partition for tp in self.stages if tp.topic == self.topics.rated}
        _log.info("stopping: writing checkpoints, landing rows")
        try:
            async with asyncio.timeout(_FINISH_S):
                await asyncio.gather(*(rate.finish(rate.partition in landing) for rate in self.rates))
        except TimeoutError:
            _log.warning(
                "stopping after %.0f s without all checkpoints and rows; the next owner replays more", _FINISH_S
            )


def wrong_clock(now_us: int, sent_ms: int, is_brokers_time: bool) -> str | None:
    """Return what is wrong with the clock of this machine, `now_us`, when the broker's time is `sent_ms`, or None.

    If the topic keeps the times of senders, nothing can be said.
    """
    skew_us = now_us - sent_ms * 1000
    if not is_brokers_time or abs(skew_us) <= _MOST_SKEW_US:
        return None
    way = "ahead of" if skew_us > 0 else "behind"
    return f"the clock of this machine is {abs(skew_us) // 60_000_000} minutes {way} the broker's: run NTP, start again"


def _key(partition: int) -> bytes:
    return b"%d" % partition


def _mappings(config: Config) -> dict[str, Mapping]:
    """Return all feed mappings by name: the built-in ones, and those of the configuration, which take precedence."""
    own = [load_mapping(path) for path in config.worker.feeds]
    return {mapping.name: mapping for mapping in [*ready_mappings(), *own]}


def _sink(config: Config, history: Path) -> Sink:
    """Connect to ClickHouse, migrate its tables to this version, and return a sink."""
    client = connect(config.clickhouse, history)
    migrate(client)
    return Sink(client, patience_s=_CLICKHOUSE_PATIENCE_S)
