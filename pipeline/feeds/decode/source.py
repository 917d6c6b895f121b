"""Opens a source with the decoder for the format that its mapping names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.feeds.decode.chunk import Chunk
from pipeline.feeds.decode.columnar import columnar_chunks
from pipeline.feeds.decode.delimited import DelimitedDecoder
from pipeline.feeds.decode.document import document_chunks
from pipeline.feeds.decode.json_lines import EXPLODED_CHUNK_BYTES, JsonLinesDecoder
from pipeline.feeds.decode.lines import BOM, MAX_LINE_BYTES, Position, cut_lines
from pipeline.feeds.decode.stream import ByteStream
from rating.errors import MappingError
from schemas.mapping import Mapping

CHUNK_BYTES = 16 << 20


def open_source(
    path: Path, mapping: Mapping, *, start: Position | None = None, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[Chunk]:
    """Return the chunks of a file, about `chunk_bytes` each, from `start` (the `end` of a chunk) or the beginning.

    Raises SourceError if the file cannot be read, MappingError if it lacks a column that the mapping requires.
    """
    position = start or Position()
    kind = mapping.format.type
    if kind == "csv":
        return _csv_chunks(path, mapping, position, chunk_bytes)
    if kind == "ndjson":
        return _json_line_chunks(path, mapping, position, chunk_bytes)
    if kind == "json":
        return document_chunks(path, mapping, position, chunk_bytes)
    return columnar_chunks(path, mapping, position, chunk_bytes)


def text_start(path: Path, mapping: Mapping, position: Position) -> tuple[bytes | None, Position] | None:
    """Return the header line of a text file (None if the mapping has no header) and the position from which to read.

    Returns None if the file is empty. At the beginning of the file the position is after the header, or after a byte
    order mark if there is no header; with a header, the mark stays part of the header line. Raises SourceError if the
    file cannot be read, MappingError if the header exceeds the largest size of a line.
    """
    form = mapping.format
    with ByteStream(path) as stream:
        window = stream.peek(MAX_LINE_BYTES + 1)
    if not window:
        return None
    if form.type == "csv" and form.header:
        size = window.find(b"\n") + 1 or len(window)
        if size > MAX_LINE_BYTES:
            raise MappingError(f"{path}:1: found a first line of more than 1 MiB; expected column names")
        return window[:size].rstrip(b"\r\n"), position if position.offset else Position(size, 2)
    if not position.offset and window.startswith(BOM):
        return None, Position(len(BOM), position.row)
    return None, position


def _csv_chunks(path: Path, mapping: Mapping, position: Position, chunk_bytes: int) -> Iterator[Chunk]:
    if (found := text_start(path, mapping, position)) is None:
        return
    header, position = found
    decoder = DelimitedDecoder(mapping, path, header)
    with ByteStream(path, position.offset) as stream:
        for block in cut_lines(stream, position.row, chunk_bytes):
            yield decoder.decode(block)


def _json_line_chunks(path: Path, mapping: Mapping, position: Position, chunk_bytes: int) -> Iterator[Chunk]:
    decoder = JsonLinesDecoder(mapping)
    if mapping.format.explode:
        chunk_bytes = min(chunk_bytes, EXPLODED_CHUNK_BYTES)
    if (found := text_start(path, mapping, position)) is None:
        return
    _, position = found
    with ByteStream(path, position.offset) as stream:
        for block in cut_lines(stream, position.row, chunk_bytes):
            yield decoder.decode(block)
