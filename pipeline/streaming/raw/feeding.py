"""Sends feed files to usage.raw, each to one partition in order, every row once, however often the sender is killed.

The chunks in the partition (digest, feed, row) show where to resume, so no other progress is stored.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Kafka
from pipeline.feeds.decode import CHUNK_BYTES, Position
from pipeline.feeds.decode.lines import cut_lines
from pipeline.feeds.decode.stream import ByteStream
from pipeline.feeds.source_file import Source
from pipeline.streaming.kafka import Log, LogMessage, Publisher, publisher_of
from pipeline.streaming.raw.messages import RawMessage, chunks_of
from pipeline.streaming.topics import Topics
from rating.errors import UsageError
from schemas.mapping import Mapping

IN_FLIGHT: Final = 8  # unacknowledged messages
LOOK_BACK: Final = 2_000  # messages at the end of a partition that are searched for a file; some 10 GB of text

_CLOCKS_DIFFER_MS: Final = 3_600_000  # search from the file's modification time minus this
_FRESH_US: Final = 10_000_000  # after a message younger than this, another one of a killed sender may still arrive
_SETTLE_S: Final = 0.3
_SETTLE_ROUNDS: Final = 10
_TEXT: Final = ("csv", "ndjson")

Watch = Callable[[Source, int], None]  # called with a file and the number of its bytes that have been sent


@dataclass(frozen=True)
class Fed:
    """The result for a file: its partition, what was sent now, and how many rows the partition had before."""

    name: str
    digest: str
    partition: int
    messages: int
    rows: int  # sent now
    before: int  # rows that the partition had already, including the header line
    as_of_us: int

    @property
    def was_there(self) -> bool:
        """True if the partition had the whole file already."""
        return bool(self.before) and not self.messages


def partition_of(source: Source, partitions: int) -> int:
    """Deterministic partition for a file."""
    return int(source.fingerprint, 16) % partitions


async def feed_files(
    kafka: Kafka,
    mapping: Mapping,
    paths: Sequence[Path],
    as_of_us: int | None = None,
    *,
    partition: int | None = None,
    again: bool = False,
    watch: Watch = lambda source, offset: None,
) -> list[Fed]:
    """Send files to usage.raw. On return the broker has every row of them, each once.

    A file that its partition has already is not sent again. If the partition has its beginning only, the rest is sent,
    with the arrival time of the beginning. `again` sends all of each file.

    Raises UsageError if a file was begun with another arrival time than `as_of_us`, or the partition does not exist;
    SourceError and MappingError as `chunks_of` does; WorldError if the broker is unreachable.
    """
    if partition is not None and not 0 <= partition < kafka.raw:
        raise UsageError(f"--partition: found {partition}; expected 0 to {kafka.raw - 1}, as [kafka] has {kafka.raw}")
    now_us = time.time_ns() // 1000
    places: dict[int, list[Source]] = {}
    for source in dict.fromkeys(Source.of(path) for path in paths):
        place = partition_of(source, kafka.raw) if partition is None else partition
        places.setdefault(place, []).append(source)
    topic, log, fed = Topics(kafka.prefix).raw, Log(kafka), []
    async with publisher_of(kafka) as publisher:
        for place, sources in places.items():
            known = {} if again else await newest_of(log, topic, place, mapping.name, sources)
            for source in sources:
                start, arrived_us = Position(), now_us if as_of_us is None else as_of_us
                if (last := known.get(source.fingerprint)) is not None:
                    arrived_us = _arrival(last, source, as_of_us)
                    start = await asyncio.to_thread(position_behind, Path(source.path), mapping, last)
                chunks = chunks_of(Path(source.path), mapping, source, arrived_us, start, kafka.limit_bytes)
                sending = _Sending(publisher, topic, place)
                await sending.run(chunks, partial(watch, source))
                fed.append(
                    Fed(
                        source.name,
                        source.fingerprint,
                        place,
                        sending.messages,
                        sending.rows,
                        start.row - 1,
                        arrived_us,
                    )
                )
    return fed


async def newest_of(
    log: Log, topic: str, partition: int, feed: str, sources: Collection[Source]
) -> dict[str, RawMessage]:
    """Return, by digest, the newest chunk of each file that the end of the partition has chunks of."""
    changed_s = min(Path(source.path).stat().st_mtime for source in sources)
    end = await log.end_offset(topic, partition)
    begin, since = await log.begin_since(topic, partition, int(changed_s * 1000) - _CLOCKS_DIFFER_MS)
    start = max(begin, since, end - LOOK_BACK)
    wanted = {source.fingerprint.encode() for source in sources}
    found: dict[str, RawMessage] = {}
    for _ in range(_SETTLE_ROUNDS):
        newest_us = 0
        async for message in log.read(topic, partition, start, end):
            newest_us = message.timestamp_us
            raw = _chunk(message, feed, wanted)
            if raw is not None:
                found[(raw.header("digest") or b"").decode()] = raw
        # Messages that a killed sender had handed to its operating system arrive a moment later.
        if newest_us < time.time_ns() // 1000 - _FRESH_US:
            break
        await asyncio.sleep(_SETTLE_S)
        start, end = end, await log.end_offset(topic, partition)
        if start == end:
            break
    return found


def _chunk(message: LogMessage, feed: str, digests: Collection[bytes]) -> RawMessage | None:
    raw = RawMessage(message.value, tuple(message.headers))
    same = raw.header("digest") in digests and raw.header("feed") == feed.encode() and raw.header("row") is not None
    return raw if same and raw.header("origin") is None else None


def position_behind(path: Path, mapping: Mapping, chunk: RawMessage) -> Position:
    """Return the file position after a chunk of the file."""
    row = int(chunk.header("row") or b"0")
    content = pa.CompressedInputStream(pa.BufferReader(chunk.value), "zstd").read()
    if chunk.header("form") == b"rows":
        with pa.ipc.open_stream(content) as stream:
            row = int(pc.max(stream.read_all()["source_row"]).as_py()) + 1
        return Position(row - 1 if mapping.format.type == "json" else 0, row)
    row += 1 if chunk.header("too-long") is not None else content.count(b"\n")
    at = Position()
    with ByteStream(path) as stream:
        for block in cut_lines(stream, 1, CHUNK_BYTES):
            if block.end.row > row:
                ends = np.flatnonzero(np.frombuffer(block.data, np.uint8) == 10) + 1
                return Position(at.offset + (int(ends[row - block.first_row - 1]) if row > block.first_row else 0), row)
            at = block.end
    return at


def _arrival(last: RawMessage, source: Source, as_of_us: int | None) -> int:
    began_us = int(last.header("as-of") or b"0")
    if as_of_us is not None and as_of_us != began_us:
        at = np.datetime64(began_us, "us")
        raise UsageError(
            f"{source.path}: the topic has it, or its beginning, with arrival {at}Z; expected --as-of {at}Z, which "
            "goes on with it, or none; --again sends all of it once more"
        )
    return began_us


class _Sending:
    """Sends the chunks of a file to a partition, with at most IN_FLIGHT messages unacknowledged."""

    def __init__(self, publisher: Publisher, topic: str, partition: int) -> None:
        self.messages = 0
        self.rows = 0
        self._publisher = publisher
        self._topic = topic
        self._partition = partition

    async def run(self, chunks: Iterator[tuple[RawMessage, Position]], watch: Callable[[int], None]) -> None:
        """Send all chunks. On return all are acknowledged."""
        flight: deque[asyncio.Future[Any]] = deque()
        while (item := await asyncio.to_thread(next, chunks, None)) is not None:
            message, end = item
            if len(flight) == IN_FLIGHT:
                await self._publisher.acknowledged(flight.popleft())
            flight.append(
                await self._publisher.send(self._topic, self._partition, message.value, headers=message.headers)
            )
            self.messages += 1
            self.rows += end.row - int(message.header("row") or b"0")
            watch(end.offset)
        while flight:
            await self._publisher.acknowledged(flight.popleft())
