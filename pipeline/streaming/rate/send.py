"""Sends the outputs of one journal partition in order, then acknowledges the entries they came from."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.streaming.kafka import Log
from pipeline.streaming.rate.output_messages import Output, Packed, action_messages, decode, packed, status_messages
from pipeline.streaming.rate.recent import RecentPieces, RecentRaw
from pipeline.streaming.rate.reject_details import reject_messages, with_raw_bytes
from pipeline.streaming.stage.inbox import Publish
from pipeline.streaming.worker.metrics import Metrics

_log = logging.getLogger(__name__)

_AHEAD: Final = 64  # outputs that may wait for the broker before the fold blocks


class Folded(NamedTuple):
    """The output of journal messages up to `offset`, or None if they were read again, and their acknowledgements."""

    offset: int
    output: Output | None
    acks: Sequence[Callable[[], object]]


_Sent = tuple[list[asyncio.Future[Any]], Output | None, Folded]


class Sender:
    """Sends the outputs of one partition. Call `begin` before the first `put`, and keep `run` running as a task."""

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
        self.acked = -1  # the broker has confirmed all messages of entries up to this offset
        self._log = log
        self._raw = raw
        self._recent = recent
        self._topics = log.topics
        self._limit_bytes = limit_bytes
        self._publish = publish
        self._metrics = metrics
        self._waiting: asyncio.Queue[Folded] = asyncio.Queue(_AHEAD)
        self._sent: asyncio.Queue[_Sent] = asyncio.Queue(_AHEAD)
        self.through = -1  # usage.rated has all pieces of entries up to this offset
        self._settled = asyncio.Condition()

    async def begin(self) -> None:
        """Find out which outputs were sent completely, from the last message of usage.rated."""
        last = await self._log.last_message(self._topics.rated, self.partition)
        if last is not None:
            piece = decode(last.value, f"{self._topics.rated}[{self.partition}]@{last.offset}")
            whole = piece.piece == piece.pieces - 1
            self.through = piece.journal_offset if whole else piece.parts[0].journal_offset - 1

    async def put(self, folded: Folded) -> None:
        """Send the results of an entry. Call in journal order; blocks while the broker is behind."""
        await self._waiting.put(folded)

    async def settled(self, offset: int) -> None:
        """Wait until the broker has confirmed all messages of entries up to `offset`."""
        async with self._settled:
            await self._settled.wait_for(lambda: self.acked >= offset)

    async def run(self) -> None:
        """Send outputs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._settle())
            while True:
                folded = await self._waiting.get()
                output = None if folded.output is None else folded.output.after(self.through)
                await self._sent.put(([] if output is None else await self._send(output), output, folded))

    async def _send(self, output: Output) -> list[asyncio.Future[Any]]:
        """Send all messages of an output and return the futures of its rows in usage.rated.

        The rows go last, once the broker has confirmed the other messages, because they mark the output as sent.
        Actions go first: other systems act on them, so they do not wait until the rows are packed.
        """
        topics, partition = self._topics, self.partition
        async with asyncio.TaskGroup() as tasks:
            if output.outcomes or output.statuses.num_rows:
                actions, statuses = await asyncio.to_thread(_told, output)
                told = [await self._publish_fitting(topics.actions, body, key, output) for key, body in actions]
                told += [await self._publish_fitting(topics.status, body, key, output) for key, body in statuses]
                tasks.create_task(self._tell(output, told))
            if output.rejected["reject_id"].null_count:
                output = await with_raw_bytes(output, self._raw)
            pieces, rejected = await asyncio.to_thread(_kept, output, self._limit_bytes)
            refused = [await self._publish(topics.rejected, partition, body) for body in rejected]
        await asyncio.gather(*refused)
        self._recent.note(pieces)
        return [await self._publish(topics.rated, partition, one.content) for one in pieces]

    async def _publish_fitting(self, topic: str, body: bytes, key: bytes, output: Output) -> asyncio.Future[Any]:
        """Send a message; if it is larger than a message may be, its place to the topic quarantine instead."""
        if len(body) + len(key) <= self._limit_bytes:
            return await self._publish(topic, None, body, key)
        place = f"{self._topics.journal}[{self.partition}]@{output.first_journal_offset} to {output.journal_offset}"
        why = f"a message for {topic} takes {len(body):,} bytes; expected at most {self._limit_bytes:,}"
        _log.error("%s: %s: it is not sent", place, why)
        document = {"version": 1, "topic": topic, "key": key[:1024].decode(errors="replace"), "from": place, "why": why}
        return await self._publish(self._topics.quarantine, 0, msgspec.json.encode(document))

    async def _tell(self, output: Output, told: Sequence[asyncio.Future[Any]]) -> None:
        await asyncio.gather(*told)
        if any(one.actions_count for one in output.outcomes):
            self._metrics.acted(output)

    async def _settle(self) -> None:
        """Acknowledge entries in order, once the broker has confirmed all their messages."""
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
    """Return the messages of the topics actions and sim.status."""
    return action_messages(output), status_messages(output)


def _kept(output: Output, limit_bytes: int) -> tuple[list[Packed], list[bytes]]:
    """Return the messages of the topics usage.rated and usage.rejected."""
    return packed(output, limit_bytes), reject_messages(output, limit_bytes)
