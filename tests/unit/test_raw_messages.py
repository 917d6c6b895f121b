"""A file cut into messages gives what reading it in one go gives: the same usage, the same rejects with their bytes."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.embedded.driver import read_usage
from pipeline.feeds.decode import Position
from pipeline.feeds.mappings import load_mapping, parse_mapping
from pipeline.feeds.source_file import Source
from pipeline.streaming.raw.messages import RawMessage, chunks_of, origin_of
from pipeline.streaming.raw.reading import Readers, Reading
from rating.errors import MappingError
from schemas.mapping import Mapping
from schemas.tables import REJECTED
from schemas.usage import USAGE_SCHEMA
from tests.support.feed_files import EXPLODED, HEADERS, feed, good_line

AS_OF_US = 1_793_500_000_000_001
LISTED = """
name = "listed"
[format]
type = "FORMAT"
[[records]]
service = "data"
key = ["id"]
[records.fields]
iccid = { from = "sim", pattern = "^HS(.+)$", lookup = { file = "sims.csv", key = "sid", value = "iccid" } }
apn = { from = "sim", optional = true, lookup = { file = "apns.csv", key = "sim", value = "apn" } }
quantity = { from = "bytes" }
used_at = { from = "at" }
"""


def whole(path: Path, mapping: Mapping) -> tuple[pl.DataFrame, pa.Table]:
    """What the embedded driver makes of the file."""
    source, usage, rejects = Source.of(path), [pl.DataFrame(schema=USAGE_SCHEMA)], [REJECTED.empty_table()]
    for reading in read_usage(source, mapping, AS_OF_US, None, 16 << 20):
        usage.append(reading.batch().rows)
        rejects.append(reading.rejected)
    return pl.concat(usage, how="diagonal"), pa.concat_tables(rejects)


def readers(*mappings: Mapping) -> Readers:
    """Readers of partition 3."""
    return Readers("usage.raw", 3, {mapping.name: mapping for mapping in mappings})


def together(readings: list[Reading]) -> tuple[pl.DataFrame, pa.Table]:
    """Usage and rejects of several readings."""
    usage = [pl.DataFrame(schema=USAGE_SCHEMA), *(reading.batch.rows for reading in readings)]
    return pl.concat(usage, how="diagonal"), pa.concat_tables(
        [REJECTED.empty_table(), *(one.rejected for one in readings)]
    )


def assert_same(path: Path, mapping: Mapping, limit_bytes: int = 900_000) -> list[tuple[RawMessage, Position]]:
    """The file in messages gives what the whole gives, its raw bytes come back, and it can be gone on with anywhere."""
    sent = list(chunks_of(path, mapping, Source.of(path), AS_OF_US, limit_bytes=limit_bytes))
    read = readers(mapping)
    readings = [read.chunk(7 + at, AS_OF_US, message) for at, (message, _) in enumerate(sent)]
    usage, rejects = together(readings)
    expected_usage, expected = whole(path, mapping)
    assert expected_usage.equals(usage)
    assert expected.to_pylist() == rejects.to_pylist()
    for reading, (message, _) in zip(readings, sent, strict=True):
        assert message.size_bytes <= limit_bytes
        assert (path.name, AS_OF_US, mapping.name) == (
            reading.batch.source,
            reading.batch.received_at_us,
            reading.batch.feed,
        )
        origin = origin_of(message, reading.rejected["source_row"].to_pylist())
        assert reading.rejected["raw"].to_pylist() == origin.lines
        assert Source.of(path).fingerprint == origin.fingerprint
        assert {origin.header} >= set(reading.rejected["raw_header"].to_pylist())
        assert len(origin_of(message, reading.batch.rows["source_row"].to_list()).lines) == reading.batch.rows.height
    for at in {0, len(sent) // 2, len(sent) - 1} if sent else ():
        later = chunks_of(path, mapping, Source.of(path), AS_OF_US, sent[at][1], limit_bytes)
        usage, rejects = together([read.chunk(0, AS_OF_US, message) for message, _ in [*sent[: at + 1], *later]])
        assert expected_usage.equals(usage)
        assert expected.to_pylist() == rejects.to_pylist()
    return sent


def lines_of(kind: str, count: int = 300) -> list[bytes]:
    """Lines of a text feed, some of them bad in every way that decoding and mediation know."""
    separator = b";" if kind == "csv-plain" else b","
    lines = []
    for number in range(count):
        line = good_line(kind, number)
        bad = [line[:9], b"", b"f\0" + line, line + b"\xff\xfe", line.replace(b".5", b"x"), line + separator * 3, b"[]"]
        lines.append(bad[number // 11 % len(bad)] if number % 11 == 3 else line + b"\r" * (number % 7 == 1))
    return lines


@pytest.mark.parametrize("kind", ["csv", "csv-plain", "csv-headless", "ndjson"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("limit_bytes", [1_500, 900_000])
def test_text_files_are_the_same_in_messages(
    tmp_path: Path, kind: str, pack: Callable[[bytes], bytes], limit_bytes: int
) -> None:
    """Bad lines, blank lines, byte order mark, CR LF, another encoding, and no newline at the end."""
    path = tmp_path / "feed"
    path.write_bytes(pack(b"\xef\xbb\xbf" + HEADERS.get(kind, b"") + b"\n".join(lines_of(kind))))
    sent = assert_same(path, feed(kind), limit_bytes)
    assert (limit_bytes > 1_500) == (len(sent) == 1)
    assert whole(path, feed(kind))[1].num_rows > 20


def test_lines_that_are_too_long_are_one_reject(tmp_path: Path) -> None:
    """Of a line of more than 1 MiB its beginning travels; its neighbours are records."""
    path = tmp_path / "feed.csv"
    for kind in ("csv", "ndjson"):
        lines = [good_line(kind, 1), b"x" * ((1 << 20) + 1), good_line(kind, 2), b"y" * (3 << 20)]
        path.write_bytes(HEADERS.get(kind, b"") + b"\n".join(lines))
        assert 4 == len(assert_same(path, feed(kind)))


def test_a_line_that_fits_into_no_message_is_too_long(tmp_path: Path) -> None:
    """Bytes that cannot be packed cost their own record alone, and are kept as far as rejects keep them."""
    noise = random.Random(1).randbytes(300_000).hex().encode()[: 1 << 18]
    for kind, line in (("ndjson", b'{"id":"%s"}' % noise), ("json", b'{"id":"%s"}' % noise)):
        path = tmp_path / kind
        lines = [good_line("ndjson", 1), line, good_line("ndjson", 2)]
        path.write_bytes(b"[%s]" % b",".join(lines) if kind == "json" else b"\n".join(lines))
        sent = list(chunks_of(path, feed(kind), Source.of(path), AS_OF_US, limit_bytes=100_000))
        assert max(message.size_bytes for message, _ in sent) <= 100_000
        usage, rejects = together([readers(feed(kind)).chunk(0, AS_OF_US, message) for message, _ in sent])
        assert ["k1", "k2"] == usage["record_key"].to_list()
        assert [(2, "too_long", line[: 64 << 10])] == [
            (row["source_row"], row["reason"], row["raw"]) for row in rejects.to_pylist()
        ]


def test_csv_of_a_header_alone_is_no_message_and_a_wrong_header_is_refused(tmp_path: Path) -> None:
    """What can be known before anything is sent is said there."""
    path = tmp_path / "feed.csv"
    path.write_bytes(HEADERS["csv"])
    assert [] == assert_same(path, feed("csv"))
    path.write_bytes(b"")
    assert [] == assert_same(path, feed("csv"))
    path.write_bytes(b"id,iccid,at\n1,2,3\n")
    with pytest.raises(MappingError, match="bytes: found no such column"):
        assert_same(path, feed("csv"))


@pytest.mark.parametrize("limit_bytes", [1_500, 900_000])
def test_json_documents_are_the_same_in_messages(tmp_path: Path, limit_bytes: int) -> None:
    """Elements that are no records, records that are bad, and a document without an array."""
    path = tmp_path / "feed.json"
    found = [json.loads(good_line("ndjson", number)) for number in range(200)]
    found[5], found[60]["bytes"], found[61]["at"] = 3, "x", None
    path.write_text(json.dumps(found, indent=1))
    sent = assert_same(path, feed("json"), limit_bytes)
    assert (limit_bytes > 1_500) == (len(sent) == 1)
    for broken in ("3", "[1,", '{"id": 1}', " "):
        path.write_text(broken)
        assert_same(path, feed("json"), limit_bytes)


def test_exploded_records_are_the_same_in_messages(tmp_path: Path) -> None:
    """A record of many elements is in one message, and its bytes there once."""
    path = tmp_path / "feed.ndjson"
    parts = [{"bytes": number, "at": 1790000000 + number} for number in range(40)]
    rows = [{"id": f"k{number}", "iccid": "1", "parts": parts[: number % 41]} for number in range(120)]
    path.write_bytes(b"\n".join(json.dumps(row).encode() for row in rows))
    assert len(assert_same(path, EXPLODED, 1_000)) > 3
    document = parse_mapping(
        """
name = "outer"
[format]
type = "json"
records = "all"
explode = "parts"
[[records]]
service = "data"
key = ["$.day", "id", "@element"]
[records.fields]
iccid = { from = "iccid" }
quantity = { from = "parts.bytes" }
used_at = { from = "parts.at", time = "epoch_s" }
"""
    )
    path.write_text(json.dumps({"day": "2026-10-01", "all": [*rows, 5, {"id": "x", "parts": parts * 40}]}))
    assert len(assert_same(path, document, 5_000)) > 1


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("limit_bytes", [2_000, 900_000])
def test_columnar_files_are_the_same_in_messages(tmp_path: Path, kind: str, limit_bytes: int) -> None:
    """Row groups and batches that are larger than a message, values that are no text, and bad records."""
    path = tmp_path / "feed"
    count = 1000
    table = pa.table(
        {
            "id": pa.array([f"k{n}".encode() + b"\xff" * (n % 97 == 5) for n in range(count)], pa.binary()),
            "iccid": pa.array([None if n % 89 == 7 else f"89{n}" for n in range(count)]),
            "bytes": pa.array(np.arange(count) / 4 - (np.arange(count) % 50 == 3) * 1000),
            "at": pa.array([1_790_000_000_000_000 + n for n in range(count)], pa.timestamp("us", "UTC")),
        }
    )
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=400)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=300)
    sent = assert_same(path, feed(kind), limit_bytes)
    assert len(sent) > 10 if limit_bytes == 2_000 else len(sent) in (3, 4)
    assert whole(path, feed(kind))[1].num_rows > 30


@pytest.mark.parametrize("kind", ["csv", "ndjson", "json"])
@pytest.mark.parametrize("limit_bytes", [1_200, 900_000])
def test_lists_beside_the_file_travel_with_it(tmp_path: Path, kind: str, limit_bytes: int) -> None:
    """A looked-up card is found, and an unlisted one unknown, where the list itself is not (F2)."""
    (tmp_path / "sims.csv").write_text("sid,iccid\n" + "".join(f"{n},89{n}\n" for n in range(0, 500, 2)))
    (tmp_path / "apns.csv").write_text("sim,apn\n" + "".join(f"HS{n},apn{n % 3}\n" for n in range(400)))
    rows = [{"id": f"k{n}", "sim": f"HS{n}", "bytes": "1", "at": "2026-10-01T00:00:00Z"} for n in range(150)]
    text = [json.dumps(row) for row in rows]
    content = {
        "csv": "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]),
        "ndjson": "\n".join(text),
        "json": f"[{','.join(text)}]",
    }[kind]
    path = tmp_path / "feed"
    path.write_text(content)
    mapping = parse_mapping(LISTED.replace("FORMAT", kind))
    sent = assert_same(path, mapping, limit_bytes)
    assert (limit_bytes > 1_200) == (len(sent) == 1)
    usage, rejects = whole(path, mapping)
    assert (75, 75) == (usage.height, rejects.num_rows)
    alone = (
        readers(mapping).run([(9, 1, RawMessage(text[0].encode(), (("feed", b"listed"),)))]) if kind != "csv" else None
    )
    assert alone is None or ["unknown_card"] == alone.rejected["reason"].to_pylist()


def test_every_ready_feed_has_its_example_in_messages() -> None:
    """The examples that ship with Weir, with their lists."""
    folder = Path(__file__).resolve().parents[2] / "examples" / "feeds"
    found = {path.stem: path for path in sorted(folder.rglob("*")) if path.is_file()}
    tried = 0
    for name, path in found.items():
        try:
            mapping = load_mapping(name)
        except MappingError:
            continue
        assert_same(path, mapping)
        tried += 1
    assert tried >= 5, sorted(found)
