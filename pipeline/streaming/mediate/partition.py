"""Mediation of one partition of `usage.raw`, called a lane: decode raw messages into journal entries.

Each entry goes to the journal partition of its account.

The entries of a raw message depend on two logs alone: on the bytes of the message, and on the catalogues accepted up to
the last marker before it in its raw partition. So any worker may mediate it again: the fence of its source, the highest
source position already applied, skips entries that the journal has already. Only two things depend on how many messages
were read together: the arrival time of single records, and which single records share an entry. A message whose time is
ahead of the machine's clock is rejected; if it is mediated again after that time, it is usage as well.

Nothing that a message contains stops a lane. A message that cannot be mediated, whatever it raises, becomes one
rejected record with its first 64 KiB (F5). One that cannot even be rejected is reported as `Unmediated`.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol

from pipeline.history.originals import stretches
from pipeline.journal.entries import Entry, Rejects, Usage
from pipeline.journal.messages import LIMIT_BYTES, Fence, messages_of
from pipeline.journal.router import Router
from pipeline.streaming.failures import ANY_FAILURE, said
from pipeline.streaming.raw.headers import NO_ORIGINS, Origins, RawMessage, arrival_of, instant_of
from pipeline.streaming.raw.reading import Numbered, Readers, Reading
from schemas import mapping as feeds

RUN_BYTES: Final = 2 << 20  # bytes of single records that are decoded together, about


class Mark(NamedTuple):
    """A catalogue marker that has been read: its raw offset, and the catalogue version it announces."""

    raw_offset: int
    catalogue_offset: int


class Unmediated(NamedTuple):
    """A message that could not even become a rejected record: its raw offset, and why."""

    raw_offset: int
    why: str


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

    def has_catalogue(self, offset: int) -> bool:
        """Return whether the message at an offset below `next_offset` is an accepted catalogue."""
        ...


@dataclass
class Mediated:
    """The result of mediating raw messages.

    `journal` has (journal partition, message) in the order in which they must be sent. `marks` are the new marks.
    `records` counts usage records and `rejected` rejected records; `unread` counts messages that became one rejected
    record as a whole. `unmediated` are the messages that left nothing. `next_offset` is the raw offset after the last
    message.
    """

    next_offset: int
    journal: list[tuple[int, bytes]] = field(default_factory=list)
    marks: tuple[Mark, ...] = ()
    records: int = 0
    rejected: int = 0
    unread: int = 0
    unmediated: list[Unmediated] = field(default_factory=list)

    def add(self, other: Mediated) -> None:
        """Add what later messages left."""
        self.journal += other.journal
        self.records += other.records
        self.rejected += other.rejected
        self.unread += other.unread
        self.unmediated += other.unmediated


class Lane:
    """The mediation of one raw partition. `marks` are the markers that an earlier owner of the partition has read.

    Messages of the journal have at most `limit_bytes`. Packed records may come from `origins` only.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        registry: Catalogues,
        mappings: Mapping[str, feeds.Mapping],
        marks: Sequence[tuple[int, int]] = (),
        *,
        origins: Origins = NO_ORIGINS,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.marks = tuple(Mark(*mark) for mark in marks)
        self._registry = registry
        self._limit_bytes = limit_bytes
        self._readers = Readers(topic, partition, mappings, origins)

    def take(
        self, messages: Sequence[Numbered], *, now_us: int | None = None, commands_end: int | None = None
    ) -> Mediated:
        """Mediate consecutive messages.

        They may begin at any offset that was reached before, so messages may be repeated. Each record ends up in the
        journal, as usage or as a rejected record, whatever the messages contain (F5). Raises NotYet, without any
        effect, if a marker among the messages is ahead of the registry.

        `now_us` is the machine's clock: times more than a day ahead of it are rejected. `commands_end` is the end of
        the command log, found after the messages were read: a marker of a later catalogue is false, and has no effect.
        """
        known = len(self.marks)
        marks = self._marked(messages, commands_end)
        done = Mediated(messages[-1][0] + 1 if messages else 0, marks=marks[known:])
        self.marks = marks
        for group in _groups(messages, now_us):
            offset, _, first = group[0]
            if _catalogue_of(first) is None:
                router = self._registry.router_at(self._catalogue_at(offset, marks))
                done.add(self._mediated(group, router, now_us))
        return done

    def _mediated(self, group: Sequence[Numbered], router: Router, now_us: int | None) -> Mediated:
        """Mediate a chunk, or single records that can be read together. Raises nothing, whatever they contain."""
        try:
            return self._parts(router, *self._read(group, now_us))
        except ANY_FAILURE as failure:
            if len(group) > 1:  # so that a bad record costs only itself
                half = len(group) // 2
                done = self._mediated(group[:half], router, now_us)
                done.add(self._mediated(group[half:], router, now_us))
                return done
            return self._refused(group[0], router, said(failure))

    def _read(self, group: Sequence[Numbered], now_us: int | None) -> tuple[Fence, Reading]:
        offset, timestamp_us, first = group[0]
        if not first.is_chunk:
            return Fence.run(self.topic, self.partition), self._readers.run(group, now_us)
        reading = self._readers.chunk(offset, timestamp_us, first, now_us)
        if reading.origin is None:
            return Fence(self.topic, self.partition, offset), reading
        # The offsets of the source topic, so that a record packed twice is applied once.
        return Fence.run(*reading.origin, via=(self.partition, offset)), reading

    def _refused(self, one: Numbered, router: Router, why: str) -> Mediated:
        """Return the message as one rejected record; if that fails too, as an Unmediated."""
        fence = Fence.run(self.topic, self.partition)
        if one[2].is_chunk:
            fence = Fence(self.topic, self.partition, one[0])
        try:
            return self._parts(router, fence, self._readers.unread([one], f"the message cannot be mediated: {why}"))
        except ANY_FAILURE as failure:
            return Mediated(one[0] + 1, unmediated=[Unmediated(one[0], f"{why}; as a reject: {said(failure)}")])

    def _parts(self, router: Router, fence: Fence, reading: Reading) -> Mediated:
        done = Mediated(0, unread=reading.unread)
        _Parts(router, fence, self.partition % router.partitions, done, self._limit_bytes).send(reading)
        return done

    def _marked(self, messages: Sequence[Numbered], commands_end: int | None) -> tuple[Mark, ...]:
        """Return all marks up to the end of the messages. Raises NotYet if a mark is ahead of the registry.

        A marker counts only if the command log has an accepted catalogue at the offset that it names.
        """
        marks = self.marks
        if marks and marks[-1].catalogue_offset >= self._registry.next_offset:
            raise NotYet(marks[-1].catalogue_offset)  # an earlier owner of the partition has read it
        for offset, _, message in messages:
            catalogue = _catalogue_of(message)
            # Ignore a marker that is sent again late: it would set the lane back to an older catalogue.
            if catalogue is None or catalogue <= self._catalogue_at(offset, marks):
                continue
            if catalogue >= self._registry.next_offset:
                if commands_end is not None and catalogue >= commands_end:
                    continue
                raise NotYet(catalogue)
            if self._registry.has_catalogue(catalogue):
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


def _groups(messages: Sequence[Numbered], now_us: int | None) -> Iterator[list[Numbered]]:
    """Group messages in order: each chunk or marker alone, single records in runs that can be read together."""
    run: list[Numbered] = []
    size_bytes = 0
    headers: tuple[tuple[str, bytes], ...] | None = None
    of_headers: tuple[bytes | None, ...] | None = None
    key: tuple[object, ...] | None = None
    for one in messages:
        former = key
        if one[2].headers != headers:
            headers = one[2].headers
            of_headers = _run_key(one[2])
        # Records whose time may not count are rejected, so the others must not be in a run with them.
        key = None if of_headers is None else (*of_headers, arrival_of(one[1], one[2], now_us)[1])
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

    def __init__(self, router: Router, fence: Fence, rejects_at: int, done: Mediated, limit_bytes: int) -> None:
        self._router = router
        self._limit_bytes = limit_bytes
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
        self._done.journal += [(at, content) for content in messages_of(entry, fence, self._limit_bytes)]
