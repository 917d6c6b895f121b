"""The lanes of a worker, in a process of their own beside the one that folds: a process runs Python on one core.

    log of commands -> know -> Registry --+
    raw messages ------------> take -> Lane -> messages of the journal

What the process is told comes to it in the order in which it was asked. It ends with the worker, also where that is
killed; where it is ended itself, whoever asks next gets an error.
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

from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.mediate.partition import Lane, Mark, Mediated
from pipeline.streaming.raw.reading import Numbered
from rating.errors import WorldError
from schemas import mapping as feeds

_STOPS: Final = (signal.SIGINT, signal.SIGTERM)  # which a terminal or a service manager sends to all processes


class Lanes:
    """Mediates raw messages of any partition of `topic`. `close` ends the process once it has done what it does."""

    def __init__(self, topic: str, partitions: int, mappings: Mapping[str, feeds.Mapping]) -> None:
        spawning = multiprocessing.get_context("spawn")  # threads and connections of the worker stay where they are
        self._asking, self._asked = spawning.Pipe()
        self._process = spawning.Process(target=_serve, args=(self._asked, topic, partitions, mappings), daemon=True)
        self._thread = ThreadPoolExecutor(1, "lanes")

    async def know(self, offset: int, content: bytes) -> None:
        """Fold the next message of the log of commands. What is asked after this call knows of it."""
        await self._ask("know", offset, content)

    async def take(self, partition: int, marks: Sequence[Mark], messages: Sequence[Numbered]) -> Mediated:
        """What the messages become in a lane that has passed `marks`; raises NotYet as Lane.take does."""
        found: Mediated = await self._ask("take", partition, marks, messages)
        return found

    def close(self) -> None:
        """Mediate no more."""
        self._thread.submit(self._asking.close)
        self._thread.shutdown(wait=False)

    async def _ask(self, what: str, *of: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, what, of)

    def _answer(self, what: str, of: tuple[Any, ...]) -> Any:
        try:
            if self._process.pid is None:
                self._process.start()
                self._asked.close()  # the process has its own: so each end hears when the other is gone
            self._asking.send((what, of))
            found = self._asking.recv()
        except (EOFError, OSError) as failure:
            raise WorldError(
                "the process that mediates has been ended; expected it to run as long as its worker: is there memory "
                "enough? Start the worker again; nothing is lost"
            ) from failure
        if isinstance(found, Exception):
            raise found
        return found


class _Mediation:
    """What the process holds."""

    def __init__(self, topic: str, partitions: int, mappings: Mapping[str, feeds.Mapping]) -> None:
        self._topic = topic
        self._registry = Registry(partitions)
        self._mappings = mappings
        self._lanes: dict[int, Lane] = {}

    def know(self, offset: int, content: bytes) -> None:
        self._registry.take(offset, content)

    def take(self, partition: int, marks: Sequence[Mark], messages: Sequence[Numbered]) -> Mediated:
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = Lane(self._topic, partition, self._registry, self._mappings)
        lane.marks = tuple(marks)
        return lane.take(messages)


def _serve(asked: Connection, topic: str, partitions: int, mappings: Mapping[str, feeds.Mapping]) -> None:
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    mediation = _Mediation(topic, partitions, mappings)
    with suppress(EOFError, ConnectionError):  # the worker is gone
        while True:
            what, of = asked.recv()
            try:
                found = getattr(mediation, what)(*of)
            except Exception as failure:
                found = failure
            asked.send(found)
