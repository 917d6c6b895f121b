"""What a stage has been handed and has not taken yet, bounded in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class Delivery:
    """A message of one partition of a topic; `ack` says that nothing of it can be lost any more."""

    offset: int
    timestamp_us: int
    value: bytes
    headers: Headers
    ack: Callable[[], object]


class Publish(Protocol):
    """Sends a message; what it returns is done once the broker has it on all its replicas."""

    async def __call__(
        self, topic: str, partition: int | None, value: bytes | None, key: bytes | None = None, headers: Headers = ()
    ) -> asyncio.Future[Any]: ...


class Inbox:
    """Deliveries in their order. It is `full` with more than `limit_bytes`, and takes what is put all the same.

    `on_room` is called after each `take` that leaves less than half of the limit.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._waiting: list[Delivery] = []
        self._bytes = 0
        self._changed = asyncio.Condition()
        self.on_room: Callable[[], None] = _nothing
        self._end = self._end_before = 0

    @property
    def end(self) -> int:
        """Where the partition ended when that was noted last."""
        return self._end

    @property
    def full(self) -> bool:
        """Whether more than the limit is there: then no more should be fetched for a while."""
        return self._bytes > self._limit_bytes

    async def put(self, delivery: Delivery) -> None:
        """Add a delivery."""
        async with self._changed:
            self._waiting.append(delivery)
            self._bytes += len(delivery.value)
            self._changed.notify_all()

    async def note_end(self, end: int) -> None:
        """Say where the partition ends now; to be called again and again, a while between two calls."""
        async with self._changed:
            self._end_before, self._end = self._end, end
            self._changed.notify_all()

    async def take(self, next_offset: int, most_bytes: int) -> list[Delivery]:
        """What is there, in order, about `most_bytes` of it at most and one delivery at least.

        Nothing where the partition has had messages from `next_offset` on for a while and none was handed over.
        """
        async with self._changed:
            while not self._waiting:
                if self._end_before > next_offset:
                    return []
                await self._changed.wait()
            count, size_bytes = 0, 0
            for delivery in self._waiting:
                if count and size_bytes + len(delivery.value) > most_bytes:
                    break
                count, size_bytes = count + 1, size_bytes + len(delivery.value)
            taken, self._waiting = self._waiting[:count], self._waiting[count:]
            self._bytes -= size_bytes
            self._end_before = 0  # what was there then is being handed over
        if self._bytes <= self._limit_bytes // 2:
            self.on_room()
        return taken


def _nothing() -> None:
    """Nobody waits for room."""
