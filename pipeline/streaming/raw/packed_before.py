"""Finds out what earlier packers have sent, from the chunks in usage.raw itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Final

import numpy as np

from pipeline.streaming.kafka import Log
from pipeline.streaming.raw.headers import RawMessage, facts_of

_WINDOW: Final = 16  # messages at the end of usage.raw that are searched first; then eight times as many, and so on
_FRESH_US: Final = 10_000_000  # after a message younger than this, another one of a killed packer may still arrive
_SETTLE_S: Final = 0.3
_SETTLE_ROUNDS: Final = 10


def origin(topic: str, partition: int) -> bytes:
    """Return the value of the header `origin` of packed records."""
    return f"{topic} {partition}".encode()


async def reached(log: Log, place: int, origins: Collection[bytes]) -> dict[bytes, int]:
    """Return, for each origin, the offset after its last record in this partition of usage.raw.

    Origins without records are absent. Waits a moment for messages that a killed packer had handed to its operating
    system.
    """
    topic = log.topics.raw
    end = await log.end_offset(topic, place)
    for _ in range(_SETTLE_ROUNDS):
        newest = await log.last_message(topic, place)
        if newest is None or newest.timestamp_us < time.time_ns() // 1000 - _FRESH_US:
            break
        await asyncio.sleep(_SETTLE_S)
        former, end = end, await log.end_offset(topic, place)
        if former == end:
            break
    begin, _ = await log.begin_since(topic, place, 0)
    found: dict[bytes, int] = {}
    stop, window = end, _WINDOW
    while stop > begin and len(found) < len(origins):
        start = max(begin, stop - window)
        there: dict[bytes, int] = {}
        async for message in log.read(topic, place, start, stop):
            held = RawMessage(message.value, tuple(message.headers))
            name = held.header("origin")
            if name in origins and name not in found:
                assert name is not None
                there[name] = max(there.get(name, 0), _behind(held))
        found |= there
        stop, window = start, window * 8
    return found


def _behind(message: RawMessage) -> int:
    try:
        offsets = facts_of(message).offsets
    except ValueError:
        return 0  # mediation rejects it
    return int(np.frombuffer(offsets or b"\0" * 8, "<i8")[-1]) + 1
