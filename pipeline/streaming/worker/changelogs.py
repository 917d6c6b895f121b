"""The tables of a worker in Faust: bases of the state, and the marks of lanes; each with its changelog.

A table holds bytes that only the stages read: `pipeline.streaming.rate.checkpoints` says what they are. Faust reads changelogs for
active and standby partitions and keeps what it read here; what a stage sends goes to the changelog alone, as nobody
reads it here before the partition moves.
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
    """Keys and values by partition, in memory, for partitions that this worker has or stands by for.

    Faust's own store in memory drops what a standby has read as soon as it has read it. This one keeps it, and says up
    to where it has read, so that a standby that takes over reads on from there.
    """

    def __post_init__(self) -> None:
        """Called by Faust once the store is made."""
        self.data: dict[bytes, bytes] = {}  # what Faust's table looks at; always empty
        self.held: dict[int, dict[bytes, bytes]] = {}
        self._read: dict[int, int] = {}
        self._released: set[int] = set()

    def _clear(self) -> None:
        self.held.clear()
        self._read.clear()

    def apply_changelog_batch(
        self, batch: Iterable[EventT[Any]], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]
    ) -> None:
        """Take in what was read from the changelog; a message without a value removes its key."""
        for event in batch:
            message = event.message
            held = self.held.setdefault(message.partition, {})
            if message.key is None:
                continue  # none of ours
            if message.value is None:
                held.pop(message.key, None)
            else:
                held[message.key] = message.value
            self._read[message.partition] = message.offset

    def release(self, partition: int) -> None:
        """Drop the segments of a partition that has been restored; should it come back, all of it is read again."""
        self.held.pop(partition, None)
        self._released.add(partition)

    def standing_by(self) -> dict[int, int]:
        """Bytes of the segments held of each partition that this worker stands by for."""
        mine = {tp.partition for tp in self.app.assignor.assigned_actives()}
        return {
            partition: sum(map(len, held.values())) for partition, held in self.held.items() if partition not in mine
        }

    def persisted_offset(self, tp: TP) -> int | None:
        """Up to where the changelog is held; None to have it read from its beginning."""
        if tp.partition in self._released and tp not in self.app.assignor.assigned_actives():
            return None
        return self._read.get(tp.partition)

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        """What was sent from here is in the state already; it need not be read while the partition stays."""
        if tp.partition in self._released:
            self._read[tp.partition] = max(offset, self._read.get(tp.partition, -1))

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Forget the partitions that this worker neither has nor stands by for any more."""
        active, standby = ({tp.partition for tp in tps} for tps in (active_tps, standby_tps))
        for partition in (self.held.keys() | self._read.keys()) - active - standby:
            self.held.pop(partition, None)
            self._read.pop(partition, None)
        self._released &= active

    async def backup_partition(self, tp: TP | int, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        """Nothing: the changelog is the backup."""

    def restore_backup(self, tp: TP | int, latest: bool = True, backup_id: int = 0) -> None:
        """Nothing: the changelog is the backup."""

    def reset_state(self) -> None:
        """Nothing is kept on disk."""


class SegmentTable(faust.Table):  # type: ignore[type-arg]
    """A table of bytes by partition."""

    def _new_store(self) -> SegmentStore:
        return SegmentStore("memory://", self.app, self, table_name=self.name, loop=self.loop)

    @property
    def store(self) -> SegmentStore:
        """What has been read of the changelog."""
        data = self.data
        assert isinstance(data, SegmentStore)
        return data


def segment_table(app: faust.App, name: str, partitions: int) -> SegmentTable:
    """The table `name`, whose changelog has so many partitions."""
    # Spelt out, as a table's own changelog would be read as JSON whatever the table's schema says.
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
    """The table of state, as `rate` uses it."""

    def __init__(self, table: SegmentTable) -> None:
        self._table = table

    def items(self, partition: int) -> Mapping[bytes, bytes]:
        """All segments and manifests of a partition that are there."""
        return self._table.store.held.get(partition, {})

    def forget(self, partition: int) -> None:
        """Let go of the segments of a partition that has been restored."""
        self._table.store.release(partition)

    async def write(self, partition: int, key: bytes, value: bytes | None) -> asyncio.Future[Any]:
        """Send a segment, or with None its removal, to the changelog."""
        return await send(self._table, partition, key, value)


async def send(table: SegmentTable, partition: int, key: bytes, value: bytes | None) -> asyncio.Future[Any]:
    """Send to the changelog of a table; what is returned is done once the broker has it, or fails as sending does.

    Not by Faust's `send_changelog`, whose promise stays open for ever where sending fails.
    """
    topic = table.changelog_topic.get_topic_name()
    sent = asyncio.ensure_future(await table.app.producer.send(topic, key, value, partition, None, None))

    def note(done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None:
            table.store.set_persisted_offset(TP(topic, partition), done.result().offset)

    sent.add_done_callback(note)
    return sent
