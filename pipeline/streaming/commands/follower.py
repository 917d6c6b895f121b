"""Follows the command log and answers what was accepted and which cards exist, as of any offset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from pipeline.journal.messages import LIMIT_BYTES
from pipeline.journal.router import require_partitions
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.kafka import LogMessage

_POLL_S: Final = 0.02


class Follower:
    """Folds the command log from its beginning into a Registry while `run` runs.

    `registry` is created and folded by `asyncio.to_thread`, and may be used in that thread only
    (rating.columnar.sharing). `also` is called with offset, value and time of each message before the message counts as
    folded. Raises ConfigError if a journal cannot have so many partitions.
    """

    def __init__(
        self,
        partitions: int,
        also: Callable[[int, bytes, int], Awaitable[None]],
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        require_partitions(partitions)
        self._limit_bytes = limit_bytes
        self.next_offset = 0  # the first message of the log that has not been folded
        self._partitions = partitions
        self._registry: Registry | None = None
        self._also = also
        self._refused: dict[int, str] = {}

    @property
    def registry(self) -> Registry:
        """The registry of everything folded so far. Use it in the thread of `asyncio.to_thread` only."""
        if self._registry is None:
            self._registry = Registry(self._partitions, self._limit_bytes)
        return self._registry

    async def run(self, log: AsyncIterator[LogMessage]) -> None:
        """Fold `log`, which begins at offset 0, until it ends. Raises StorageError if a message is missing."""
        async for message in log:
            facts = message.offset, message.value, message.timestamp_us
            _, refused = await asyncio.gather(self._also(*facts), asyncio.to_thread(self._take, *facts))
            if refused is not None:
                self._refused[message.offset] = refused
            self.next_offset = message.offset + 1

    async def reached(self, offset: int) -> None:
        """Wait until the message at `offset` has been folded."""
        while self.next_offset <= offset:
            await asyncio.sleep(_POLL_S)

    def _take(self, offset: int, content: bytes, timestamp_us: int) -> str | None:
        return self.registry.take(offset, content, timestamp_us)

    def refusal(self, offset: int) -> str | None:
        """Return why the folded message at `offset` was rejected, or None if it was accepted."""
        return self._refused.get(offset)
