"""The Kafka client: connections as [kafka] says, topics made and checked, partitions read, messages sent.

What goes wrong is told as Weir's errors within bounded time: ConfigError where the broker refuses who asks or how,
WorldError where it is away.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, NamedTuple

from aiokafka import (  # type: ignore[import-untyped]
    AIOKafkaConsumer,
    AIOKafkaProducer,
    TopicPartition,
    errors,
)
from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # type: ignore[import-untyped]
from aiokafka.conn import create_conn  # type: ignore[import-untyped]

from pipeline.config import Kafka, read_secret
from pipeline.config.table import host_and_port
from pipeline.config.tls import ssl_context
from pipeline.streaming.topics import Layout, Topics, largest_message_bytes, layouts
from rating.errors import ConfigError, StorageError, WeirError, WorldError

PATIENCE_S: Final = 10.0  # how long a broker that is away is asked again when a command or worker starts
REQUEST_S: Final = 30.0  # how long a request may take, and a reader may get nothing of what is there

_PROBE_S: Final = 5.0
_RETRY_S: Final = 0.25
_GIVE_UP_S: Final = 1.0
_POLL_MS: Final = 500
_FETCH_BYTES: Final = 8 << 20
_PROTOCOLS: Final = {"plain": "PLAINTEXT", "tls": "SSL", "sasl": "SASL_PLAINTEXT", "sasl_tls": "SASL_SSL"}
_REFUSED: Final = (
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
    errors.SaslAuthenticationFailed,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)
_FORBIDDEN: Final = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
)

# What it says while it tries again is told as an error once that is of no use; a worker's own log shows it as well.
logging.getLogger("aiokafka").addHandler(logging.NullHandler())

Headers = Sequence[tuple[str, bytes]]


class LogMessage(NamedTuple):
    """A message as a partition holds it."""

    offset: int
    timestamp_us: int
    key: bytes | None
    value: bytes
    headers: Headers


def client_settings(kafka: Kafka) -> dict[str, Any]:
    """What every client of aiokafka, and Faust's broker credentials, are made with.

    Reads passwords and certificates. Raises ConfigError where they cannot be used.
    """
    settings: dict[str, Any] = {
        "bootstrap_servers": list(kafka.addresses),
        "security_protocol": _PROTOCOLS[kafka.security],
        "request_timeout_ms": int(REQUEST_S * 1000),
    }
    if kafka.encrypted:
        settings["ssl_context"] = ssl_context(kafka)
    if kafka.sasl:
        settings["sasl_mechanism"] = kafka.mechanism
        settings["sasl_plain_username"] = kafka.user
        settings["sasl_plain_password"] = read_secret(kafka.password_env, kafka.password_file, "[kafka]")
    return settings


async def reach(kafka: Kafka, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """Wait until a broker answers and takes what it is shown; the settings of clients.

    Raises WorldError where none answers within `patience_s`, ConfigError where one refuses.
    """
    settings = client_settings(kafka)
    probe = settings | {"request_timeout_ms": int(_PROBE_S * 1000)}
    del probe["bootstrap_servers"]
    deadline_s = time.monotonic() + patience_s
    while True:
        problems = []
        for address in kafka.addresses:
            place = host_and_port(address)
            assert place is not None  # load_config has seen to it
            try:
                with broker_errors(kafka, address):
                    connection = await asyncio.wait_for(create_conn(*place, **probe), _PROBE_S)
                connection.close()
                return settings
            except WorldError as error:
                problems.append(error)
        if time.monotonic() >= deadline_s:
            raise problems[0]
        await asyncio.sleep(_RETRY_S)


@contextmanager
def broker_errors(kafka: Kafka, address: str | None = None) -> Iterator[None]:
    """Let what Kafka's client raises come out as WorldError or ConfigError, with what to do."""
    where = address or ", ".join(kafka.addresses)
    try:
        yield
    except WeirError:
        raise
    except _REFUSED as error:
        raise ConfigError(
            f"Kafka at {where} refused user {kafka.user!r} ({_said(error)}); check user, password and mechanism "
            f"({kafka.mechanism}) in [kafka]"
        ) from error
    except _FORBIDDEN as error:
        raise ConfigError(
            f"Kafka at {where} does not allow this ({_said(error)}); give the user of [kafka] rights on topics that "
            f"begin with {kafka.prefix!r} and on the group, or name another user"
        ) from error
    except (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError) as error:
        raise ConfigError(
            f"Kafka at {where} takes no message of this size; set max.message.bytes of the topics to at least "
            f"{largest_message_bytes(kafka)}, or make [kafka].limit_bytes smaller"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"Kafka at {where} shows a certificate that does not hold: {error.verify_message}; check ca_file in "
            "[kafka], and that the broker's certificate names this host"
        ) from error
    except ssl.SSLError as error:
        raise ConfigError(
            f"Kafka at {where}: no encrypted connection: {_said(error)}; check security, cert_file and key_file in "
            "[kafka], and that the port is one for TLS"
        ) from error
    except errors.UnknownTopicOrPartitionError as error:
        raise WorldError(
            f"Kafka at {where}: a topic or partition is missing; start a worker, which makes it"
        ) from error
    except (errors.KafkaError, OSError, TimeoutError) as error:
        raise WorldError(
            f"Kafka at {where} does not answer ({_said(error)}); start the broker (`weir kafka` runs one here), check "
            "servers and security in [kafka] and the network, then give the command again"
        ) from error


@asynccontextmanager
async def admin_of(kafka: Kafka) -> AsyncIterator[AIOKafkaAdminClient]:
    """An administration client."""
    settings = await reach(kafka)
    admin = AIOKafkaAdminClient(**settings)
    with broker_errors(kafka):
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()


async def ensure_topics(kafka: Kafka) -> list[str]:
    """Make the topics that are missing; their names.

    Raises ConfigError where one has another number of partitions than the configuration says.
    """
    async with admin_of(kafka) as admin:
        wanted = layouts(kafka)
        found = await admin.describe_topics([layout.name for layout in wanted])
        _check_partitions(wanted, found)
        there = {one["topic"] for one in found if not one["error_code"]}
        missing = [layout for layout in wanted if layout.name not in there]
        if missing:
            new = [
                NewTopic(one.name, one.partitions, kafka.replication, topic_configs=dict(one.settings))
                for one in missing
            ]
            made = await admin.create_topics(new)
            for name, code, *said in made.topic_errors:
                if code and code != errors.TopicAlreadyExistsError.errno:  # another worker was quicker
                    _raise_not_made(kafka, name, code, said[0] if said else None)
            # Of a topic that another has just made, this may be the first that is heard.
            _check_partitions(wanted, await _led(admin, [layout.name for layout in missing]))
        return [layout.name for layout in missing]


def _raise_not_made(kafka: Kafka, name: str, code: int, said: str | None) -> None:
    kind = errors.for_code(code)
    if kind in _FORBIDDEN:
        raise kind(name)
    what = f"Kafka did not make topic {name}: {said or kind.__name__}"
    if kind in (errors.InvalidReplicationFactorError, errors.PolicyViolationError, errors.InvalidConfigurationError):
        raise ConfigError(f"{what}; change [kafka] (replication is {kafka.replication}), or make the topic by hand")
    raise WorldError(f"{what}; look at the broker's log, then try again")


async def _led(admin: AIOKafkaAdminClient, names: list[str]) -> list[dict[str, Any]]:
    """The topics, once every partition has a leader: from then on they can be read and written."""
    deadline_s = time.monotonic() + REQUEST_S
    while True:
        found: list[dict[str, Any]] = await admin.describe_topics(names)
        ready = [bool(one["partitions"]) and all(p["leader"] >= 0 for p in one["partitions"]) for one in found]
        if len(ready) == len(names) and all(ready):
            return found
        if time.monotonic() > deadline_s:
            raise WorldError(
                f"Kafka has made topics ({', '.join(names)}) that nobody leads after {REQUEST_S:.0f} s; look at the "
                "broker's log, then try again"
            )
        await asyncio.sleep(0.05)


def _check_partitions(wanted: list[Layout], found: list[dict[str, Any]]) -> None:
    counts = {one["topic"]: len(one["partitions"]) for one in found if not one["error_code"]}
    for layout in wanted:
        count = counts.get(layout.name, layout.partitions)
        if count != layout.partitions:
            advice = "name another prefix, or remove the topic if nothing in it is needed"
            if layout.field:
                advice = f"set {layout.field} = {count}, as it never changes, or {advice}"
            said = f"topic {layout.name}: found {count} partitions; [kafka] says {layout.partitions}: {advice}"
            raise ConfigError(said)


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
        self, topic: str, partition: int, start: int, end: int | None = None
    ) -> AsyncGenerator[LogMessage, None]:
        """The messages of a partition from `start` to before `end`; without an end for ever.

        Raises StorageError where the partition does not have `start` (any more), WorldError where the broker gives
        nothing of what is before `end` for REQUEST_S.
        """
        if end is not None and start >= end:
            return
        place = TopicPartition(topic, partition)
        async with self._consumer(topic, [partition]) as consumer:
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
        consumer = AIOKafkaConsumer(
            **settings,
            **(more or {}),
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=max(_FETCH_BYTES, largest_message_bytes(self.kafka)),
        )
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


class Publisher:
    """Sends messages; each is acknowledged by all replicas in sync, in order and once for a connection."""

    def __init__(self, kafka: Kafka, producer: AIOKafkaProducer) -> None:
        self._kafka = kafka
        self._producer = producer

    async def send(
        self, topic: str, partition: int | None, value: bytes | None, key: bytes | None = None, headers: Headers = ()
    ) -> asyncio.Future[Any]:
        """Hand a message over; what is returned is done, with its `offset`, once the broker has it."""
        with broker_errors(self._kafka):
            sent: asyncio.Future[Any] = await self._producer.send(
                topic, value, key=key, partition=partition, headers=list(headers)
            )
            return sent

    async def acknowledged(self, sent: asyncio.Future[Any]) -> int:
        """Wait until the broker has a message; its offset. Raises WorldError where that takes more than REQUEST_S."""
        with broker_errors(self._kafka):  # the client itself would try for ever, so that no message is lost or double
            offset: int = (await asyncio.wait_for(asyncio.shield(sent), REQUEST_S)).offset
            return offset


@asynccontextmanager
async def publisher_of(kafka: Kafka, settings: Mapping[str, Any] | None = None) -> AsyncIterator[Publisher]:
    """A connection to send by; `settings` go over Weir's. At the end what was handed over is sent, or an error raised.

    Where the body raises, what the broker does not take at once is given up.
    """
    more = {"acks": "all", "enable_idempotence": True, "max_request_size": largest_message_bytes(kafka)}
    producer = AIOKafkaProducer(**await reach(kafka) | more | dict(settings or {}))
    limit_s = _GIVE_UP_S
    try:
        with broker_errors(kafka):
            await asyncio.wait_for(producer.start(), REQUEST_S)
        yield Publisher(kafka, producer)
        limit_s = REQUEST_S
    finally:
        with broker_errors(kafka):
            try:
                await asyncio.wait_for(producer.stop(), limit_s)
            except TimeoutError:
                await producer.client.close()
                if limit_s == REQUEST_S:
                    raise


def _said(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
