"""Hostile feed files of about 10 MB each: what they are made of, and one run of each in a process of its own.

By hand: `python -m tests.fuzz.hostile_files` writes, decodes and mediates all of them and prints time and peak memory.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.feeds.decode import open_source
from rating.errors import WeirError
from rating.mediation.records import mediate
from schemas.mapping import Mapping
from tests.support.compressed import zstd_frame
from tests.support.feed_files import EXPLODED, HEADERS, feed, good_line
from tests.support.progress import completed

SIZE = 10_000_000
GIGABYTES = 10


def _gzip_bomb(block: bytes, head: bytes = b"") -> bytes:
    """A gzip file of some 10 MB that unpacks to 10 GB: one compressed member of 100 MB, a hundred times."""
    member = gzip.compress(block * (100_000_000 // len(block)), 9)
    return gzip.compress(head, mtime=0) + member * (GIGABYTES * 10)


def _zstd_bomb(block: bytes) -> bytes:
    member = zstd_frame(block * (100_000_000 // len(block)))
    return member * (GIGABYTES * 10)


def _repeated_text_parquet() -> bytes:
    """Ten million rows that all name one text of a megabyte: 10 TB, were it ever written out."""
    sink = io.BytesIO()
    rows = 2_000_000
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 1_000_000]))
    table = pa.table({"id": text, "iccid": text, "bytes": pa.array([1] * rows), "at": text})
    pq.write_table(table, sink, row_group_size=rows)
    return sink.getvalue()


def _long_text(size_bytes: int) -> pa.Array:
    """One text of zeros."""
    ends = pa.py_buffer(np.array([0, size_bytes], "<i8").tobytes())
    return pa.LargeStringArray.from_buffers(1, ends, pa.py_buffer(bytes(size_bytes)))


def _arrow(text: pa.Array, make: Callable[..., Any] = pa.ipc.new_stream) -> bytes:
    """A stream or file of one batch with this column among those of the feed, its buffers compressed."""
    sink = pa.BufferOutputStream()
    others = pa.nulls(len(text), pa.null())
    table = pa.table({"id": text, "iccid": others, "bytes": others, "at": others})
    with make(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _csv(line: bytes) -> bytes:
    return HEADERS["csv"] + (line + b"\n") * (SIZE // (len(line) + 1))


def _lines(line: bytes) -> bytes:
    return (line + b"\n") * (SIZE // (len(line) + 1))


_PARTS = b'{"id":"a","iccid":"1","parts":[' + b"{}," * 999 + b"{}]}"

HOSTILE: dict[str, tuple[Mapping, Callable[[], bytes]]] = {
    "csv: a line of 100 MB": (feed("csv"), lambda: HEADERS["csv"] + b"x" * 100_000_000 + b"\n" + good_line("csv", 1)),
    "csv: a quoted line of 100 MB": (feed("csv"), lambda: HEADERS["csv"] + b'"' + b"x," * 50_000_000),
    "csv: a header of 10 MB": (feed("csv"), lambda: b"x," * (SIZE // 2)),
    "csv: a header of 500,000 columns": (feed("csv"), lambda: HEADERS["csv"].strip() + b",x" * 500_000 + b"\n"),
    "csv: NUL bytes": (feed("csv"), lambda: HEADERS["csv"] + b"\0" * SIZE),
    "csv: lines of NUL": (feed("csv"), lambda: _csv(b"\0")),
    "csv: lines of one letter": (feed("csv"), lambda: _csv(b"a")),
    "csv: lines of one quote": (feed("csv"), lambda: _csv(b'"')),
    "csv: lines of bad UTF-8": (feed("csv"), lambda: _csv(b"\xff")),
    "csv: lines of nothing": (feed("csv"), lambda: _csv(b"")),
    "csv: records of nothing": (feed("csv"), lambda: _csv(b",,,")),
    "csv: records of bad numbers": (feed("csv"), lambda: _csv(b"a,b,1e-9999,x")),
    "csv: UTF-16": (
        feed("csv"),
        lambda: "id,iccid,bytes,at\n".encode("utf-16") + "é,a,1,2\n".encode("utf-16") * 600_000,
    ),
    "csv: a gzip bomb of zeros": (feed("csv"), lambda: _gzip_bomb(b"\0", HEADERS["csv"])),
    "csv: a gzip bomb of lines": (feed("csv"), lambda: _gzip_bomb(b"a\n", HEADERS["csv"])),
    "csv: a zstd bomb": (feed("csv-headless"), lambda: _zstd_bomb(b"\0")),
    "ndjson: one line nested 10,000,000 deep": (feed("ndjson"), lambda: b"[" * SIZE),
    "ndjson: lines nested 1,000,000 deep": (feed("ndjson"), lambda: (b'{"id":' + b'{"a":' * 200_000 + b"\n") * 10),
    "ndjson: skipped fields nested deep": (feed("ndjson"), lambda: (b'{"x":' + b"[" * 1_000_000 + b"\n") * 10),
    "ndjson: empty objects": (feed("ndjson"), lambda: _lines(b"{}")),
    "ndjson: lines of one digit": (feed("ndjson"), lambda: _lines(b"1")),
    "ndjson: arrays in fields": (feed("ndjson"), lambda: _lines(b'{"id":[' + b"[]," * 300_000 + b"[]]}")),
    "ndjson: a gzip bomb": (feed("ndjson"), lambda: _gzip_bomb(b" ")),
    "ndjson: records that explode": (EXPLODED, lambda: _lines(_PARTS)),
    "ndjson: long texts that explode": (EXPLODED, lambda: _lines(_PARTS.replace(b'"a"', b'"' + b"k" * 500 + b'"'))),
    "json: nested 10,000,000 deep": (feed("json"), lambda: b"[" * SIZE),
    "json: nested in a record": (feed("json"), lambda: b'[{"id":' + b"[" * SIZE),
    "json: an array of empty objects": (feed("json"), lambda: b"[" + b"{}," * (SIZE // 3) + b"{}]"),
    "json: an array of digits": (feed("json"), lambda: b"[" + b"1," * (SIZE // 2) + b"1]"),
    "json: a text of backslashes": (feed("json"), lambda: b'["' + b"\\\\" * (SIZE // 2) + b'"]'),
    "json: a gzip bomb": (feed("json"), lambda: _gzip_bomb(b"[")),
    "json: bad UTF-8": (feed("json"), lambda: b'["' + b"\xff" * SIZE + b'"]'),
    "parquet: one long text in every row": (feed("parquet"), _repeated_text_parquet),
    "parquet: a gzip bomb": (feed("parquet"), lambda: _gzip_bomb(b"\0")),
    "arrow: a gzip bomb": (feed("arrow"), lambda: _gzip_bomb(b"\0")),
    "arrow: 2 GB in a compressed buffer": (feed("arrow"), lambda: _arrow(_long_text(2 << 30))),
    "arrow: 2 GB in a file": (feed("arrow"), lambda: _arrow(_long_text(2 << 30), pa.ipc.new_file)),
    "arrow: 2 GB in a dictionary": (feed("arrow"), lambda: _arrow(_long_text(2 << 30).dictionary_encode())),
    "arrow: rows without buffers": (feed("arrow"), lambda: _arrow(pa.nulls((1 << 31) - 1))),
    "arrow: noise after the magic": (feed("arrow"), lambda: b"ARROW1\0\0" + b"\xff\xff\xff\xff" * (SIZE // 4)),
}


def run_alone(name: str, path: Path) -> dict[str, float | str]:
    """Decode and mediate hostile file `name` at `path` in a process of its own: outcome, CPU time, peak memory."""
    command = [sys.executable, "-m", "tests.fuzz.hostile_files", name, str(path)]
    done = completed(command)
    if done.returncode:
        raise AssertionError(f"{name}: exit {done.returncode}: {done.stderr[-2000:]}")
    outcome: dict[str, float | str] = json.loads(done.stdout)
    return outcome


def _run(name: str, path: Path) -> None:
    mapping, _ = HOSTILE[name]
    began_s = time.process_time()
    usage = rejects = 0
    try:
        for chunk in open_source(path, mapping):
            records, refused = mediate(chunk.raw, mapping, path.name)
            usage += records.height
            rejects += refused.height + chunk.rejects.height
        end = "read"
    except WeirError as error:
        end = f"{type(error).__name__}: {error}"[:300]
    # Not ru_maxrss: that starts from what the parent process held at the fork.
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    seconds = round(time.process_time() - began_s, 2)
    print(json.dumps({"end": end, "usage": usage, "rejects": rejects, "cpu_s": seconds, "peak_mb": round(peak)}))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _run(sys.argv[1], Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            for label, (_, make) in HOSTILE.items():
                place = Path(directory) / "hostile"
                place.write_bytes(make())
                size = place.stat().st_size
                print(f"{label} ({size} bytes): {run_alone(label, place)}", flush=True)
