"""Sends catalogues, commands and ticks to the topic of commands, and waits for the replies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from pipeline.config import Kafka
from pipeline.journal.entries import Apply, Commands, Entry, Rejects
from pipeline.journal.messages import messages_of, read_message
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.kafka import Log, publisher_of
from pipeline.streaming.topics import Topics
from rating.apply import merge
from rating.errors import InputError, UsageError, WorldError
from schemas.cards import Catalogue
from schemas.commands import Activate, Deactivate


class Reply(msgspec.Struct):
    """Whether the message at an offset of `commands` was accepted; if not, `message` says why."""

    offset: int
    accepted: bool
    message: str = ""


class InForce:
    """The effect of the command log so far: the catalogue, and the active rules."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.active: set[str] = set()

    def take(self, entry: Entry | Rejects) -> None:
        """Apply an accepted entry."""
        if isinstance(entry, Apply):
            self.catalogue = merge(self.catalogue, entry.catalogue)
        elif isinstance(entry, Commands):
            for command in entry.commands:
                if isinstance(command, Activate):
                    self.active.add(command.rule)
                elif isinstance(command, Deactivate):
                    self.active.discard(command.rule)


async def in_force(kafka: Kafka) -> InForce:
    """Return the effect of all messages of `commands` that a worker accepts, or will accept."""
    log, topic = Log(kafka), Topics(kafka.prefix).commands
    found, registry = InForce(), Registry(kafka.partitions, kafka.limit_bytes)
    async for message in log.read(topic, 0, 0, await log.end_offset(topic, 0)):
        if registry.take(message.offset, message.value, message.timestamp_us) is None:
            found.take(read_message(message.value, f"{topic}[0]@{message.offset}").entry())
    return found


async def send_entry(kafka: Kafka, entry: Entry, *, wait_s: float | None) -> list[int]:
    """Send an entry to `commands` and return the offsets of its messages, in order.

    With `wait_s`, each message is sent once the previous one was accepted, and on return all were. Raises UsageError
    with the reply to the first rejected message, WorldError if no reply comes within `wait_s` seconds.
    """
    topics, log = Topics(kafka.prefix), Log(kafka)
    contents = messages_of(entry, limit_bytes=kafka.limit_bytes)
    heard = await log.end_offset(topics.replies, 0) if wait_s is not None else 0
    offsets: list[int] = []
    async with publisher_of(kafka) as publisher:
        for number, content in enumerate(contents):
            sent = await publisher.send(topics.commands, 0, content)
            offsets.append(await publisher.acknowledged(sent))
            if wait_s is not None:
                reply = await _reply(log, topics, offsets[-1], heard, wait_s)
                if not reply.accepted:
                    raise _refused(reply, number, len(contents))
    return offsets


def _refused(reply: Reply, before: int, count: int) -> InputError:
    if count == 1:
        return UsageError(reply.message)
    return UsageError(
        f"{reply.message}\nThis was part {before + 1} of {count}; the {before} before it hold; the rest was not sent."
    )


async def _reply(log: Log, topics: Topics, offset: int, start: int, wait_s: float) -> Reply:
    async def find() -> Reply:
        async with aclosing(log.read(topics.replies, 0, max(0, start))) as replies:
            async for message in replies:
                reply = _decoded(message.value)
                if reply is not None and reply.offset == offset:
                    return reply
        raise AssertionError("reading without an end has none")

    try:
        async with asyncio.timeout(wait_s):
            return await find()
    except TimeoutError as error:
        raise WorldError(
            f"no reply to {topics.commands}[0]@{offset} within {wait_s:g} s; look whether a worker runs: the message "
            "stays in the topic and is taken once one does, so do not send it again"
        ) from error


def _decoded(value: bytes) -> Reply | None:
    try:
        return msgspec.json.decode(value, type=Reply)
    except msgspec.MsgspecError:
        return None  # a reply in the format of a later version


def parts_sent(offsets: Sequence[int]) -> str:
    """Describe the offsets of the sent messages, for display."""
    return f"offset {offsets[0]}" if len(offsets) == 1 else f"offsets {offsets[0]} to {offsets[-1]}"
