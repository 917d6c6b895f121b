"""Records that the fold refused: their raw bytes, which the journal does not carry, and their messages (F5)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from pipeline.messages import Fence
from pipeline.streaming.headers import RawMessage
from pipeline.streaming.kafka import Log
from pipeline.streaming.outputs import Output, fill_rejected
from pipeline.streaming.reading import Origin, kept_line, origin_of
from rating.errors import StorageError

_TEXT: Final = ("reject_id", "feed", "source", "source_row", "received_at", "reason", "field", "message", "record_key")


async def with_raw_bytes(output: Output, log: Log) -> Output:
    """The output, with ids and raw bytes of what the fold refused, read again from where it came from.

    Where the topic does not have a message any more, its records have no raw bytes, and an id of its place.
    """
    wanted: dict[Fence, list[int]] = {}

    def note(fence: Fence, rows: Sequence[int]) -> Origin:
        wanted[fence] = list(rows)
        return Origin("", None, [b""] * len(rows))

    fill_rejected(output, note)
    found = {fence: await origin_at(fence, rows, log) for fence, rows in wanted.items()}
    return fill_rejected(output, lambda fence, rows: found[fence])


async def origin_at(fence: Fence, rows: Sequence[int], log: Log) -> Origin:
    """Where rows that a message with this fence brought came from; without bytes where the topic has it no more."""
    place = f"{fence.topic}[{fence.partition}]"
    if fence.via is not None:  # not from the topic of the records: it may lack them, and what is mediated is the chunk
        found = await _messages(log, log.topics.raw, fence.via[0], fence.via[1], fence.via[1])
        return origin_of(found[fence.via[1]], rows) if found else Origin(place, None, [b""] * len(rows))
    first, last = (fence.offset, fence.offset) if fence.first is None else (min(rows), max(rows))
    messages = await _messages(log, fence.topic, fence.partition, first, last)
    if fence.first is None and (not messages or messages[fence.offset].is_chunk):
        chunk = messages.get(fence.offset)
        return Origin(f"{place}@{fence.offset}", None, [b""] * len(rows)) if chunk is None else origin_of(chunk, rows)
    header = next((one.header("csv-header") for one in messages.values()), None)
    return Origin(place, header, [kept_line(messages[row].value) if row in messages else b"" for row in rows])


async def _messages(log: Log, topic: str, partition: int, first: int, last: int) -> dict[int, RawMessage]:
    """The messages from offset `first` to `last`; none where the topic does not keep them any more."""
    try:
        read = log.read(topic, partition, first, last + 1)
        return {one.offset: RawMessage(one.value, tuple(one.headers)) async for one in read}
    except StorageError:
        return {}


def reject_messages(output: Output) -> list[bytes]:
    """A JSON object for each rejected record, with its raw bytes in base64."""
    return [msgspec.json.encode(_told(row)) for row in output.rejected.to_pylist()]


def _told(row: dict[str, Any]) -> dict[str, Any]:
    told = {name: row[name] for name in _TEXT}
    for name in ("raw", "raw_header"):
        told[name] = None if row[name] is None else base64.b64encode(row[name]).decode()
    return told
