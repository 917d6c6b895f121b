"""Restore partition state for read-only commands: newest complete checkpoint plus journal replay.

The state is restored up to the last landed journal message, so state and history show the same moment. Nothing is
written and no consumer group is joined, so workers are not affected. Everything is folded in the thread of the caller,
which uses the state afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pipeline.config import Config
from pipeline.streaming.kafka import Log
from pipeline.streaming.land.folder import baseline, folder_of, originals
from pipeline.streaming.rate import checkpoints as base
from pipeline.streaming.rate.fold import Opened, PartitionFold
from pipeline.streaming.rate.output import Output
from rating.engine import Engine
from rating.errors import ConfigError, StorageError

Watch = Callable[[int, int], None]  # called with the number of messages read, and the number known to exist

_AT_ONCE_BYTES: Final = 4 << 20  # folded in one call


def engines_of(config: Config, history: Path, landed: Mapping[int, int], watch: Watch | None = None) -> list[Engine]:
    """Return the engine of each partition, in order, after folding its last message in `landed`.

    All engines get the latest clock of any, as one run over the same entries would have; then expired state is dropped
    (F4, T5). Raises WorldError if Kafka is unreachable, ConfigError if it does not have the journal, StorageError if
    the journal or a checkpoint is damaged or the journal ends before the last landed message.
    """
    folds = asyncio.run(_restored_all(config, history, landed, Taking(watch)))
    clock_us = max((fold.engine.state.clock_us for fold in folds), default=0)
    for fold in folds:
        fold.engine.state.clock_us = clock_us
        fold.expire()
    return [fold.engine for fold in folds]


class Taking:
    """Progress of reading: counts messages read and messages expected, and reports to `watch`."""

    def __init__(self, watch: Watch | None = None) -> None:
        self._watch = watch
        self._taken = self._known = 0

    def expect(self, messages: int) -> None:
        """Add to the number of expected messages."""
        self._known += messages

    def take(self, messages: int) -> None:
        """Add to the number of messages read, and report."""
        self._taken += messages
        if self._watch is not None:
            self._watch(self._taken, max(self._taken, self._known))


async def restored(
    log: Log, app: str, folder: Path, partition: int, until: int, taking: Taking | None = None
) -> PartitionFold:
    """Return the state of a partition after all journal messages up to `until`, whose rows have landed in `folder`.

    Starts from the newest complete checkpoint of the worker group `app` that is not later than `until`. Raises the
    errors of `engines_of`.
    """
    taking = Taking() if taking is None else taking
    items = await _items(log, app, partition, until, taking)
    found = base.restore(partition, items)
    del items
    fold = PartitionFold(partition) if found is None else found.fold
    taking.expect(until - fold.applied)
    journal = log.topics.journal
    opened: list[Opened] = []
    size_bytes = 0
    async for message in log.read(journal, partition, fold.applied + 1, until + 1):
        one = fold.open(message.offset, message.value, f"{journal}[{partition}]@{message.offset}")
        assert one is not None
        opened.append(one)
        size_bytes += len(message.value)
        if size_bytes >= _AT_ONCE_BYTES:
            _fold(fold, opened, folder)
            taking.take(len(opened))
            opened, size_bytes = [], 0
    _fold(fold, opened, folder)
    taking.take(len(opened))
    if fold.applied != until:
        raise StorageError(
            f"{journal}[{partition}]: found messages up to {fold.applied}; expected them up to {until}, which have "
            f"landed in {folder}: the journal has lost messages; restore the topic from a replica or a backup"
        )
    return fold


def _fold(fold: PartitionFold, opened: list[Opened], folder: Path) -> None:
    """Fold entries and drop their outputs, which have landed before."""
    left: Sequence[Opened] = opened
    while left:
        output, left = fold.steps(left)
        if output is None:
            step_with_history(fold, left[0], folder)
            left = left[1:]


def step_with_history(fold: PartitionFold, opened: Opened, folder: Path) -> Output:
    """Apply an entry that wants history, using the rows before it in `folder`. All of those must have landed.

    History is needed for the rows that corrections undo (F6), and for the totals that a starting rule begins with (L7).
    """
    before = fold.engine.state.offset
    if opened.corrections is not None:
        return fold.step(opened, originals(folder, fold.partition, opened.corrections, before))
    return fold.step(opened, None, baseline(folder, fold.partition, fold.engine, opened.at_us, before))


async def _items(log: Log, app: str, partition: int, until: int, taking: Taking) -> dict[bytes, bytes]:
    """Read the segments and manifests of a partition from the changelog, without checkpoints later than `until`."""
    topic = changelog_of(app)
    items: dict[bytes, bytes] = {}
    if partition >= await log.partitions_of(topic):  # no worker has written one yet
        return items
    later = f"{partition}/base/{until:020}".encode()
    end = await log.end_offset(topic, partition)
    taking.expect(end)
    async for message in log.read(topic, partition, 0, end):
        taking.take(1)
        if message.key is None:
            continue
        if message.value and not (message.key.startswith(later[:-20]) and message.key > later):
            items[message.key] = message.value
        else:
            items.pop(message.key, None)
    return items


def changelog_of(app: str) -> str:
    """Return the topic in which the workers of a group store their checkpoints."""
    return f"{app}-state-changelog"


async def _restored_all(
    config: Config, history: Path, landed: Mapping[int, int], taking: Taking
) -> list[PartitionFold]:
    log, app = Log(config.kafka), config.worker.app
    await _require_journal(log, history, landed)
    folds = []
    for partition, until in sorted(landed.items()):
        folds.append(await restored(log, app, folder_of(history, partition), partition, until, taking))
    return folds


async def _require_journal(log: Log, history: Path, landed: Mapping[int, int]) -> None:
    """Raise ConfigError or StorageError if the journal cannot be the one that the history came from."""
    journal = log.topics.journal
    count = await log.partitions_of(journal)
    advice = "name the Kafka of the workers that land it in [kafka] (servers, prefix), with --config FILE"
    if count <= max(landed, default=-1):
        found = f"{count} partitions" if count else "no such topic"
        raise ConfigError(
            f"topic {journal}: found {found}; expected that of {history}, with {max(landed) + 1} or more: {advice}"
        )
    ends = await log.end_offsets(journal)
    for partition, until in landed.items():
        if ends[partition] <= until:
            raise StorageError(
                f"{journal}[{partition}]: found {ends[partition]} messages; expected more than the {until + 1} that "
                f"{folder_of(history, partition)} has landed: it is another journal, or has lost messages: {advice}, "
                "or restore the topic from a backup"
            )
