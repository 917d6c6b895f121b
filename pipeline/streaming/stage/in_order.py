"""Delivers the messages of a partition in order and without gaps, starting where the stage stopped.

A stage resumes from the position that it made durable itself, never from the offset that the consumer group committed.
The committed offset is not safe: after a rebalance Faust can deliver a message before its predecessors, treat skipped
messages as processed, and never deliver messages that it dropped. So InOrder reads missing messages from the log, and
acknowledges and drops messages that it delivered before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from pipeline.streaming.kafka import Log, LogMessage
from pipeline.streaming.stage.inbox import Delivery, Inbox


class InOrder:
    """The messages of an inbox, with gaps filled from the log. Call `begin` once, then `take` repeatedly.

    `next_offset` is the offset to resume from, or None to start at the beginning of the partition.
    """

    def __init__(self, inbox: Inbox, log: Log, topic: str, partition: int, next_offset: int | None) -> None:
        self.next_offset = next_offset or 0
        self._from_begin = next_offset is None
        self._inbox = inbox
        self._log = log
        self._topic = topic
        self._partition = partition
        self._until = 0  # messages below this offset are read from the log
        self._reader: AsyncGenerator[LogMessage, None] | None = None
        self._held: list[Delivery] = []

    async def begin(self) -> None:
        """Find the current first and last offset of the partition. Raises WorldError if the broker is unreachable."""
        if self._from_begin:
            self.next_offset, _ = await self._log.begin_since(self._topic, self._partition, 0)
        self._until = await self._log.end_offset(self._topic, self._partition)

    @property
    def is_behind(self) -> bool:
        """True while messages of the log are unread below the end found by `begin` or below a later gap."""
        return self.next_offset < self._until

    async def take(self, most_bytes: int) -> list[Delivery]:
        """Return the next messages: at least one, and about `most_bytes` at most.

        Raises StorageError if the log no longer has a missing message.
        """
        while True:
            if self.is_behind:
                found = await self._read(most_bytes)
                if found:
                    return found
                continue
            if not self._held:
                self._held = await self._inbox.take(self.next_offset, most_bytes)
                if not self._held:
                    # After a rebalance Faust does not seek back to messages that it dropped before the first commit.
                    # Read them from the log.
                    self._until = self._inbox.end
                    continue
            for one in self._held:
                if one.offset < self.next_offset:
                    one.ack()
            self._held = [one for one in self._held if one.offset >= self.next_offset]
            if self._held and self._held[0].offset > self.next_offset:
                self._until = self._held[0].offset
            elif self._held:
                return self._in_a_row()

    def _in_a_row(self) -> list[Delivery]:
        """Take the waiting deliveries up to the first gap."""
        count = 1
        while count < len(self._held) and self._held[count].offset == self._held[count - 1].offset + 1:
            count += 1
        found, self._held = self._held[:count], self._held[count:]
        self.next_offset = found[-1].offset + 1
        return found

    async def _read(self, most_bytes: int) -> list[Delivery]:
        """Return the next messages of the log; an empty list if there are none below `_until`.

        Keeps the open reader for the next call if it stopped because of `most_bytes`.
        """
        if self._reader is None:
            self._reader = self._log.read(self._topic, self._partition, self.next_offset, self._until)
        found, size_bytes = list[Delivery](), 0
        reader, self._reader = self._reader, None
        async for message in reader:
            found.append(Delivery(message.offset, message.timestamp_us, message.value, message.headers, _nothing))
            size_bytes += len(message.value)
            if size_bytes >= most_bytes and message.offset + 1 < self._until:
                self._reader = reader
                self.next_offset = message.offset + 1
                return found
        self.next_offset = self._until
        return found


def _nothing() -> None:
    """Do nothing: a message that was read from the log needs no acknowledgement."""
