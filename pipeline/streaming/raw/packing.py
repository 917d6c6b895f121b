"""Packs a topic of single records into chunks of usage.raw, each record once, however often the packer is killed.

Each source partition goes to one partition of usage.raw, in order. So the packer resumes after its newest chunk there,
and stores no other progress. Records that are not a line are sent as rows with the reason, in order between the lines
(F5).
"""

from __future__ import annotations

import asyncio
import io
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from collections.abc import Mapping as Named
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.config import Kafka
from pipeline.feeds.decode.lines import KEPT_LINE_BYTES
from pipeline.streaming.kafka import Batches, Log, Publisher, publisher_of
from pipeline.streaming.raw.avro import AvroRecords
from pipeline.streaming.raw.chunks import CHUNK_TEXT_BYTES
from pipeline.streaming.raw.headers import LINES, MESSAGE, RAW, REASON, ROWS, ZSTD, RawMessage, decoder_of
from pipeline.streaming.raw.packed_before import origin, reached
from pipeline.streaming.raw.reading import as_lines
from pipeline.streaming.topics import layouts
from rating.columnar.key_index import Ints
from rating.errors import StorageError, UsageError
from schemas.mapping import Mapping

IN_FLIGHT: Final = 8  # unacknowledged messages of a partition

_MOST_LINES: Final = 1 << 17  # of a chunk
_REPORT_S: Final = 1.0
_IDLE_S: Final = 0.3
_LAST_MS: Final = 253_402_300_799_999
_ZSTD: Final = pa.Codec("zstd", 1)

_Headers = tuple[tuple[str, bytes], ...]
Refused = dict[int, tuple[str, str]]  # by index: reason and message for each record that is not a line


class Packing:
    """Converts records of a source topic into messages of usage.raw of at most `limit_bytes`.

    Raises MappingError if the CSV header is missing or lacks a column; UsageError if the mapping needs a list beside
    the file, or if the CSV header or Avro schema does not fit the format of the feed.
    """

    def __init__(
        self,
        mapping: Mapping,
        csv_header: str | None = None,
        avro: AvroRecords | None = None,
        limit_bytes: int = 900_000,
    ) -> None:
        is_csv = mapping.format.type == "csv"
        if mapping.lookups:
            raise UsageError(
                f"feed {mapping.name}: found fields with a lookup; expected none: single records have no list beside "
                "them; send files of it with weir feed"
            )
        if is_csv and avro is not None:
            raise UsageError(f"feed {mapping.name}: found format csv and an Avro schema; expected a mapping of JSON")
        header = None if csv_header is None else csv_header.rstrip("\r\n").encode(mapping.format.encoding)
        if header is not None and not (is_csv and mapping.format.header):
            raise UsageError(f"feed {mapping.name}: found --csv-header; expected it for a CSV with a header only")
        decoder_of(mapping, header)
        self._avro = avro
        self._is_json = not is_csv
        self._limit_bytes = limit_bytes
        self._headers: _Headers = (("feed", mapping.name.encode()), ("encoding", ZSTD))
        if header is not None:
            self._headers = (*self._headers, ("csv-header", header))

    def messages(
        self, topic: str, partition: int, offsets: Ints, values: Sequence[bytes], time_ms: int
    ) -> list[RawMessage]:
        """Return the messages for consecutive records of one source partition, each record in one message.

        `time_ms` is the arrival time of the last record.
        """
        headers: _Headers = (*self._headers, ("origin", origin(topic, partition)))
        if 0 <= time_ms <= _LAST_MS:
            headers = (*headers, ("as-of", str(time_ms * 1000).encode()))
        lines, refused = self._lines(values)
        bounds = sorted({0, len(values), *refused, *(place + 1 for place in refused)})
        bounds = [at for at in bounds if not (at in refused and at - 1 in refused)]  # join neighbours
        found: list[RawMessage] = []
        for start, stop in pairwise(bounds):
            kept = values if start in refused else lines
            for first, end in _cuts(kept, start, stop):
                make = self._rows if start in refused else self._text
                found += self._fitting(make, _Records(headers, offsets, kept, refused), first, end)
        return found

    def _lines(self, values: Sequence[bytes]) -> tuple[Sequence[bytes], Refused]:
        """Return each record as a line, and the records that are none."""
        refused: Refused = {}
        if self._avro is not None:
            values, unread = self._avro.as_json(values)
            refused = {place: ("malformed", why) for place, why in unread.items()}
            values = [b"" if place in refused else value for place, value in enumerate(values)] if refused else values
        lines, frames = as_lines(list(values), is_json=self._is_json)
        for frame in frames:
            rows = frame.select("source_row", "reason", "message").iter_rows()
            refused |= {place: (reason, message) for place, reason, message in rows}
        return lines, refused

    def _text(self, records: _Records, first: int, stop: int) -> RawMessage:
        return records.message(b"\n".join([*records.values[first:stop], b""]), LINES, first, stop)

    def _rows(self, records: _Records, first: int, stop: int) -> RawMessage:
        why = [records.refused[place] for place in range(first, stop)]
        table = pl.DataFrame(
            {
                "source_row": pl.Series(records.offsets[first:stop], dtype=pl.Int64),
                RAW: pl.Series([value[:KEPT_LINE_BYTES] for value in records.values[first:stop]], dtype=pl.Binary),
                REASON: [reason for reason, _ in why],
                MESSAGE: [message for _, message in why],
            }
        )
        sink = io.BytesIO()
        table.write_ipc_stream(sink, compat_level=pl.CompatLevel.oldest())
        return records.message(sink.getvalue(), ROWS, first, stop)

    def _fitting(
        self, make: Callable[[_Records, int, int], RawMessage], records: _Records, first: int, stop: int
    ) -> Iterator[RawMessage]:
        message = make(records, first, stop)
        if message.size_bytes <= self._limit_bytes:
            yield message
        elif stop - first > 1:
            middle = (first + stop) // 2
            yield from self._fitting(make, records, first, middle)
            yield from self._fitting(make, records, middle, stop)
        else:
            reason = {first: ("too_long", "the line is larger than a message")}
            yield self._rows(records._replace(refused=reason), first, stop)


class _Records(NamedTuple):
    """Records to be packed into messages."""

    headers: _Headers
    offsets: Ints
    values: Sequence[bytes]
    refused: Refused

    def message(self, content: bytes, form: bytes, first: int, stop: int) -> RawMessage:
        own = self.offsets[first:stop]
        if own[-1] - own[0] == len(own) - 1:
            place = ("span", b"%d %d" % (own[0], len(own)))
        else:
            place = ("offsets", own.astype("<i8").tobytes())
        return RawMessage(_ZSTD.compress(content, asbytes=True), (*self.headers, place, ("form", form)))


def _cuts(values: Sequence[bytes], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of ranges of about CHUNK_TEXT_BYTES."""
    ends = np.cumsum([len(value) + 1 for value in values[start:stop]])
    at = 0
    while at < stop - start:
        room = CHUNK_TEXT_BYTES + (int(ends[at - 1]) if at else 0)
        end = min(max(at + 1, int(np.searchsorted(ends, room, "right"))), at + _MOST_LINES)
        yield start + at, start + end
        at = end


@dataclass
class Packed:
    """The result for a source partition.

    `start` is the offset where this packer began, `next_offset` the offset after its last record.
    """

    partition: int
    raw_partition: int
    start: int
    next_offset: int
    records: int = 0
    messages: int = 0


@dataclass
class _Lane:
    """The waiting records and unacknowledged messages of one source partition."""

    told: Packed
    values: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    time_ms: int = -1
    size_bytes: int = 0
    since_s: float = 0.0
    flight: deque[tuple[asyncio.Future[Any], int]] = field(default_factory=deque)
    landed: int = -1  # the broker has acknowledged all records below this offset; -1 if none yet

    def add(self, records: Sequence[Any]) -> None:
        if not self.values:
            self.since_s = time.monotonic()
        values = [record.value or b"" for record in records]
        self.values += values
        self.offsets += [record.offset for record in records]
        self.time_ms = max(self.time_ms, *(record.timestamp for record in records), -1)
        self.size_bytes += sum(map(len, values))


class Packer:
    """Packs partitions of a topic until it is stopped.

    `origins` has the topics, with the number of their partitions, that workers take packed records from.
    """

    def __init__(
        self,
        kafka: Kafka,
        packing: Packing,
        topic: str,
        partitions: Sequence[int] | None,
        group: str,
        wait_s: float,
        origins: Named[str, int],
    ) -> None:
        self._log = Log(kafka)
        self._kafka = kafka
        self._packing = packing
        self._topic = topic
        self._partitions = partitions
        self._group = group
        self._wait_s = wait_s
        self._origins = origins

    async def run(
        self, stop: asyncio.Event, *, idle_exit: bool, watch: Callable[[int], None] | None = None
    ) -> list[Packed]:
        """Pack until `stop` is set.

        With `idle_exit`, stop once everything that the partitions contained at the start is packed. On return usage.raw
        has all records that were read. Raises UsageError if the topic or partition does not exist, StorageError if
        records were removed before they were packed or the topic was recreated under the same name.
        """
        ends = await self._ends()
        starts = await self._starts(ends)
        lanes = {
            partition: _Lane(Packed(partition, partition % self._kafka.raw, start, start))
            for partition, start in starts.items()
        }
        done: dict[int, int] = {}
        reported_s = time.monotonic()
        async with (
            publisher_of(self._kafka) as publisher,
            self._log.batches(self._topic, starts, self._group) as batches,
        ):
            while not stop.is_set():
                for partition, records in (await batches.take(self._due_s(lanes.values()))).items():
                    lanes[partition].add(records)
                    if watch is not None:
                        watch(len(records))
                now_s = time.monotonic()
                for lane in lanes.values():
                    if lane.values and (lane.size_bytes >= CHUNK_TEXT_BYTES or now_s - lane.since_s >= self._wait_s):
                        await self._flush(lane, publisher)
                if now_s - reported_s > _REPORT_S:
                    done = await self._report(lanes.values(), batches, done)
                    reported_s = now_s
                if idle_exit and await batches.reached({one: ends[one] for one in lanes}):
                    break
            for lane in lanes.values():
                await self._flush(lane, publisher)
                await self._landed(lane, publisher, 0)
            await self._report(lanes.values(), batches, done)
        return [lanes[partition].told for partition in sorted(lanes)]

    def _due_s(self, lanes: Collection[_Lane]) -> float:
        """Return how many seconds to wait for more records."""
        now_s = time.monotonic()
        held = [lane.since_s + self._wait_s - now_s for lane in lanes if lane.values]
        return max(0.0, min(held, default=_IDLE_S))

    async def _ends(self) -> dict[int, int]:
        """Return the end offset of each wanted partition. Raises UsageError if the topic or a partition is wrong."""
        if self._topic in {layout.name for layout in layouts(self._kafka)}:
            raise UsageError(f"--from: found {self._topic}, a topic of Weir; expected another, of single records")
        count = await self._log.partitions_of(self._topic)
        if not count:
            raise UsageError(f"--from: found no topic {self._topic}; expected one that the broker has: make it first")
        if self._origins.get(self._topic, 0) < count:
            raise UsageError(
                f"--from: found {self._topic}, which has {count} partitions; expected a topic that [worker].origins "
                f'names, with their number: write origins = {{ "{self._topic}" = {count} }} into the configuration of '
                "the workers, start them anew, then pack with the same configuration: workers reject other records"
            )
        wanted = range(count) if self._partitions is None else self._partitions
        absent = [one for one in wanted if not 0 <= one < count]
        if absent:
            raise UsageError(f"--partitions: found {absent[0]}; expected 0 to {count - 1}, as {self._topic} has them")
        return await self._log.ends(self._topic, wanted)

    async def _starts(self, ends: dict[int, int]) -> dict[int, int]:
        """Return the offset at which to resume each partition. Raises StorageError if its records are gone."""
        starts: dict[int, int] = {}
        for place in sorted({one % self._kafka.raw for one in ends}):
            own = [one for one in ends if one % self._kafka.raw == place]
            known = await reached(self._log, place, {origin(self._topic, one) for one in own})
            for one in own:
                begin, _ = await self._log.begin_since(self._topic, one, 0)
                start = known.get(origin(self._topic, one), begin)
                where = f"{self._topic}[{one}]"
                if start > ends[one]:
                    raise StorageError(
                        f"{where}: found {ends[one]:,} messages; expected at least the {start:,} that usage.raw has: "
                        "it was made anew; give a topic that is made anew another name, as its offsets begin again"
                    )
                if start < begin:
                    raise StorageError(
                        f"{where}: begins at offset {begin:,}; expected {start:,}: {begin - start:,} messages were "
                        "removed before they were packed; restore them, and keep messages longer (retention.ms)"
                    )
                starts[one] = start
        return starts

    async def _flush(self, lane: _Lane, publisher: Publisher) -> None:
        """Send the waiting records of a lane to the broker, in order."""
        if not lane.values:
            return
        told, offsets = lane.told, np.array(lane.offsets, np.int64)
        messages = await asyncio.to_thread(
            self._packing.messages, self._topic, told.partition, offsets, lane.values, lane.time_ms
        )
        told.records += len(lane.values)
        told.messages += len(messages)
        told.next_offset = int(offsets[-1]) + 1
        lane.values, lane.offsets, lane.time_ms, lane.size_bytes = [], [], -1, 0
        for number, message in enumerate(messages, 1):
            await self._landed(lane, publisher, IN_FLIGHT)
            topic, place = self._log.topics.raw, told.raw_partition
            sent = await publisher.send(topic, place, message.value, headers=message.headers)
            lane.flight.append((sent, told.next_offset if number == len(messages) else lane.landed))

    @staticmethod
    async def _landed(lane: _Lane, publisher: Publisher, left: int) -> None:
        while len(lane.flight) > left:
            sent, end = lane.flight.popleft()
            await publisher.acknowledged(sent)
            lane.landed = max(lane.landed, end)

    @staticmethod
    async def _report(lanes: Collection[_Lane], batches: Batches, done: dict[int, int]) -> dict[int, int]:
        """Commit offsets to the consumer group. For monitoring only; never read back."""
        now = {lane.told.partition: lane.landed for lane in lanes}
        fresh = {one: at for one, at in now.items() if at >= 0 and done.get(one) != at}
        if fresh:
            await batches.commit(fresh)
        return done | now
