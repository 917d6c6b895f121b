"""Small feeds, and decoding plus mediation of a whole file, for tests of feeds."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import polars as pl

from pipeline.feeds.decode import Position, open_source
from pipeline.feeds.mappings import parse_mapping
from rating.mediation.records import mediate
from schemas.mapping import Mapping
from schemas.usage import REJECT_SCHEMA, USAGE_SCHEMA

_FIELDS = """
[[records]]
service = "data"
key = ["id"]
[records.fields]
iccid = { from = "iccid" }
quantity = { from = "bytes", unit = "KB" }
used_at = { from = "at" }
apn = { from = "apn", optional = true }
"""

_FORMATS = {
    "csv": 'type = "csv"',
    "csv-plain": 'type = "csv"\nquote = ""\ndelimiter = ";"',
    "csv-headless": 'type = "csv"\nheader = false\ncolumns = ["id", "iccid", "bytes", "at"]\nencoding = "cp1252"',
    "ndjson": 'type = "ndjson"',
    "json": 'type = "json"',
    "parquet": 'type = "parquet"',
    "arrow": 'type = "arrow"',
}


@functools.cache
def feed(kind: str) -> Mapping:
    """Return a mapping for one record a line: id, iccid, bytes (KB), at and an optional apn."""
    return parse_mapping(f'name = "{kind}"\n[format]\n{_FORMATS[kind]}\n{_FIELDS}', kind)


EXPLODED = parse_mapping(
    """
name = "exploded"
[format]
type = "ndjson"
explode = "parts"
[[records]]
service = "data"
key = ["id", "@element"]
[records.fields]
iccid = { from = ["iccid", "sim.iccid", "sims.0"] }
quantity = { from = "parts.bytes" }
used_at = { from = "parts.at", time = ["epoch_s", "iso"] }
""",
    "exploded",
)

HEADERS = {"csv": b"id,iccid,bytes,at\n", "csv-plain": b"id;iccid;bytes;at\n"}


def good_line(kind: str, number: int) -> bytes:
    """Return a valid line of the feed `kind` (csv, csv-plain, csv-headless or ndjson)."""
    values = [f"k{number}", f"8944{number:015}", f"{number}.5", f"2026-10-{number % 28 + 1:02}T10:00:00Z"]
    if kind == "ndjson":
        return json.dumps(dict(zip(("id", "iccid", "bytes", "at"), values, strict=True))).encode()
    return (";" if kind == "csv-plain" else ",").join(values).encode()


def run_feed(
    path: Path, mapping: Mapping, chunk_bytes: int = 16 << 20, start: Position | None = None
) -> tuple[pl.DataFrame, pl.DataFrame, list[Position]]:
    """Decode and mediate a file.

    Return the usage (all columns), the rejected lines and records in source order, and the end position of each chunk.
    """
    usages = [pl.DataFrame(schema=USAGE_SCHEMA)]
    rejects = [pl.DataFrame(schema=REJECT_SCHEMA)]
    ends: list[Position] = []
    for chunk in open_source(path, mapping, start=start, chunk_bytes=chunk_bytes):
        usage, refused = mediate(chunk.raw, mapping, path.name)
        usages.append(usage)
        rejects += [chunk.rejects, refused]
        ends.append(chunk.end)
        rows = pl.concat([chunk.rejects["source_row"], refused["source_row"]]).to_list()
        assert len(chunk.raw_lines(rows)) == len(rows)
    bad = pl.concat(rejects).sort("source_row", maintain_order=True)
    return pl.concat(usages, how="diagonal"), bad, ends
