"""Raw messages that a worker has seen lately: what the fold refuses of them needs their bytes again (F5)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from pipeline.streaming.headers import RawMessage
from pipeline.streaming.kafka import Log
from rating.errors import StorageError

LIMIT_BYTES: Final = 64 << 20

_Place = tuple[str, int, int]  # topic, partition, offset


class RecentRaw:
    """Holds about `limit_bytes` of raw messages, the newest; others are read from their topic, one at a time."""

    def __init__(self, log: Log, limit_bytes: int = LIMIT_BYTES) -> None:
        self.topics = log.topics
        self._log = log
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[_Place, RawMessage] = OrderedDict()
        self._bytes = 0
        self._reading = asyncio.Lock()

    def note(self, topic: str, partition: int, offset: int, message: RawMessage) -> None:
        """Hold a message for a while."""
        place = (topic, partition, offset)
        if place not in self._held:
            self._held[place] = message
            self._bytes += message.size_bytes
            while self._bytes > self._limit_bytes and len(self._held) > 1:
                _, gone = self._held.popitem(last=False)
                self._bytes -= gone.size_bytes

    async def messages(self, topic: str, partition: int, first: int, last: int) -> dict[int, RawMessage]:
        """The messages from offset `first` to `last`; none where the topic does not keep them any more.

        Raises WorldError where the broker is away.
        """
        async with self._reading:
            found = self._among_held(topic, partition, first, last)
            if found is not None:
                return found
            try:
                read = self._log.read(topic, partition, first, last + 1, few=True)
                found = {one.offset: RawMessage(one.value, tuple(one.headers)) async for one in read}
            except StorageError:
                return {}
            for offset, message in found.items():
                self.note(topic, partition, offset, message)
            return found

    def _among_held(self, topic: str, partition: int, first: int, last: int) -> dict[int, RawMessage] | None:
        """The messages, where all of them are held."""
        found: dict[int, RawMessage] = {}
        for offset in range(first, last + 1):
            message = self._held.get((topic, partition, offset))
            if message is None:
                return None
            found[offset] = message
        return found
