"""Decoders, format by format: what becomes a record, what a reject, and what stops the file (F2, F5)."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.feeds.decode import Position, open_source
from pipeline.feeds.mappings import parse_mapping
from rating.errors import MappingError, SourceError
from schemas.mapping import Mapping
from tests.support.compressed import zstd_frame
from tests.support.feed_files import EXPLODED, HEADERS, feed, good_line, run_feed


def _raw(path: Path, mapping: Mapping) -> pl.DataFrame:
    return pl.concat([chunk.raw for chunk in open_source(path, mapping)])


def _write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "feed"
    path.write_bytes(content)
    return path


def test_csv_rejects_only_bad_lines_and_keeps_their_bytes(tmp_path: Path) -> None:
    """Unbalanced quotes, wrong field counts, NUL and bad UTF-8 each cost one line, whose bytes can be fetched."""
    lines = [
        b"a,1,2,t",
        b'b,"1,2,t',
        b"",
        b'c,"1,9",2,t',
        b"d,1,2",
        b"e,1,2,t,5",
        b"f\0,1,2,t",
        b"g\xff,1,2,t",
        b'h,"""1""",2,t\r',
    ]
    (chunk,) = open_source(_write(tmp_path, HEADERS["csv"] + b"\n".join(lines)), feed("csv"))
    assert ["a", "c", "h"] == chunk.raw["id"].to_list()
    assert ["1", "1,9", '"1"'] == chunk.raw["iccid"].to_list()
    assert [2, 5, 10] == chunk.raw["source_row"].to_list()
    assert [(3, "malformed"), (6, "malformed"), (7, "malformed"), (8, "malformed"), (9, "encoding")] == (
        chunk.rejects.select("source_row", "reason").rows()
    )
    assert [lines[1], lines[6], lines[7]] == chunk.raw_lines([3, 8, 9])
    assert HEADERS["csv"].strip() == chunk.header


def test_csv_short_and_long_lines_that_cancel_out_are_both_rejected(tmp_path: Path) -> None:
    """A missing field is not made good by a surplus one elsewhere, with or without a value in the last column."""
    for tail in (b"t", b""):
        good = b"a,1,2," + tail
        path = _write(tmp_path, HEADERS["csv"] + b"\n".join([good, b"b,1,2", b"c,1,2,t,", good]) + b"\n")
        (chunk,) = open_source(path, feed("csv"))
        assert [2, 5] == chunk.raw["source_row"].to_list()
        assert ["found 3 fields; expected 4", "found 5 fields; expected 4"] == chunk.rejects["message"].to_list()


def test_csv_byte_order_mark_crlf_and_missing_last_newline_are_read(tmp_path: Path) -> None:
    """A file as a spreadsheet writes it is read like any other."""
    content = b"\xef\xbb\xbf" + HEADERS["csv"].strip() + b"\r\n" + good_line("csv", 1) + b"\r\n" + good_line("csv", 2)
    usage, rejects, _ = run_feed(_write(tmp_path, content), feed("csv"))
    assert ["k1", "k2"] == usage["record_key"].to_list()
    assert 0 == rejects.height


def test_csv_of_another_encoding_is_transcoded(tmp_path: Path) -> None:
    """cp1252 text becomes Unicode; a byte that cp1252 does not know costs its line."""
    path = _write(tmp_path, b"k\xe9,1,2,t\nk\x81,1,2,t\n")
    (chunk,) = open_source(path, feed("csv-headless"))
    assert ["ké"] == chunk.raw["id"].to_list()
    assert [(2, "encoding")] == chunk.rejects.select("source_row", "reason").rows()


def test_csv_without_a_column_that_the_mapping_reads_is_refused(tmp_path: Path) -> None:
    """The error names the file, the column, what the header holds and the mapping."""
    path = _write(tmp_path, b"id,iccid,at\n")
    with pytest.raises(MappingError, match=r"feed:1: bytes: found no such column in 'id, iccid, at'; expected it by"):
        list(open_source(path, feed("csv")))


def test_a_line_of_more_than_a_mebibyte_is_rejected_and_its_neighbours_are_not(tmp_path: Path) -> None:
    """The limit is 1 MiB without the newline; of a longer line the first 64 KiB are kept."""
    lines = [good_line("csv", 1), b"x" * ((1 << 20) + 1), good_line("csv", 2)]
    path = _write(tmp_path, HEADERS["csv"] + b"\n".join(lines))
    for chunk_bytes in (1000, 16 << 20):
        chunks = list(open_source(path, feed("csv"), chunk_bytes=chunk_bytes))
        assert [2, 4] == pl.concat([chunk.raw for chunk in chunks])["source_row"].to_list()
        (long,) = [chunk for chunk in chunks if chunk.rejects.height]
        assert [(3, "too_long")] == long.rejects.select("source_row", "reason").rows()
        assert [b"x" * (64 << 10)] == long.raw_lines([3])


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, zstd_frame])
@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_compression_is_found_by_magic_number_and_resumable(tmp_path: Path, kind: str, pack: object) -> None:
    """Plain, gzip and zstd give the same records and the same positions, and reading goes on at each of them."""
    content = HEADERS.get(kind, b"") + b"".join(good_line(kind, number) + b"\n" for number in range(200))
    path = _write(tmp_path, pack(content))  # type: ignore[operator]
    usage, _, ends = run_feed(path, feed(kind), 1000)
    assert 200 == usage.height
    assert Position(len(content), 201 + (kind in HEADERS)) == ends[-1]
    later, _, later_ends = run_feed(path, feed(kind), 1000, start=ends[3])
    assert later.equals(usage.filter(pl.col("source_row") >= ends[3].row))
    assert ends[4:] == later_ends


@pytest.mark.parametrize("pack", [gzip.compress, zstd_frame])
def test_a_truncated_compressed_file_is_a_source_error(tmp_path: Path, pack: object) -> None:
    """A download that broke off is not taken for a complete file."""
    content = HEADERS["csv"] + b"".join(good_line("csv", number * 7919) + b"\n" for number in range(2000))
    packed = pack(content)  # type: ignore[operator]
    with pytest.raises(SourceError, match="cannot be read"):
        run_feed(_write(tmp_path, packed[: len(packed) // 2]), feed("csv"))


def test_a_file_that_is_not_there_is_a_source_error(tmp_path: Path) -> None:
    """A missing file, and a directory, are refused by name in every format."""
    for kind in ("csv", "ndjson", "json", "parquet", "arrow"):
        for path in (tmp_path / "gone", tmp_path):
            with pytest.raises(SourceError, match=str(path)):
                list(open_source(path, feed(kind)))


def test_ndjson_keeps_numbers_exact_and_rejects_only_bad_lines(tmp_path: Path) -> None:
    """Numbers keep their decimal text, whatever their size; wrong kinds of JSON cost their own line."""
    lines = [
        b'{"id":12345678901234567890,"iccid":"1","bytes":0.000123,"at":1e-7}',
        b'{"id":"a","iccid":null,"bytes":"0.1000000000000000055511151231257827","at":true}',
        b"[1]",
        b'{"id":',
        b"   ",
        b'{"id":{"x":[1]},"iccid":"1"}',
        b'{"id":"b","id":"c"}',
    ]
    (chunk,) = open_source(_write(tmp_path, b"\n".join(lines)), feed("ndjson"))
    assert [
        ("12345678901234567890", "1", "0.000123", "1e-7", 1),
        ("a", None, "0.1000000000000000055511151231257827", "true", 2),
        ('{"x":[1]}', "1", None, None, 6),
        ("c", None, None, None, 7),
    ] == chunk.raw.select("id", "iccid", "bytes", "at", "source_row").rows()
    assert [(3, "malformed"), (4, "malformed")] == chunk.rejects.select("source_row", "reason").rows()


def test_ndjson_explodes_arrays_and_indexes_them(tmp_path: Path) -> None:
    """Each element is a record with its index; a record without elements stays once; a number steps into an array."""
    lines = [
        {"id": "a", "sim": {"iccid": "1"}, "parts": [{"bytes": 5, "at": 1790000000}, {"bytes": 6, "at": "2026-10-01"}]},
        {"id": "b", "sims": ["2", "3"], "sim": "no object", "parts": []},
    ]
    path = _write(tmp_path, b"\n".join(json.dumps(line).encode() for line in lines))
    usage, rejects, _ = run_feed(path, EXPLODED)
    assert [("a|0", "1", 5), ("a|1", "1", 6)] == usage.select("record_key", "iccid", "quantity").rows()
    assert [(2, "b|0", "missing", "parts.at")] == rejects.select("source_row", "record_key", "reason", "field").rows()


DOCUMENT = parse_mapping(
    """
name = "document"
[format]
type = "json"
records = "reply.rows"
[[records]]
service = "data"
key = ["id"]
[records.fields]
iccid = { from = "iccid" }
quantity = { from = "bytes" }
used_at = { from = "$.reply.until" }
"""
)


def test_json_documents_are_cut_into_records(tmp_path: Path) -> None:
    """Records come from the mapped path, quotes and brackets in texts left alone; `$.` reads around them."""
    rows = [{"id": f'[{{"\\,{n}', "iccid": "1", "bytes": n} for n in range(5)] + ["none"]
    path = _write(tmp_path, json.dumps({"reply": {"rows": rows, "until": "2026-10-01T00:00:00Z"}}).encode())
    for chunk_bytes in (1, 16 << 20):
        usage, rejects, ends = run_feed(path, DOCUMENT, chunk_bytes)
        assert [f'[{{"\\,{n}' for n in range(5)] == usage["record_key"].to_list()
        assert [1, 2, 3, 4, 5] == usage["source_row"].to_list()
        assert [dt.datetime(2026, 10, 1, tzinfo=dt.UTC)] == usage["used_at"].unique().to_list()
        assert [(6, "malformed")] == rejects.select("source_row", "reason").rows()
        later, _, _ = run_feed(path, DOCUMENT, chunk_bytes, start=ends[0])
        assert later.equals(usage.filter(pl.col("source_row") >= ends[0].row))


@pytest.mark.parametrize("content", [b'{"reply":', b'{"reply":{"rows":7}}', b'{"error":"no"}', b"[]", b'"\xff"'])
def test_a_document_without_records_is_one_reject(tmp_path: Path, content: bytes) -> None:
    """Bad syntax, or another document than the mapping says, is one reject that keeps the document."""
    (chunk,) = open_source(_write(tmp_path, content), DOCUMENT)
    assert [(1, "malformed")] == chunk.rejects.select("source_row", "reason").rows()
    assert [content] == chunk.raw_lines([1])


def _table() -> pa.Table:
    return pa.table(
        {
            "id": ["a", "b", None],
            "iccid": pa.array(["1", "2", "1"]).dictionary_encode(),
            "bytes": pa.array([Decimal("1.50"), Decimal("2.25"), None]),
            "at": pa.array([dt.datetime(2026, 10, 1, 12)] * 3, pa.timestamp("ns", "Europe/Berlin")),
            "apn": pa.array([b"ok", b"\xff", None], pa.binary()),
        }
    )


@pytest.mark.parametrize("kind", ["parquet", "arrow file", "arrow stream"])
@pytest.mark.parametrize("packed", [False, True])
def test_columnar_values_arrive_as_exact_text(tmp_path: Path, kind: str, packed: bool) -> None:
    """Decimals, times and dictionaries become text; bytes that are no text cost their row, which is kept as JSON."""
    path = tmp_path / "feed"
    table = _table()
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        opener = pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream
        with opener(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    chunks = list(open_source(path, feed(kind.split()[0])))
    raw = pl.concat([chunk.raw for chunk in chunks])
    assert [
        ("a", "1", "1.50", "2026-10-01T12:00:00.000000Z", "ok", 1),
        (None, "1", None, "2026-10-01T12:00:00.000000Z", None, 3),
    ] == raw.select("id", "iccid", "bytes", "at", "apn", "source_row").rows()
    assert [(2, "encoding")] == chunks[0].rejects.select("source_row", "reason").rows()
    assert {"id": "b", "iccid": "2", "bytes": "2.25", "at": "2026-10-01T12:00:00.000000Z"} == json.loads(
        chunks[0].raw_lines([2])[0]
    )
    (later,) = open_source(path, feed(kind.split()[0]), start=chunks[0].end)
    assert later.raw.equals(chunks[1].raw)


def test_columnar_files_explode_arrays(tmp_path: Path) -> None:
    """An array of structs in Parquet explodes as in NDJSON, and its raw row reads back the same."""
    path = tmp_path / "feed"
    parts = [[{"bytes": 5, "at": 1790000000}, {"bytes": 6, "at": 1790000001}], [], None]
    pq.write_table(
        pa.table({"id": ["a", "b", "c"], "iccid": ["1"] * 3, "sim": [{"iccid": "9"}] * 3, "parts": parts}), path
    )
    text = 'name = "x"\n[format]\ntype = "parquet"\nexplode = "parts"\n[[records]]\nservice = "data"\n'
    text += 'key = ["id", "@element"]\n'
    text += '[records.fields]\niccid = { from = "sim.iccid" }\nquantity = { from = "parts.bytes" }\n'
    text += 'used_at = { from = "parts.at", time = "epoch_s" }\n'
    mapping = parse_mapping(text)
    usage, rejects, _ = run_feed(path, mapping)
    assert [("a|0", "9", 5), ("a|1", "9", 6)] == usage.select("record_key", "iccid", "quantity").rows()
    assert [("b|0", "missing"), ("c|0", "missing")] == rejects.select("record_key", "reason").rows()
    (chunk,) = open_source(path, mapping)
    again = tmp_path / "again"
    again.write_bytes(b"\n".join(chunk.raw_lines([1, 2, 3])))
    usage_again, _, _ = run_feed(again, parse_mapping(text.replace('"parquet"', '"ndjson"')))
    assert usage.equals(usage_again)


def test_a_columnar_column_of_the_wrong_kind_or_missing_is_refused(tmp_path: Path) -> None:
    """A list where text is expected, and a missing column, name the column and what was found."""
    path = tmp_path / "feed"
    pq.write_table(_table().set_column(2, "bytes", pa.array([[1], [2], [3]])), path)
    with pytest.raises(MappingError, match=r"bytes: found a column of list"):
        list(open_source(path, feed("parquet")))
    pq.write_table(_table().drop_columns(["bytes"]), path)
    with pytest.raises(MappingError, match=r"bytes: found no such column in 'id, iccid, at, apn'"):
        list(open_source(path, feed("parquet")))
