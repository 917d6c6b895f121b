"""Raw bytes and messages of records that the fold rejected. The journal does not contain raw bytes (F5)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa

from pipeline.journal.messages import LIMIT_BYTES, Fence
from pipeline.streaming.failures import ANY_FAILURE
from pipeline.streaming.rate.output_messages import Output, fill_rejected, refused_rows
from pipeline.streaming.rate.recent import RecentRaw
from pipeline.streaming.raw.bounds import kept_line
from pipeline.streaming.raw.reading import Origin, origin_of
from rating.errors import WorldError

_RAW_BYTES_FIELD: Final = len(',"raw_bytes":123456789')


async def with_raw_bytes(output: Output, raw: RecentRaw) -> Output:
    """Return the output with ids and raw bytes of the records that the fold rejected, read from their source topic.

    If the topic no longer has a message, its records get empty raw bytes and an id made from their topic position.
    """
    found = {one.fence: await _origin_or_none(one.fence, one.rows, raw) for one in refused_rows(output)}
    return fill_rejected(output, lambda fence, rows: found[fence])


async def _origin_or_none(fence: Fence, rows: Sequence[int], raw: RecentRaw) -> Origin:
    """Return the origin of rows, with empty lines if the topic has another message there by now."""
    try:
        return await origin_at(fence, rows, raw)
    except WorldError:
        raise
    except ANY_FAILURE:
        return Origin(f"{fence.topic}[{fence.partition}]@{fence.offset}", None, [b""] * len(rows))


async def origin_at(fence: Fence, rows: Sequence[int], raw: RecentRaw) -> Origin:
    """Return the origin of rows of the message with this fence; with empty lines if the topic no longer has them."""
    place = f"{fence.topic}[{fence.partition}]"
    if fence.via is not None:  # packed records: their own topic may lack them, but the chunk is there
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


def reject_messages(output: Output, limit_bytes: int = LIMIT_BYTES) -> list[bytes]:
    """Return one JSON object of at most `limit_bytes` for each rejected record, with its raw bytes in base64.

    One that would be larger lacks its header line; if that is not enough, `raw` is cut, and `raw_bytes` is its length.
    """
    if not output.rejected.num_rows:
        return []
    names = output.rejected.column_names
    columns = [
        (column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column).to_pylist()
        for column in output.rejected.columns
    ]
    return [_fitting(dict(zip(names, row, strict=True)), limit_bytes) for row in zip(*columns, strict=True)]


def _fitting(row: dict[str, Any], limit_bytes: int) -> bytes:
    content = msgspec.json.encode(row)
    if len(content) <= limit_bytes:
        return content
    content = msgspec.json.encode(row | {"raw_header": None})
    if len(content) <= limit_bytes:
        return content
    raw = row["raw"] or b""
    over_bytes = len(content) + _RAW_BYTES_FIELD - limit_bytes
    kept = raw[: max(0, len(raw) - (over_bytes * 3 // 4 + 3))]
    return msgspec.json.encode(row | {"raw_header": None, "raw": kept, "raw_bytes": len(raw)})
