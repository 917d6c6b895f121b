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
    found = {fence: await _origin(fence, rows, log) for fence, rows in wanted.items()}
    return fill_rejected(output, lambda fence, rows: found[fence])


async def _origin(fence: Fence, rows: Sequence[int], log: Log) -> Origin:
    place = f"{fence.topic}[{fence.partition}]"
    single = fence.first is not None
    first, last = (min(rows), max(rows)) if single else (fence.offset, fence.offset)
    try:
        read = log.read(fence.topic, fence.partition, first, last + 1)
        messages = {one.offset: RawMessage(one.value, tuple(one.headers)) async for one in read}
    except StorageError:  # kept for so long only
        messages = {}
    if not single:
        chunk = messages.get(fence.offset)
        return Origin(f"{place}@{fence.offset}", None, [b""] * len(rows)) if chunk is None else origin_of(chunk, rows)
    header = next((one.header("csv-header") for one in messages.values()), None)
    return Origin(place, header, [kept_line(messages[row].value) if row in messages else b"" for row in rows])


def reject_messages(output: Output) -> list[bytes]:
    """A JSON object for each rejected record, with its raw bytes in base64."""
    return [msgspec.json.encode(_told(row)) for row in output.rejected.to_pylist()]


def _told(row: dict[str, Any]) -> dict[str, Any]:
    told = {name: row[name] for name in _TEXT}
    for name in ("raw", "raw_header"):
        told[name] = None if row[name] is None else base64.b64encode(row[name]).decode()
    return told
