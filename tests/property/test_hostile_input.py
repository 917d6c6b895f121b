"""Whatever bytes a feed file holds, decoding and mediation end in records, rejects or a WeirError (F5)."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.feeds.mappings import parse_mapping
from rating.errors import WeirError
from rating.mediation.records import mediate
from tests.support.feed_files import EXPLODED, HEADERS, feed, good_line, run_feed
from tests.support.strategies.strategies import hostile_lines

TEXT_FEEDS = ["csv", "csv-plain", "csv-headless", "ndjson"]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path for the file under test, written anew for each example."""
    return tmp_path_factory.mktemp("hostile") / "feed"


def write_text(path: Path, content: bytes) -> None:
    """Write a text feed; bytes that happen to begin like a packed file are another case, and left out here."""
    assume(not content.startswith((b"\x1f\x8b", b"(\xb5/\xfd")))
    path.write_bytes(content)


def _run_or_refuse(path: Path, kind: str) -> None:
    """Any other exception than a WeirError, or one that does not name the file, fails the test."""
    refusal = ""
    try:
        run_feed(path, feed(kind))
    except WeirError as error:
        refusal = str(error)
    assert not refusal or str(path) in refusal


@pytest.mark.parametrize("kind", [*TEXT_FEEDS, "json", "parquet", "arrow"])
@settings(max_examples=60)
@given(content=st.binary(max_size=300), packed=st.booleans())
def test_any_bytes_end_in_records_rejects_or_an_error_of_ours(
    target: Path, kind: str, content: bytes, packed: bool
) -> None:
    """No bytes make a decoder raise anything but a WeirError."""
    target.write_bytes(gzip.compress(content, 1, mtime=0) if packed else content)
    _run_or_refuse(target, kind)


@pytest.mark.parametrize("kind", TEXT_FEEDS)
@settings(max_examples=60)
@given(data=st.data())
def test_every_line_ends_in_exactly_one_record_or_reject(target: Path, kind: str, data: st.DataObject) -> None:
    """Of a feed with one record a line, usage and rejects together are the lines that are not blank."""
    lines = data.draw(hostile_lines([good_line(kind, number) for number in range(3)]))
    write_text(target, HEADERS.get(kind, b"") + b"\n".join(lines))
    usage, rejects, _ = run_feed(target, feed(kind))
    if kind == "ndjson":
        blank = [
            index
            for index, line in enumerate(lines)
            if not line.removeprefix(b"\xef\xbb\xbf" * (not index)).strip(b" \t\r\x0b\x0c")
        ]
    else:
        blank = [index for index, line in enumerate(lines) if line in (b"", b"\r")]
    first = 2 if kind in HEADERS else 1
    expected = [row for row in range(first, first + len(lines)) if row - first not in blank]
    assert expected == sorted([*usage["source_row"].to_list(), *rejects["source_row"].to_list()])


@pytest.mark.parametrize("kind", TEXT_FEEDS)
@settings(max_examples=40)
@given(data=st.data(), chunk_bytes=st.integers(1, 200))
def test_chunks_of_any_size_give_the_same_records(
    target: Path, kind: str, data: st.DataObject, chunk_bytes: int
) -> None:
    """Cutting a file elsewhere changes neither records nor rejects, and reading goes on at any chunk's end."""
    lines = data.draw(hostile_lines([good_line(kind, number) for number in range(3)]))
    write_text(target, HEADERS.get(kind, b"") + b"\n".join(lines))
    mapping = feed(kind)
    usage, rejects, _ = run_feed(target, mapping)
    cut_usage, cut_rejects, ends = run_feed(target, mapping, chunk_bytes)
    assert usage.equals(cut_usage)
    assert rejects.equals(cut_rejects)
    if ends:
        end = ends[len(ends) // 2]
        later_usage, later_rejects, later_ends = run_feed(target, mapping, chunk_bytes, start=end)
        assert later_usage.equals(usage.filter(pl.col("source_row") >= end.row))
        assert later_rejects.equals(rejects.filter(pl.col("source_row") >= end.row))
        assert later_ends == ends[len(ends) // 2 + 1 :]


@pytest.mark.parametrize("kind", TEXT_FEEDS)
@settings(max_examples=60)
@given(data=st.data())
def test_a_bad_line_never_costs_its_neighbours(target: Path, kind: str, data: st.DataObject) -> None:
    """Good lines between any others are mediated as they are alone."""
    good = [good_line(kind, number) for number in range(5)]
    between = [data.draw(hostile_lines(good[:1])) for _ in good]
    lines = [line for noise, own in zip(between, good, strict=True) for line in (*noise, own)]
    rows = [index for index, line in enumerate(lines) if line in good[1:]]
    write_text(target, HEADERS.get(kind, b"") + b"\n".join(lines) + b"\n")
    usage, _, _ = run_feed(target, feed(kind))
    first = 2 if kind in HEADERS else 1
    kept = usage.filter(pl.col("source_row").is_in([row + first for row in rows]))
    assert [f"k{number}" for number in range(1, 5)] == kept["record_key"].to_list()
    assert [(2 * number + 1) * 512 for number in range(1, 5)] == kept["quantity"].to_list()


@given(
    lines=hostile_lines(
        [b'{"id":"a","iccid":"1","parts":[{"bytes":1,"at":1790000000},{"bytes":2}]}', b'{"parts":[[],1]}']
    )
)
def test_exploded_records_account_for_every_line(target: Path, lines: list[bytes]) -> None:
    """A line that explodes into several records still ends in at least one record or reject."""
    write_text(target, b"\n".join(lines))
    usage, rejects, _ = run_feed(target, EXPLODED)
    seen = {*usage["source_row"].to_list(), *rejects["source_row"].to_list()}
    blank = {
        row
        for row, line in enumerate(lines, 1)
        if not line.removeprefix(b"\xef\xbb\xbf" * (row == 1)).strip(b" \t\r\x0b\x0c")
    }
    assert set(range(1, len(lines) + 1)) - blank == seen


EVERYTHING = parse_mapping(
    """
name = "everything"
[format]
type = "csv"
[fields]
iccid = { from = ["a", "b"], empty = ["-"] }
imsi = { from = "b", pattern = '^([0-9]+)' }
volume_up_bytes = { from = "a", unit_from = "b", base = 1000 }
volume_down_bytes = { from = "b", unit = "GB", default = "0" }
used_at = { from = ["a", "b"], time = ["iso", "epoch_ms", "%d/%m/%Y %H:%M:%S"], zone = "America/Los_Angeles" }
started_at = { from = "b", time = "%Y%m%d%H%M%S%z" }
sequence = { from = "a" }
record_type = { from = "b", values = { x = "start", "*" = "event" } }
plmn = { join = ["a", "b"] }
country = { from = "b", mcc = true }
session_id = { join = ["a", "b", "c"], separator = "/" }
[[records]]
when = { field = "c", in = ["1", "x"] }
service = "data"
key = ["a", "@row"]
key_suffix = "data"
[[records]]
when = [{ field = "c", not_in = ["1"] }, { field = "b", present = true }]
key = []
[records.fields]
service = { from = "c", values = { x = "sms", y = "voice" } }
direction = { from = "a" }
quantity = { from = "a", unit = "min" }
""",
    "everything",
)

_TEXTS = (
    st.none()
    | st.text(max_size=8)
    | st.sampled_from(
        [
            "1",
            "x",
            "y",
            "-1",
            "1e5",
            "NaN",
            "Infinity",
            "-0.0",
            "0.5",
            "26201",
            "310-410",
            "mo",
            "2026-10-01T00:00:00Z",
            "1e-999999",
            "2026-02-30",
            "31/10/2026 10:00:00",
            "9" * 40,
            "x" * 600,
            "MB",
            "gb",
            "9223372036854775807",
            "0.00000000000000000001",
        ]
    )
)


@given(rows=st.lists(st.tuples(_TEXTS, _TEXTS, _TEXTS), max_size=12))
def test_any_text_in_any_field_is_a_record_or_a_reject(rows: list[tuple[str | None, str | None, str | None]]) -> None:
    """Mediation takes any text in any field, and every source row ends in a record or a reject."""
    raw = pl.DataFrame(
        {name: pl.Series([row[index] for row in rows], dtype=pl.String) for index, name in enumerate("abc")}
        | {"source_row": pl.Series(range(1, len(rows) + 1), dtype=pl.Int64)}
    )
    usage, rejects = mediate(raw, EVERYTHING, "source")
    assert {*range(1, len(rows) + 1)} == {*usage["source_row"].to_list(), *rejects["source_row"].to_list()}
    assert (
        not usage.select("record_key", "service", "direction", "quantity", "used_at")
        .null_count()
        .sum_horizontal()
        .sum()
    )
    assert usage.height == 0 or usage["quantity"].min() >= 0  # type: ignore[operator]


def _columnar(kind: str) -> bytes:
    sink = io.BytesIO()
    table = pa.table(
        {
            "id": [f"k{number}" for number in range(50)],
            "iccid": pa.array(["8944"] * 50).dictionary_encode(),
            "bytes": [number / 4 for number in range(50)],
            "at": pa.array([1790000000 + number for number in range(50)], pa.timestamp("s", "UTC")),
        }
    )
    if kind == "parquet":
        pq.write_table(table, sink, row_group_size=20)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=20)
    return sink.getvalue()


COLUMNAR = {kind: _columnar(kind) for kind in ("parquet", "arrow")}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@settings(max_examples=60)
@given(data=st.data())
def test_damaged_columnar_files_end_in_an_error_of_ours(target: Path, kind: str, data: st.DataObject) -> None:
    """Flipped, cut and inserted bytes in a columnar file give records or a SourceError, and no crash."""
    content = bytearray(COLUMNAR[kind])
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=6)
    ):
        content[place] = value
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    target.write_bytes(bytes(content[:cut]))
    _run_or_refuse(target, kind)
