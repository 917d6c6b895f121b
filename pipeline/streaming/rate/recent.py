"""Caches of raw messages and output pieces that a worker has just handled and needs again.

Records that the fold rejects need the bytes of their raw message (F5). Pieces of usage.rated mostly come back to the
worker that sent them, so that it need not decode them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final

from pipeline.streaming.kafka import Log
from pipeline.streaming.rate.output_messages import OutputPiece, Packed
from pipeline.streaming.raw.headers import RawMessage
from rating.errors import StorageError

LIMIT_BYTES: Final = 64 << 20
SENT_BYTES: Final = 128 << 20  # about as much as a worker sends while a large block is landed

_Place = tuple[str, int, int]  # topic, partition, offset


class RecentRaw:
    """A cache of the newest raw messages, about `limit_bytes` in total.

    Misses are read from the topic, one read at a time.
    """

    def __init__(self, log: Log, limit_bytes: int = LIMIT_BYTES) -> None:
        self.topics = log.topics
        self._log = log
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[_Place, RawMessage] = OrderedDict()
        self._bytes = 0
        self._reading = asyncio.Lock()

    def note(self, topic: str, partition: int, offset: int, message: RawMessage) -> None:
        """Add a message to the cache; the oldest messages are evicted above the limit."""
        place = (topic, partition, offset)
        if place not in self._held:
            self._held[place] = message
            self._bytes += message.size_bytes
            while self._bytes > self._limit_bytes and len(self._held) > 1:
                _, gone = self._held.popitem(last=False)
                self._bytes -= gone.size_bytes

    async def messages(self, topic: str, partition: int, first: int, last: int) -> dict[int, RawMessage]:
        """Return the messages from offset `first` to `last`; an empty dict if the topic no longer has `first`.

        Raises WorldError if the broker is unreachable.
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
        """Return the messages if all of them are cached, else None."""
        found: dict[int, RawMessage] = {}
        for offset in range(first, last + 1):
            message = self._held.get((topic, partition, offset))
            if message is None:
                return None
            found[offset] = message
        return found


class RecentPieces:
    """Pieces sent to partitions of usage.rated that this worker also lands, kept until they are read back.

    Limited to about `limit_bytes` of rows and messages. If the cache is full, new pieces are not added, because the
    oldest pieces are read back first.
    """

    def __init__(self, limit_bytes: int = SENT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._sent: dict[int, deque[tuple[Packed, int]]] = {}  # by partition, each piece with its size in bytes

    def begin(self, partition: int) -> None:
        """Start to cache the pieces of a partition."""
        self._sent.setdefault(partition, deque())

    def end(self, partition: int) -> None:
        """Drop the cached pieces of a partition and stop caching it."""
        self._bytes -= sum(size_bytes for _, size_bytes in self._sent.pop(partition, ()))

    def note(self, sent: Iterable[Packed]) -> None:
        """Cache pieces that are about to be sent, if there is room and `begin` was called for their partition."""
        for one in sent:
            held = self._sent.get(one.piece.partition)
            if held is not None:
                size_bytes = len(one.content) + sum(rows.nbytes for _, rows in one.piece.tables)
                if self._bytes + size_bytes <= self._limit_bytes:
                    held.append((one, size_bytes))
                    self._bytes += size_bytes

    def take(self, partition: int, content: bytes) -> OutputPiece | None:
        """Remove and return the piece that was sent as exactly these bytes; None if it is not cached."""
        held = self._sent.get(partition, ())
        for place, (one, size_bytes) in enumerate(held):
            if one.content == content:
                del self._sent[partition][place]
                self._bytes -= size_bytes
                return one.piece
        return None

    def forget(self, partition: int, journal_offset: int) -> None:
        """Drop cached pieces of a partition up to and including this journal offset."""
        held = self._sent.get(partition)
        while held and held[0][0].piece.journal_offset <= journal_offset:
            self._bytes -= held.popleft()[1]
