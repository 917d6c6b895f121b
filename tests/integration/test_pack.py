"""`weir pack` against a real broker: every record of a topic is in usage.raw once, whatever is killed."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import Kafka
from pipeline.feeds.mappings import load_mapping
from pipeline.journal.messages import Fence
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.kafka import Log, publisher_of
from pipeline.streaming.mediate.partition import Lane
from pipeline.streaming.rate.recent import RecentRaw
from pipeline.streaming.rate.reject_details import origin_at
from pipeline.streaming.raw.headers import Origins, RawMessage, facts_of
from pipeline.streaming.topics import Topics
from tests.support.broker import SharedBroker
from tests.support.feed_files import HEADERS, good_line
from tests.support.packing_case import folded
from tests.support.progress import communicated, wait_until
from tests.support.weir_command import WEIR

MAPPING = """
name = "mine"
[format]
type = "{kind}"
[[records]]
service = "data"
key = ["id"]
[records.fields]
iccid = {{ from = "iccid" }}
quantity = {{ from = "bytes" }}
used_at = {{ from = "at" }}
"""
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "usage",
    "fields": [{"name": name, "type": "string"} for name in ("id", "iccid", "bytes", "at")],
}


class Scene:
    """A folder to run `weir pack` in, with topics of its own, and a source of three partitions."""

    def __init__(self, folder: Path, broker: SharedBroker) -> None:
        self.folder = folder
        self.kafka = Kafka(servers=broker.address, prefix=f"p{uuid.uuid4().hex[:12]}.", partitions=2)
        self.source = broker.topic(partitions=3)
        self.environment = os.environ | {
            "WEIR_KAFKA_SERVERS": broker.address,
            "WEIR_KAFKA_PREFIX": self.kafka.prefix,
            "WEIR_KAFKA_PARTITIONS": "2",
            "WEIR_KAFKA_LIMIT_BYTES": "50000",
        }
        (folder / "weir.toml").write_text(f'[worker]\norigins = {{ "{self.source}" = 3 }}\n')
        for kind in ("csv", "ndjson"):
            (folder / f"{kind}.toml").write_text(MAPPING.format(kind=kind))

    def put(self, values: Sequence[bytes], partition: int = 0) -> None:
        """Send single records to the source."""

        async def send() -> None:
            async with publisher_of(self.kafka) as publisher:
                sent = [await publisher.send(self.source, partition, value) for value in values]
                await publisher.acknowledged(sent[-1])

        asyncio.run(send())

    def start(self, *words: str, feed: str = "ndjson.toml", config: str = "weir.toml") -> subprocess.Popen[str]:
        """Start `weir pack`."""
        command = [WEIR, "--config", config, "pack", feed, "--from", self.source, *words]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def pack(self, *words: str, feed: str = "ndjson.toml", status: int = 0, config: str = "weir.toml") -> str:
        """Run it to its end; what it said."""
        process = self.start("--idle-exit", *words, feed=feed, config=config)
        said, errors = communicated(process)
        assert process.returncode == status, errors
        return errors if status else said

    def raw(self) -> list[list[RawMessage]]:
        """What each partition of usage.raw holds."""
        topic, log = Topics(self.kafka.prefix).raw, Log(self.kafka)

        async def all_of(place: int, end: int) -> list[RawMessage]:
            return [RawMessage(one.value, tuple(one.headers)) async for one in log.read(topic, place, 0, end)]

        async def read() -> list[list[RawMessage]]:
            return [await all_of(place, end) for place, end in enumerate(await log.end_offsets(topic))]

        return asyncio.run(read())

    def messages(self) -> int:
        """How many messages usage.raw holds."""
        try:
            return sum(asyncio.run(Log(self.kafka).end_offsets(Topics(self.kafka.prefix).raw)))
        except Exception:  # not made yet
            return 0

    def await_messages(self, count: int, process: subprocess.Popen[str]) -> None:
        """Wait until usage.raw holds so many, which `process` sends."""
        wait_until(lambda: self.messages() >= count, f"{count} messages", self.messages, runs=[process], pause_s=0)


@pytest.fixture
def scene(kafka: SharedBroker, tmp_path: Path) -> Scene:
    """A folder and topics."""
    return Scene(tmp_path, kafka)


def records(count: int, partition: int = 0) -> list[bytes]:
    """JSON that packing does not make much smaller."""
    return [
        json.dumps(
            {"id": uuid.UUID(int=(n * 2654435761 + partition) ** 3 % 2**128).hex, "iccid": "8988", "n": n}
        ).encode()
        for n in range(count)
    ]


def held(messages: Sequence[RawMessage], partition: int) -> tuple[list[int], list[bytes]]:
    """Offsets and lines of a source partition, in the order in which they lie."""
    offsets: list[int] = []
    lines: list[bytes] = []
    for message in messages:
        facts = facts_of(message)
        if facts.origin is not None and facts.origin[1] == partition:
            offsets += np.frombuffer(facts.offsets or b"", "<i8").tolist()
            lines += pa.CompressedInputStream(pa.BufferReader(message.value), "zstd").read().split(b"\n")[:-1]
    return offsets, lines


def test_killed_again_and_again_every_record_is_there_once(scene: Scene) -> None:
    """kill -9 at several moments of the work: all offsets of all partitions, each once, in order and in its place."""
    values = [records(count, partition) for partition, count in enumerate((40_000, 500, 20_000))]
    for partition, own in enumerate(values):
        scene.put(own, partition)
    scene.pack("--partitions", "1", "--wait-ms", "0")  # the topics are there, and one partition is packed
    before = scene.messages()
    for goal in (1, 8):
        process = scene.start("--wait-ms", "0")
        scene.await_messages(before + goal, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        values[2] += values[1]
        scene.put(values[1], 2)
    scene.pack()
    raw = scene.raw()
    for partition, own in enumerate(values):
        assert held(raw[partition % 2], partition) == (list(range(len(own))), own)
    assert held(raw[1], 0) == held(raw[1], 2) == held(raw[0], 1) == ([], [])
    told = json.loads(scene.pack("--json"))["partitions"]
    assert [(one["records"], one["start"]) for one in told] == [(0, len(own)) for own in values]


def test_a_packer_runs_until_it_is_told_to_stop(scene: Scene) -> None:
    """A running packer packs each record that arrives, once and in order. Ctrl-C stops it gracefully."""
    scene.put(records(3))
    process = scene.start("--group", "watched")

    def packed_records() -> int:
        return len(held(scene.raw()[0], 0)[0]) if scene.messages() else 0

    for count in (3, 6, 9):
        wait_until(lambda count=count: packed_records() >= count, f"{count} records", packed_records, runs=[process])
        scene.put(records(3))
    process.send_signal(signal.SIGINT)
    said, errors = communicated(process)
    assert process.returncode == 0, errors
    packed = held(scene.raw()[0], 0)[0]
    assert len(packed) >= 9
    assert packed == list(range(len(packed)))
    assert "from offset 0 to before" in said


def test_two_packers_at_the_same_time_count_each_record_once(scene: Scene) -> None:
    """usage.raw may have records twice then; the fences of the journal know them by where they came from."""
    values = [good_line("ndjson", number) for number in range(5_000)]
    scene.put(values)
    both = [scene.start("--idle-exit", "--wait-ms", "0") for _ in range(2)]
    for process in both:
        _, errors = communicated(process)
        assert process.returncode == 0, errors
    messages = scene.raw()[0]
    mappings = {"mine": load_mapping(scene.folder / "ndjson.toml")}
    lane = Lane(Topics(scene.kafka.prefix).raw, 0, Registry(4), mappings, origins=Origins({scene.source: 3}, 2))
    now_us = time.time_ns() // 1000
    done = lane.take([(offset, now_us, message) for offset, message in enumerate(messages)])
    assert folded(done) == [(offset, "usage") for offset in range(5_000)]


def test_csv_and_avro(scene: Scene) -> None:
    """CSV under a header, Avro with and without a prefix; what the fold refuses is found as it was mediated."""
    scene.put([good_line("csv", number) for number in range(10)])
    header = HEADERS["csv"].decode().strip()
    scene.pack("--partitions", "0", "--csv-header", header, feed="csv.toml")
    (message,) = scene.raw()[0]
    assert message.header("csv-header") == header.encode()
    (scene.folder / "usage.avsc").write_text(json.dumps(SCHEMA))
    lines = [good_line("ndjson", number) for number in range(10)]
    avro = []
    for number, line in enumerate(lines):
        sink = io.BytesIO()
        fastavro.schemaless_writer(sink, SCHEMA, json.loads(line))
        avro.append((b"\0\0\0\0\7" if number % 2 else b"") + sink.getvalue())
    scene.put([*avro, b"\xffnothing"], 1)
    scene.pack("--partitions", "1", "--avro-schema", "usage.avsc")
    good, bad = scene.raw()[1]
    assert [json.loads(line) for line in held([good], 1)[1]] == [json.loads(line) for line in lines]
    assert bad.header("form") == b"rows"
    log = Log(scene.kafka)
    found = asyncio.run(origin_at(Fence(scene.source, 1, 9, via=(1, 0)), [3, 9], RecentRaw(log)))
    assert (found.fingerprint, found.header) == (f"{scene.source}[1]", None)
    assert [json.loads(line) for line in found.lines] == [json.loads(lines[number]) for number in (3, 9)]
    of_csv = asyncio.run(origin_at(Fence(scene.source, 0, 9, first=0, via=(0, 0)), [4], RecentRaw(log)))
    assert (of_csv.lines, of_csv.header) == ([good_line("csv", 4)], header.encode())
    gone = asyncio.run(origin_at(Fence(scene.source, 0, 9, via=(0, 77)), [4], RecentRaw(log)))
    assert (gone.fingerprint, gone.lines) == (f"{scene.source}[0]", [b""])


def test_what_cannot_be_packed_is_told(scene: Scene) -> None:
    """Topics and partitions that are not there, Weir's own, and a topic that was made anew."""
    assert "expected 0 to 2" in scene.pack("--partitions", "1-3", status=2)
    assert "numbers and ranges" in scene.pack("--partitions", "1-", status=2)
    raw = Topics(scene.kafka.prefix).raw
    assert "a topic of Weir" in scene.pack("--from", raw, status=2)
    assert "found no topic never-made" in scene.pack("--from", "never-made", status=2)
    (scene.folder / "none.toml").write_text("")
    said = scene.pack(status=2, config="none.toml")
    assert f'origins = {{ "{scene.source}" = 3 }}' in said
    headers = [("feed", b"mine"), ("form", b"lines"), ("origin", f"{scene.source} 0".encode()), ("span", b"0 9")]

    async def ahead() -> None:
        async with publisher_of(scene.kafka) as publisher:
            await publisher.acknowledged(await publisher.send(raw, 0, b"", headers=headers))

    asyncio.run(ahead())
    assert "it was made anew" in scene.pack(status=3)
