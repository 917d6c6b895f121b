"""Single records of a topic become chunks of usage.raw: each in its place, also what is no line."""

from __future__ import annotations

import datetime as dt
import io
import json
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.journal.entries import Rejects, Usage
from pipeline.journal.messages import Fence, read_message
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.mediate.partition import Lane, Mediated
from pipeline.streaming.raw.avro import AvroRecords
from pipeline.streaming.raw.headers import Origins, RawMessage, facts_of
from pipeline.streaming.raw.messages import origin_of
from pipeline.streaming.raw.packing import Packing
from rating.errors import MappingError, UsageError
from schemas.choices import AvroFraming
from tests.support.feed_files import EXPLODED, HEADERS, feed, good_line
from tests.support.packing_case import folded

CSV, NDJSON = feed("csv"), feed("ndjson")
MAPPINGS = {mapping.name: mapping for mapping in (CSV, NDJSON, EXPLODED)}
COLUMNS = HEADERS["csv"].decode().rstrip()
TIME_MS = 1_793_500_000_000
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "usage",
    "fields": [{"name": "note", "type": ["null", "string"]}, {"name": "bytes", "type": "long"}],
}


def packing(kind: str = "ndjson", limit_bytes: int = 900_000) -> Packing:
    """Of the feeds of feed_files."""
    return Packing(feed(kind), COLUMNS if kind == "csv" else None, limit_bytes=limit_bytes)


def packed(values: list[bytes], own: Packing | None = None, offsets: list[int] | None = None) -> list[RawMessage]:
    """The messages of records of old[5]."""
    numbers = np.array(range(100, 100 + len(values)) if offsets is None else offsets, np.int64)
    return (own or packing()).messages("old", 5, numbers, values, TIME_MS)


def mediated(messages: list[RawMessage], at: int = 10) -> Mediated:
    """What usage.raw[1] of these messages leaves in four partitions of the journal."""
    numbered = [(at + number, TIME_MS * 1000 + 7, message) for number, message in enumerate(messages)]
    return Lane("weir.usage.raw", 1, Registry(4), MAPPINGS, origins=Origins({"old": 8}, 4)).take(numbered)


def rejects_of(done: Mediated) -> list[dict[str, Any]]:
    """The rejects of mediation."""
    entries = [read_message(content, "journal").entry() for _, content in done.journal]
    return [row for entry in entries if isinstance(entry, Rejects) for row in entry.rows.to_pylist()]


def avro(record: dict[str, Any], prefix: bytes = b"") -> bytes:
    """A record of SCHEMA."""
    sink = io.BytesIO()
    fastavro.schemaless_writer(sink, SCHEMA, record)
    return prefix + sink.getvalue()


def test_records_become_a_chunk_that_says_where_they_came_from() -> None:
    """Origin, offsets and arrival; what is mediated has the offsets, and the fence of the topic they came from."""
    (message,) = packed([good_line("ndjson", number) for number in range(50)])
    facts = facts_of(message)
    assert (("old", 5), "old[5]", TIME_MS * 1000) == (facts.origin, facts.source, facts.as_of_us)
    assert (b"100 50", None) == (message.header("span"), message.header("offsets"))
    done = mediated([message])
    assert [(100 + number, "usage") for number in range(50)] == folded(done)
    messages = [read_message(content, "journal") for _, content in done.journal]
    assert {("old", 5, (1, 10))} == {
        (one.fence.topic, one.fence.partition, one.fence.via) for one in messages if one.fence
    }
    entries = [one.entry() for one in messages]
    assert {TIME_MS * 1000} == {entry.batch.received_at_us for entry in entries if isinstance(entry, Usage)}


def test_offsets_with_gaps_are_listed() -> None:
    """What a compacted topic or a transaction leaves out is not made up."""
    offsets = [3, 4, 9, 200]
    (message,) = packed([good_line("ndjson", number) for number in range(4)], offsets=offsets)
    assert message.header("offsets") == np.array(offsets, "<i8").tobytes()
    assert [(offset, "usage") for offset in offsets] == folded(mediated([message]))


def test_csv_lines_travel_with_their_header() -> None:
    """The rejects carry it as well."""
    lines = [good_line("csv", number) for number in range(5)]
    lines[3] = b"too,few"
    messages = packed(lines, packing("csv"))
    assert [COLUMNS.encode()] == [message.header("csv-header") for message in messages]
    (reject,) = rejects_of(mediated(messages))
    assert (103, b"too,few", COLUMNS.encode()) == (reject["source_row"], reject["raw"], reject["raw_header"])


def test_what_is_no_line_is_rejected_in_its_place() -> None:
    """Several lines of CSV, and lines of megabytes: with their own bytes, and nothing beside them is lost."""
    lines = [good_line("csv", number) for number in range(8)]
    lines[2], lines[3], lines[6] = b"a,\nb", b"x" * (2 << 20), b"c\nd\ne"
    messages = packed(lines, packing("csv"))
    assert [b"lines", b"rows", b"lines", b"rows", b"lines"] == [message.header("form") for message in messages]
    done = mediated(messages)
    wrong = {102: "malformed", 103: "too_long", 106: "malformed"}
    assert [(offset, wrong.get(offset, "usage")) for offset in range(100, 108)] == folded(done)
    assert [b"a,\nb", b"x" * (64 << 10), b"c\nd\ne"] == [reject["raw"] for reject in rejects_of(done)]
    assert "old[5]:102" == rejects_of(done)[0]["reject_id"]


def test_json_over_several_lines_is_one_record() -> None:
    """Between its words a newline is a space."""
    pretty = json.dumps(json.loads(good_line("ndjson", 1)), indent=2).encode()
    assert [(100, "usage"), (101, "usage")] == folded(mediated(packed([pretty + b"\n", good_line("ndjson", 2)])))


@given(
    kinds=st.lists(st.sampled_from(["good", "bad", "several"]), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    again=st.integers(0, 40),
    limit_bytes=st.sampled_from([900, 2000, 900_000]),
)
def test_each_record_counts_once_however_it_is_cut_and_sent(
    kinds: list[str], cuts: list[int], again: int, limit_bytes: int
) -> None:
    """Packed in other portions, by two packers at the same time, in small messages: every offset has one outcome."""
    made = {"good": good_line("csv", 1), "bad": b"too,few", "several": b"a\nb"}
    values = [made[kind] for kind in kinds]
    bounds = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    own = packing("csv", limit_bytes)

    def sent(start: int, stop: int) -> list[RawMessage]:
        return packed(values[start:stop], own, list(range(100 + start, 100 + stop))) if start < stop else []

    log: list[RawMessage] = []
    for start, stop in pairwise(bounds):
        log += sent(start, stop)
        log += sent(min(again, start), min(stop, start + 3))  # another packer, which is behind
    log += sent(min(again, len(values)), len(values))
    assert max(message.size_bytes for message in log) <= limit_bytes
    outcome = {"good": "usage", "bad": "malformed", "several": "malformed"}
    expected = [(100 + number, outcome[kind]) for number, kind in enumerate(kinds)]
    assert expected == folded(mediated(log))
    at = len(log) // 2
    assert expected == folded(mediated(log[:at]), mediated(log[max(0, at - 2) :], 10 + max(0, at - 2)))


def test_large_batches_are_cut_into_chunks_of_about_five_megabytes() -> None:
    """In order, all of them, and with a line that no message can carry as a reject."""
    noise = np.random.default_rng(1).integers(97, 122, 1_040_000).astype(np.uint8).tobytes()
    values = [b'{"a":"%06d%s"}' % (number, b"-" * 1000) for number in range(12_000)]
    values[7] = b'{"a":"%s"}' % noise
    messages = packed(values, packing(limit_bytes=500_000))
    found = [np.frombuffer(facts_of(message).offsets or b"", "<i8") for message in messages]
    assert list(range(100, 12_100)) == np.concatenate(found).tolist()
    assert 3 < len(messages) < 20
    assert [(107, "too_long")] == [one for one in folded(mediated(messages)) if one[1] == "too_long"]


def test_the_bytes_of_what_the_fold_refuses_are_in_the_chunk() -> None:
    """By offset, as JSON where it was Avro."""
    own = Packing(NDJSON, None, AvroRecords(SCHEMA))
    values = [avro({"note": "n", "bytes": number}) for number in range(3)]
    (message,) = packed(values, own)
    origin = origin_of(message, [102, 100])
    assert ("old[5]", [b'{"note":"n","bytes":2}', b'{"note":"n","bytes":0}']) == (origin.fingerprint, origin.lines)


@pytest.mark.parametrize("prefix", [b"", b"\0\0\0\1\7"])
@pytest.mark.parametrize("framing", ["auto", "plain", "registry"])
def test_avro_with_and_without_a_prefix(prefix: bytes, framing: AvroFraming) -> None:
    """By itself both are read, also where a plain record begins with a zero byte; else what was named."""
    records = [{"note": None, "bytes": 5}, {"note": "x" * 9, "bytes": -1}, {"note": None, "bytes": 0}]
    lines, unread = AvroRecords(SCHEMA, framing).as_json([avro(record, prefix) for record in records])
    if framing == "auto" or (framing == "registry") == bool(prefix):
        assert (records, {}) == ([json.loads(line) for line in lines], unread)
    else:
        assert {0, 1, 2} == set(unread)
        assert [avro(record, prefix) for record in records] == lines


def test_avro_times_and_numbers_as_mappings_read_them() -> None:
    """Times are ISO 8601, decimals texts, bytes base64."""
    logical = [("at", "long", "timestamp-millis"), ("day", "int", "date"), ("id", "string", "uuid")]
    fields = [{"name": name, "type": {"type": kind, "logicalType": meaning}} for name, kind, meaning in logical]
    fields.append({"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}})
    fields.append({"name": "blob", "type": "bytes"})
    schema = {"type": "record", "name": "r", "fields": fields}
    sink = io.BytesIO()
    number, moment = "8f14e45f-ceea-467f-a9d1-4c5a5b6d2b11", dt.datetime(2026, 10, 1, 2, 3, tzinfo=dt.UTC)
    record = {"at": moment, "day": moment.date(), "id": number, "price": Decimal("1.50"), "blob": b"\xff"}
    fastavro.schemaless_writer(sink, fastavro.parse_schema(schema), record)
    (line,), unread = AvroRecords(schema).as_json([sink.getvalue()])
    assert {} == unread
    expected = {"at": "2026-10-01T02:03:00Z", "day": "2026-10-01", "id": number, "price": "1.50", "blob": "/w=="}
    assert expected == json.loads(line)


def test_unreadable_avro_is_rejected_with_its_own_bytes() -> None:
    """Cut off, with bytes too many, empty, or JSON: a reject each, with what was sent."""
    good = avro({"note": "n\n\n", "bytes": 300})
    values = [good, good[:-1], good + b"\n", b"\xff" * 12, good]
    own = Packing(NDJSON, None, AvroRecords(SCHEMA))
    rejects = {row["source_row"]: row for row in rejects_of(mediated(packed(values, own)))}
    assert values[1:4] == [rejects[offset]["raw"] for offset in (101, 102, 103)]
    assert all("no record of the Avro schema" in rejects[offset]["message"] for offset in (101, 102, 103))
    assert json.loads(rejects[100]["raw"]) == {"note": "n\n\n", "bytes": 300}  # JSON, as the mapping lacks a card


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=20))
def test_no_bytes_crash_the_reading_of_avro(values: list[bytes]) -> None:
    """Whatever the bytes are, each value becomes a line or is reported as unread."""
    lines, unread = AvroRecords(SCHEMA).as_json(values)
    assert len(lines) == len(values)
    for place, line in enumerate(lines):
        assert place in unread or set(json.loads(line)) == {"note", "bytes"}


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"origin": b"old five"}, "origin"),
        ({"origin": b"a b 5"}, "origin"),
        ({"origin": b"weir.usage.raw 5"}, "[worker].origins"),
        ({"origin": b"old 9"}, "[worker].origins"),
        ({"origin": b"old 2"}, "[worker].origins"),
        ({"origin": b"old 9999999999"}, "origin"),
        ({"span": b"100"}, "span"),
        ({"span": b"100 -1"}, "span"),
        ({"span": b"100 999999999999"}, "span"),
        ({"span": b"100 3"}, "3 offsets of 2 lines"),
    ],
)
def test_headers_of_others_that_do_not_fit(headers: dict[str, bytes], found: str) -> None:
    """One reject of the whole message, under its own place in usage.raw."""
    (message,) = packed([good_line("ndjson", number) for number in range(2)])
    changed = RawMessage(message.value, tuple((dict(message.headers) | headers).items()))
    done = mediated([changed])
    (reject,) = rejects_of(done)
    assert ("malformed", "weir.usage.raw[1]", 10) == (reject["reason"], reject["source"], reject["source_row"])
    assert found in reject["message"]
    (content,) = [content for _, content in done.journal]
    assert Fence("weir.usage.raw", 1, 10, rejects=True) == read_message(content, "journal").fence


def test_what_cannot_be_packed_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    """A CSV without its header or with another one, Avro for CSV, a header for JSON, a schema that is none."""
    with pytest.raises(MappingError, match="header"):
        Packing(CSV)
    with pytest.raises(MappingError):
        Packing(CSV, "some,other,columns")
    with pytest.raises(UsageError, match="an Avro schema; expected a mapping of JSON"):
        Packing(CSV, COLUMNS, AvroRecords(SCHEMA))
    with pytest.raises(UsageError, match="--csv-header"):
        Packing(NDJSON, "a,b")
    for text in ('{"type": "unheard"}', "{", "5"):
        (tmp_path / "a.avsc").write_text(text)
        with pytest.raises(UsageError, match=r"a\.avsc: found no Avro schema"):
            AvroRecords.load(tmp_path / "a.avsc")
    with pytest.raises(UsageError, match="cannot be read"):
        AvroRecords.load(tmp_path / "none.avsc")


def test_an_exploded_record_is_one_offset() -> None:
    """Its parts have one fence: packed again, none of them counts twice."""
    parts = [{"bytes": number, "at": "2026-10-01T00:00:00Z"} for number in range(4)]
    line = json.dumps({"id": "a", "iccid": "8944000000000000001", "parts": parts}).encode()
    messages = packed([line] * 3, Packing(EXPLODED))
    once = folded(mediated(messages))
    assert once == folded(mediated(messages + messages))
    assert {100, 101, 102} == {offset for offset, _ in once}
    assert 12 == len(once)
