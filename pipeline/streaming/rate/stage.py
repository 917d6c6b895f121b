"""Rate: the fold over one journal partition, its outputs, and the checkpoints that recovery begins from.

    restore:    newest complete checkpoint -> replay of the journal after it -> new messages
    each entry: fold -> actions and status acknowledged -> its rows in usage.rated acknowledged -> acknowledge the entry

After a failure an entry is folded again, and gives the same outputs with the same ids. The end of usage.rated shows
which outputs have been sent completely, because an entry's rows are sent only after its actions are acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from pipeline.journal.messages import checksum_of
from pipeline.streaming.kafka import Log
from pipeline.streaming.land.folder import folder_of, landed_of
from pipeline.streaming.rate import checkpoints as base
from pipeline.streaming.rate.fold import Opened, PartitionFold
from pipeline.streaming.rate.restore import step_with_history
from pipeline.streaming.rate.send import Folded, Sender
from pipeline.streaming.stage.in_order import InOrder
from pipeline.streaming.stage.inbox import Delivery, Inbox
from pipeline.streaming.stage.waiting import Waiting
from pipeline.streaming.topics import Topics
from pipeline.streaming.worker.metrics import Metrics

_INBOX_BYTES: Final = 16 << 20
_AT_ONCE_BYTES: Final = 4 << 20  # folded in one call, which a query about a card may have to wait for
_BASE_IN_FLIGHT: Final = 8  # unacknowledged messages of a checkpoint
_LANDED_POLL_S: Final = 0.1
_WORTH_A_BASE: Final = 100_000  # records; on a graceful shutdown fewer are not worth a checkpoint

_log = logging.getLogger(__name__)


class Bases(Protocol):
    """Storage of checkpoints: the Faust table of the state."""

    def items(self, partition: int) -> Mapping[bytes, bytes]:
        """Return all segments and manifests of a partition."""
        ...

    def forget(self, partition: int) -> None:
        """Free the checkpoint segments once the partition is restored."""

    async def write(self, partition: int, key: bytes, value: bytes | None) -> asyncio.Future[Any]:
        """Send a segment, or a tombstone if `value` is None. The returned future is done once it is durable."""
        ...


@dataclass(frozen=True)
class Pace:
    """When a checkpoint is due: after `records` records, or `seconds` after the last one if any record came since."""

    records: int
    seconds: float


class Rate:
    """The stage of one journal partition.

    `fold` is None until the newest checkpoint is loaded. `ready` is set once the journal after it has been replayed.
    `lock` is held while the state changes.
    """

    def __init__(
        self,
        partition: int,
        sender: Sender,
        bases: Bases,
        log: Log,
        topics: Topics,
        history: Path,
        pace: Pace,
        metrics: Metrics,
    ) -> None:
        self.partition = partition
        self.inbox = Inbox(_INBOX_BYTES)
        self.fold: PartitionFold | None = None
        self.lock = asyncio.Lock()
        self.ready = asyncio.Event()
        self.waiting = Waiting()
        self._sender = sender
        self._bases = bases
        self._log = log
        self._topics = topics
        self._folder = folder_of(history, partition)
        self._pace = pace
        self._metrics = metrics
        self._kept: base.Kept | None = None
        self._source: InOrder | None = None
        self._records = 0  # folded since the last checkpoint
        self._based_at = time.monotonic()
        self._basing: asyncio.Task[None] | None = None

    @property
    def next_offset(self) -> int:
        """The offset of the first message that has not been folded."""
        return 0 if self.fold is None else self.fold.applied + 1

    async def run(self) -> None:
        """Restore the state, then fold the messages of the inbox until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sender.run())
            started = time.monotonic()
            fold = await self._restore()
            seconds = time.monotonic() - started
            self._metrics.recovered(self.partition, seconds)
            facts = {"partition": self.partition, "applied": fold.applied, "seconds": round(seconds, 3)}
            _log.info("restored", extra=facts)
            self.ready.set()
            ahead: asyncio.Queue[tuple[list[Delivery], list[Opened]]] = asyncio.Queue(1)
            tasks.create_task(self._open_ahead(fold, ahead))
            while True:
                await self._take(fold, *await ahead.get())
                if self._base_is_due():
                    self._basing = tasks.create_task(self._write_base(await self._draft(fold)))

    async def finish(self, lands: bool) -> None:
        """Write a checkpoint if enough was folded to be worth it, so that the next owner replays little.

        If `lands` is True, this worker also lands the partition: then wait until everything sent so far has landed.
        """
        sent = self._sender.acked
        fold = self.fold
        if self.ready.is_set() and fold is not None and self._records >= _WORTH_A_BASE and not self._is_basing:
            await self._write_base(await self._draft(fold))
        if lands:
            await self._landed(sent)

    async def _restore(self) -> PartitionFold:
        """Restore the state as of the end of the journal, and send outputs that may not have been sent."""
        items = self._bases.items(self.partition)
        fold, self._kept = await asyncio.to_thread(self._restored, items)
        if self._kept is not None:
            self._metrics.holds_base(self.partition, self._kept.size_bytes)
        self._bases.forget(self.partition)
        self.fold = fold
        await self._sender.begin()
        is_last = None if fold.checksum is None else lambda message: checksum_of(message.value) == fold.checksum
        self._source = InOrder(self.inbox, self._log, self._topics.journal, self.partition, fold.applied + 1, is_last)
        await self._source.begin()
        # What has landed or was sent came from the journal, so it must be in there.
        self._source.require(max(await asyncio.to_thread(landed_of, self._folder), self._sender.through) + 1)
        while self._source.is_behind:
            batch = await self._source.take(_AT_ONCE_BYTES)
            await self._take(fold, batch, await asyncio.to_thread(self._open, fold, batch))
        return fold

    def _restored(self, items: Mapping[bytes, bytes]) -> tuple[PartitionFold, base.Kept | None]:
        """Return the fold of the newest complete checkpoint; an empty fold and None if there is none."""
        return base.restore(self.partition, items) or (PartitionFold(self.partition), None)

    async def _open_ahead(self, fold: PartitionFold, ahead: asyncio.Queue[tuple[list[Delivery], list[Opened]]]) -> None:
        """Decode messages while earlier ones are folded."""
        while True:
            assert self._source is not None
            batch = await self._source.take(_AT_ONCE_BYTES)
            await ahead.put((batch, await asyncio.to_thread(self._open, fold, batch)))

    def _open(self, fold: PartitionFold, batch: Sequence[Delivery]) -> list[Opened]:
        opened = (fold.open(one.offset, one.value, self._where(one.offset)) for one in batch)
        return [one for one in opened if one is not None]

    async def _take(self, fold: PartitionFold, batch: Sequence[Delivery], opened: Sequence[Opened]) -> None:
        """Fold opened deliveries and pass their outputs to the sender."""
        while opened:
            async with self.lock:
                output, opened = await asyncio.to_thread(fold.steps, opened)
            if output is None:
                # Corrections and baselines read the history, so all earlier entries must have landed.
                await self._landed(fold.applied)
                async with self.lock:
                    output = await asyncio.to_thread(step_with_history, fold, opened[0], self._folder)
                opened = opened[1:]
            self._records += sum(part.records for part in output.parts)
            done = [one.ack for one in batch if one.offset <= output.journal_offset]
            batch = batch[len(done) :]
            await self._sender.put(Folded(output.journal_offset, output, done))

    async def _landed(self, offset: int) -> None:
        """Wait until the rows of all entries up to `offset` are in the history."""
        if offset < 0:
            return
        with self.waiting.for_what(f"waits until entry {offset} has landed"):
            await self._sender.settled(offset)
            while await asyncio.to_thread(landed_of, self._folder) < offset:
                await asyncio.sleep(_LANDED_POLL_S)

    @property
    def _is_basing(self) -> bool:
        return self._basing is not None and not self._basing.done()

    def _base_is_due(self) -> bool:
        if self._is_basing or not self._records:
            return False
        return self._records >= self._pace.records or time.monotonic() - self._based_at >= self._pace.seconds

    async def _draft(self, fold: PartitionFold) -> base.Draft:
        """Copy the current state for a checkpoint; the fold can continue at once."""
        async with self.lock:
            draft = await asyncio.to_thread(base.draft, fold, self._kept)
        self._records, self._based_at = 0, time.monotonic()
        return draft

    async def _write_base(self, draft: base.Draft) -> None:
        """Make the checkpoint durable, then delete the segments that it makes obsolete.

        Before that, wait until the broker has all outputs of the entries that the checkpoint covers: after a recovery
        from this checkpoint those entries are not folded again.
        """
        await self._sender.settled(draft.applied)
        messages = draft.messages()
        size_bytes, in_flight = 0, list[asyncio.Future[Any]]()
        while (message := await asyncio.to_thread(next, messages, None)) is not None:
            key, value = message
            if b"/base/" in key:  # the manifest must not be written before all its segments are durable
                await asyncio.gather(*in_flight)
                in_flight = []
            in_flight.append(await self._bases.write(self.partition, key, value))
            size_bytes += len(key) + len(value)
            if len(in_flight) >= _BASE_IN_FLIGHT:
                await in_flight.pop(0)
        await asyncio.gather(*in_flight)
        obsolete = [await self._bases.write(self.partition, key, None) for key in draft.obsolete()]
        await asyncio.gather(*obsolete)
        self._kept = draft.kept
        self._metrics.based(self.partition, size_bytes, self._kept.size_bytes)
        facts = {"partition": self.partition, "applied": draft.applied, "bytes": size_bytes}
        _log.info("wrote a base", extra=facts)

    def _where(self, offset: int) -> str:
        return f"{self._topics.journal}[{self.partition}]@{offset}"
