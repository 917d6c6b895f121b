"""The mediate stage: turns raw usage of one partition into journal entries, each in the partition of its account."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.streaming.commands.follower import Follower
from pipeline.streaming.kafka import Log
from pipeline.streaming.mediate.partition import Mark, Mediated, NotYet, Unmediated
from pipeline.streaming.mediate.process import Lanes
from pipeline.streaming.rate.recent import RecentRaw
from pipeline.streaming.raw.headers import RawMessage
from pipeline.streaming.stage.in_order import InOrder
from pipeline.streaming.stage.inbox import Delivery, Inbox, Publish
from pipeline.streaming.stage.position import digest_of, same_as
from pipeline.streaming.stage.waiting import Waiting
from pipeline.streaming.worker.metrics import Metrics

_INBOX_BYTES: Final = 8 << 20
_AT_ONCE_BYTES: Final = 2 << 20  # decoded together; larger batches would only delay the messages after them
_SAVE_EVERY_S: Final = 1.0
_IN_FLIGHT: Final = 2  # batches

_log = logging.getLogger(__name__)


class Progress(msgspec.Struct, frozen=True):
    """How far a partition of usage.raw has been mediated durably, and the marks of its lane.

    `digest` is that of the last mediated message (pipeline.streaming.stage.position); empty if it is not known.
    """

    next_offset: int = 0
    marks: tuple[Mark, ...] = ()
    digest: str = ""


class _Sent(NamedTuple):
    """Raw messages whose entries have been sent to the journal but are not yet acknowledged."""

    batch: list[Delivery]
    sent: list[asyncio.Future[Any]]
    mediated: Mediated
    progress: Progress


Save = Callable[[Progress], Awaitable[None]]


class Mediate:
    """The stage of one partition of usage.raw.

    Starts from `progress`, or from the beginning of the partition if that is None. `save` makes progress durable.
    With `skips_lost`, messages that the topic dropped before they were mediated are skipped, counted and named in the
    log; without it they end the stage.
    """

    def __init__(
        self,
        partition: int,
        lanes: Lanes,
        follower: Follower,
        log: Log,
        raw: RecentRaw,
        publish: Publish,
        progress: Progress | None,
        save: Save,
        metrics: Metrics,
        *,
        skips_lost: bool = False,
    ) -> None:
        self.inbox = Inbox(_INBOX_BYTES)
        self.partition = partition
        self.waiting = Waiting()
        self._log = log
        self._topic, self._journal = log.topics.raw, log.topics.journal
        self._lanes = lanes
        self._marks = () if progress is None else progress.marks
        self._follower = follower
        self._publish = publish
        self._raw = raw
        self._save = save
        self._metrics = metrics
        self._saved_at = time.monotonic()
        self._sent: asyncio.Queue[_Sent] = asyncio.Queue(_IN_FLIGHT)
        start = None if progress is None else progress.next_offset
        is_last = None if progress is None else same_as(progress.digest)
        skip = self._note_lost if skips_lost else None
        self._source = InOrder(self.inbox, log, self._topic, partition, start, is_last, skip)

    @property
    def next_offset(self) -> int:
        """The offset of the first message that the stage has not taken."""
        return self._source.next_offset

    async def run(self) -> None:
        """Mediate the messages of the inbox until cancelled.

        The next batch is mediated while earlier ones wait for the broker.
        """
        await self._source.begin()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._settle())
            while True:
                batch = await self._source.take(_AT_ONCE_BYTES)
                await self._sent.put(await self._mediate(batch))

    async def _mediate(self, batch: list[Delivery]) -> _Sent:
        messages = [(one.offset, one.timestamp_us, RawMessage(one.value, tuple(one.headers))) for one in batch]
        for offset, _, message in messages:
            self._raw.note(self._topic, self.partition, offset, message)
        # Times are compared with the clock of this machine only if the sender chose them.
        now_us = None if all(one.is_brokers_time for one in batch) else time.time_ns() // 1000
        commands_end: int | None = None
        while True:
            try:
                mediated = await self._lanes.take(
                    self.partition, self._marks, messages, now_us=now_us, commands_end=commands_end
                )
                break
            except NotYet as wait:
                # The marker is there, so its catalogue is too, unless the marker is false.
                commands_end = await self._log.end_offset(self._log.topics.commands, 0)
                if wait.offset < commands_end:
                    with self.waiting.for_what(f"waits for offset {wait.offset} of {self._log.topics.commands}"):
                        await self._follower.reached(wait.offset)
        self._marks = (*self._marks, *mediated.marks)
        # Send in this order: it decides the order within a journal partition.
        sent = [await self._publish(self._journal, partition, content) for partition, content in mediated.journal]
        sent += [await self._quarantined(one) for one in mediated.unmediated]
        return _Sent(batch, sent, mediated, Progress(batch[-1].offset + 1, self._marks, digest_of(batch[-1])))

    async def _quarantined(self, one: Unmediated) -> asyncio.Future[Any]:
        """Send the place of a message that left nothing in the journal to the topic quarantine."""
        place = f"{self._topic}[{self.partition}]@{one.raw_offset}"
        _log.error("%s: skipped, its place is in %s: %s", place, self._log.topics.quarantine, one.why)
        document = {"topic": self._topic, "partition": self.partition, "offset": one.raw_offset, "why": one.why}
        return await self._publish(self._log.topics.quarantine, 0, msgspec.json.encode({"version": 1} | document))

    def _note_lost(self, first: int, stop: int) -> None:
        _log.error(
            "%s[%d]: skips offsets %d to %d, which the topic dropped before they were mediated: their usage is lost",
            self._topic,
            self.partition,
            first,
            stop - 1,
            extra={"partition": self.partition, "messages": stop - first},
        )
        self._metrics.lost(self.partition, stop - first)

    async def _settle(self) -> None:
        """Acknowledge batches in order, once all their entries are in the journal."""
        while True:
            one = await self._sent.get()
            await asyncio.gather(*one.sent)
            self._metrics.mediated(self.partition, one.mediated)
            # Repeated messages are skipped by the fences, so progress may be saved rarely. A new mark must not be lost.
            if one.mediated.marks or time.monotonic() - self._saved_at > _SAVE_EVERY_S:
                await self._save(one.progress)
                self._saved_at = time.monotonic()
            for delivery in one.batch:
                delivery.ack()
