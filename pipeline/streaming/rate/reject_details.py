"""Raw bytes and messages of records that the fold rejected. The journal does not contain raw bytes (F5)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pyarrow as pa

from pipeline.journal.messages import Fence
from pipeline.streaming.rate.output_messages import Output, fill_rejected, refused_rows
from pipeline.streaming.rate.recent import RecentRaw
from pipeline.streaming.raw.reading import Origin, kept_line, origin_of


async def with_raw_bytes(output: Output, raw: RecentRaw) -> Output:
    """Return the output with ids and raw bytes of the records that the fold rejected, read from their source topic.

    If the topic no longer has a message, its records get empty raw bytes and an id made from their topic position.
    """
    found = {one.fence: await origin_at(one.fence, one.rows, raw) for one in refused_rows(output)}
    return fill_rejected(output, lambda fence, rows: found[fence])


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


def reject_messages(output: Output) -> list[bytes]:
    """Return one JSON object for each rejected record, with its raw bytes in base64."""
    if not output.rejected.num_rows:
        return []
    names = output.rejected.column_names
    columns = [
        (column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column).to_pylist()
        for column in output.rejected.columns
    ]
    return [msgspec.json.encode(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
