"""Sends what entries of one partition of the journal gave, in their order, and acknowledges the entries behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from pipeline.streaming.kafka import Log
from pipeline.streaming.rate.output_messages import Output, Packed, action_messages, decode, packed, status_messages
from pipeline.streaming.rate.recent import RecentPieces, RecentRaw
from pipeline.streaming.rate.reject_details import reject_messages, with_raw_bytes
from pipeline.streaming.stage.inbox import Publish
from pipeline.streaming.worker.metrics import Metrics

_AHEAD: Final = 64  # entries that may wait for the broker before the fold does


class Folded(NamedTuple):
    """What messages of the journal up to `offset` gave, None where they came again; and how they are acknowledged."""

    offset: int
    output: Output | None
    acks: Sequence[Callable[[], object]]


_Sent = tuple[list[asyncio.Future[Any]], Output | None, Folded]


class Sender:
    """The outputs of one partition. `begin` before the first `put`; `run` beside it."""

    def __init__(
        self,
        partition: int,
        log: Log,
        raw: RecentRaw,
        recent: RecentPieces,
        limit_bytes: int,
        publish: Publish,
        metrics: Metrics,
    ) -> None:
        self.partition = partition
        self.acked = -1  # up to this entry everything that it gave is with the broker
        self._log = log
        self._raw = raw
        self._recent = recent
        self._topics = log.topics
        self._limit_bytes = limit_bytes
        self._publish = publish
        self._metrics = metrics
        self._waiting: asyncio.Queue[Folded] = asyncio.Queue(_AHEAD)
        self._sent: asyncio.Queue[_Sent] = asyncio.Queue(_AHEAD)
        self._through = -1  # entries that usage.rated has wholly
        self._settled = asyncio.Condition()

    async def begin(self) -> None:
        """Find out what was sent before: the end of usage.rated says it."""
        last = await self._log.last_message(self._topics.rated, self.partition)
        if last is not None:
            piece = decode(last.value, f"{self._topics.rated}[{self.partition}]@{last.offset}")
            whole = piece.piece == piece.pieces - 1
            self._through = piece.journal_offset if whole else piece.parts[0].journal_offset - 1

    async def put(self, folded: Folded) -> None:
        """Take what was folded, in journal order; waits where the broker is behind."""
        await self._waiting.put(folded)

    async def settled(self, offset: int) -> None:
        """Return once all that entries up to `offset` gave is with the broker."""
        async with self._settled:
            await self._settled.wait_for(lambda: self.acked >= offset)

    async def run(self) -> None:
        """Send, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._settle())
            while True:
                folded = await self._waiting.get()
                output = None if folded.output is None else folded.output.after(self._through)
                await self._sent.put(([] if output is None else await self._send(output), output, folded))

    async def _send(self, output: Output) -> list[asyncio.Future[Any]]:
        """Send all that an output holds; its rows, which say that the rest is there, last. What the rows wait for.

        Actions go first: others act on them, while rows are only packed.
        """
        topics, partition = self._topics, self.partition
        async with asyncio.TaskGroup() as tasks:
            if output.outcomes or output.statuses.num_rows:
                actions, statuses = await asyncio.to_thread(_told, output)
                told = [await self._publish(topics.actions, None, body, key) for key, body in actions]
                told += [await self._publish(topics.status, None, body, key) for key, body in statuses]
                tasks.create_task(self._tell(output, told))
            if output.rejected["reject_id"].null_count:
                output = await with_raw_bytes(output, self._raw)
            pieces, rejected = await asyncio.to_thread(_kept, output, self._limit_bytes)
            refused = [await self._publish(topics.rejected, partition, body) for body in rejected]
        await asyncio.gather(*refused)
        self._recent.note(pieces)
        return [await self._publish(topics.rated, partition, one.content) for one in pieces]

    async def _tell(self, output: Output, told: Sequence[asyncio.Future[Any]]) -> None:
        await asyncio.gather(*told)
        if any(one.actions_count for one in output.outcomes):
            self._metrics.acted(output)

    async def _settle(self) -> None:
        """Acknowledge, in order, what all is with the broker of."""
        while True:
            rows, output, folded = await self._sent.get()
            await asyncio.gather(*rows)
            for ack in folded.acks:
                ack()
            if output is not None:
                self._metrics.rated(output)
            async with self._settled:
                self.acked = folded.offset
                self._settled.notify_all()


def _told(output: Output) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
    """Messages of actions and sim.status."""
    return action_messages(output), status_messages(output)


def _kept(output: Output, limit_bytes: int) -> tuple[list[Packed], list[bytes]]:
    """Messages of usage.rated and usage.rejected."""
    return packed(output, limit_bytes), reject_messages(output)
