"""The Faust agents of a worker (mediate, accept, rate, land). Each hands messages to the stage of their partition.

A stage acknowledges messages in offset order, once everything that follows from them is durable. If a stage or an agent
raises, the process ends at once: an agent that Faust restarted would continue after the message that failed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, Final, Protocol

import faust
from faust.types import TP, EventT

from pipeline.streaming.kafka import BROKERS_TIME
from pipeline.streaming.stage.inbox import Delivery, Inbox
from rating.errors import InputError

FAILED: Final = 3  # exit status of a worker whose stage failed
WRONG: Final = 2  # exit status if starting again does not help: configuration or topics are not as expected

_ASK_AGAIN_S: Final = 0.5

_log = logging.getLogger(__name__)


class Stage(Protocol):
    """The task of one topic partition."""

    inbox: Inbox

    @property
    def next_offset(self) -> int:
        """The offset of the first message that the stage has not taken."""
        ...

    async def run(self) -> None:
        """Handle the messages of the inbox until cancelled."""


class Stages:
    """The running stages of a worker, by topic and partition."""

    def __init__(self, app: faust.App) -> None:
        self._app = app
        self._running: dict[TP, tuple[Stage, asyncio.Task[None]]] = {}
        self._paused: set[TP] = set()

    def __contains__(self, tp: TP) -> bool:
        return tp in self._running

    def __iter__(self) -> Iterator[TP]:
        return iter(tuple(self._running))

    def get(self, tp: TP) -> Stage | None:
        """Return the stage of a partition, or None if this worker does not run it."""
        found = self._running.get(tp)
        return None if found is None else found[0]

    def items(self) -> list[tuple[TP, Stage]]:
        """Return each partition with its stage."""
        return [(tp, stage) for tp, (stage, _) in self._running.items()]

    def start(self, tp: TP, stage: Stage) -> None:
        """Run a stage until it is stopped. If the stage fails, the process ends."""
        stage.inbox.on_room = lambda: self._resume(tp)
        self._running[tp] = (
            stage,
            asyncio.get_running_loop().create_task(ending(stage.run(), f"{tp.topic}[{tp.partition}]")),
        )

    async def keep(self, tps: Iterable[TP]) -> None:
        """Stop the stages of revoked partitions, that is all except `tps`.

        Their next owner re-reads unacknowledged messages.
        """
        wanted = set(tps)
        gone = [tp for tp in self._running if tp not in wanted]
        await asyncio.gather(*(_end(self._running.pop(tp)[1]) for tp in gone))
        self._paused &= wanted

    async def hand(self, event: EventT[Any]) -> None:
        """Hand a message to its stage. If the inbox of the stage is full, pause fetching from the partition."""
        message = event.message
        tp = TP(message.topic, message.partition)
        stage = self.get(tp)
        if stage is None:
            return  # the partition has just been revoked
        headers: Any = tuple(message.headers.items() if isinstance(message.headers, dict) else message.headers or ())
        timestamp_us = round(message.timestamp * 1000) * 1000  # Kafka timestamps are in milliseconds
        is_brokers_time = message.timestamp_type == BROKERS_TIME
        delivery = Delivery(message.offset, timestamp_us, message.value or b"", headers, event.ack, is_brokers_time)
        await stage.inbox.put(delivery)
        if stage.inbox.full and tp not in self._paused:
            self._paused.add(tp)
            self._app.consumer.pause_partitions({tp})

    def _resume(self, tp: TP) -> None:
        if tp in self._paused:
            self._paused.discard(tp)
            if not self._app.rebalancing and tp in self._app.consumer.assignment():
                self._app.consumer.resume_partitions({tp})


def define(app: faust.App, stages: Stages, topics: dict[str, str]) -> None:
    """Define an agent for each name and topic. Keys and values are bytes; the stages acknowledge the messages."""
    for name, topic in topics.items():
        schema: Any = faust.Schema(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
        app.agent(app.topic(topic, schema=schema, internal=True), name=name)(_handing(stages))


def _handing(stages: Stages) -> Any:
    async def hand_on(stream: Any) -> None:
        async def handing() -> None:
            async for event in stream.noack().events():
                await stages.hand(event)

        await ending(handing(), "an agent")

    return hand_on


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel the task repeatedly until it ends. A client library may swallow `CancelledError`."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_ASK_AGAIN_S)


async def ending(work: Coroutine[Any, Any, None], what: str) -> None:
    """Run `work`. If it fails, log the error and end the process, because recovery needs a start from durable state."""
    try:
        await work
    except asyncio.CancelledError:
        raise
    except BaseException as failure:
        for one in _leaves(failure):
            _log.critical("%s: %s", what, one, exc_info=one)
        wrong = all(isinstance(one, InputError) for one in _leaves(failure))
        logging.shutdown()
        os._exit(WRONG if wrong else FAILED)


def told(tps: Iterable[TP]) -> str:
    """Format partitions for a log message: weir.journal 0 2, weir.usage.raw 1."""
    by_topic: dict[str, list[int]] = {}
    for tp in sorted(tps):
        by_topic.setdefault(tp.topic, []).append(tp.partition)
    return ", ".join(f"{topic} {' '.join(map(str, found))}" for topic, found in by_topic.items()) or "none"


def _leaves(failure: BaseException) -> list[BaseException]:
    if isinstance(failure, BaseExceptionGroup):
        return [leaf for inner in failure.exceptions for leaf in _leaves(inner)]
    return [failure]
