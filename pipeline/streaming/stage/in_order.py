"""Delivers the messages of a partition in order and without gaps, starting where the stage stopped.

A stage resumes from the position that it made durable itself, never from the offset that the consumer group committed.
The committed offset is not safe: after a rebalance Faust can deliver a message before its predecessors, treat skipped
messages as processed, and never deliver messages that it dropped. So InOrder reads missing messages from the log, and
acknowledges and drops messages that it delivered before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Final

from pipeline.streaming.kafka import Log, LogMessage
from pipeline.streaming.stage.inbox import Delivery, Inbox
from rating.errors import ConfigError

_PATIENCE_S: Final = 5.0
_RETRY_S: Final = 0.25


class InOrder:
    """The messages of an inbox, with gaps filled from the log. Call `begin` once, then `take` repeatedly.

    `next_offset` is the offset to resume from, or None to start at the beginning of the partition. `is_last` tests
    whether a message is the one before `next_offset`; None if that is not known. `skip` is called with the range of
    messages that the log dropped before they were read and that are skipped; None if they must not be skipped.
    """

    def __init__(
        self,
        inbox: Inbox,
        log: Log,
        topic: str,
        partition: int,
        next_offset: int | None,
        is_last: Callable[[LogMessage], bool] | None = None,
        skip: Callable[[int, int], object] | None = None,
    ) -> None:
        self.next_offset = next_offset or 0
        self._from_begin = next_offset is None
        self._is_last = is_last
        self._skip = skip
        self._inbox = inbox
        self._log = log
        self._topic = topic
        self._partition = partition
        self._until = 0  # messages below this offset are read from the log
        self._reader: AsyncGenerator[LogMessage, None] | None = None
        self._held: list[Delivery] = []

    async def begin(self) -> None:
        """Find the current first and last offset of the partition.

        Raises ConfigError if the partition is not the log that was read before, WorldError if the broker is
        unreachable.
        """
        since_s = time.monotonic()
        while True:
            wanted = self.next_offset - 1 if self._is_last is not None else -1
            found = await self._log.bounds(self._topic, self._partition, wanted)
            if self._from_begin:
                self.next_offset = found.begin
            lost = found.begin <= wanted < found.end and (found.message is None or not self._same(found.message))
            if not lost and self.next_offset <= found.end:
                break
            # Right after an election a broker may not know the end yet.
            if time.monotonic() - since_s > _PATIENCE_S:
                raise ConfigError(other_log(self._topic, self._partition, found.end, self.next_offset))
            await asyncio.sleep(_RETRY_S)
        self._until = found.end
        if self._skip is not None and found.begin > self.next_offset:
            self._skip(self.next_offset, found.begin)
            self.next_offset = found.begin

    def require(self, next_offset: int) -> None:
        """Raise ConfigError if the partition ends before `next_offset`, up to which its messages had effects."""
        if next_offset > self._until:
            raise ConfigError(other_log(self._topic, self._partition, self._until, next_offset))

    def _same(self, message: LogMessage) -> bool:
        return self._is_last is None or self._is_last(message)

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
            found.append(
                Delivery(
                    message.offset,
                    message.timestamp_us,
                    message.value,
                    message.headers,
                    _nothing,
                    message.is_brokers_time,
                )
            )
            size_bytes += found[-1].size_bytes
            if size_bytes >= most_bytes and message.offset + 1 < self._until:
                self._reader = reader
                self.next_offset = message.offset + 1
                return found
        self.next_offset = self._until
        return found


def other_log(topic: str, partition: int, end: int, next_offset: int) -> str:
    """Return what to say of a partition that is not the log that was read up to `next_offset`."""
    return (
        f"{topic}[{partition}]: found a log that ends at {end}, or another message before {next_offset}; expected the "
        f"log that was read up to {next_offset}: the topic was made anew, or a broker has lost its end; restore the "
        "topic from a replica or a mirror, or begin a new fleet with another prefix, app and history"
    )


def _nothing() -> None:
    """Do nothing: a message that was read from the log needs no acknowledgement."""
