"""Reading: the messages of partitions and where they begin and end, beside any consumer group."""

from __future__ import annotations

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
_FETCH_BYTES: Final = 8 << 20

Headers = Sequence[tuple[str, bytes]]


class LogMessage(NamedTuple):
    """A message as a partition holds it."""

    offset: int
    timestamp_us: int
    key: bytes | None
    value: bytes
    headers: Headers


class Log:
    """Reads partitions of topics beside any consumer group. Each reading has a connection of its own."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.topics = Topics(kafka.prefix)

    async def end_offset(self, topic: str, partition: int) -> int:
        """The offset that the next message of a partition will get."""
        return (await self.ends(topic, [partition]))[partition]

    async def end_offsets(self, topic: str) -> list[int]:
        """The same for every partition, in order."""
        count = await self.partitions_of(topic)
        with broker_errors(self.kafka):
            if not count:
                raise errors.UnknownTopicOrPartitionError(topic)
        ends = await self.ends(topic, range(count))
        return [ends[partition] for partition in range(count)]

    async def partitions_of(self, topic: str) -> int:
        """How many partitions a topic has; 0 where there is none of that name."""
        async with admin_of(self.kafka) as admin:
            (found,) = await admin.describe_topics([topic])
        with broker_errors(self.kafka):
            kind = errors.for_code(found["error_code"])
            if found["error_code"] and kind not in (errors.UnknownTopicOrPartitionError, errors.InvalidTopicError):
                raise kind(topic)
        return 0 if found["error_code"] else len(found["partitions"])

    async def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """The offset that the next message of each of these partitions will get."""
        async with self._consumer(topic, partitions) as consumer:
            found = await consumer.end_offsets([TopicPartition(topic, one) for one in partitions])
        return {one.partition: offset for one, offset in found.items()}

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Ends]:
        """A connection to ask for the ends of partitions of any topics again and again."""
        async with self._consumer("", ()) as consumer:
            yield Ends(self.kafka, consumer)

    async def begin_since(self, topic: str, partition: int, time_ms: int) -> tuple[int, int]:
        """Where a partition begins now, and its first message of this time or later (its end where there is none)."""
        place = TopicPartition(topic, partition)
        async with self._consumer(topic, [partition]) as consumer:
            begin = (await consumer.beginning_offsets([place]))[place]
            found = (await consumer.offsets_for_times({place: max(0, time_ms)}))[place]
            since = (await consumer.end_offsets([place]))[place] if found is None else found.offset
        return begin, max(begin, since)

    async def last_message(self, topic: str, partition: int) -> LogMessage | None:
        """The newest message of a partition; None where it holds none. Not for topics that are compacted."""
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
        """The messages of a partition from `start` to before `end`; without an end for ever. `few` fetches no more.

        Raises StorageError where the partition does not have `start` (any more), WorldError where the broker gives
        nothing of what is before `end` for REQUEST_S.
        """
        if end is not None and start >= end:
            return
        place = TopicPartition(topic, partition)
        more = {"max_partition_fetch_bytes": 1} if few else None  # a broker gives one batch at least
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
                    yield LogMessage(
                        record.offset, record.timestamp * 1000, record.key, record.value or b"", record.headers
                    )
                position = await consumer.position(place)  # behind what compaction has removed, too
                if position > at or got:
                    heard_s, at = time.monotonic(), max(at, position)
                elif end is not None and time.monotonic() - heard_s > REQUEST_S:
                    raise WorldError(
                        f"{topic}[{partition}]: nothing came of offset {at} for {REQUEST_S:.0f} s; look whether the "
                        "broker runs, then give the command again"
                    )

    @asynccontextmanager
    async def batches(self, topic: str, starts: Mapping[int, int], group: str) -> AsyncIterator[Batches]:
        """Read partitions from these offsets on, many messages at a time; of a transaction once it is complete."""
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


class Ends:
    """Where partitions end."""

    def __init__(self, kafka: Kafka, consumer: AIOKafkaConsumer) -> None:
        self._kafka = kafka
        self._consumer = consumer

    async def of(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The offset that the next message of each (topic, partition) will get."""
        with broker_errors(self._kafka):
            found = await self._consumer.end_offsets([TopicPartition(*place) for place in places])
        return {(one.topic, one.partition): offset for one, offset in found.items()}


class Batches:
    """Partitions of a topic, read as the client holds them: its records have `offset`, `timestamp` (ms) and `value`."""

    def __init__(self, kafka: Kafka, topic: str, consumer: AIOKafkaConsumer) -> None:
        self._kafka = kafka
        self._topic = topic
        self._consumer = consumer

    async def take(self, wait_s: float) -> dict[int, list[Any]]:
        """What has come, by partition; waits for so long where that is nothing."""
        with broker_errors(self._kafka):
            try:
                got = await self._consumer.getmany(timeout_ms=max(0, int(wait_s * 1000)))
            except errors.OffsetOutOfRangeError as error:
                raise StorageError(f"{self._topic}: messages were removed before they were read") from error
        return {place.partition: records for place, records in got.items()}

    async def reached(self, ends: Mapping[int, int]) -> bool:
        """Whether all before these offsets of partitions has been taken."""
        places = {TopicPartition(self._topic, partition): end for partition, end in ends.items()}
        return all([await self._consumer.position(place) >= end for place, end in places.items()])

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Say in the group how far partitions have been read, for whoever watches."""
        with broker_errors(self._kafka):
            await self._consumer.commit({TopicPartition(self._topic, one): at for one, at in offsets.items()})
