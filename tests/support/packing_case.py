"""Selection of the records that the fold accepts from mediated messages, for tests of packing."""

from __future__ import annotations

from pipeline.journal.entries import Rejects, Usage
from pipeline.journal.messages import Fences, read_message
from pipeline.streaming.mediate.partition import Mediated


def folded(*parts: Mediated) -> list[tuple[int, str]]:
    """Return (source offset, outcome) of the records that pass the fences of their journal partition, sorted.

    The outcome is "usage", or the reason of a rejected record.
    """
    fences = [Fences() for _ in range(4)]
    found = []
    for done in parts:
        for at, content in done.journal:
            message = read_message(content, "journal")
            skip = fences[at].take(message)
            if skip == message.parts:
                continue
            entry = message.entry(skip)
            if isinstance(entry, Usage):
                found += [(row, "usage") for row in entry.batch.rows["source_row"].to_list()]
            elif isinstance(entry, Rejects):
                rows = entry.rows
                found += list(zip(rows["source_row"].to_pylist(), rows["reason"].to_pylist(), strict=True))
    return sorted(found)
