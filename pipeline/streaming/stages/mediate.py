"""Mediate: raw usage of one partition becomes entries of the journal, each where its account lives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pipeline.streaming.follower import Follower
from pipeline.streaming.headers import RawMessage
from pipeline.streaming.mediation import Lane, Mark, NotYet
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.stages.inbox import Delivery, Inbox, Publish

_INBOX_BYTES: Final = 8 << 20
_AT_ONCE_BYTES: Final = 2 << 20  # decoded together: more would only hold up what comes behind

SaveMarks = Callable[[int, tuple[Mark, ...]], Awaitable[None]]


class Mediate:
    """One partition of usage.raw. `save_marks` makes the marks of its lane durable."""

    def __init__(
        self, lane: Lane, follower: Follower, journal: str, publish: Publish, save_marks: SaveMarks, metrics: Metrics
    ) -> None:
        self.inbox = Inbox(_INBOX_BYTES)
        self._lane = lane
        self._follower = follower
        self._journal = journal
        self._publish = publish
        self._save_marks = save_marks
        self._metrics = metrics
        self._next_offset = 0

    async def run(self) -> None:
        """Mediate what comes into the inbox, for ever."""
        while True:
            batch = await self.inbox.take(_AT_ONCE_BYTES)
            fresh = [delivery for delivery in batch if delivery.offset >= self._next_offset]
            if fresh:
                await self._mediate(fresh)
                self._next_offset = fresh[-1].offset + 1
            for delivery in batch:
                delivery.ack()

    async def _mediate(self, batch: list[Delivery]) -> None:
        messages = [(one.offset, one.timestamp_us, RawMessage(one.value, tuple(one.headers))) for one in batch]
        while True:
            try:
                mediated = await asyncio.to_thread(self._lane.take, messages)
                break
            except NotYet as wait:
                await self._follower.reached(wait.offset)
        # All in flight before the first wait: the order within a partition of the journal is that of sending.
        sent = [await self._publish(self._journal, partition, content) for partition, content in mediated.journal]
        if mediated.marks:
            await self._save_marks(self._lane.partition, self._lane.marks)
        await asyncio.gather(*sent)
        self._metrics.mediated(self._lane.partition, mediated.records)
