"""Read messages and offsets of partitions without joining a consumer group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition, errors

from pipeline.config import Kafka
from pipeline.streaming.kafka.connection import REQUEST_S, admin_of, broker_errors, reach
from pipeline.streaming.topics import Topics, largest_message_bytes
from rating.errors import StorageError, WorldError

_POLL_MS: Final = 500
BROKERS_TIME: Final = 1  # type of a timestamp that the broker set (LogAppendTime)
_FETCH_BYTES: Final = 8 << 20

Headers = Sequence[tuple[str, bytes]]


class LogMessage(NamedTuple):
    """A message read from a partition."""

    offset: int
    timestamp_us: int
    key: bytes | None
    value: bytes
    headers: Headers
    is_brokers_time: bool = False  # False if the sender chose the timestamp


class Bounds(NamedTuple):
    """The first offset and the end of a partition, and the message that was asked for; None if it is not there."""

    begin: int
    end: int
    message: LogMessage | None


class Log:
    """Reads partitions of topics without joining a consumer group. Each read opens its own connection."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.topics = Topics(kafka.prefix)

    async def end_offset(self, topic: str, partition: int) -> int:
        """Return the end offset of a partition, which its next message will get."""
        return (await self.ends(topic, [partition]))[partition]

    async def end_offsets(self, topic: str) -> list[int]:
        """Return the end offset of every partition, in order. Raises WorldError if the topic does not exist."""
        count = await self.partitions_of(topic)
        with broker_errors(self.kafka):
            if not count:
                raise errors.UnknownTopicOrPartitionError(topic)
        ends = await self.ends(topic, range(count))
        return [ends[partition] for partition in range(count)]

    async def partitions_of(self, topic: str) -> int:
        """Return the number of partitions of a topic; 0 if it does not exist."""
        async with admin_of(self.kafka) as admin:
            (found,) = await admin.describe_topics([topic])
        with broker_errors(self.kafka):
            kind = errors.for_code(found["error_code"])
            if found["error_code"] and kind not in (errors.UnknownTopicOrPartitionError, errors.InvalidTopicError):
                raise kind(topic)
        return 0 if found["error_code"] else len(found["partitions"])

    async def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """Return the end offset of each of these partitions."""
        async with self._consumer(topic, partitions) as consumer:
            found = await consumer.end_offsets([TopicPartition(topic, one) for one in partitions])
        return {one.partition: offset for one, offset in found.items()}

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Ends]:
        """Open a connection to query the ends of partitions of any topic repeatedly."""
        async with self._consumer("", ()) as consumer:
            yield Ends(self.kafka, consumer)

    async def begin_since(self, topic: str, partition: int, time_ms: int) -> tuple[int, int]:
        """Return the first offset of a partition, and the offset of its first message at or after `time_ms`.

        If there is no such message, the second is the end offset.
        """
        place = TopicPartition(topic, partition)
        async with self._consumer(topic, [partition]) as consumer:
            begin = (await consumer.beginning_offsets([place]))[place]
            found = (await consumer.offsets_for_times({place: max(0, time_ms)}))[place]
            since = (await consumer.end_offsets([place]))[place] if found is None else found.offset
        return begin, max(begin, since)

    async def bounds(self, topic: str, partition: int, offset: int = -1) -> Bounds:
        """Return begin and end of a partition, and its message at `offset` if that is between them.

        Raises WorldError if the broker does not return the message within REQUEST_S.
        """
        place = TopicPartition(topic, partition)
        async with self._consumer(topic, [partition], {"max_partition_fetch_bytes": 1}) as consumer:
            begin = (await consumer.beginning_offsets([place]))[place]
            end = (await consumer.end_offsets([place]))[place]
            if not begin <= offset < end:
                return Bounds(begin, end, None)
            consumer.seek(place, offset)
            async with asyncio.timeout(REQUEST_S):
                while not (got := (await consumer.getmany(place, timeout_ms=_POLL_MS)).get(place)):
                    if await consumer.position(place) > offset:
                        return Bounds(begin, end, None)
            first = _message_of(got[0])
            return Bounds(begin, end, first if first.offset == offset else None)

    async def last_message(self, topic: str, partition: int) -> LogMessage | None:
        """Return the newest message of a partition, or None if it is empty. Not for compacted topics."""
        end = await self.end_offset(topic, partition)
        begin, _ = await self.begin_since(topic, partition, 0)
        last = None
        if begin < end:
            async for message in self.read(topic, partition, end - 1, end):
                last = message
        return last

    async def read(
        self, topic: str, partition: int, start: int, end: int | None = None, *, few: bool = False
    ) -> AsyncGenerator[LogMessage, None]:
        """Yield the messages of a partition from `start` to before `end`; without an end, wait for new ones for ever.

        `few` fetches as little as possible beyond that. Raises StorageError if the partition does not have `start` (any
        more), WorldError if the broker returns no message before `end` for REQUEST_S.
        """
        if end is not None and start >= end:
            return
        place = TopicPartition(topic, partition)
        more = {"max_partition_fetch_bytes": 1} if few else None  # a broker returns at least one batch
        async with self._consumer(topic, [partition], more) as consumer:
            consumer.seek(place, start)
            heard_s, at = time.monotonic(), start
            while end is None or at < end:
                try:
                    got = await consumer.getmany(place, timeout_ms=_POLL_MS)
                except (errors.OffsetOutOfRangeError, errors.NoOffsetForPartitionError) as error:
                    raise StorageError(
                        f"{topic}[{partition}]: does not hold offset {at}; expected everything from there on: it was "
                        "removed before it was read; restore the topic, and keep its messages longer (retention.ms)"
                    ) from error
                for record in got.get(place, ()):
                    if end is not None and record.offset >= end:
                        return
                    at = record.offset + 1
                    yield _message_of(record)
                position = await consumer.position(place)  # also moves past messages that compaction has removed
                if position > at or got:
                    heard_s, at = time.monotonic(), max(at, position)
                elif end is not None and time.monotonic() - heard_s > REQUEST_S:
                    raise WorldError(
                        f"{topic}[{partition}]: nothing came of offset {at} for {REQUEST_S:.0f} s; look whether the "
                        "broker runs, then give the command again"
                    )

    @asynccontextmanager
    async def batches(self, topic: str, starts: Mapping[int, int], group: str) -> AsyncIterator[Batches]:
        """Read partitions from these offsets on, many messages at a time.

        Transactions are read once they are committed.
        """
        more = {"group_id": group, "isolation_level": "read_committed"}
        async with self._consumer(topic, list(starts), more) as consumer:
            for partition, start in starts.items():
                consumer.seek(TopicPartition(topic, partition), start)
            yield Batches(self.kafka, topic, consumer)

    @asynccontextmanager
    async def _consumer(
        self, topic: str, partitions: Sequence[int], more: Mapping[str, Any] | None = None
    ) -> AsyncIterator[AIOKafkaConsumer]:
        settings = await reach(self.kafka)
        chosen = {
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "max_partition_fetch_bytes": max(_FETCH_BYTES, largest_message_bytes(self.kafka)),
        }
        consumer = AIOKafkaConsumer(**settings, **(chosen | dict(more or {})))
        with broker_errors(self.kafka):
            try:
                await consumer.start()
                consumer.assign([TopicPartition(topic, one) for one in partitions])
                yield consumer
            finally:
                await consumer.stop()


def _message_of(record: Any) -> LogMessage:
    return LogMessage(
        record.offset,
        record.timestamp * 1000,
        record.key,
        record.value or b"",
        record.headers,
        record.timestamp_type == BROKERS_TIME,
    )


class Ends:
    """Queries the end offsets of partitions over one connection."""

    def __init__(self, kafka: Kafka, consumer: AIOKafkaConsumer) -> None:
        self._kafka = kafka
        self._consumer = consumer

    async def of(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Return the end offset of each (topic, partition)."""
        with broker_errors(self._kafka):
            found = await self._consumer.end_offsets([TopicPartition(*place) for place in places])
        return {(one.topic, one.partition): offset for one, offset in found.items()}


class Batches:
    """Reads partitions of a topic as client records, which have `offset`, `timestamp` (ms) and `value`."""

    def __init__(self, kafka: Kafka, topic: str, consumer: AIOKafkaConsumer) -> None:
        self._kafka = kafka
        self._topic = topic
        self._consumer = consumer

    async def take(self, wait_s: float) -> dict[int, list[Any]]:
        """Return new records by partition. If there are none, wait for up to `wait_s` seconds."""
        with broker_errors(self._kafka):
            try:
                got = await self._consumer.getmany(timeout_ms=max(0, int(wait_s * 1000)))
            except errors.OffsetOutOfRangeError as error:
                raise StorageError(f"{self._topic}: messages were removed before they were read") from error
        return {place.partition: records for place, records in got.items()}

    async def reached(self, ends: Mapping[int, int]) -> bool:
        """Return True if all messages before these offsets of partitions have been taken."""
        places = {TopicPartition(self._topic, partition): end for partition, end in ends.items()}
        return all([await self._consumer.position(place) >= end for place, end in places.items()])

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit offsets to the consumer group. For monitoring only; never read back."""
        with broker_errors(self._kafka):
            await self._consumer.commit({TopicPartition(self._topic, one): at for one, at in offsets.items()})
