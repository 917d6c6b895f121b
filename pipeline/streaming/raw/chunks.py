"""Cuts files into messages of `usage.raw`: lines of a text file, or decoded rows of any other file.

The lists beside a feed file (F2) are sent with each chunk, reduced to the entries that it needs. The header `lists` is
zstd-compressed JSON, one object for each lookup of the mapping, in order.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.feeds.decode import Chunk, Position, open_source
from pipeline.feeds.decode.json_lines import EXPLODED_CHUNK_BYTES
from pipeline.feeds.decode.lines import KEPT_LINE_BYTES, LineBlock, cut_lines
from pipeline.feeds.decode.source import text_start
from pipeline.feeds.decode.stream import ByteStream
from pipeline.feeds.footer import require_footer
from pipeline.feeds.lookups import with_lists
from pipeline.feeds.source_file import Source
from pipeline.journal.messages import LIMIT_BYTES
from pipeline.streaming.raw.headers import (
    LINES,
    MAX_HEADER_BYTES,
    MESSAGE,
    RAW,
    REASON,
    ROWS,
    ZSTD,
    Decoder,
    RawMessage,
    decoder_of,
)
from rating.columnar.key_index import Ints
from rating.errors import MappingError
from rating.mediation.text import SourceText, match_pattern
from schemas.mapping import Mapping

CHUNK_TEXT_BYTES: Final = 5 << 20

_FILL: Final = 0.95
_BEGIN: Final = Position()
_ZSTD: Final = pa.Codec("zstd", 1)


def chunks_of(
    path: Path,
    mapping: Mapping,
    source: Source,
    as_of_us: int,
    start: Position = _BEGIN,
    limit_bytes: int = LIMIT_BYTES,
) -> Iterator[tuple[RawMessage, Position]]:
    """Yield the file from `start` on as messages of at most `limit_bytes`, each with the position after it.

    Together the messages give the same usage and rejected records as the file. A record that exceeds a message even
    when compressed is rejected as too long, with its first 64 KiB. Raises SourceError if the file cannot be read,
    MappingError if it lacks a column or list that the mapping requires (F2), or if its CSV header is too large.
    """
    filled = with_lists(mapping, path.parent)
    headers = (
        ("feed", mapping.name.encode()),
        ("source", source.name.encode("utf-8", "replace")),
        ("digest", source.fingerprint.encode()),
        ("as-of", str(as_of_us).encode()),
        ("encoding", ZSTD),
    )
    pack = _Packing(filled, headers, limit_bytes)
    return pack.lines(path, start) if mapping.format.type in ("csv", "ndjson") else pack.rows(path, start)


class _Packing:
    """Makes the messages of one file."""

    def __init__(self, mapping: Mapping, headers: tuple[tuple[str, bytes], ...], limit_bytes: int) -> None:
        self._mapping = mapping
        self._headers = headers
        self._limit_bytes = limit_bytes
        self._looked_up = bool(mapping.lookups)

    def lines(self, path: Path, start: Position) -> Iterator[tuple[RawMessage, Position]]:
        """Yield the chunks of a text file. Raises SourceError, before the first, if its footer says something else."""
        if not start.offset:
            require_footer(path, self._mapping)
        if (found := text_start(path, self._mapping, start)) is None:
            return
        header, start = found
        if header is not None:
            if len(header) > MAX_HEADER_BYTES:
                raise MappingError(
                    f"{path}:1: found a first line of {len(header):,} bytes; expected column names of at most "
                    f"{MAX_HEADER_BYTES:,}: every message and every reject carries them"
                )
            self._headers = (*self._headers, ("csv-header", header))
        decoder = decoder_of(self._mapping, header, path)
        at = start.offset
        with ByteStream(path, start.offset) as stream:
            quote = self._mapping.format.quote if self._mapping.format.type == "csv" else ""
            for block in cut_lines(stream, start.row, _text_bytes(self._mapping), quote):
                yield from self._of_block(block, at, decoder)
                at = block.end.offset

    def _of_block(self, block: LineBlock, at: int, decoder: Decoder) -> Iterator[tuple[RawMessage, Position]]:
        ends = np.concatenate([np.zeros(1, np.int64), block.newlines + 1])

        def make(first: int, stop: int) -> RawMessage:
            data = block.data[ends[first] : ends[stop]]
            row = block.first_row + first
            if not self._looked_up:
                return self._message(data, row, LINES)
            chunk = decoder.decode(LineBlock(data, row, stop - first, block.end))
            return self._message(data, row, LINES, *self._lists(chunk.raw))

        if block.too_long:
            yield self._cut_off(block.data, block.first_row, "the line is longer than 1 MiB"), block.end
            return
        for first, stop, message in self._fitting(make, 0, block.lines):
            whole = block.data[ends[first] : ends[stop]]
            end = Position(at + int(ends[stop]), block.first_row + stop) if stop < block.lines else block.end
            yield message or self._cut_off(whole, block.first_row + first, "the line is larger than a message"), end

    def rows(self, path: Path, start: Position) -> Iterator[tuple[RawMessage, Position]]:
        """Yield the chunks of any other file, as decoded rows."""
        document = self._mapping.format.type == "json"
        # A row group or batch can be read from its beginning only; earlier rows are filtered out below.
        begin = start if document else Position(start.offset, 1)
        for chunk in open_source(path, self._mapping, start=begin, chunk_bytes=_text_bytes(self._mapping)):
            table = _with_lines(chunk).filter(pl.col("source_row") >= start.row)
            numbers = table["source_row"].to_numpy()
            bounds = np.flatnonzero(np.diff(numbers, prepend=-1, append=np.iinfo(np.int64).max))
            for _, stop, message in self._fitting(self._maker(table, numbers, bounds), 0, len(bounds) - 1):
                end = chunk.end
                if stop < len(bounds) - 1:
                    row = int(numbers[bounds[stop]])
                    end = Position(row - 1 if document else chunk.end.offset, row)
                assert message is not None
                yield message, end

    def _maker(self, table: pl.DataFrame, numbers: Ints, bounds: Ints) -> Callable[[int, int], RawMessage]:
        def make(first: int, stop: int) -> RawMessage:
            part = table[int(bounds[first]) : int(bounds[stop])]
            row = int(numbers[bounds[first]])
            message = self._message(_to_ipc(part), row, ROWS, *self._lists(part))
            if stop - first > 1 or self._fits(message):
                return message
            cut = pl.DataFrame({"source_row": [row], RAW: [(part[RAW][0] or b"")[:KEPT_LINE_BYTES]]})
            why = [pl.lit("too_long").alias(REASON), pl.lit("the record is larger than a message").alias(MESSAGE)]
            return self._message(_to_ipc(cut.with_columns(why)), row, ROWS)

        return make

    def _fitting(
        self, make: Callable[[int, int], RawMessage], first: int, stop: int
    ) -> Iterator[tuple[int, int, RawMessage | None]]:
        """Split [first, stop) into as few messages as fit the limit.

        The message is None for a single item that does not fit.
        """
        if first == stop:
            return
        message = make(first, stop)
        if self._fits(message):
            yield first, stop, message
        elif stop - first == 1:
            yield first, stop, None
        else:
            pieces = min(stop - first, max(2, int(-(-message.size_bytes // (_FILL * self._limit_bytes)))))
            for begin, end in pairwise(first + (stop - first) * piece // pieces for piece in range(pieces + 1)):
                yield from self._fitting(make, begin, end)

    def _fits(self, message: RawMessage) -> bool:
        return message.size_bytes <= self._limit_bytes

    def _message(self, content: bytes, row: int, form: bytes, *more: tuple[str, bytes]) -> RawMessage:
        value = _ZSTD.compress(content, asbytes=True)
        return RawMessage(value, (*self._headers, ("row", str(row).encode()), ("form", form), *more))

    def _cut_off(self, line: bytes, row: int, why: str) -> RawMessage:
        kept = line.rstrip(b"\r\n")[:KEPT_LINE_BYTES]
        return self._message(kept, row, LINES, ("too-long", why.encode()))

    def _lists(self, raw: pl.DataFrame) -> list[tuple[str, bytes]]:
        """Return the header with the list entries that the rows need; empty if the mapping has no lookups."""
        if not self._looked_up:
            return []
        texts = SourceText(raw, "")
        needed: dict[object, dict[str, str]] = {lookup: {} for lookup in self._mapping.lookups}
        for rule in self._mapping.records:
            for target, field in self._mapping.rule_fields(rule).items():
                if field.lookup is None or (text := texts.of(target, field)) is None:
                    continue
                keys = match_pattern(text, field, texts.faults).drop_nulls().unique(maintain_order=True)
                values = field.values or {}
                needed[field.lookup] |= {key: values[key] for key in keys.to_list() if key in values}
        return [("lists", _ZSTD.compress(msgspec.json.encode(list(needed.values())), asbytes=True))]


def _with_lines(chunk: Chunk) -> pl.DataFrame:
    """Return rows and rejects of a chunk in source order. The first row of each source row has its raw bytes."""
    refused = chunk.rejects.select("source_row", pl.col("reason").alias(REASON), pl.col("message").alias(MESSAGE))
    parts = [chunk.raw, refused] if len(refused) else [chunk.raw]
    table = pl.concat(parts, how="diagonal").sort("source_row", maintain_order=True)
    numbers = table["source_row"].to_numpy()
    first = np.flatnonzero(np.diff(numbers, prepend=-1))
    lines = pl.Series(chunk.raw_lines(numbers[first].tolist()), dtype=pl.Binary)
    if len(first) == len(table):
        return table.with_columns(lines.alias(RAW))
    places = np.cumsum(np.diff(numbers, prepend=-1) != 0) - 1
    is_first = pl.Series(np.diff(numbers, prepend=-1) != 0)
    spread = lines.gather(places).zip_with(is_first, pl.Series([None], dtype=pl.Binary))
    return table.with_columns(spread.alias(RAW))


def _to_ipc(rows: pl.DataFrame) -> bytes:
    table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def _text_bytes(mapping: Mapping) -> int:
    return EXPLODED_CHUNK_BYTES if mapping.format.explode else CHUNK_TEXT_BYTES
