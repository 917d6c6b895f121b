"""The land stage: writes the outputs of one partition to files of the history and to ClickHouse."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipeline.clickhouse import Sink
from pipeline.streaming.kafka import Log
from pipeline.streaming.land.folder import PartitionLanding, folder_of, landed_of
from pipeline.streaming.rate.output_messages import Gathering, Output, decode
from pipeline.streaming.rate.recent import RecentPieces
from pipeline.streaming.stage.in_order import InOrder
from pipeline.streaming.stage.inbox import Delivery, Inbox
from pipeline.streaming.worker.metrics import Metrics
from rating.errors import LockedError, StorageError, WorldError

_AT_ONCE_BYTES: Final = 16 << 20
INBOX_BYTES: Final = 32 << 20  # above this, the partition is paused and its rows wait in usage.rated
_RETRY_S: Final = 5.0  # while ClickHouse is unreachable
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LandPace:
    """How many rows are landed together, and how long they wait for more."""

    rows: int
    seconds: float


@dataclass
class _Held:
    """Complete outputs that wait to be landed, and the messages that contained them, in order."""

    outputs: list[Output] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    complete: int = 0  # the number of deliveries up to the last complete output; these can be acknowledged once landed
    rows: int = 0


class Land:
    """The stage of one partition of usage.rated.

    `save` stores durably up to which offset the partition was read; `next_offset` is the value stored last. Pieces that
    this worker sent itself are taken from `recent` and not decoded. `connect` opens its ClickHouse sink, which gives up
    soon if ClickHouse is unreachable.
    """

    def __init__(
        self,
        partition: int,
        history: Path,
        log: Log,
        topic: str,
        next_offset: int | None,
        recent: RecentPieces,
        save: Callable[[int], Awaitable[None]],
        connect: Callable[[], Sink] | None,
        pace: LandPace,
        metrics: Metrics,
    ) -> None:
        self.partition = partition
        self.inbox = Inbox(INBOX_BYTES)
        self.waits_for: str | None = None  # why nothing lands at the moment; None if landing works
        self._folder = folder_of(history, partition)
        self._topic = topic
        # An empty folder needs the whole topic, whatever was landed in another folder.
        start = next_offset if landed_of(self._folder) >= 0 else None
        self._source = InOrder(self.inbox, log, topic, partition, start)
        self._recent = recent
        self._save = save
        self._connect = connect
        self._pace = pace
        self._metrics = metrics
        self._landing: PartitionLanding | None = None
        self._gathering = Gathering()
        self._thread = ThreadPoolExecutor(1, f"land-{partition}")
        self._behind = False  # True if ClickHouse lacks rows that the folder has
        self._held = _Held()

    @property
    def next_offset(self) -> int:
        """The offset of the first message that the stage has not taken."""
        return self._source.next_offset

    async def run(self) -> None:
        """Land the messages of the inbox until cancelled.

        No rows are dropped, however long a disk or ClickHouse is unavailable.
        """
        self._recent.begin(self.partition)
        try:
            await self._source.begin()
            while True:
                await self._gather()
                await self._land()
        finally:
            self._recent.end(self.partition)
            # Close in the landing thread, because a landing in progress cannot be interrupted.
            self._thread.submit(self._close)
            self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._landing is not None:
            self._landing.close()

    async def _gather(self) -> None:
        """Collect outputs until there are enough rows, or they have waited long enough."""
        held = self._held = _Held(deliveries=self._held.deliveries[self._held.complete :])
        with suppress(TimeoutError):
            # Retry ClickHouse even if no new messages come.
            async with asyncio.timeout(_RETRY_S if self._behind else None):
                self._take(await self._source.take(_AT_ONCE_BYTES))
        until = time.monotonic() + self._pace.seconds
        while held.deliveries and held.rows < self._pace.rows and (left := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    self._take(await self._source.take(_AT_ONCE_BYTES))
            except TimeoutError:
                return

    def _take(self, batch: list[Delivery]) -> None:
        """Join pieces into outputs. An output that was sent twice is landed once."""
        held = self._held
        for delivery in batch:
            held.deliveries.append(delivery)
            piece = self._recent.take(self.partition, delivery.value)
            if piece is None:
                piece = decode(delivery.value, f"{self._topic}[{self.partition}]@{delivery.offset}")
            output = self._gathering.take(piece)
            if output is not None:
                self._recent.forget(self.partition, output.journal_offset)
                held.outputs.append(output)
                held.rows += output.rated.num_rows
                held.complete = len(held.deliveries)

    async def _land(self) -> None:
        """Land the collected outputs, retrying while the folder cannot be written; then acknowledge their messages.

        If ClickHouse does not take rows, they are acknowledged all the same: it gets them from the folder once it is
        back.
        """
        held = self._held
        pause_s = _FIRST_PAUSE_S
        started = time.monotonic()
        while held.outputs or self._behind:
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._land_once, held.outputs)
                self._behind, self.waits_for = False, None
                self._metrics.landing_works(self.partition)
                break
            except WorldError as failure:
                # A worker that was thought dead may still lock the folder, or a disk may be full. Both pass.
                self.waits_for = str(failure)
                self._metrics.landing_failed(self.partition)
                _log.warning("landing waits: %s", failure, extra={"partition": self.partition})
                self._behind = self._landing is not None and not isinstance(failure, StorageError | LockedError)
                if self._behind:
                    break
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        if held.outputs:
            self._metrics.landed(self.partition, held.outputs, time.monotonic() - started)
        done = held.deliveries[: held.complete]
        if done:
            await self._save(done[-1].offset + 1)
        for delivery in done:
            delivery.ack()

    def _land_once(self, outputs: list[Output]) -> None:
        """Land in the folder, and in ClickHouse as soon as it can be reached."""
        if self._landing is None:
            self._landing = PartitionLanding(self._folder, self.partition, None)
        if self._connect is not None and self._landing.sink is None:
            self._landing.land(outputs)
            self._landing.sink = self._connect()
        self._landing.land(outputs)
