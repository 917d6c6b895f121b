"""Opens a source by the format that its mapping names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.decode.chunk import Chunk
from pipeline.decode.columnar import columnar_chunks
from pipeline.decode.delimited import DelimitedDecoder
from pipeline.decode.document import document_chunks
from pipeline.decode.json_lines import EXPLODED_CHUNK_BYTES, JsonLinesDecoder
from pipeline.decode.lines import MAX_LINE_BYTES, Position, cut_lines
from pipeline.decode.stream import ByteStream
from rating.errors import MappingError
from schemas.mapping import Mapping

CHUNK_BYTES = 16 << 20

_BOM = b"\xef\xbb\xbf"


def open_source(
    path: Path, mapping: Mapping, *, start: Position | None = None, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[Chunk]:
    """The chunks of the file at `path`, from `start` (a chunk's `end`) or its beginning, about `chunk_bytes` each.

    Raises SourceError when the file cannot be read, MappingError when it lacks a column that the mapping requires.
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


def _csv_chunks(path: Path, mapping: Mapping, position: Position, chunk_bytes: int) -> Iterator[Chunk]:
    header: bytes | None = None
    with ByteStream(path) as stream:
        window = stream.peek(MAX_LINE_BYTES + 1)
    if not window:
        return
    if mapping.format.header:
        size = window.find(b"\n") + 1 or len(window)
        if size > MAX_LINE_BYTES:
            raise MappingError(f"{path}:1: found a first line of more than 1 MiB; expected column names")
        header = window[:size].rstrip(b"\r\n")
        if position.offset == 0:
            position = Position(size, 2)
    elif position.offset == 0 and window.startswith(_BOM):
        position = Position(len(_BOM), 1)
    decoder = DelimitedDecoder(mapping, path, header)
    with ByteStream(path, position.offset) as stream:
        for block in cut_lines(stream, position.row, chunk_bytes):
            yield decoder.decode(block)


def _json_line_chunks(path: Path, mapping: Mapping, position: Position, chunk_bytes: int) -> Iterator[Chunk]:
    decoder = JsonLinesDecoder(mapping)
    if mapping.format.explode:
        chunk_bytes = min(chunk_bytes, EXPLODED_CHUNK_BYTES)
    with ByteStream(path, position.offset) as stream:
        if position.offset == 0 and stream.peek(len(_BOM)) == _BOM:
            stream.skip(len(_BOM))
        for block in cut_lines(stream, position.row, chunk_bytes):
            yield decoder.decode(block)
