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
    """Deliveries in their order. `put` waits while more than `limit_bytes` are there; `take` takes all that are.

    `on_room` is called after each `take` that leaves less than half of the limit.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._waiting: list[Delivery] = []
        self._bytes = 0
        self._changed = asyncio.Condition()
        self.on_room: Callable[[], None] = _nothing

    @property
    def full(self) -> bool:
        """Whether `put` would wait."""
        return self._bytes > self._limit_bytes

    def __len__(self) -> int:
        return len(self._waiting)

    async def put(self, delivery: Delivery, *, wait: bool = True) -> None:
        """Add a delivery, once there is room; at once where `wait` is false."""
        async with self._changed:
            while wait and self.full:
                await self._changed.wait()
            self._waiting.append(delivery)
            self._bytes += len(delivery.value)
            self._changed.notify_all()

    async def take(self, most_bytes: int | None = None) -> list[Delivery]:
        """What is there, one delivery at least, in order; no more than `most_bytes` of it where that is given."""
        async with self._changed:
            while not self._waiting:
                await self._changed.wait()
            count, size_bytes = 0, 0
            for delivery in self._waiting:
                if count and most_bytes is not None and size_bytes + len(delivery.value) > most_bytes:
                    break
                count, size_bytes = count + 1, size_bytes + len(delivery.value)
            taken, self._waiting = self._waiting[:count], self._waiting[count:]
            self._bytes -= size_bytes
            self._changed.notify_all()
        if self._bytes <= self._limit_bytes // 2:
            self.on_room()
        return taken


def _nothing() -> None:
    """Nobody waits for room."""
