"""Sends messages that the broker acknowledges, in order and without duplicates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from pipeline.config import Kafka
from pipeline.streaming.kafka.connection import REQUEST_S, broker_errors, reach
from pipeline.streaming.kafka.log import Headers
from pipeline.streaming.topics import largest_message_bytes

_GIVE_UP_S: Final = 1.0


class Publisher:
    """Sends messages. All in-sync replicas acknowledge each one, in order and once per connection."""

    def __init__(self, kafka: Kafka, producer: AIOKafkaProducer) -> None:
        self._kafka = kafka
        self._producer = producer

    async def send(
        self, topic: str, partition: int | None, value: bytes | None, key: bytes | None = None, headers: Headers = ()
    ) -> asyncio.Future[Any]:
        """Send a message. The returned future is done, with the `offset`, once the broker has acknowledged it."""
        with broker_errors(self._kafka):
            sent: asyncio.Future[Any] = await self._producer.send(
                topic, value, key=key, partition=partition, headers=list(headers)
            )
            return sent

    async def acknowledged(self, sent: asyncio.Future[Any]) -> int:
        """Wait until the broker has acknowledged a message, and return its offset.

        Raises WorldError if that takes more than REQUEST_S.
        """
        with broker_errors(self._kafka):  # the client retries without limit, so that no message is lost or duplicated
            async with asyncio.timeout(REQUEST_S):
                offset: int = (await asyncio.shield(sent)).offset
            return offset


@asynccontextmanager
async def publisher_of(kafka: Kafka, settings: Mapping[str, Any] | None = None) -> AsyncIterator[Publisher]:
    """Open a connection to send messages. `settings` override those of Weir.

    At the end all messages are sent, or an error is raised. If the body raises, messages that the broker does not take
    within a second are dropped.
    """
    more = {"acks": "all", "enable_idempotence": True, "max_request_size": largest_message_bytes(kafka)}
    producer = AIOKafkaProducer(**await reach(kafka) | more | dict(settings or {}))
    limit_s = _GIVE_UP_S
    try:
        with broker_errors(kafka):
            async with asyncio.timeout(REQUEST_S):
                await producer.start()
        yield Publisher(kafka, producer)
        limit_s = REQUEST_S
    finally:
        with broker_errors(kafka):
            try:
                async with asyncio.timeout(limit_s):
                    await producer.stop()
            except TimeoutError:
                await producer.client.close()
                if limit_s == REQUEST_S:
                    raise
