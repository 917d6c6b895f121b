"""Raw messages of a partition become entries of the journal: chunks of files, runs of single records, and rejects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.embedded.driver import read_usage
from pipeline.feeds.mappings import parse_mapping
from pipeline.feeds.source_file import Source
from pipeline.journal.entries import Apply, Rejects, Usage
from pipeline.journal.messages import Fence, Fences, messages_of, read_message
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.mediate.partition import Lane, Mark, Mediated, NotYet
from pipeline.streaming.raw.headers import Origins
from pipeline.streaming.raw.messages import RawMessage, chunks_of, kept_line, marker, origin_of
from schemas.cards import Account, Catalogue
from schemas.choices import REASONS
from schemas.plans import Plan, PlanVersion, Rate
from tests.support.feed_files import EXPLODED, HEADERS, feed, good_line
from tests.support.fold_case import SINCE, cards

AS_OF_US = 1_793_500_000_000_000
PLAN = Plan(id="p", currency="EUR", versions=(PlanVersion(version=1, effective=SINCE, rates=(Rate(service="data"),)),))
CORRECTING = parse_mapping(
    """
name = "correcting"
[format]
type = "ndjson"
[[records]]
service = "data"
key = ["id"]
[records.fields]
iccid = { from = "iccid" }
quantity = { from = "bytes", optional = true }
used_at = { from = "at" }
record_type = { from = "kind", optional = true }
corrects_key = { from = "corrects", optional = true }
"""
)
ORIGINS = Origins({"old": 8, "old.usage": 8}, 4)
MAPPINGS = {mapping.name: mapping for mapping in (*map(feed, ("csv", "ndjson", "json")), EXPLODED, CORRECTING)}


def catalogue(numbers: range, accounts: int = 8) -> Catalogue:
    """Cards 8944… of `numbers`, spread over accounts."""
    return Catalogue(
        accounts=tuple(Account(id=f"a{number}") for number in range(accounts)),
        plans=(PLAN,),
        cards=cards(*({"iccid": iccid(n), "account": f"a{n % accounts}", "plan": "p"} for n in numbers)),
    )


def iccid(number: int) -> str:
    """As in the lines of feed_files."""
    return f"8944{number:015}"


def registry(*changes: Catalogue, partitions: int = 4) -> Registry:
    """One that has folded the catalogues, at offsets 0, 1, …"""
    known = Registry(partitions)
    for offset, change in enumerate(changes):
        (content,) = messages_of(Apply(change, AS_OF_US + offset))
        assert known.take(offset, content) is None
    return known


def lane(known: Registry, *marks: Mark, partition: int = 3) -> Lane:
    """A lane of that partition of usage.raw."""
    return Lane("usage.raw", partition, known, MAPPINGS, marks, origins=ORIGINS)


def single(record: dict[str, Any] | bytes, name: str = "ndjson", *headers: tuple[str, bytes]) -> RawMessage:
    """A single record of a feed."""
    value = record if isinstance(record, bytes) else json.dumps(record).encode()
    return RawMessage(value, (("feed", name.encode()), *headers))


def numbered(*messages: RawMessage, first: int = 10) -> list[tuple[int, int, RawMessage]]:
    """Messages at offsets that follow one another; each arrives a second after the one before."""
    return [(first + at, AS_OF_US + at * 1_000_000, message) for at, message in enumerate(messages)]


def entries(done: Mediated) -> list[tuple[int, Fence, Usage | Rejects]]:
    """Partition, fence and entry of each message of the journal."""
    found = []
    for at, content in done.journal:
        message = read_message(content, f"journal[{at}]")
        entry = message.entry()
        assert message.fence is not None
        assert isinstance(entry, (Usage, Rejects))
        found.append((at, message.fence, entry))
    return found


def usage_of(done: Mediated) -> pl.DataFrame:
    """Usage rows in the order of their source, with the partition they went to."""
    parts = [
        entry.batch.rows.with_columns(
            partition=pl.lit(at), source=pl.lit(entry.batch.source), received_at_us=pl.lit(entry.batch.received_at_us)
        )
        for at, _, entry in entries(done)
        if isinstance(entry, Usage)
    ]
    return pl.concat(parts, how="diagonal").sort("source_row", maintain_order=True) if parts else pl.DataFrame()


def rejects_of(done: Mediated) -> list[dict[str, Any]]:
    """Rejects in the order in which they were sent."""
    return [row for _, _, entry in entries(done) if isinstance(entry, Rejects) for row in entry.rows.to_pylist()]


@pytest.mark.parametrize("kind", ["csv", "ndjson", "json"])
@pytest.mark.parametrize("partitions", [1, 4])
def test_a_file_leaves_what_the_embedded_driver_reads_of_it(tmp_path: Path, kind: str, partitions: int) -> None:
    """All usage, by account in the order of the file, and all rejects; each partition's parts are counted on."""
    path = tmp_path / "feed"
    lines = [good_line("ndjson" if kind == "json" else kind, n) for n in range(600)]
    bad = {7: b'"k7', 300: lines[300].replace(b".5", b"x"), 301: lines[301].replace(b"8944", b"")[:-30]}
    lines = [bad.get(n, line) for n, line in enumerate(lines)] if kind != "json" else lines
    path.write_bytes(b"[%s]" % b",".join(lines) if kind == "json" else HEADERS.get(kind, b"") + b"\n".join(lines))
    source = Source.of(path)
    sent = [one for one, _ in chunks_of(path, feed(kind), source, AS_OF_US, limit_bytes=1_000)]
    assert len(sent) > 3
    done = lane(registry(catalogue(range(0, 600, 2)), partitions=partitions), Mark(2, 0)).take(numbered(*sent))
    usage, rejected = [], []
    for reading in read_usage(source, feed(kind), AS_OF_US, None, 1 << 20):
        usage.append(reading.batch().rows)
        rejected += reading.rejected.to_pylist()
    found = usage_of(done)
    assert pl.concat(usage).equals(found.select(usage[0].columns))
    assert {("feed", AS_OF_US)} == set(found.select("source", "received_at_us").rows())
    assert rejected == rejects_of(done)
    assert (found.height, len(rejected), len(sent) + 10) == (done.records, done.rejected, done.next_offset)
    assert min(partitions, 4) == found["partition"].n_unique()
    owners = found.with_columns(owner=pl.col("iccid").str.slice(-3).cast(pl.Int64) % 8).filter(
        pl.col("iccid").str.slice(-1).cast(pl.Int64) % 2 == 0
    )
    assert owners.group_by("owner").agg(pl.col("partition").n_unique())["partition"].max() == 1
    fences = [Fences() for _ in range(partitions)]
    messages = [(at, read_message(content, "")) for at, content in done.journal]
    assert {0} == {fences[at].take(message) for at, message in messages}
    assert all(fences[at].take(message) == message.parts for at, message in messages)
    assert {at for at, message in messages if isinstance(message.entry(), Rejects)} <= {3 % partitions}


def test_single_records_of_a_feed_are_one_run() -> None:
    """Their source is the partition and their rows the offsets; the last one's arrival is that of all (T5)."""
    records = [single(good_line("ndjson", number)) for number in range(50)]
    records[7] = single(b'{\n "id": "k7",\n "iccid": "1", "bytes": 5, "at": "2026-10-01T00:00:00Z"\n}\n')
    records[8], records[9] = single(b""), single(b"[1]\n")
    done = lane(registry(), partition=2).take(numbered(*records))
    found = usage_of(done)
    assert [at for at in range(10, 60) if at not in (18, 19)] == found["source_row"].to_list()
    assert "k7" == found["record_key"][7]
    assert {("usage.raw[2]", AS_OF_US + 49_000_000)} == set(found.select("source", "received_at_us").rows())
    (reject,) = rejects_of(done)
    assert ("usage.raw[2]:19", "usage.raw[2]", 19, "malformed", b"[1]", "ndjson") == tuple(
        reject[name] for name in ("reject_id", "source", "source_row", "reason", "raw", "feed")
    )
    assert kept_line(records[9].value) == reject["raw"]
    assert len({at for at, _, entry in entries(done) if isinstance(entry, Usage)}) == len(done.journal) - 1
    assert {fence.first for _, fence, _ in entries(done)} - {None}


def test_single_csv_records_have_their_header_beside_them() -> None:
    """Another header begins another run; without one, or with several lines, records are rejected with their bytes."""
    header, other = ("csv-header", b"id,iccid,bytes,at"), ("csv-header", b"at,bytes,iccid,id")
    lines = [good_line("csv", 1), good_line("csv", 2) + b"\r\n", b"a,b\nc,d"]
    turned = b",".join(reversed(good_line("csv", 4).split(b",")))
    done = lane(registry()).take(
        numbered(*(single(one, "csv", header) for one in lines), single(turned, "csv", other), single(lines[0], "csv"))
    )
    assert ["k1", "k2", "k4"] == usage_of(done)["record_key"].to_list()
    assert [(12, lines[2], header[1]), (14, lines[0], None)] == [
        (row["source_row"], row["raw"], row["raw_header"]) for row in rejects_of(done)
    ]


def test_single_records_take_their_own_arrival_time_where_they_have_one() -> None:
    """The greatest of a run holds; a header that is no time costs its own record."""
    late, wrong = ("as-of", str(AS_OF_US + 1_000_000_000).encode()), ("as-of", b"9" * 18)
    good = [good_line("ndjson", number) for number in range(3)]
    done = lane(registry()).take(
        numbered(single(good[0]), single(good[1], "ndjson", late), single(good[2], "ndjson", wrong))
    )
    assert {AS_OF_US + 1_000_000_000} == set(usage_of(done)["received_at_us"])
    (reject,) = rejects_of(done)
    assert (12, "malformed", good[2]) == (reject["source_row"], reject["reason"], reject["raw"])
    assert "as-of" in reject["message"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (RawMessage(b"{}"), "no header feed"),
        (RawMessage(b""), "no header feed"),
        (single(b"{}", "unheard"), "'unheard'; expected one of correcting, csv"),
        (RawMessage(b"{}", (("feed", b"\xff"),)), "utf-8"),
        (single(b"{}", "ndjson", ("form", b"pages")), "form"),
        (single(b"{}", "ndjson", ("form", b"lines")), "no header source"),
        (single(b"{}", "ndjson", ("form", b"lines"), ("source", b"x"), ("digest", b"y"), ("row", b"-1")), "row"),
        (single(b"\0" * 99, "ndjson", ("encoding", b"zstd")), ""),
        (single(b"{}", "ndjson", ("encoding", b"gzip")), "gzip"),
        (single(b"{}", "json", ("form", b"rows"), ("source", b"x"), ("digest", b"y"), ("row", b"1")), ""),
        (single(b"{}\n{}", "ndjson", ("form", b"lines"), ("origin", b"old 3"), ("offsets", b"\0" * 8)), "offsets"),
        (single(b"1,2", "csv", ("form", b"lines"), ("source", b"x"), ("digest", b"y"), ("row", b"1")), "csv-header"),
        (single(b"{}", "ndjson", ("lists", b"?"), ("encoding", b"zstd")), ""),
        (RawMessage(b"", (("catalogue", b"first"),)), "no header feed"),
    ],
)
def test_a_message_that_cannot_be_read_is_one_reject(message: RawMessage, said: str) -> None:
    """Whatever its headers and value hold, its neighbours are mediated, and its bytes are kept (F5)."""
    good = [single(good_line("ndjson", number)) for number in range(2)]
    done = lane(registry()).take(numbered(good[0], message, good[1]))
    assert [10, 12] == usage_of(done)["source_row"].to_list()
    (reject,) = rejects_of(done)
    assert ("usage.raw[3]:11", 11, message.value) == (reject["reject_id"], reject["source_row"], reject["raw"])
    assert reject["reason"] in REASONS
    assert said in reject["message"]


def test_large_values_are_cut_in_rejects() -> None:
    """A value of megabytes, and a line that no message of the journal can carry, are kept by their beginning."""
    noise = np.random.default_rng(1).integers(33, 127, 3 << 20).astype(np.uint8).tobytes()
    chunk = (("form", b"lines"), ("source", b"x"), ("digest", b"y"), ("row", b"1"))
    done = lane(registry()).take(
        numbered(
            single(noise), single(noise, "unheard"), single(noise[: 1 << 20], "ndjson", *chunk), single(noise[:800_000])
        )
    )
    assert [(10, "too_long"), (11, "malformed"), (1, "malformed"), (13, "malformed")] == [
        (row["source_row"], row["reason"]) for row in rejects_of(done)
    ]
    assert all(noise.startswith(row["raw"]) and len(row["raw"]) == 64 << 10 for row in rejects_of(done))
    assert max(len(content) for _, content in done.journal) <= 900_000


def test_packed_records_are_those_of_the_partition_they_came_from() -> None:
    """Source, rows and reject ids are as if they had come singly from there."""
    lines = [good_line("ndjson", number) for number in range(30)]
    lines[4] = b"nothing"
    offsets = np.arange(1000, 1060, 2)
    message = single(
        b"\n".join(lines), "ndjson", ("form", b"lines"), ("origin", b"old.usage 7"), ("offsets", offsets.tobytes())
    )
    done = lane(registry()).take(numbered(message))
    found = usage_of(done)
    assert [int(at) for at in offsets if at != 1008] == found["source_row"].to_list()
    assert {"old.usage[7]"} == set(found["source"])
    (reject,) = rejects_of(done)
    assert ("old.usage[7]:1008", b"nothing") == (reject["reject_id"], reject["raw"])
    origin = origin_of(message, [1058, 1008])
    assert ("old.usage[7]", [lines[29], b"nothing"]) == (origin.fingerprint, origin.lines)


def test_usage_is_routed_by_the_catalogues_up_to_the_last_marker() -> None:
    """Not by what the registry knows besides; a marker that comes again changes nothing."""
    known = registry(catalogue(range(40)), catalogue(range(40, 80)))
    records = [single(good_line("ndjson", number)) for number in range(80)]
    log = numbered(*records, marker(0), *records, marker(1), *records, marker(0), *records)
    moving = lane(known)
    done = moving.take(log)
    assert (Mark(90, 0), Mark(171, 1)) == done.marks == moving.marks
    found = usage_of(done)["partition"].to_list()
    stages = [found[at : at + 80] for at in range(0, 320, 80)]
    for stage, router in zip(stages, (known.router_at(-1), known.router_at(0), *[known.router_at(1)] * 2), strict=True):
        numbers = pl.DataFrame({"iccid": [iccid(number) for number in range(80)]})
        assert router.of_usage(numbers).tolist() == stage
    assert 3 == len({tuple(stage) for stage in stages})
    again = lane(known, *done.marks)
    assert usage_of(again.take(log[100:]))["partition"].to_list() == found[99:]
    assert () == again.take(log).marks
    assert moving.marks == again.marks


def test_a_marker_ahead_of_the_registry_is_waited_for() -> None:
    """Nothing of the messages is taken until the catalogue is known; then all are."""
    known = registry(catalogue(range(40)))
    waiting = lane(known)
    log = numbered(single(good_line("ndjson", 1)), marker(0), marker(1), single(good_line("ndjson", 2)))
    with pytest.raises(NotYet) as wait:
        waiting.take(log)
    assert (1, ()) == (wait.value.offset, waiting.marks)
    (content,) = messages_of(Apply(catalogue(range(40, 80)), AS_OF_US + 5))
    assert known.take(1, content) is None
    assert (Mark(11, 0), Mark(12, 1)) == waiting.take(log).marks
    assert 2 == waiting.take(log).records


def test_a_lane_waits_for_catalogues_that_one_before_it_has_passed() -> None:
    """A worker that is started again has its marks at once, the log of commands only by and by."""
    known = registry(catalogue(range(40)))
    waiting = lane(known, Mark(3, 0), Mark(4, 1))
    log = numbered(single(good_line("ndjson", 1)))
    with pytest.raises(NotYet) as wait:
        waiting.take(log)
    assert 1 == wait.value.offset
    (content,) = messages_of(Apply(catalogue(range(40, 80)), AS_OF_US + 5))
    assert known.take(1, content) is None
    assert 1 == waiting.take(log).records


def test_corrections_are_entries_of_their_own() -> None:
    """Between usage, in order, also where a run and a chunk hold both (F6)."""
    kinds = ["event", "event", "reverse", "replace", "event", "reverse"]
    rows = [
        {"id": f"k{n}", "iccid": "1", "bytes": 5, "at": "2026-10-01T00:00:00Z", "kind": kind, "corrects": "k0"}
        for n, kind in enumerate(kinds)
    ]
    lines = b"\n".join(json.dumps(row).encode() for row in rows)
    chunk = (("form", b"lines"), ("source", b"x"), ("digest", b"y"), ("row", b"1"))
    for messages in (
        [single(row, "correcting") for row in rows],
        [single(lines, "correcting", *chunk)],
    ):
        found = entries(lane(registry()).take(numbered(*messages)))
        sizes = [(entry.batch.rows.height, entry.originals) for _, _, entry in found if isinstance(entry, Usage)]
        assert [(2, None), (2, None), (1, None), (1, None)] == sizes
        fences = Fences()
        for at, content in lane(registry()).take(numbered(*messages)).journal:
            assert 0 == fences.take(read_message(content, f"journal[{at}]"))


def test_a_record_of_several_elements_and_rejects_is_whole() -> None:
    """Elements of one offset are usage and rejects side by side, and a retry that begins with it repeats nothing."""
    parts = [{"bytes": 1, "at": 1790000000 + n} if n % 3 else {"bytes": "x", "at": 5} for n in range(9)]
    records = [single({"id": f"k{n}", "iccid": "1", "parts": parts}, "exploded") for n in range(6)]
    log = numbered(*records)
    fences, rows, refused = Fences(), list[str](), list[str]()
    for messages in (log[:3], log[1:5], log[2:], log):
        for _, content in lane(registry(partitions=1)).take(messages).journal:
            message = read_message(content, "journal[0]")
            skip = fences.take(message)
            if skip < message.parts:
                entry = message.entry(skip)
                if isinstance(entry, Usage):
                    rows += entry.batch.rows["record_key"].to_list()
                elif isinstance(entry, Rejects):
                    refused += entry.rows["reject_id"].to_pylist()
    assert [f"k{n}|{at}" for n in range(6) for at in range(9) if at % 3] == rows
    assert [f"usage.raw[3]:{10 + n}:k{n}|{at}" for n in range(6) for at in range(0, 9, 3)] == refused
