"""Mediation of one partition of `usage.raw`, called a lane: decode raw messages into journal entries.

Each entry goes to the journal partition of its account.

The entries of a raw message depend on two logs alone: on the bytes of the message, and on the catalogues accepted up to
the last marker before it in its raw partition. So any worker may mediate it again: the fence of its source, the highest
source position already applied, skips entries that the journal has already. Only two things depend on how many messages
were read together: the arrival time of single records, and which single records share an entry.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol

from pipeline.history.originals import stretches
from pipeline.journal.entries import Entry, Rejects, Usage
from pipeline.journal.messages import Fence, messages_of
from pipeline.journal.router import Router
from pipeline.streaming.raw.headers import RawMessage, instant_of
from pipeline.streaming.raw.reading import Numbered, Readers, Reading
from schemas import mapping as feeds

RUN_BYTES: Final = 2 << 20  # bytes of single records that are decoded together, about


class Mark(NamedTuple):
    """A catalogue marker that has been read: its raw offset, and the catalogue version it announces."""

    raw_offset: int
    catalogue_offset: int


class NotYet(Exception):
    """A marker names a catalogue that the registry has not folded yet.

    `offset` is the catalogue's offset in `commands`.
    """

    def __init__(self, offset: int) -> None:
        super().__init__(f"the log of commands is wanted up to offset {offset}")
        self.offset = offset

    def __reduce__(self) -> tuple[type[NotYet], tuple[int]]:
        """Let the exception be pickled, as it comes from another process."""
        return NotYet, (self.offset,)


class Catalogues(Protocol):
    """The part of the registry that a lane uses."""

    @property
    def next_offset(self) -> int:
        """The offset of the first message of the command log that has not been folded."""
        ...

    def router_at(self, catalogue_offset: int) -> Router:
        """Return the router for the catalogues accepted up to and including an offset; -1 means none."""
        ...


@dataclass
class Mediated:
    """The result of mediating raw messages.

    `journal` has (journal partition, message) in the order in which they must be sent. `marks` are the new marks.
    `records` counts usage records and `rejected` rejected records. `next_offset` is the raw offset after the last
    message.
    """

    next_offset: int
    journal: list[tuple[int, bytes]] = field(default_factory=list)
    marks: tuple[Mark, ...] = ()
    records: int = 0
    rejected: int = 0


class Lane:
    """The mediation of one raw partition. `marks` are the markers that an earlier owner of the partition has read."""

    def __init__(
        self,
        topic: str,
        partition: int,
        registry: Catalogues,
        mappings: Mapping[str, feeds.Mapping],
        marks: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.marks = tuple(Mark(*mark) for mark in marks)
        self._registry = registry
        self._readers = Readers(topic, partition, mappings)

    def take(self, messages: Sequence[Numbered]) -> Mediated:
        """Mediate consecutive messages.

        They may begin at any offset that was reached before, so messages may be repeated. Each record ends up in the
        journal, as usage or as a rejected record, whatever the messages contain (F5). Raises NotYet, without any
        effect, if a marker among the messages is ahead of the registry.
        """
        known = len(self.marks)
        marks = self._marked(messages)
        done = Mediated(messages[-1][0] + 1 if messages else 0, marks=marks[known:])
        self.marks = marks
        for group in _groups(messages):
            offset, _, first = group[0]
            if _catalogue_of(first) is not None:
                continue
            router = self._registry.router_at(self._catalogue_at(offset, marks))
            if first.is_chunk:
                fence = Fence(self.topic, self.partition, offset)
                reading = self._readers.chunk(*group[0])
                if reading.origin is not None:  # so that a record packed twice is applied once
                    fence = Fence.run(*reading.origin, via=(self.partition, offset))
            else:
                fence = Fence.run(self.topic, self.partition)
                reading = self._readers.run(group)
            _Parts(router, fence, self.partition % router.partitions, done).send(reading)
        return done

    def _marked(self, messages: Sequence[Numbered]) -> tuple[Mark, ...]:
        """Return all marks up to the end of the messages. Raises NotYet if a mark is ahead of the registry."""
        marks = self.marks
        if marks and marks[-1].catalogue_offset >= self._registry.next_offset:
            raise NotYet(marks[-1].catalogue_offset)  # an earlier owner of the partition has read it
        for offset, _, message in messages:
            catalogue = _catalogue_of(message)
            # Ignore a marker that is sent again late: it would set the lane back to an older catalogue.
            if catalogue is None or catalogue <= self._catalogue_at(offset, marks):
                continue
            if catalogue >= self._registry.next_offset:
                raise NotYet(catalogue)
            marks = (*marks, Mark(offset, catalogue))
        return marks

    @staticmethod
    def _catalogue_at(offset: int, marks: tuple[Mark, ...]) -> int:
        at = bisect_right(marks, (offset, sys.maxsize))
        return marks[at - 1].catalogue_offset if at else -1


def _catalogue_of(message: RawMessage) -> int | None:
    """Return the catalogue offset in a marker, or None for usage."""
    text = message.header("catalogue") if not message.value else None
    return int(text) if text and text.isdigit() and len(text) <= 18 else None


def _groups(messages: Sequence[Numbered]) -> Iterator[list[Numbered]]:
    """Group messages in order: each chunk or marker alone, single records in runs that can be read together."""
    run: list[Numbered] = []
    size_bytes = 0
    headers: tuple[tuple[str, bytes], ...] | None = None
    key: tuple[bytes | None, ...] | None = None
    for one in messages:
        former = key
        if one[2].headers != headers:
            headers = one[2].headers
            key = _run_key(one[2])
        if run and (key != former or size_bytes > RUN_BYTES):
            yield run
            run, size_bytes = [], 0
        if key is None:
            yield [one]
        else:
            run.append(one)
            size_bytes += len(one[2].value)
    if run:
        yield run


def _run_key(message: RawMessage) -> tuple[bytes | None, ...] | None:
    """Return the headers that single records of one run must share, or None for a message that is read alone."""
    held = dict(reversed(message.headers))
    if message.is_chunk or "catalogue" in held or "encoding" in held:
        return None
    as_of = held.get("as-of")
    wrong = as_of if instant_of(as_of) is None else None
    return held.get("feed"), held.get("csv-header"), held.get("lists"), wrong


class _Parts:
    """Splits a reading by journal partition and adds the messages of the parts, each with the fence of its source.

    `fence` belongs to one message, whose parts are counted, or to a run of single records, whose rows carry offsets.
    """

    def __init__(self, router: Router, fence: Fence, rejects_at: int, done: Mediated) -> None:
        self._router = router
        self._rejects_at = rejects_at
        self._fences = [fence] * router.partitions
        self._rejected = fence  # rejected records have a count of their own
        self._done = done

    def send(self, reading: Reading) -> None:
        """Add usage to the partitions of its cards, and rejected records to the one that the raw partition maps to.

        Corrections get entries of their own (F6).
        """
        batch = reading.batch
        for start, end, _ in stretches(batch.rows):
            count = end - start
            part = batch if count == batch.rows.height else replace(batch, rows=batch.rows.slice(start, count))
            for at, entry in enumerate(self._router.split(Usage(part))):
                if entry is not None:
                    self._journal(at, entry, self._fences[at])
                    self._fences[at] = self._fences[at].after(entry)
        if reading.rejected.num_rows:
            self._journal(self._rejects_at, Rejects(reading.rejected), self._rejected)
        self._done.records += batch.rows.height
        self._done.rejected += reading.rejected.num_rows

    def _journal(self, at: int, entry: Entry | Rejects, fence: Fence) -> None:
        self._done.journal += [(at, content) for content in messages_of(entry, fence)]
