"""The queue between a Faust agent and a stage, bounded in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

Headers = Sequence[tuple[str, bytes]]

_MESSAGE_BYTES: Final = 32


@dataclass(frozen=True)
class Delivery:
    """One message of a topic partition. Call `ack` once everything that follows from the message is durable."""

    offset: int
    timestamp_us: int
    value: bytes
    headers: Headers
    ack: Callable[[], object]
    is_brokers_time: bool = False  # False if the sender chose the timestamp

    @property
    def size_bytes(self) -> int:
        """Size in memory, estimated. A message without a value has one too, or any number of them would fit."""
        return _MESSAGE_BYTES + len(self.value) + sum(len(key) + len(value or b"") for key, value in self.headers)


class Publish(Protocol):
    """Sends a message. The returned future is done once the message is on all in-sync replicas."""

    async def __call__(
        self, topic: str, partition: int | None, value: bytes | None, key: bytes | None = None, headers: Headers = ()
    ) -> asyncio.Future[Any]: ...


class Inbox:
    """Deliveries in order. `full` is True above `limit_bytes`; `put` accepts a delivery even then.

    `on_room` is called after each `take` that leaves at most half of the limit.
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
        """The end offset of the partition at the last call of `note_end`."""
        return self._end

    @property
    def full(self) -> bool:
        """True if more than `limit_bytes` are waiting; the caller should then pause fetching (backpressure)."""
        return self._bytes > self._limit_bytes

    async def put(self, delivery: Delivery) -> None:
        """Append a delivery."""
        async with self._changed:
            self._waiting.append(delivery)
            self._bytes += delivery.size_bytes
            self._changed.notify_all()

    async def note_end(self, end: int) -> None:
        """Record the current end offset of the partition. Call this periodically, with some time between two calls."""
        async with self._changed:
            self._end_before, self._end = self._end, end
            self._changed.notify_all()

    async def take(self, next_offset: int, most_bytes: int) -> list[Delivery]:
        """Return waiting deliveries in order: at least one, and about `most_bytes` at most.

        Returns an empty list if, for two calls of `note_end`, the partition had messages at or after `next_offset` and
        none of them was delivered.
        """
        async with self._changed:
            while not self._waiting:
                if self._end_before > next_offset:
                    return []
                await self._changed.wait()
            count, size_bytes = 0, 0
            for delivery in self._waiting:
                if count and size_bytes + delivery.size_bytes > most_bytes:
                    break
                count, size_bytes = count + 1, size_bytes + delivery.size_bytes
            taken, self._waiting = self._waiting[:count], self._waiting[count:]
            self._bytes -= size_bytes
            self._end_before = 0  # deliveries arrive, so start over with the check for lost messages
        if self._bytes <= self._limit_bytes // 2:
            self.on_room()
        return taken


def _nothing() -> None:
    """Do nothing: the default for `on_room`."""
