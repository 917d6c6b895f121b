"""However a raw partition is cut, retried and mediated by a second lane beside: each record is in the journal once."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.journal.entries import Rejects, Usage
from pipeline.journal.messages import Fences, read_message
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.mediate.partition import Lane, Mark
from pipeline.streaming.raw.messages import RawMessage, marker
from pipeline.streaming.raw.reading import Numbered
from tests.unit.test_mediation import AS_OF_US, MAPPINGS, catalogue, iccid, registry, single

CARDS = 24
CHANGES = (catalogue(range(8)), catalogue(range(8, 16)), catalogue(range(16, CARDS)))
WRONG = (b"[]", b'{"id": "w"}', b"")


@functools.cache
def known_by(partitions: int) -> Registry:
    """A registry that has folded the catalogues; lanes change nothing of it."""
    return registry(*CHANGES, partitions=partitions)


@st.composite
def records(draw: st.DrawFn, key: str) -> dict[str, Any] | bytes:
    """A record of a feed, exploded for some of them, or something that is none."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(WRONG))
    number = draw(st.integers(0, CARDS + 4))
    record = {"id": key, "iccid": iccid(number), "bytes": draw(st.sampled_from([1, 2, 3, "x"]))}
    record |= {"at": "2026-10-01T00:00:00Z", "kind": draw(st.sampled_from(["event", "event", "reverse"]))}
    at = st.sampled_from([1790000000, 1790000001, "x"])
    parts = [{"bytes": n, "at": draw(at)} for n in range(draw(st.integers(0, 4)))]
    return record | {"corrects": "k", "parts": parts}


@st.composite
def logs(draw: st.DrawFn) -> list[Numbered]:
    """A raw partition: single records of several feeds, chunks and markers, from some offset on."""
    messages: list[RawMessage] = []
    for at in range(draw(st.integers(1, 24))):
        what = draw(st.sampled_from(["single"] * 5 + ["chunk", "marker", "garbage"]))
        name = draw(st.sampled_from(["correcting", "correcting", "exploded", "ndjson"]))
        if what == "single":
            messages.append(single(draw(records(f"k{at}")), name))
        elif what == "chunk":
            rows = [draw(records(f"k{at}.{row}")) for row in range(draw(st.integers(1, 6)))]
            lines = b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
            facts = (("form", b"lines"), ("source", b"f"), ("digest", b"%d" % at), ("row", b"5"))
            messages.append(single(lines, name, *facts))
        elif what == "marker":
            messages.append(marker(draw(st.integers(0, len(CHANGES) - 1))))
        else:
            messages.append(RawMessage(b"?", (("feed", b"none"),)))
    first = draw(st.integers(0, 3))
    return [(first + at, AS_OF_US + at, message) for at, message in enumerate(messages)]


@dataclass
class Journal:
    """What the partitions of a journal apply of the messages that come to them."""

    partitions: int
    fences: list[Fences] = field(init=False)
    applied: list[list[tuple[str, ...]]] = field(init=False)

    def __post_init__(self) -> None:
        self.fences = [Fences() for _ in range(self.partitions)]
        self.applied = [[] for _ in range(self.partitions)]

    def append(self, sent: list[tuple[int, bytes]]) -> None:
        """Apply what the fences leave of each message."""
        for at, content in sent:
            message = read_message(content, f"journal[{at}]")
            skip = self.fences[at].take(message)
            if skip < message.parts:
                entry = message.entry(skip)
                assert isinstance(entry, (Usage, Rejects))
                self.applied[at] += told(entry)


def told(entry: Usage | Rejects) -> list[tuple[str, ...]]:
    """The rows of an entry without the time of their arrival, which is that of what was taken together."""
    if isinstance(entry, Rejects):
        rows = [{"entry": "reject"} | row for row in entry.rows.to_pylist()]
    else:
        batch = entry.batch
        rows = [{"entry": "usage", "feed": batch.feed, "source": batch.source} | row for row in batch.rows.to_dicts()]
    for row in rows:
        row.pop("received_at", None)
    return [tuple(f"{name}={value}" for name, value in sorted(row.items()) if value is not None) for row in rows]


def streams(rows: list[tuple[str, ...]]) -> list[list[tuple[str, ...]]]:
    """Usage and rejects, each in its order: how they lie between each other depends on the cut."""
    return [[row for row in rows if f"entry={kind}" in row] for kind in ("usage", "reject")]


class Worker:
    """A lane in a process that may die: it has the marks that were kept, and goes on from the offset acknowledged."""

    def __init__(self, known: Registry) -> None:
        self.known = known
        self.kept: tuple[Mark, ...] = ()
        self.at = 0
        self.lane = self.started()

    def started(self) -> Lane:
        """A lane with the marks that were kept."""
        return Lane("usage.raw", 1, self.known, MAPPINGS, self.kept)

    def take(self, data: st.DataObject, log: list[Numbered]) -> list[tuple[int, bytes]]:
        """Take the next messages, or die in the middle; what was sent until then."""
        stop = data.draw(st.integers(self.at, len(log)))
        done = self.lane.take(log[self.at : stop])
        if data.draw(st.booleans()):
            self.kept, self.at = self.lane.marks, stop
            return done.journal
        if data.draw(st.booleans()):
            self.kept = self.lane.marks
        self.at = data.draw(st.integers(0, self.at))
        self.lane = self.started()
        return done.journal[: data.draw(st.integers(0, len(done.journal)))]


@settings(max_examples=50)
@given(st.data(), logs(), st.sampled_from([1, 2, 4]))
def test_each_record_is_in_the_journal_once(data: st.DataObject, log: list[Numbered], partitions: int) -> None:
    """Retries from earlier offsets, other cuts and a zombie's messages between change no partition's records."""
    known = known_by(partitions)
    whole, retried = Journal(partitions), Journal(partitions)
    undisturbed = Worker(known).lane.take(log)
    whole.append(undisturbed.journal)
    assert undisturbed.records + undisturbed.rejected == sum(map(len, whole.applied))
    workers = [Worker(known), Worker(known)]
    for _ in range(data.draw(st.integers(0, 8))):
        sent = [iter(worker.take(data, log)) for worker in workers]
        turns = data.draw(st.lists(st.integers(0, 1), max_size=12))
        retried.append([*(content for turn in turns for content in islice(sent[turn], 1)), *chain(*sent)])
    for worker in data.draw(st.permutations(workers)):
        retried.append(worker.lane.take(log[worker.at :]).journal)
    for expected, found in zip(whole.applied, retried.applied, strict=True):
        assert streams(expected) == streams(found)
