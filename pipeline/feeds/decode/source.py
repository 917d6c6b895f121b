"""Opens a source with the decoder for the format that its mapping names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.feeds.decode.chunk import Chunk
from pipeline.feeds.decode.columnar import columnar_chunks
from pipeline.feeds.decode.delimited import DelimitedDecoder
from pipeline.feeds.decode.document import document_chunks
from pipeline.feeds.decode.json_lines import EXPLODED_CHUNK_BYTES, JsonLinesDecoder
from pipeline.feeds.decode.lines import BOM, MAX_LINE_BYTES, Position, cut_lines
from pipeline.feeds.decode.stream import ByteStream
from pipeline.feeds.decode.unpacked import kind_of
from rating.errors import MappingError, SourceError
from schemas.mapping import Mapping

CHUNK_BYTES = 16 << 20

_LINES_OF_A_TITLE = 30
_SEPARATOR = re.compile(rb"(?:\xef\xbb\xbf)?\"?[sS][eE][pP]=(.)\"?\r?\n")  # names the delimiter to a spreadsheet


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
        if stream.is_utf_16 and form.encoding != "utf-8":
            raise MappingError(f"{path}: found text in UTF-16; expected {form.encoding}, as format.encoding says")
    if not window:
        return None
    if (kind := kind_of(window)) is not None:
        raise SourceError(f"{path}: found {kind}; expected {form.type} text")
    if form.type != "csv":
        return None, Position(len(BOM), position.row) if not position.offset and window.startswith(BOM) else position
    above, lines = _above(path, mapping, window)
    if form.header:
        size = window.find(b"\n", above) + 1 or len(window)
        cut_off = size == len(window) > MAX_LINE_BYTES and not window.endswith(b"\n")
        if size - above > MAX_LINE_BYTES or cut_off:
            raise MappingError(f"{path}:{lines + 1}: found a first line of more than 1 MiB; expected column names")
        header = window[above:size].rstrip(b"\r\n")
        _require_names(path, mapping, window, header, lines)
        return header, position if position.offset else Position(size, lines + 2)
    if position.offset:
        return None, position
    return None, Position(above or (len(BOM) if window.startswith(BOM) else 0), position.row + lines)


def _above(path: Path, mapping: Mapping, window: bytes) -> tuple[int, int]:
    """Return the number of bytes and of lines before the header of a CSV file, or before its records."""
    form = mapping.format
    at = lines = 0
    if (separator := _SEPARATOR.match(window)) is not None:
        named = separator.group(1).decode("latin-1")
        if named != form.delimiter:
            raise MappingError(f"{path}:1: found sep={named}; expected {form.delimiter!r}, as format.delimiter says")
        at, lines = separator.end(), 1
    for _ in range(form.skip_lines):
        at, lines = window.find(b"\n", at) + 1 or len(window), lines + 1
    return at, lines


def _require_names(path: Path, mapping: Mapping, window: bytes, header: bytes, lines: int) -> None:
    """Raise MappingError if the header lacks a column and another line near it has all of them, as under a title."""
    needed = {source.encode(mapping.format.encoding) for source, required in mapping.sources().items() if required}
    delimiter, quote = mapping.format.delimiter.encode(), mapping.format.quote.encode()

    def has_names(line: bytes) -> bool:
        cells = line.removeprefix(BOM).rstrip(b"\r\n").split(delimiter)
        return needed <= {cell.strip().strip(quote) if quote else cell.strip() for cell in cells}

    if not needed or has_names(header):
        return
    for number, line in enumerate(window[: 1 << 16].split(b"\n")[:_LINES_OF_A_TITLE]):
        if number != lines and has_names(line):
            skipped = number - (1 if _SEPARATOR.match(window) else 0)
            raise MappingError(
                f"{path}:{lines + 1}: found a line that lacks columns of mapping {mapping.name!r}; line {number + 1} "
                f"has them: write skip_lines = {skipped} under [format]"
            )


def _csv_chunks(path: Path, mapping: Mapping, position: Position, chunk_bytes: int) -> Iterator[Chunk]:
    if (found := text_start(path, mapping, position)) is None:
        return
    header, position = found
    decoder = DelimitedDecoder(mapping, path, header)
    with ByteStream(path, position.offset) as stream:
        for block in cut_lines(stream, position.row, chunk_bytes, mapping.format.quote):
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
