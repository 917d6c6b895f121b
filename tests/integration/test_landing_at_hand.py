"""The landing stage against a real broker: pieces that are at hand, and pieces that have to be decoded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow as pa

from pipeline.config import Kafka
from pipeline.store.directory import DataDirectory
from pipeline.streaming.kafka import Log, publisher_of
from pipeline.streaming.land.folder import folder_of, landed_of
from pipeline.streaming.land.stage import Land, LandPace
from pipeline.streaming.rate.output_messages import OutputPiece, Packed, packed
from pipeline.streaming.rate.recent import RecentPieces
from pipeline.streaming.stage.inbox import Delivery
from pipeline.streaming.worker.metrics import Metrics
from tests.support.broker import SharedBroker
from tests.support.landing_case import some, table_of

COUNT = 6


def marked(one: Packed) -> Packed:
    """Return the same bytes with another session in the cached rows, which distinguishes them from decoded rows."""
    tables = []
    for name, rows in one.piece.tables:
        if name == "rated":
            place = rows.schema.get_field_index("session_id")
            rows = rows.set_column(place, rows.schema.field(place), pa.array(["at hand"] * rows.num_rows))
        tables.append((name, rows))
    piece = one.piece
    return Packed(one.content, OutputPiece(
        piece.partition, piece.first_offset, piece.piece, piece.pieces, piece.digest, piece.parts, tuple(tables)
    ))  # fmt: skip


def land_all(kafka: SharedBroker, history: Path, at_hand: set[int]) -> list[str | None]:
    """Land COUNT outputs, half of them sent before the stage begins; the sessions of the landed rows in order."""

    config, topic, recent = Kafka(servers=kafka.address), kafka.topic(), RecentPieces()

    async def run() -> None:
        sent = [one for output in some(0, COUNT) for one in packed(output)]
        assert len(sent) == COUNT
        saved, acked = list[int](), list[int]()

        async def save(offset: int) -> None:
            saved.append(offset)

        async with publisher_of(config) as publisher:
            for one in sent[: COUNT // 2]:
                await (await publisher.send(topic, 0, one.content))
        pace, metrics = LandPace(2, 0.05), Metrics()
        land = Land(0, history, Log(config), topic, None, recent, save, None, pace, metrics)
        running = asyncio.create_task(land.run())
        await asyncio.sleep(0)  # from now on it wants what is sent
        recent.note([marked(one) for number, one in enumerate(sent) if number in at_hand])
        for number, one in enumerate(sent):
            ack = acked.append if number >= COUNT // 2 else lambda _: None
            copy = bytes(bytearray(one.content))
            await land.inbox.put(Delivery(number, 0, copy, (), lambda ack=ack, number=number: ack(number)))
        while landed_of(folder_of(history, 0)) < COUNT - 1 or not saved or saved[-1] < COUNT:
            assert not running.done(), running.exception()
            await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert list(range(COUNT // 2, COUNT)) == acked
        recent.note([marked(sent[0])])
        assert recent.take(0, sent[0].content) is None  # the partition has gone

    asyncio.run(run())
    with DataDirectory.open(folder_of(history, 0), write=False) as directory:
        rated = table_of(directory, "rated")
    by_offset = sorted(zip(rated["journal_offset"].to_pylist(), rated["session_id"].to_pylist(), strict=True))
    assert list(range(2 * COUNT)) == [offset for offset, _ in by_offset]
    return [session for _, session in by_offset]


def test_what_is_at_hand_is_not_decoded_and_all_else_is(kafka: SharedBroker, tmp_path: Path) -> None:
    """Whatever this worker has sent itself, of what was there before and of what comes: each row is landed once."""
    for number, at_hand in enumerate([set[int](), {1, 3, 4}, set(range(COUNT))]):
        history = tmp_path / str(number)
        history.mkdir()
        sessions = land_all(kafka, history, at_hand)
        assert at_hand == {place // 2 for place, session in enumerate(sessions) if session == "at hand"}
        assert 2 * len(at_hand) == sessions.count("at hand")
