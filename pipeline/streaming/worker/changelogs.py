"""The Faust tables of a worker, each with a changelog topic: checkpoints, progress of mediation, progress of landing.

A table holds bytes that only the stages understand; see pipeline.streaming.rate.checkpoints. Faust reads the changelogs
of active and standby partitions into a SegmentStore. `send` writes to the changelog topic only, because nobody reads a
partition's store again before the partition moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import faust
from faust.stores.base import Store
from faust.types import TP, EventT

READ_AT_ONCE: Final = 8  # changelog messages, of up to a megabyte each
_CHANGELOG_MESSAGES: Final = 64


class SegmentStore(Store):  # type: ignore[type-arg]
    """In-memory keys and values by partition, for the active and standby partitions of this worker.

    Faust's own in-memory store drops what a standby has read at once. This store keeps it and remembers the offset up
    to which it has read, so that a standby that takes over continues from there.
    """

    def __post_init__(self) -> None:
        """Set up the attributes. Faust calls this after it has created the store."""
        self.data: dict[bytes, bytes] = {}  # the data that Faust's table reads; always empty
        self.held: dict[int, dict[bytes, bytes]] = {}
        self._read: dict[int, int] = {}
        self._released: set[int] = set()

    def _clear(self) -> None:
        self.held.clear()
        self._read.clear()

    def apply_changelog_batch(
        self, batch: Iterable[EventT[Any]], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]
    ) -> None:
        """Store changelog messages. A message without a value is a tombstone and removes its key."""
        for event in batch:
            message = event.message
            held = self.held.setdefault(message.partition, {})
            if message.key is None:
                continue  # not written by Weir
            if message.value is None:
                held.pop(message.key, None)
            else:
                held[message.key] = message.value
            self._read[message.partition] = message.offset

    def release(self, partition: int) -> None:
        """Drop the segments of a restored partition.

        If the partition comes back, its changelog is read from the beginning.
        """
        self.held.pop(partition, None)
        self._released.add(partition)

    def standing_by(self) -> dict[int, int]:
        """Return the bytes of checkpoint segments per standby partition."""
        mine = {tp.partition for tp in self.app.assignor.assigned_actives()}
        return {
            partition: sum(map(len, held.values())) for partition, held in self.held.items() if partition not in mine
        }

    def persisted_offset(self, tp: TP) -> int | None:
        """Return the last changelog offset that was read; None to read the changelog from its beginning."""
        if tp.partition in self._released and tp not in self.app.assignor.assigned_actives():
            return None
        return self._read.get(tp.partition)

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        """Record an offset that this worker wrote. The live state includes it, so it need not be read back."""
        if tp.partition in self._released:
            self._read[tp.partition] = max(offset, self._read.get(tp.partition, -1))

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Drop partitions that are neither active nor standby on this worker any more."""
        active, standby = ({tp.partition for tp in tps} for tps in (active_tps, standby_tps))
        for partition in (self.held.keys() | self._read.keys()) - active - standby:
            self.held.pop(partition, None)
            self._read.pop(partition, None)
        self._released &= active

    async def backup_partition(self, tp: TP | int, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        """Do nothing: the changelog is the backup."""

    def restore_backup(self, tp: TP | int, latest: bool = True, backup_id: int = 0) -> None:
        """Do nothing: the changelog is the backup."""

    def reset_state(self) -> None:
        """Do nothing: no state is kept on disk."""


class SegmentTable(faust.Table):  # type: ignore[type-arg]
    """A Faust table of bytes by partition."""

    def _new_store(self) -> SegmentStore:
        return SegmentStore("memory://", self.app, self, table_name=self.name, loop=self.loop)

    @property
    def store(self) -> SegmentStore:
        """The store with the contents of the changelog."""
        data = self.data
        assert isinstance(data, SegmentStore)
        return data


def segment_table(app: faust.App, name: str, partitions: int) -> SegmentTable:
    """Create the table `name`, whose changelog topic has `partitions` partitions, and add it to the app."""
    # Define the topic explicitly: Faust would decode a table's default changelog as JSON, whatever the table's schema.
    changelog = app.topic(
        f"{app.conf.id}-{name}-changelog",
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        partitions=partitions,
        compacting=True,
        deleting=False,
        acks=False,
        internal=True,
        maxsize=_CHANGELOG_MESSAGES,
        allow_empty=True,
    )
    table = SegmentTable(
        app,
        name=name,
        partitions=partitions,
        changelog_topic=changelog,
        key_type=bytes,
        value_type=bytes,
        recovery_buffer_size=READ_AT_ONCE,
        standby_buffer_size=READ_AT_ONCE,
    )
    app.tables.add(table)
    return table


class TableOfBases:
    """The table of checkpoints, with the interface that the rate stage needs (rate.stage.Bases)."""

    def __init__(self, table: SegmentTable) -> None:
        self._table = table

    def items(self, partition: int) -> Mapping[bytes, bytes]:
        """Return all segments and manifests of a partition."""
        return self._table.store.held.get(partition, {})

    def forget(self, partition: int) -> None:
        """Free the checkpoint segments once the partition is restored."""
        self._table.store.release(partition)

    async def write(self, partition: int, key: bytes, value: bytes | None) -> asyncio.Future[Any]:
        """Send a segment, or a tombstone if `value` is None, to the changelog.

        The returned future is done once it is durable.
        """
        return await send(self._table, partition, key, value)


async def send(table: SegmentTable, partition: int, key: bytes, value: bytes | None) -> asyncio.Future[Any]:
    """Send to the changelog of a table.

    The returned future is done once the broker has the message, or carries the error. Does not use Faust's
    `send_changelog`, because its future never completes if sending fails.
    """
    topic = table.changelog_topic.get_topic_name()
    sent = asyncio.ensure_future(await table.app.producer.send(topic, key, value, partition, None, None))

    def note(done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None:
            table.store.set_persisted_offset(TP(topic, partition), done.result().offset)

    sent.add_done_callback(note)
    return sent
