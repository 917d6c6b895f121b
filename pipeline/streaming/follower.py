"""Follows the log of commands: what was accepted, and which cards there are, as of any offset of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from pipeline.streaming.kafka import LogMessage
from pipeline.streaming.registry import Registry

_POLL_S: Final = 0.02


class Follower:
    """Folds the log of commands from its beginning into a Registry, for as long as `run` runs.

    `registry` may be asked from other threads; the log is folded in a thread of its own beside them. `also` is told of
    each message before that counts as folded.
    """

    def __init__(self, partitions: int, also: Callable[[int, bytes], Awaitable[None]]) -> None:
        self.registry = Registry(partitions)
        self._also = also
        self._refused: dict[int, str] = {}

    async def run(self, log: AsyncIterator[LogMessage]) -> None:
        """Fold `log`, which begins at offset 0, until it ends. Raises StorageError where a message is damaged."""
        async for message in log:
            taking = asyncio.to_thread(self.registry.take, message.offset, message.value)
            _, refused = await asyncio.gather(self._also(message.offset, message.value), taking)
            if refused is not None:
                self._refused[message.offset] = refused

    async def reached(self, offset: int) -> None:
        """Return once the message at `offset` has been folded."""
        while self.registry.next_offset <= offset:
            await asyncio.sleep(_POLL_S)

    def refusal(self, offset: int) -> str | None:
        """Why the folded message at `offset` was refused; None where it was accepted."""
        return self._refused.get(offset)
