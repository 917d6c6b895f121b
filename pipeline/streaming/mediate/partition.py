"""Mediation of one partition of `usage.raw`: raw messages become entries of the journal, each where its account lives.

What a raw message leaves in the journal follows from the two logs alone: its bytes, and the accepted catalogues up to
the last marker before it in its own partition. So it may be mediated again, by whoever, and what is in the journal
already is below the fence of its source. Only the arrival time of single records depends on how many were taken
together, as does which of them share an entry.
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

RUN_BYTES: Final = 2 << 20  # of single records that are decoded together


class Mark(NamedTuple):
    """A marker that was passed: where it stands in the raw partition, and up to which catalogue it lets know."""

    raw_offset: int
    catalogue_offset: int


class NotYet(Exception):
    """A marker names a catalogue that the registry has not folded; `offset` is the catalogue's in `commands`."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the log of commands is wanted up to offset {offset}")
        self.offset = offset

    def __reduce__(self) -> tuple[type[NotYet], tuple[int]]:
        """As it comes from another process."""
        return NotYet, (self.offset,)


class Catalogues(Protocol):
    """What a lane asks of the registry."""

    @property
    def next_offset(self) -> int:
        """Up to where the log of commands has been folded."""
        ...

    def router_at(self, catalogue_offset: int) -> Router:
        """The router that knows the accepted catalogues up to an offset, that one included; none for -1."""
        ...


@dataclass
class Mediated:
    """What raw messages became: messages by journal partition in the order in which they must be sent.

    `marks` are those that were not known before; `records` counts usage and `rejected` what became none.
    """

    next_offset: int
    journal: list[tuple[int, bytes]] = field(default_factory=list)
    marks: tuple[Mark, ...] = ()
    records: int = 0
    rejected: int = 0


class Lane:
    """One partition of the topic of raw usage. `marks` are those that a lane before this one passed."""

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
        """Mediate messages that follow one another, from any offset that was reached, or an earlier one again.

        Raises NotYet, with nothing taken, where a marker among them is ahead of the registry. Whatever the messages
        hold, each record ends in the journal as usage or as reject (F5).
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
                if reading.origin is not None:  # a record that was packed twice is told by where it came from
                    fence = Fence.run(*reading.origin, via=(self.partition, offset))
            else:
                fence = Fence.run(self.topic, self.partition)
                reading = self._readers.run(group)
            _Parts(router, fence, self.partition % router.partitions, done).send(reading)
        return done

    def _marked(self, messages: Sequence[Numbered]) -> tuple[Mark, ...]:
        """All marks up to the end of the messages."""
        marks = self.marks
        if marks and marks[-1].catalogue_offset >= self._registry.next_offset:
            raise NotYet(marks[-1].catalogue_offset)  # a lane before this one has passed it
        for offset, _, message in messages:
            catalogue = _catalogue_of(message)
            # One that is sent again, late, does not make a lane forget what it knows.
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
    """The catalogue that a marker names, None for usage."""
    text = message.header("catalogue") if not message.value else None
    return int(text) if text and text.isdigit() and len(text) <= 18 else None


def _groups(messages: Sequence[Numbered]) -> Iterator[list[Numbered]]:
    """Messages in order: chunks and markers each for itself, single records in runs that can be read together."""
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
    """What single records of one run have in common; None for what is read for itself."""
    held = dict(reversed(message.headers))
    if message.is_chunk or "catalogue" in held or "encoding" in held:
        return None
    as_of = held.get("as-of")
    wrong = as_of if instant_of(as_of) is None else None
    return held.get("feed"), held.get("csv-header"), held.get("lists"), wrong


class _Parts:
    """Cuts a reading by partitions of the journal and sends the parts under the fences of their source.

    `fence` is that of a message, whose parts are counted, or of a run of single records, whose rows have offsets.
    """

    def __init__(self, router: Router, fence: Fence, rejects_at: int, done: Mediated) -> None:
        self._router = router
        self._rejects_at = rejects_at
        self._fences = [fence] * router.partitions
        self._rejected = fence  # rejects are counted for themselves
        self._done = done

    def send(self, reading: Reading) -> None:
        """Usage where its cards live, corrections by themselves (F6); rejects where the raw partition says."""
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
