"""Records that the fold refused: their raw bytes, which the journal does not carry, and their messages (F5)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from pipeline.messages import Fence
from pipeline.streaming.outputs import Output, fill_rejected
from pipeline.streaming.reading import Origin, kept_line, origin_of
from pipeline.streaming.recent import RecentRaw

_TEXT: Final = ("reject_id", "feed", "source", "source_row", "received_at", "reason", "field", "message", "record_key")


async def with_raw_bytes(output: Output, raw: RecentRaw) -> Output:
    """The output, with ids and raw bytes of what the fold refused, read again from where it came from.

    Where the topic does not have a message any more, its records have no raw bytes, and an id of its place.
    """
    wanted: dict[Fence, list[int]] = {}

    def note(fence: Fence, rows: Sequence[int]) -> Origin:
        wanted[fence] = list(rows)
        return Origin("", None, [b""] * len(rows))

    fill_rejected(output, note)
    found = {fence: await origin_at(fence, rows, raw) for fence, rows in wanted.items()}
    return fill_rejected(output, lambda fence, rows: found[fence])


async def origin_at(fence: Fence, rows: Sequence[int], raw: RecentRaw) -> Origin:
    """Where rows that a message with this fence brought came from; without bytes where the topic has it no more."""
    place = f"{fence.topic}[{fence.partition}]"
    if fence.via is not None:  # not from the topic of the records: it may lack them, and what is mediated is the chunk
        found = await raw.messages(raw.topics.raw, fence.via[0], fence.via[1], fence.via[1])
        return (
            await asyncio.to_thread(origin_of, found[fence.via[1]], rows)
            if found
            else Origin(place, None, [b""] * len(rows))
        )
    first, last = (fence.offset, fence.offset) if fence.first is None else (min(rows), max(rows))
    messages = await raw.messages(fence.topic, fence.partition, first, last)
    if fence.first is None and (not messages or messages[fence.offset].is_chunk):
        chunk = messages.get(fence.offset)
        if chunk is None:
            return Origin(f"{place}@{fence.offset}", None, [b""] * len(rows))
        return await asyncio.to_thread(origin_of, chunk, rows)
    header = next((one.header("csv-header") for one in messages.values()), None)
    return Origin(place, header, [kept_line(messages[row].value) if row in messages else b"" for row in rows])


def reject_messages(output: Output) -> list[bytes]:
    """A JSON object for each rejected record, with its raw bytes in base64."""
    rows = output.rejected.to_pylist() if output.rejected.num_rows else []
    return [msgspec.json.encode(_told(row)) for row in rows]


def _told(row: dict[str, Any]) -> dict[str, Any]:
    told = {name: row[name] for name in _TEXT}
    for name in ("raw", "raw_header"):
        told[name] = None if row[name] is None else base64.b64encode(row[name]).decode()
    return told
