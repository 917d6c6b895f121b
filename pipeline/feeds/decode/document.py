"""Decodes a JSON document that contains an array of records, such as the response of a carrier's API (F2, F5).

The document is parsed once to check its syntax. Then its array is cut into records without building them as objects, so
a large or hostile array takes no more memory than its text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from pipeline.feeds.decode.chunk import Chunk, merge_rejects, reject_frame
from pipeline.feeds.decode.json_lines import EXPLODED_CHUNK_BYTES
from pipeline.feeds.decode.lines import BOM, KEPT_LINE_BYTES, MAX_BLOCK_LINES, MAX_LINE_BYTES, Position
from pipeline.feeds.decode.shape import RecordShape
from pipeline.feeds.decode.stream import ByteStream
from pipeline.feeds.decode.unpacked import kind_of
from rating.errors import SourceError
from schemas.mapping import DOCUMENT_PREFIX, Mapping

MAX_DOCUMENT_BYTES = 64 << 20

_BLOCK_BYTES = 1 << 20


def document_chunks(path: Path, mapping: Mapping, start: Position, chunk_bytes: int) -> Iterator[Chunk]:
    """Yield the records of the document, numbered from 1, from record `start.row` on.

    A document that is not JSON, or lacks an array at the path in the mapping, becomes one reject. Raises SourceError if
    the file cannot be read or has more than MAX_DOCUMENT_BYTES.
    """
    with ByteStream(path) as stream:
        data = stream.read_all(MAX_DOCUMENT_BYTES)
    if (kind := kind_of(data)) is not None:
        raise SourceError(f"{path}: found {kind}; expected a JSON document")
    data = data.removeprefix(BOM)
    if not data.strip() or start.offset < 0:
        return
    inner = [source for source in mapping.sources() if not source.startswith(DOCUMENT_PREFIX)]
    outer = [source for source in mapping.sources() if source.startswith(DOCUMENT_PREFIX)]
    shape = RecordShape(inner, mapping.format.explode)
    array, found = _find_array(data, mapping.format.records)
    if array is None:
        if start.row == 1:
            kept = data[:KEPT_LINE_BYTES]
            raw, _ = shape.decode([], [])
            yield Chunk(
                raw, reject_frame([1], "malformed", found), lambda rows: [kept for _ in rows], Position(len(data), 2)
            )
        return
    around = _around(data, outer)
    if mapping.format.explode:
        chunk_bytes = min(chunk_bytes, EXPLODED_CHUNK_BYTES)
    row = start.row
    for records in _group(_elements(array), start.row - 1, chunk_bytes):
        yield _chunk(records, row, shape, around)
        row += len(records)


def _chunk(records: list[bytes], first: int, shape: RecordShape, around: dict[str, str | None]) -> Chunk:
    rows = range(first, first + len(records))
    long = [row for row, record in zip(rows, records, strict=True) if len(record) > MAX_LINE_BYTES]
    kept = [row for row in rows if row not in long] if long else list(rows)
    raw, refused = shape.decode([records[row - first] for row in kept], kept)
    raw = raw.with_columns(pl.lit(value, dtype=pl.String).alias(path) for path, value in around.items())
    rejects = [reject_frame(list(refused), "malformed", list(refused.values()))]
    rejects.append(reject_frame(long, "too_long", "the record is longer than 1 MiB"))

    def raw_lines(wanted: list[int]) -> list[bytes]:
        return [
            records[row - first]
            if len(records[row - first]) <= MAX_LINE_BYTES
            else records[row - first][:KEPT_LINE_BYTES]
            for row in wanted
        ]

    end = first + len(records)
    return Chunk(raw, merge_rejects(rejects), raw_lines, Position(end - 1, end))


def _find_array(data: bytes, records: str) -> tuple[bytes | None, str]:
    """Return the text of the record array or of a single record.

    If there is none, return None and what was found instead.
    """
    kind: Any = msgspec.Raw
    for step in reversed(records.split(".") if records else []):
        kind = msgspec.defstruct("Around", [("inner", kind)], rename={"inner": step})
    try:
        data.decode("utf-8")
        found = msgspec.json.decode(data, type=kind)
    except RecursionError:
        return None, "found JSON nested too deep; expected an array of records"
    except UnicodeDecodeError as error:
        return None, f"found bytes that are not UTF-8 at byte {error.start}; expected a JSON document"
    except msgspec.DecodeError as error:
        place = f" at {records!r}" if records else ""
        return None, f"found {str(error)[:200]}; expected a JSON document with an array of records{place}"
    while isinstance(found, msgspec.Struct):
        found = found.inner  # type: ignore[attr-defined]
    text = bytes(found).strip()
    if text[:1] not in (b"[", b"{"):
        return None, f"found {text[:40]!r}; expected an array of records, or one record"
    return text, ""


def _around(data: bytes, outer: list[str]) -> dict[str, str | None]:
    """Return the values of the `$.` paths as text, read from the whole document."""
    if not outer:
        return {}
    shape = RecordShape([path.removeprefix(DOCUMENT_PREFIX) for path in outer])
    raw, _ = shape.decode([data], [1])
    return {path: raw[path.removeprefix(DOCUMENT_PREFIX)][0] if raw.height else None for path in outer}


def _elements(text: bytes) -> Iterator[bytes]:
    """Yield the elements of a syntactically valid array, or `text` itself if it is an object."""
    if text.startswith(b"{"):
        yield text
        return
    plain = text
    if b"\\" in text:  # mask escapes, so that only quotes that open or close strings are left
        plain = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    begin, depth, inside = 1, 0, 0
    for offset in range(0, len(plain), _BLOCK_BYTES):
        block = np.frombuffer(plain, np.uint8, min(_BLOCK_BYTES, len(plain) - offset), offset)
        quotes = block == 34
        in_string = np.bitwise_xor.accumulate(quotes.view(np.uint8)) ^ np.uint8(inside)
        outside = (in_string == 0) & ~quotes
        opens = ((block == 91) | (block == 123)) & outside
        closes = ((block == 93) | (block == 125)) & outside
        depths = np.cumsum(opens.astype(np.int32) - closes) + depth
        for comma in (np.flatnonzero((block == 44) & outside & (depths == 1)) + offset).tolist():
            yield text[begin:comma].strip()
            begin = comma + 1
        inside, depth = int(in_string[-1]), int(depths[-1])
    last = text[begin:-1].strip()
    if last or begin > 1:
        yield last


def _group(elements: Iterator[bytes], skip: int, chunk_bytes: int) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for index, element in enumerate(elements):
        if index < skip:
            continue
        group.append(element)
        size += len(element) + 1
        if size >= chunk_bytes or len(group) >= MAX_BLOCK_LINES:
            yield group
            group, size = [], 0
    if group:
        yield group
