"""The accept stage: checks commands, catalogues and ticks in topic order and writes them to the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from pipeline.journal.entries import Apply
from pipeline.journal.messages import read_message
from pipeline.streaming.commands.follower import Follower
from pipeline.streaming.commands.sending import Reply
from pipeline.streaming.kafka import Log
from pipeline.streaming.raw.headers import marker
from pipeline.streaming.stage.in_order import InOrder
from pipeline.streaming.stage.inbox import Delivery, Inbox, Publish
from pipeline.streaming.stage.position import StagePosition, digest_of, same_as
from pipeline.streaming.stage.waiting import Waiting
from pipeline.streaming.topics import Topics

_INBOX_BYTES: Final = 16 << 20


class Accept:
    """The stage of the topic of commands, which has one partition.

    Resumes at `position`, or at the beginning if that is None; `save` makes a position durable. Replies are no
    position: others may write to their topic.
    """

    def __init__(
        self,
        topics: Topics,
        raw_partitions: int,
        follower: Follower,
        log: Log,
        publish: Publish,
        position: StagePosition | None,
        save: Callable[[StagePosition], Awaitable[None]],
    ) -> None:
        self.inbox = Inbox(_INBOX_BYTES)
        self.waiting = Waiting()
        self._save = save
        self._topics = topics
        self._raw_partitions = raw_partitions
        self._follower = follower
        self._publish = publish
        start = StagePosition() if position is None else position
        self._source = InOrder(self.inbox, log, topics.commands, 0, start.next_offset, same_as(start.digest))

    @property
    def next_offset(self) -> int:
        """The offset of the first message that the stage has not taken."""
        return self._source.next_offset

    async def run(self) -> None:
        """Handle the messages of the inbox until cancelled."""
        await self._source.begin()
        while True:
            for delivery in await self._source.take(_INBOX_BYTES):
                await self._accept(delivery)
                delivery.ack()

    async def _accept(self, delivery: Delivery) -> None:
        with self.waiting.for_what(f"waits until offset {delivery.offset} is folded"):
            await self._follower.reached(delivery.offset)
        refused = self._follower.refusal(delivery.offset)
        if refused is None:
            brings_cards, parts = await asyncio.to_thread(self._parts, delivery)
            await self._send(
                [
                    (self._topics.journal, partition, content, ())
                    for partition, contents in enumerate(parts)
                    for content in contents
                ]
            )
            if brings_cards:
                # Usage after the marker is routed with the cards of this catalogue. The catalogue is durable in every
                # journal partition by now, so that usage follows it there.
                raw = marker(delivery.offset)
                await self._send([(self._topics.raw, at, raw.value, raw.headers) for at in range(self._raw_partitions)])
        reply = msgspec.json.encode(Reply(delivery.offset, refused is None, refused or ""))
        await self._send([(self._topics.replies, 0, reply, ())])
        await self._save(StagePosition(delivery.offset + 1, digest_of(delivery)))

    def _parts(self, delivery: Delivery) -> tuple[bool, list[list[bytes]]]:
        """Return whether an accepted message is a catalogue, and its messages for each journal partition."""
        topic, offset = self._topics.commands, delivery.offset
        entry = read_message(delivery.value, f"{topic}[0]@{offset}").entry()
        return isinstance(entry, Apply), self._follower.registry.parts(entry, offset, offset, topic)

    async def _send(self, messages: list[tuple[str, int, bytes, tuple[tuple[str, bytes], ...]]]) -> None:
        sent = [
            await self._publish(topic, partition, value, headers=headers)
            for topic, partition, value, headers in messages
        ]
        await asyncio.gather(*sent)
