"""Fuzzes decoding and mediation by mutating sample feeds: `python -m tests.fuzz.fuzz_feeds SECONDS [SEED]`.

Each round takes a sample of a ready mapping (or a columnar or compressed copy of one), damages it at random and checks
that nothing but a WeirError is raised, that each line of a text feed with one record a line ends once, and that
chunks of another size give the same. The failing file is kept, and its path printed.
"""

from __future__ import annotations

import gzip
import io
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.feeds.mappings import ready_mappings
from rating.errors import WeirError
from schemas.mapping import Mapping
from tests.support.compressed import zstd_frame
from tests.support.feed_files import HEADERS, feed, good_line, run_feed

SAMPLES = Path(__file__).resolve().parent.parent.parent / "examples" / "feeds"
TOKENS = [
    b'"',
    b",",
    b";",
    b"\0",
    b"\xff",
    b"\r",
    b"\n",
    b"\n\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[" * 5000,
    b"\xef\xbb\xbf",
    b"\\",
]
TOKENS += [
    b"NaN",
    b"-1",
    b"1e999999",
    b"null",
    b"1" * 400,
    b"x" * 2000,
    b"\\ud800",
    b"\xf0\x9f\x92\xa9",
    b"'",
    b"\t",
    b" ",
]


def corpus() -> list[tuple[Mapping, bytes]]:
    """Mappings with a sample file each, in every format and compression."""
    found: list[tuple[Mapping, bytes]] = []
    for mapping in ready_mappings():
        found.extend((mapping, path.read_bytes()) for path in sorted(SAMPLES.glob(f"{mapping.name}.*")))
    for kind in ("csv", "csv-plain", "csv-headless", "ndjson"):
        lines = [good_line(kind, number) for number in range(40)]
        found.append((feed(kind), HEADERS.get(kind, b"") + b"\n".join(lines) + b"\n"))
    table = pa.table(
        {
            "id": [f"k{number}" for number in range(200)],
            "iccid": pa.array(["8944", "8945"] * 100).dictionary_encode(),
            "bytes": [None if number % 7 == 0 else number / 4 for number in range(200)],
            "at": pa.array(range(1790000000, 1790000200), pa.timestamp("s", "UTC")),
            "apn": ["a", None] * 100,
        }
    )
    for codec in ("none", "snappy", "zstd"):
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=64, compression=codec)
        found.append((feed("parquet"), sink.getvalue()))
    for packing in (None, "zstd", "lz4"):
        for opener in (pa.ipc.new_file, pa.ipc.new_stream):
            sink = io.BytesIO()
            with opener(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=packing)) as writer:
                writer.write_table(table, max_chunksize=64)
            found.append((feed("arrow"), sink.getvalue()))
    return found


def damage(chance: random.Random, content: bytes) -> bytes:
    """`content` with one to eight random edits."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0:
            data[place:place] = chance.choice(TOKENS)
        elif kind == 1:
            del data[place : place + chance.randint(1, 50)]
        elif kind == 2 and place < len(data):
            data[place] = chance.randrange(256)
        elif kind == 3 and place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 4:
            data[place:place] = data[chance.randrange(len(data) + 1) :][: chance.randint(1, 200)]
        elif chance.random() < 0.2:
            del data[place:]
    return bytes(data)


def check(mapping: Mapping, path: Path, chunk_bytes: int) -> str:
    """Run the file twice and return the outcome. Raises AssertionError if the two runs or the counts disagree."""
    try:
        usage, rejects, _ = run_feed(path, mapping)
    except WeirError as error:
        if str(path) not in str(error):
            raise AssertionError(f"an error does not name the file: {error}") from error
        return type(error).__name__
    cut_usage, cut_rejects, ends = run_feed(path, mapping, chunk_bytes)
    assert usage.equals(cut_usage), "usage depends on the chunk size"
    assert rejects.equals(cut_rejects), "rejects depend on the chunk size"
    if ends:
        later, _, _ = run_feed(path, mapping, chunk_bytes, start=ends[0])
        assert later.equals(usage.filter(pl.col("source_row") >= ends[0].row)), "resuming gives other usage"
    if mapping.format.type == "csv" and len(mapping.records) == 1:
        rows = [*usage["source_row"].to_list(), *rejects["source_row"].to_list()]
        assert len(rows) == len(set(rows)), "a line ended twice"
    return "read"


def main(seconds: float, seed: int) -> int:
    """Fuzz for `seconds`; 0 when nothing was found, else 1."""
    chance = random.Random(seed)
    samples = corpus()
    outcomes: Counter[str] = Counter()
    until = time.monotonic() + seconds
    directory = Path(tempfile.mkdtemp(prefix="weir-fuzz-"))
    path = directory / "feed"
    while time.monotonic() < until:
        mapping, content = chance.choice(samples)
        pack = chance.randrange(6)
        if pack == 0:
            content = gzip.compress(damage(chance, content), 1, mtime=0)
        elif pack == 1:
            content = zstd_frame(damage(chance, content))
        if pack > 1 or chance.random() < 0.3:
            content = damage(chance, content)
        path.write_bytes(content)
        try:
            outcomes[f"{mapping.format.type}: {check(mapping, path, chance.randint(400, 4000))}"] += 1
        except Exception:
            print(f"failed: mapping {mapping.name}, file {path}, seed {seed}, round {outcomes.total()}")
            raise
    path.unlink(missing_ok=True)
    directory.rmdir()
    print(f"{outcomes.total()} rounds, seed {seed}: {dict(sorted(outcomes.items()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
