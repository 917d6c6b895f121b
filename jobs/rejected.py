"""Rejected records: exported for correction, and replayed (F5).

An export is NDJSON, one rejected record a line: `feed`, where it came from, why it was refused, and its `raw` text
(`raw_base64` where it is no UTF-8) with the `raw_header` of a CSV source. Correct `raw` and give the file back to
`weir rejected replay`: each record is read again by the mapping of its feed, as new usage.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import msgspec
import polars as pl

from jobs.cli_context import micros
from pipeline.embedded import Embedded
from pipeline.feeds import load_mapping
from pipeline.progress import Tally
from rating.errors import CatalogueError, Finding, SourceError
from schemas.mapping import Mapping


class Rejected(msgspec.Struct, omit_defaults=True):
    """One line of an export."""

    feed: str
    reject_id: str = ""
    source: str = ""
    source_row: int = 0
    received_at: str = ""
    reason: str = ""
    field: str | None = None
    message: str = ""
    record_key: str | None = None
    raw: str | None = None
    raw_base64: str | None = None
    raw_header: str | None = None

    def raw_bytes(self) -> bytes:
        """The line as bytes, corrected or not."""
        if self.raw is not None:
            return self.raw.encode()
        return base64.b64decode(self.raw_base64 or "")


def export(rows: pl.DataFrame, out: IO[bytes]) -> int:
    """Write rows of the table `rejected` as an export; returns how many."""
    for row in rows.iter_rows(named=True):
        out.write(msgspec.json.encode(_exported(row)) + b"\n")
    return len(rows)


def _exported(row: dict[str, Any]) -> Rejected:
    raw, encoded = _text(row["raw"])
    header, _ = _text(row["raw_header"])
    return Rejected(
        feed=row["feed"],
        reject_id=row["reject_id"],
        source=row["source"],
        source_row=row["source_row"],
        received_at=row["received_at"].isoformat(),
        reason=row["reason"],
        field=row["field"],
        message=row["message"],
        record_key=row["record_key"],
        raw=raw,
        raw_base64=encoded,
        raw_header=header,
    )


def _text(raw: bytes | None) -> tuple[str | None, str | None]:
    if raw is None:
        return None, None
    try:
        return raw.decode(), None
    except UnicodeDecodeError:
        return None, base64.b64encode(raw).decode()


def replay(driver: Embedded, path: Path, mappings: Iterable[Mapping], as_of: dt.datetime | None) -> Tally:
    """Ingest the records of an export again, feed by feed, by `mappings` where they have it, else by the ready ones.

    Raises SourceError where the file cannot be read, and CatalogueError naming the lines that are no export.
    """
    own = {mapping.name: mapping for mapping in mappings}
    groups: dict[tuple[str, str | None], list[bytes]] = {}
    for rejected in _read(path):
        groups.setdefault((rejected.feed, rejected.raw_header), []).append(rejected.raw_bytes())
    total = Tally()
    folder = driver.directory.path / "replay"
    moment = as_of or dt.datetime.now(dt.UTC)
    for (feed, header), lines in groups.items():
        mapping = _of_lines(own.get(feed) or load_mapping(feed))
        content = b"\n".join([*([header.encode()] if header is not None else []), *lines, b""])
        # The name follows from the content, so that giving the same export twice finds the same keys.
        source = folder / f"replay-{hashlib.blake2b(content, digest_size=8).hexdigest()}"
        folder.mkdir(exist_ok=True)
        source.write_bytes(content)
        try:
            total.add(driver.ingest(mapping, [source], micros(moment), fixed_as_of=as_of is not None))
        finally:
            source.unlink(missing_ok=True)
            folder.rmdir()
    return total


def _read(path: Path) -> list[Rejected]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from error
    found, findings = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(msgspec.json.decode(line, type=Rejected))
        except msgspec.MsgspecError as error:
            wanted = "a line of `weir rejected export`"
            findings.append(Finding(str(path), number, "line", f"{error}", wanted))
    if findings:
        raise CatalogueError(findings)
    return found


def _of_lines(mapping: Mapping) -> Mapping:
    """The mapping for raw records one a line: those of JSON, Parquet and Arrow sources are kept as JSON objects."""
    if mapping.format.type == "csv":
        return mapping
    as_lines = msgspec.structs.replace(mapping.format, type="ndjson", records="")
    return msgspec.structs.replace(mapping, format=as_lines)
