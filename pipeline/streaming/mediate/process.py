"""The mediation process of a worker. It runs all lanes; a lane mediates one raw partition.

It runs beside the process that folds, because one Python process uses only one CPU core for Python code.

    log of commands -> know -> Registry --+
    raw messages ------------> take -> Lane -> messages of the journal

The process handles requests in the order in which they were made. It exits when the worker exits, also if the worker is
killed. If the mediation process itself dies, the next request raises WorldError.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Final

from pipeline.journal.messages import LIMIT_BYTES
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.failures import ANY_FAILURE, said
from pipeline.streaming.mediate.partition import Lane, Mark, Mediated
from pipeline.streaming.raw.headers import NO_ORIGINS, Origins
from pipeline.streaming.raw.reading import Numbered
from rating.errors import WorldError
from schemas import mapping as feeds

_STOPS: Final = (signal.SIGINT, signal.SIGTERM)  # terminals and service managers send these to all processes


class Lanes:
    """Mediates raw messages of any partition of `topic`. `close` ends the process once its current request is done.

    Packed records may come from `origins` only. Messages of the journal have at most `limit_bytes`.
    """

    def __init__(
        self,
        topic: str,
        partitions: int,
        mappings: Mapping[str, feeds.Mapping],
        origins: Origins = NO_ORIGINS,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        spawning = multiprocessing.get_context("spawn")  # do not inherit threads and connections of the worker
        self._asking, self._asked = spawning.Pipe()
        self._process = spawning.Process(
            target=_serve, args=(self._asked, topic, partitions, mappings, origins, limit_bytes), daemon=True
        )
        self._thread = ThreadPoolExecutor(1, "lanes")

    async def know(self, offset: int, content: bytes, timestamp_us: int | None = None) -> None:
        """Fold the next message of the command log. Later requests see its effect."""
        await self._ask("know", offset, content, timestamp_us)

    async def take(
        self,
        partition: int,
        marks: Sequence[Mark],
        messages: Sequence[Numbered],
        *,
        now_us: int | None = None,
        commands_end: int | None = None,
    ) -> Mediated:
        """Mediate messages in a lane that has read `marks`. All other arguments, and NotYet, are those of Lane.take."""
        found: Mediated = await self._ask("take", partition, marks, messages, now_us, commands_end)
        return found

    def close(self) -> None:
        """End the mediation process."""
        self._thread.submit(self._asking.close)
        self._thread.shutdown(wait=False)

    async def _ask(self, what: str, *of: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, what, of)

    def _answer(self, what: str, of: tuple[Any, ...]) -> Any:
        try:
            if self._process.pid is None:
                self._process.start()
                self._asked.close()  # the child has its own copy; so each side sees when the other exits
            self._asking.send((what, of))
            found = self._asking.recv()
        except (EOFError, OSError) as failure:
            raise WorldError(
                "the mediation process exited unexpectedly; expected it to run as long as its worker (is there enough "
                "memory?): restart the worker, no data is lost"
            ) from failure
        if isinstance(found, Exception):
            raise found
        return found


class _Mediation:
    """The state of the mediation process."""

    def __init__(
        self,
        topic: str,
        partitions: int,
        mappings: Mapping[str, feeds.Mapping],
        origins: Origins,
        limit_bytes: int,
    ) -> None:
        self._topic = topic
        self._registry = Registry(partitions, limit_bytes)
        self._mappings = mappings
        self._origins = origins
        self._limit_bytes = limit_bytes
        self._lanes: dict[int, Lane] = {}

    def know(self, offset: int, content: bytes, timestamp_us: int | None) -> None:
        self._registry.take(offset, content, timestamp_us)

    def take(
        self,
        partition: int,
        marks: Sequence[Mark],
        messages: Sequence[Numbered],
        now_us: int | None,
        commands_end: int | None,
    ) -> Mediated:
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = Lane(
                self._topic,
                partition,
                self._registry,
                self._mappings,
                origins=self._origins,
                limit_bytes=self._limit_bytes,
            )
        lane.marks = tuple(marks)
        return lane.take(messages, now_us=now_us, commands_end=commands_end)


def _serve(
    asked: Connection,
    topic: str,
    partitions: int,
    mappings: Mapping[str, feeds.Mapping],
    origins: Origins,
    limit_bytes: int,
) -> None:
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    mediation = _Mediation(topic, partitions, mappings, origins, limit_bytes)
    with suppress(EOFError, ConnectionError):  # the worker has exited
        while True:
            what, of = asked.recv()
            try:
                found = getattr(mediation, what)(*of)
            except ANY_FAILURE as failure:
                # A panic of Polars cannot be sent: its class has no name that the other process could import.
                found = failure if isinstance(failure, Exception) else WorldError(said(failure))
            asked.send(found)
