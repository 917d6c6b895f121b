"""What a worker has seen or sent lately and needs again.

Of raw messages what the fold refuses needs their bytes (F5). Of usage.rated a worker mostly lands what it has sent
itself: those pieces need not be decoded.
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
SENT_BYTES: Final = 128 << 20  # of rows: about what a worker sends in the time that a large block takes to be landed

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


class RecentPieces:
    """Pieces that this worker has sent to partitions of usage.rated which it lands itself, until they come back.

    At most about `limit_bytes` of rows and messages. What finds no room is not held, and what was sent first stays:
    it comes back first.
    """

    def __init__(self, limit_bytes: int = SENT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._sent: dict[int, deque[tuple[Packed, int]]] = {}  # with their sizes, by partition

    def begin(self, partition: int) -> None:
        """From now on hold what is sent to a partition."""
        self._sent.setdefault(partition, deque())

    def end(self, partition: int) -> None:
        """Let go of a partition."""
        self._bytes -= sum(size_bytes for _, size_bytes in self._sent.pop(partition, ()))

    def note(self, sent: Iterable[Packed]) -> None:
        """Hold what is about to be sent, where there is room and its partition has begun."""
        for one in sent:
            held = self._sent.get(one.piece.partition)
            if held is not None:
                size_bytes = len(one.content) + sum(rows.nbytes for _, rows in one.piece.tables)
                if self._bytes + size_bytes <= self._limit_bytes:
                    held.append((one, size_bytes))
                    self._bytes += size_bytes

    def take(self, partition: int, content: bytes) -> OutputPiece | None:
        """The piece that was sent as exactly these bytes, which is held no longer; None where there is none."""
        held = self._sent.get(partition, ())
        for place, (one, size_bytes) in enumerate(held):
            if one.content == content:
                del self._sent[partition][place]
                self._bytes -= size_bytes
                return one.piece
        return None

    def forget(self, partition: int, journal_offset: int) -> None:
        """Let go of pieces of a partition that are of entries of the journal up to this one only."""
        held = self._sent.get(partition)
        while held and held[0][0].piece.journal_offset <= journal_offset:
            self._bytes -= held.popleft()[1]
