"""`weir feed` against a real broker: every row of a file is in the topic once, whatever is killed."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import uuid
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from pipeline.config import Kafka
from pipeline.streaming.kafka import Log, LogMessage
from pipeline.streaming.topics import Topics
from tests.support.broker import SharedBroker
from tests.support.progress import communicated, wait_until
from tests.support.weir_command import WEIR

PARTITIONS = 2
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


class Scene:
    """A folder to run `weir feed` in, with topics of its own."""

    def __init__(self, folder: Path, address: str, limit_bytes: int = 50_000) -> None:
        self.folder = folder
        self.kafka = Kafka(servers=address, prefix=f"f{uuid.uuid4().hex[:12]}.", partitions=PARTITIONS)
        self.topic = Topics(self.kafka.prefix).raw
        self.environment = os.environ | {
            "WEIR_KAFKA_SERVERS": address,
            "WEIR_KAFKA_PREFIX": self.kafka.prefix,
            "WEIR_KAFKA_PARTITIONS": str(PARTITIONS),
            "WEIR_KAFKA_LIMIT_BYTES": str(limit_bytes),
        }
        self.map("csv")

    def map(self, kind: str) -> None:
        """Write the mapping for files of this kind."""
        (self.folder / "mine.toml").write_text(MAPPING.format(kind=kind))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `weir feed mine.toml`."""
        command = [WEIR, "feed", "mine.toml", *words]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def feed(self, *words: str, status: int = 0) -> str:
        """Run it to its end; what it said."""
        process = self.start(*words)
        said, errors = communicated(process)
        assert process.returncode == status, errors
        return errors if status else said

    def messages(self) -> list[list[LogMessage]]:
        """What each partition of usage.raw holds."""

        async def all_of(partition: int, end: int) -> list[LogMessage]:
            return [one async for one in Log(self.kafka).read(self.topic, partition, 0, end)]

        async def read() -> list[list[LogMessage]]:
            ends = await Log(self.kafka).end_offsets(self.topic)
            return [await all_of(partition, end) for partition, end in enumerate(ends)]

        return asyncio.run(read())

    def ends(self) -> list[int]:
        """How many messages each partition holds."""
        return asyncio.run(Log(self.kafka).end_offsets(self.topic))


@pytest.fixture
def scene(kafka: SharedBroker, tmp_path: Path) -> Scene:
    """A folder and topics."""
    return Scene(tmp_path, kafka.address)


def header(message: LogMessage, name: str) -> str:
    """A header as text."""
    return dict(message.headers)[name].decode()


def text_of(message: LogMessage) -> bytes:
    """The content of a chunk."""
    return pa.CompressedInputStream(pa.BufferReader(message.value), "zstd").read()


def write_csv(path: Path, rows: int, seed: int = 0) -> bytes:
    """A file of rows that packing does not make much smaller; what it holds behind the header line."""
    lines = [f"{uuid.UUID(int=(n * 2654435761 + seed) ** 3 % 2**128)},8988{n % 997:015},{n},2026-10-01T00:00:00Z\n"
             for n in range(rows)]  # fmt: skip
    path.write_text("id,iccid,bytes,at\n" + "".join(lines))
    return "".join(lines).encode()


def rows_once(messages: list[LogMessage], whole: bytes) -> None:
    """Assert that messages hold every row of a CSV file, each once and in order."""
    assert b"".join(map(text_of, messages)) == whole
    row = 2
    for message in messages:
        assert int(header(message, "row")) == row
        row += text_of(message).count(b"\n")


def test_a_file_killed_in_the_middle_is_there_once(scene: Scene) -> None:
    """kill -9 twice in the middle, then to the end: all rows, each once, in one partition, with one arrival time."""
    whole = write_csv(scene.folder / "usage.csv", 150_000)
    assert scene.feed("usage.csv", "--partition", "7", status=2).startswith("weir: --partition: found 7; expected 0")
    for goal in (5, 25):
        process = scene.start("usage.csv", "--partition", "1")
        wait_until(lambda goal=goal: scene.ends()[1] >= goal, f"{goal} messages", scene.ends, runs=[process], pause_s=0)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before = scene.ends()[1]
    told = json.loads(scene.feed("usage.csv", "--partition", "1", "--json"))["files"][0]
    empty, messages = scene.messages()
    assert empty == []
    rows_once(messages, whole)
    assert before + told["messages"] == len(messages)
    assert told["messages"] > 5
    assert told["before"] + told["rows"] == 150_001
    assert len({header(message, "as-of") for message in messages}) == 1
    assert "has the whole file already" in scene.feed("usage.csv", "--partition", "1")
    assert scene.ends() == [0, len(messages)]


@pytest.mark.parametrize("cut", [1, 3])
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "ndjson", "json", "parquet"])
def test_every_kind_of_file_goes_on_behind_what_is_there(scene: Scene, kind: str, cut: int) -> None:
    """Of whatever format a file is, with messages of another size, it goes on at the next row."""
    from pipeline.config import Kafka
    from pipeline.feeds.mappings import load_mapping
    from pipeline.feeds.source_file import Source
    from pipeline.streaming.raw.feeding import position_behind
    from pipeline.streaming.raw.messages import chunks_of

    path, count = scene.folder / f"usage.{kind}", 4_000
    write_csv(scene.folder / "rows", count)
    table = pl.read_csv(scene.folder / "rows", schema_overrides={"iccid": pl.String})
    if kind == "csv":
        path.write_bytes((scene.folder / "rows").read_bytes().rstrip(b"\n"))  # the last line without its end
    elif kind == "csv.gz":
        path.write_bytes(gzip.compress((scene.folder / "rows").read_bytes()))
    else:
        {"ndjson": table.write_ndjson, "json": table.write_json, "parquet": table.write_parquet}[kind](path)
    scene.map(kind.partition(".")[0])
    mapping, source = load_mapping(scene.folder / "mine.toml"), Source.of(path)
    assert Kafka().limit_bytes > 20_000
    first = [message for message, _ in chunks_of(path, mapping, source, 7, limit_bytes=20_000)]
    start = position_behind(path, mapping, first[cut - 1])
    rest = [message for message, _ in chunks_of(path, mapping, source, 7, start, limit_bytes=30_000)]
    assert len(first) > cut
    assert [int(rest[0].header("row") or b"0")] == [int(first[cut].header("row") or b"0")]
    everything = position_behind(path, mapping, first[-1])
    assert list(chunks_of(path, mapping, source, 7, everything)) == []
    assert position_behind(path, mapping, rest[-1]) == everything


def test_files_stay_in_a_partition_and_are_sent_once(scene: Scene) -> None:
    """Several files with what was there before among them: each goes where its content says, once; --again repeats."""
    wholes = {f"{n}.csv": write_csv(scene.folder / f"{n}.csv", 300, seed=n) for n in range(6)}
    scene.feed("0.csv", "3.csv")
    first = json.loads(scene.feed(*wholes, "0.csv", "--json"))["files"]
    assert sorted(one["file"] for one in first) == sorted(wholes)
    assert {one["file"] for one in first if not one["messages"]} == {"0.csv", "3.csv"}
    partitions = scene.messages()
    for name, whole in wholes.items():
        (holding,) = [part for part in partitions if any(header(one, "source") == name for one in part)]
        rows_once([one for one in holding if header(one, "source") == name], whole)
    count = sum(scene.ends())
    scene.feed("1.csv", "--again")
    assert sum(scene.ends()) == count + 1


def test_another_arrival_is_refused(scene: Scene) -> None:
    """A file that is there with one arrival time is not sent with another one, but for --again."""
    write_csv(scene.folder / "usage.csv", 10)
    scene.feed("usage.csv", "--as-of", "2026-10-02T00:00:00Z")
    scene.feed("usage.csv", "--as-of", "2026-10-02T00:00:00Z")
    said = scene.feed("usage.csv", "--as-of", "2026-10-03T00:00:00Z", status=2)
    assert "expected --as-of 2026-10-02T00:00:00.000000Z, which goes on with it" in said
    assert sum(scene.ends()) == 1
    scene.feed("usage.csv", "--as-of", "2026-10-03T00:00:00Z", "--again")
    messages = [one for part in scene.messages() for one in part]
    assert [header(one, "as-of") for one in messages] == ["1790899200000000", "1790985600000000"]


def test_a_file_that_cannot_be_read_and_a_broker_that_is_away(scene: Scene) -> None:
    """Both end with status 3 and say what to do."""
    assert "none.csv: cannot be read" in scene.feed("none.csv", status=3)
    write_csv(scene.folder / "usage.csv", 10)
    scene.environment["WEIR_KAFKA_SERVERS"] = "127.0.0.1:1"
    assert "Kafka at 127.0.0.1:1 does not answer" in scene.feed("usage.csv", status=3)
