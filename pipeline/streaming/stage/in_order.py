"""The messages of a partition in order and without a gap, from where a stage left off.

Where a stage goes on is what it has made durable itself, never the offset that the group committed: after a rebalance
Faust can hand on a message before those that come before it, takes what it has skipped for done, and may never hand on
what it dropped. So what is missing before a message, or has been there for a while, is read from the log; and what
comes again is acknowledged and left out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from pipeline.streaming.kafka import Log, LogMessage
from pipeline.streaming.stage.inbox import Delivery, Inbox


class InOrder:
    """What comes into an inbox, made whole. `begin`, then `take` again and again.

    `next_offset` is where to go on, None for where the partition begins.
    """

    def __init__(self, inbox: Inbox, log: Log, topic: str, partition: int, next_offset: int | None) -> None:
        self.next_offset = next_offset or 0
        self._from_begin = next_offset is None
        self._inbox = inbox
        self._log = log
        self._topic = topic
        self._partition = partition
        self._until = 0  # up to here the log is read
        self._reader: AsyncGenerator[LogMessage, None] | None = None
        self._held: list[Delivery] = []

    async def begin(self) -> None:
        """Find where the partition begins and ends now. Raises WorldError where the broker is away."""
        if self._from_begin:
            self.next_offset, _ = await self._log.begin_since(self._topic, self._partition, 0)
        self._until = await self._log.end_offset(self._topic, self._partition)

    @property
    def is_behind(self) -> bool:
        """Whether there is something in the log that was there at the beginning and has not been taken."""
        return self.next_offset < self._until

    async def take(self, most_bytes: int) -> list[Delivery]:
        """The next messages, at least one, about so many bytes at most.

        Raises StorageError where the log does not hold what is missing any more.
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
                    # Faust does not seek back to messages that a rebalance dropped before anything was committed.
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
        """What is held up to the first gap."""
        count = 1
        while count < len(self._held) and self._held[count].offset == self._held[count - 1].offset + 1:
            count += 1
        found, self._held = self._held[:count], self._held[count:]
        self.next_offset = found[-1].offset + 1
        return found

    async def _read(self, most_bytes: int) -> list[Delivery]:
        """The next messages of the log; none where there is nothing up to where it is read.

        A reader that was interrupted is gone on with only for the end that it was begun for.
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
    """What was read from the log is not acknowledged."""
