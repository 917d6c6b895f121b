"""What the fold would take of mediated messages, for the tests of packing."""

from __future__ import annotations

from pipeline.journal.entries import Rejects, Usage
from pipeline.journal.messages import Fences, read_message
from pipeline.streaming.mediate.partition import Mediated


def folded(*parts: Mediated) -> list[tuple[int, str]]:
    """Offset and what became of it, of what the fences of each journal partition leave; rejects with their reason."""
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
