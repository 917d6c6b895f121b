"""The lanes of a worker, in a process of their own beside the one that folds: a process runs Python on one core.

    log of commands -> know -> Registry --+
    raw messages ------------> take -> Lane -> messages of the journal

What the process is told comes to it in the order in which it was asked. It ends with the worker, also where that is
killed; where it is killed itself, whoever asks next gets an error.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Final, TypeVar

from pipeline.streaming.mediation import Lane, Mark, Mediated
from pipeline.streaming.reading import Numbered
from pipeline.streaming.registry import Registry
from rating.errors import WorldError
from schemas import mapping as feeds

T = TypeVar("T")

_STOPS: Final = (signal.SIGINT, signal.SIGTERM)  # which a terminal or a service manager sends to all processes


class Lanes:
    """Mediates raw messages of any partition of `topic`. `close` ends the process once it has done what it does."""

    def __init__(self, topic: str, partitions: int, mappings: Mapping[str, feeds.Mapping]) -> None:
        spawning = multiprocessing.get_context("spawn")  # threads and connections of the worker stay where they are
        self._process = ProcessPoolExecutor(1, spawning, initializer=_begin, initargs=(topic, partitions, mappings))

    async def know(self, offset: int, content: bytes) -> None:
        """Fold the next message of the log of commands. What is asked after this call knows of it."""
        await self._ask(_know, offset, content)

    async def take(self, partition: int, marks: Sequence[Mark], messages: Sequence[Numbered]) -> Mediated:
        """What the messages become in a lane that has passed `marks`; raises NotYet as Lane.take does."""
        return await self._ask(_take, partition, marks, messages)

    def close(self) -> None:
        """Mediate no more."""
        self._process.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, what: Callable[..., T], *of: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._process, what, *of)
        except BrokenExecutor as failure:
            raise WorldError(
                "the process that mediates has been ended; expected it to run as long as its worker: is there memory "
                "enough? Start the worker again; nothing is lost"
            ) from failure


@dataclass
class _Mediation:
    """What the process holds."""

    topic: str
    registry: Registry
    mappings: Mapping[str, feeds.Mapping]
    lanes: dict[int, Lane]


_mediation: _Mediation


def _begin(topic: str, partitions: int, mappings: Mapping[str, feeds.Mapping]) -> None:
    global _mediation
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_worker, daemon=True).start()
    _mediation = _Mediation(topic, Registry(partitions), mappings, {})


def _end_with_worker() -> None:
    worker = multiprocessing.parent_process()
    assert worker is not None
    wait([worker.sentinel])
    os._exit(0)


def _know(offset: int, content: bytes) -> None:
    _mediation.registry.take(offset, content)


def _take(partition: int, marks: Sequence[Mark], messages: Sequence[Numbered]) -> Mediated:
    here = _mediation
    lane = here.lanes.get(partition)
    if lane is None:
        lane = here.lanes[partition] = Lane(here.topic, partition, here.registry, here.mappings)
    lane.marks = tuple(marks)
    return lane.take(messages)
