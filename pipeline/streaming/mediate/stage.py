"""The mediate stage: turns raw usage of one partition into journal entries, each in the partition of its account."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.streaming.commands.follower import Follower
from pipeline.streaming.kafka import Log
from pipeline.streaming.mediate.partition import Mark, NotYet
from pipeline.streaming.mediate.process import Lanes
from pipeline.streaming.rate.recent import RecentRaw
from pipeline.streaming.raw.headers import RawMessage
from pipeline.streaming.stage.in_order import InOrder
from pipeline.streaming.stage.inbox import Delivery, Inbox, Publish
from pipeline.streaming.worker.metrics import Metrics

_INBOX_BYTES: Final = 8 << 20
_AT_ONCE_BYTES: Final = 2 << 20  # decoded together; larger batches would only delay the messages after them
_SAVE_EVERY_S: Final = 1.0
_IN_FLIGHT: Final = 2  # batches


class Progress(msgspec.Struct, frozen=True):
    """How far a partition of usage.raw has been mediated durably, and the marks of its lane."""

    next_offset: int = 0
    marks: tuple[Mark, ...] = ()


class _Sent(NamedTuple):
    """Raw messages whose entries have been sent to the journal but are not yet acknowledged."""

    batch: list[Delivery]
    sent: list[asyncio.Future[Any]]
    records: int
    progress: Progress
    marked: bool


Save = Callable[[Progress], Awaitable[None]]


class Mediate:
    """The stage of one partition of usage.raw.

    Starts from `progress`, or from the beginning of the partition if that is None. `save` makes progress durable.
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
    ) -> None:
        self.inbox = Inbox(_INBOX_BYTES)
        self.partition = partition
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
        self._source = InOrder(self.inbox, log, self._topic, partition, start)

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
        while True:
            try:
                mediated = await self._lanes.take(self.partition, self._marks, messages)
                break
            except NotYet as wait:
                await self._follower.reached(wait.offset)
        self._marks = (*self._marks, *mediated.marks)
        # Send in this order: it decides the order within a journal partition.
        sent = [await self._publish(self._journal, partition, content) for partition, content in mediated.journal]
        progress = Progress(batch[-1].offset + 1, self._marks)
        return _Sent(batch, sent, mediated.records, progress, bool(mediated.marks))

    async def _settle(self) -> None:
        """Acknowledge batches in order, once all their entries are in the journal."""
        while True:
            one = await self._sent.get()
            await asyncio.gather(*one.sent)
            self._metrics.mediated(self.partition, one.records)
            # Repeated messages are skipped by the fences, so progress may be saved rarely. A new mark must not be lost.
            if one.marked or time.monotonic() - self._saved_at > _SAVE_EVERY_S:
                await self._save(one.progress)
                self._saved_at = time.monotonic()
            for delivery in one.batch:
                delivery.ack()
