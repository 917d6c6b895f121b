"""Selection, export and replay of rejected records (F5).

An export is NDJSON with one rejected record a line: its `feed`, source and reason, and its `raw` text with the
`raw_header` of a CSV source. Text is decoded with the encoding of the feed. Bytes that cannot be decoded are in
`raw_base64` and `raw_header_base64` instead. That includes non-ASCII bytes of a feed whose mapping is neither ready nor
given.

After `raw` is corrected, `weir rejected replay` reads each record again with the mapping of its feed. The record keeps
its row and its source, so a record without a key of its own is never rated twice.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

import duckdb
import msgspec
import numpy as np
import polars as pl

from jobs.context import micros
from pipeline.embedded.driver import Embedded
from pipeline.embedded.progress import Tally
from pipeline.feeds.lookups import with_lists
from pipeline.feeds.mappings import ready_mappings
from pipeline.feeds.source_file import Source
from pipeline.store.folders import create_file
from pipeline.store.folders import folder as below
from rating.errors import CatalogueError, Finding, SourceError, StorageError, UsageError
from schemas import mapping as feed_mapping
from schemas.choices import RejectReason

_MAX_ROW: Final = 1 << 32
_WHOLE_LINE: Final = "('malformed', 'encoding', 'too_long')"

# A line that was rejected again unchanged counts once. A rejected record is closed when a record with its key, or from
# its row of the source if it has no key, has been rated in the same arrival or later. Two cases need a later arrival: a
# conflict, whose key had been rated before, and a row of which another mapping rule may have rated a part.
_OPEN_SQL: Final = f"""
CREATE OR REPLACE TEMP VIEW open_rejected AS
SELECT rejected.* FROM rejected
LEFT JOIN (
    SELECT feed::VARCHAR AS feed, record_key, max(received_at) AS rated_at FROM rated
    WHERE record_key IN (SELECT record_key FROM rejected) GROUP BY ALL
) AS by_key ON by_key.feed = rejected.feed::VARCHAR AND by_key.record_key = rejected.record_key
LEFT JOIN (
    SELECT feed::VARCHAR AS feed, source::VARCHAR AS source, source_row, max(received_at) AS rated_at FROM rated
    WHERE source_row IN (SELECT source_row FROM rejected) GROUP BY ALL
) AS by_place ON by_place.feed = rejected.feed::VARCHAR AND by_place.source = rejected.source::VARCHAR
    AND by_place.source_row = rejected.source_row AND rejected.record_key IS NULL
WHERE NOT coalesce(by_key.rated_at > rejected.received_at
        OR by_key.rated_at = rejected.received_at AND rejected.reason <> 'conflict', false)
    AND NOT coalesce(by_place.rated_at > rejected.received_at
        OR by_place.rated_at = rejected.received_at AND rejected.reason IN {_WHOLE_LINE}, false)
QUALIFY row_number() OVER (
    PARTITION BY rejected.feed, rejected.source, rejected.source_row, rejected.record_key, raw
    ORDER BY received_at DESC, reason
) = 1
"""


def table_of(connection: duckdb.DuckDBPyConnection, only_open: bool) -> str:
    """Return the name of the view of all rejected records, or of the open ones only. The second view is created."""
    if not only_open:
        return "rejected"
    connection.execute(_OPEN_SQL)
    return "open_rejected"


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
    raw_header_base64: str | None = None


@dataclass(frozen=True)
class Exported:
    """Result of an export: number of records, and feeds with base64 records because their mapping was not given."""

    records: int
    unread_feeds: tuple[str, ...]


def select(
    connection: duckdb.DuckDBPyConnection, *, reason: RejectReason | None, feed: str | None, only_open: bool
) -> pl.DataFrame:
    """Return the rows of the table `rejected` to export, in order of arrival.

    A line that was rejected more than once is in the result once.
    """
    relation = connection.sql(
        f"""
        SELECT * FROM {table_of(connection, only_open)}
        WHERE ($1 IS NULL OR reason = $1) AND ($2 IS NULL OR feed = $2)
        QUALIFY row_number() OVER (PARTITION BY feed, source, source_row, raw ORDER BY received_at DESC, reason) = 1
        ORDER BY received_at, source, source_row
        """,
        params=[reason, feed],
    )
    rows = pl.from_arrow(relation.to_arrow_table())
    assert isinstance(rows, pl.DataFrame)
    return rows


def export(rows: pl.DataFrame, out: IO[bytes], mappings: Iterable[feed_mapping.Mapping] = ()) -> Exported:
    """Write rows of the table `rejected` as an export. `mappings` are the mappings of feeds that are not ready ones."""
    encodings = {mapping.name: _encoding(mapping) for mapping in [*ready_mappings(), *mappings]}
    unread: set[str] = set()
    for row in rows.iter_rows(named=True):
        encoding = encodings.get(row["feed"])
        raw, raw_base64 = _text(row["raw"], encoding)
        header, header_base64 = _text(row["raw_header"], encoding)
        if encoding is None and (raw_base64 or header_base64):
            unread.add(row["feed"])
        names = ("feed", "reject_id", "source", "source_row", "reason", "field", "message", "record_key")
        out.write(
            msgspec.json.encode(
                Rejected(
                    **{name: row[name] for name in names},
                    received_at=row["received_at"].isoformat(),
                    raw=raw,
                    raw_base64=raw_base64,
                    raw_header=header,
                    raw_header_base64=header_base64,
                )
            )
            + b"\n"
        )
    return Exported(len(rows), tuple(sorted(unread)))


def _encoding(mapping: feed_mapping.Mapping) -> str:
    return mapping.format.encoding if mapping.format.type in ("csv", "ndjson") else "utf-8"


def _text(raw: bytes | None, encoding: str | None) -> tuple[str | None, str | None]:
    """Return the bytes as (text, None), or as (None, base64) if they cannot be decoded; (None, None) for None.

    If the encoding is not known, only ASCII is decoded.
    """
    if raw is None:
        return None, None
    try:
        return raw.decode(encoding or "ascii"), None
    except UnicodeDecodeError:
        return None, base64.b64encode(raw).decode()


@dataclass
class _Sources:
    """Lines to replay of one feed, by the name and the header of their source, and by row.

    Different lines of one row have different numbers, and lines of the same number share a file.
    """

    mapping: feed_mapping.Mapping
    lines: dict[tuple[str, bytes | None], dict[int, dict[bytes, int]]] = field(default_factory=dict)

    def add(self, source: str, header: bytes | None, row: int, line: bytes) -> None:
        """Add a line of this source and header. The same line of the same row counts once."""
        same_row = self.lines.setdefault((source, header), {}).setdefault(row, {})
        same_row.setdefault(line, len(same_row))

    def write(self, folder: Path) -> list[Source]:
        """Write the files below `folder` and return them, each with the rows of its lines."""
        sources: list[Source] = []
        for (source, header), rows in self.lines.items():
            for number in range(max(map(len, rows.values()))):
                chosen = [(row, line) for row in sorted(rows) for line, place in rows[row].items() if place == number]
                path = folder / self.mapping.name / str(len(sources)) / source
                path.parent.mkdir(parents=True)
                with os.fdopen(create_file(path, os.O_EXCL), "wb") as file:
                    file.writelines([] if header is None else [header, b"\n"])
                    file.writelines(part for _, line in chosen for part in (line, b"\n"))
                numbers = path.parent.with_suffix(".rows")
                with os.fdopen(create_file(numbers, os.O_EXCL), "wb") as file:
                    # A line with line breaks in quotes takes several rows.
                    taken = [row + more for row, line in chosen for more in range(line.count(b"\n") + 1)]
                    file.write(np.array(taken, "<i8").tobytes())
                sources.append(Source.of(path, numbers))
        return sources


def replay(driver: Embedded, path: Path, mappings: Iterable[feed_mapping.Mapping], as_of: dt.datetime | None) -> Tally:
    """Ingest the records of an export again, feed by feed. A mapping in `mappings` has priority over a ready one.

    After a crash, the same call resumes. After success, the same call finds only duplicates.

    Before anything is rated, raises SourceError if the file cannot be read, CatalogueError with the lines that cannot
    be replayed, UsageError if a feed has no mapping, and MappingError if a list that a mapping needs is missing from
    the folder of `path`. Raises StorageError if the temporary files cannot be written.
    """
    feeds = _read(path, {mapping.name: mapping for mapping in mappings})
    listed = [with_lists(sources.mapping, path.parent) for sources in feeds]
    folder = driver.directory.path / "replay"
    moment = as_of or dt.datetime.now(dt.UTC)
    total = Tally()
    try:
        # The folder may exist after a killed replay. The same export writes the same files, so the ingest resumes.
        with below(driver.directory.path, folder.name, create=True):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        written = [(mapping, sources.write(folder)) for mapping, sources in zip(listed, feeds, strict=True)]
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StorageError(f"{folder}: cannot be written: {error.strerror}; make room, then replay again") from error
    try:
        for mapping, sources in written:
            total.add(driver.ingest(mapping, sources, micros(moment), fixed_as_of=as_of is not None))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return total


def _read(path: Path, own: Mapping[str, feed_mapping.Mapping]) -> list[_Sources]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from error
    feeds: dict[str, _Sources] = {}
    findings: list[Finding] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rejected = msgspec.json.decode(line, type=Rejected)
        except (msgspec.MsgspecError, RecursionError) as error:
            expected = "a line of `weir rejected export`"
            findings.append(Finding(("line",), str(error), expected, file=str(path), line=number))
            continue
        if rejected.feed not in feeds:
            feeds[rejected.feed] = _Sources(_of_lines(own.get(rejected.feed) or _ready(rejected.feed)))
        finding = _place(feeds[rejected.feed], rejected)
        if finding is not None:
            findings.append(replace(finding, file=str(path), line=number))
    if findings:
        raise CatalogueError(findings)
    return list(feeds.values())


def _ready(feed: str) -> feed_mapping.Mapping:
    for mapping in ready_mappings():
        if mapping.name == feed:
            return mapping
    raise UsageError(f"feed {feed!r} is not a ready one; give the file of its mapping with --mapping FILE.toml")


def _place(sources: _Sources, rejected: Rejected) -> Finding | None:
    """Add the record to the sources and return None, or return what is wrong with it."""
    form = sources.mapping.format
    try:
        header = _bytes(rejected.raw_header, rejected.raw_header_base64, form.encoding)
        raw = _bytes(rejected.raw, rejected.raw_base64, form.encoding)
    except UnicodeEncodeError as error:
        found = repr(error.object[error.start : error.end])
        return Finding(("raw",), found, f"characters of {form.encoding}, as the feed has")
    except (binascii.Error, ValueError) as error:
        return Finding(("raw_base64",), str(error), "base64")
    if raw is None or not raw.strip():
        return Finding(("raw",), "nothing", "the record; leave out the whole line to drop it")
    if form.type != "csv":
        # A record of a JSON document may span several lines. JSON strings contain no line breaks, so this is safe.
        raw = raw.replace(b"\r", b" ").replace(b"\n", b" ")
    if b"\n" in raw and not (form.type == "csv" and form.quote and form.quote.encode() in raw):
        return Finding(("raw",), "a line break", "one line, as in the source")
    if form.type == "csv" and (header is None) == form.header:
        found = "nothing" if header is None else "a header"
        return Finding(("raw_header",), found, f"{'a' if form.header else 'no'} header line")
    if header is not None and b"\n" in header:
        return Finding(("raw_header",), "a line break", "one line")
    first = 1 if header is None else 2
    if not first <= rejected.source_row < _MAX_ROW:
        return Finding(("source_row",), str(rejected.source_row), f"the row of the source, {first} or more")
    if rejected.source in ("", ".", "..") or "/" in rejected.source or "\0" in rejected.source:
        return Finding(("source",), repr(rejected.source), "the name of a file")
    sources.add(rejected.source, header, rejected.source_row, raw)
    return None


def _bytes(text: str | None, encoded: str | None, encoding: str) -> bytes | None:
    """Return the corrected text encoded as the feed is, or the original bytes if there is no text."""
    if text is not None:
        return text.encode(encoding)
    return None if encoded is None else base64.b64decode(encoded, validate=True)


def _of_lines(mapping: feed_mapping.Mapping) -> feed_mapping.Mapping:
    """Return the mapping for one raw record a line. Records of JSON, Parquet and Arrow sources become NDJSON.

    No lines are above the header of a CSV, and it has no footer.
    """
    if mapping.format.type in ("csv", "ndjson"):
        return msgspec.structs.replace(
            mapping, format=msgspec.structs.replace(mapping.format, skip_lines=0, footer=None)
        )
    as_lines = msgspec.structs.replace(mapping.format, type="ndjson", records="", encoding="utf-8")
    return msgspec.structs.replace(mapping, format=as_lines)


def render_exported(exported: Exported, out_file: Path) -> str:
    """Return a sentence with the number of exported records and the file."""
    return f"exported {exported.records:,} {'record' if exported.records == 1 else 'records'} to {out_file}"


def unread_note(exported: Exported) -> str | None:
    """Return the advice for records that were exported as base64, or None if there are none."""
    if not exported.unread_feeds:
        return None
    feeds = ", ".join(exported.unread_feeds)
    return f"records of {feeds} that are not ASCII are base64: give --mapping FILE.toml to have them as text"
