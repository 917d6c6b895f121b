"""Reads messages of `usage.raw`: decodes and mediates them, and finds the raw bytes of rows (F5).

The result of a message depends on nothing but the message and the mapping, whether `chunks_of` or another program made
the message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Named
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.feeds.batch import batch_of
from pipeline.feeds.decode import Chunk, Position
from pipeline.feeds.decode.chunk import merge_rejects, reject_frame
from pipeline.feeds.decode.lines import KEPT_LINE_BYTES, MAX_LINE_BYTES, LineBlock
from pipeline.feeds.source_file import Source
from pipeline.history.rejects import reject_table
from pipeline.streaming.raw.arrow_rows import rows_of
from pipeline.streaming.raw.bounds import cut_lines_of, kept_line, repeatable, short_rejects, without_long
from pipeline.streaming.raw.headers import (
    MESSAGE,
    NO_ORIGINS,
    RAW,
    REASON,
    ROWS,
    Decoder,
    Facts,
    Origins,
    RawMessage,
    arrival_of,
    decoder_of,
    facts_of,
)
from rating.columnar.key_index import Ints
from rating.errors import MappingError
from rating.mediation.records import mediate
from schemas.mapping import Field, Mapping
from schemas.usage import REJECT_SCHEMA, UsageBatch

MAX_CONTENT_BYTES: Final = 64 << 20  # of a decompressed chunk
MAX_LINES_BYTES: Final = 16 << 20  # of a decompressed chunk of lines; Weir makes chunks of a third of that
_MOST_SAID: Final = 300  # characters


_UNREADABLE: Final = (
    ValueError,
    KeyError,
    OverflowError,
    RecursionError,
    OSError,
    MappingError,
    pa.ArrowException,
    pl.exceptions.PolarsError,
)

Numbered = tuple[int, int, RawMessage]  # offset, timestamp in microseconds, message


@dataclass(frozen=True)
class Origin:
    """The origin of rows of a chunk: prefix of their reject ids, CSV header line, and raw bytes of each row."""

    fingerprint: str
    header: bytes | None
    lines: list[bytes]


@dataclass(frozen=True)
class Reading:
    """A chunk or a run after mediation: usage, and rejected records as rows of schemas.tables.REJECTED.

    `origin` is the topic and partition of packed records, whose rows are numbered by their offsets there.
    """

    batch: UsageBatch
    rejected: pa.Table
    origin: tuple[str, int] | None = None
    unread: int = 0  # messages that could not be read, each of which is one rejected record


class Readers:
    """Decodes and mediates the messages of one raw partition. Caches decoders."""

    def __init__(
        self, topic: str, partition: int, mappings: Named[str, Mapping], origins: Origins = NO_ORIGINS
    ) -> None:
        self._partition = partition
        self._place = f"{topic}[{partition}]"
        self._mappings = mappings
        self._origins = origins
        self._decoders: dict[tuple[str, bytes | None], Decoder] = {}

    def chunk(self, offset: int, timestamp_us: int, message: RawMessage, now_us: int | None = None) -> Reading:
        """Return usage and rejected records of a chunk. A chunk that cannot be read becomes one rejected record.

        `now_us` is the clock of the machine; without it times are compared with the timestamp of the message only.
        """
        try:
            facts = facts_of(message)
            received_at_us, problem = arrival_of(timestamp_us, message, now_us)
            if problem is not None:
                raise ValueError(problem)
            if facts.origin is not None and not self._origins.allow(*facts.origin, self._partition):
                raise ValueError(
                    f"found origin {facts.source:.300}; expected a topic and partition of [worker].origins of the "
                    "workers' configuration, in the partition of usage.raw that belongs to it"
                )
            mapping = self._mapping(facts)
            chunk = decode_chunk(message, facts, lambda: self._decoder(facts.feed, facts.header))
        except _UNREADABLE as error:
            return self.unread([(offset, timestamp_us, message)], str(error))
        reading = _mediated(chunk, mapping, Source("", facts.source, 0, facts.fingerprint), received_at_us)
        return replace(reading, origin=facts.origin)

    def run(self, records: Sequence[Numbered], now_us: int | None = None) -> Reading:
        """Return usage and rejected records of single records whose headers agree, and all of whose times may count.

        If the time of the first may not count, all are rejected.
        """
        try:
            facts = facts_of(records[0][2])
            _, problem = arrival_of(records[0][1], records[0][2], now_us)
            if problem is not None:
                raise ValueError(problem)
            mapping = self._mapping(facts)
            decoder = self._decoder(facts.feed, facts.header)
            values = [content_of(message, facts) for _, _, message in records]
        except _UNREADABLE as error:
            return self.unread(records, str(error))
        numbers = np.array([offset for offset, _, _ in records], np.int64)
        lines, rejects = as_lines(values, is_json=mapping.format.type != "csv")
        block = LineBlock(b"\n".join([*lines, b""]), 0, len(lines), Position())
        chunk = decoder.decode(block)
        chunk = replace(
            chunk,
            rejects=merge_rejects([chunk.rejects, *rejects]),
            raw_lines=lambda wanted: [kept_line(values[place]) for place in wanted],
        )
        source = Source("", self._place, 0, self._place)
        return _mediated(renumbered(chunk, numbers), mapping, source, _arrival(records))

    def _mapping(self, facts: Facts) -> Mapping:
        if facts.feed not in self._mappings:
            raise ValueError(
                f"found feed {facts.feed[:60]!r}; expected one of {', '.join(sorted(self._mappings))}: name its "
                "mapping in the configuration of the workers, and send it again"
            )
        return with_carried_lists(self._mappings[facts.feed], facts.lists)

    def _decoder(self, feed: str, header: bytes | None) -> Decoder:
        known = self._decoders.get((feed, header))
        if known is None:
            if len(self._decoders) >= 64:
                self._decoders.clear()
            known = self._decoders[feed, header] = decoder_of(self._mappings[feed], header)
        return known

    def unread(self, records: Sequence[Numbered], why: str) -> Reading:
        """Return each message as one rejected record with its first 64 KiB. `why` says what is wrong with them."""
        numbers = [offset for offset, _, _ in records]
        values = {offset: message.value[:KEPT_LINE_BYTES] for offset, _, message in records}
        feed = (records[0][2].header("feed") or b"")[:64].decode("utf-8", "replace")
        rejects = reject_frame(numbers, "malformed", why.encode(errors="replace").decode()[:_MOST_SAID])
        chunk = Chunk(pl.DataFrame(), rejects, lambda wanted: [values[row] for row in wanted], Position())
        received_at_us = _arrival(records)
        source = Source("", self._place, 0, self._place)
        empty = UsageBatch(feed, self._place, received_at_us, False, pl.DataFrame())
        rejected = reject_table(rejects, chunk, feed, source, received_at_us)
        return Reading(empty, rejected, unread=len(records))


def _mediated(chunk: Chunk, mapping: Mapping, source: Source, received_at_us: int) -> Reading:
    usage, rejects = mediate(chunk.raw, mapping, source.name)
    usage, long = without_long(usage)
    if len(chunk.rejects) or len(long):
        rejects = pl.concat([chunk.rejects, rejects, long]).sort("source_row", maintain_order=True)
    batch = batch_of(mapping, source.name, received_at_us, usage)
    fitting = replace(chunk, raw_lines=lambda rows: cut_lines_of(chunk.raw_lines(rows)))
    return Reading(batch, reject_table(short_rejects(rejects), fitting, mapping.name, source, received_at_us))


def as_lines(values: list[bytes], *, is_json: bool) -> tuple[list[bytes], list[pl.DataFrame]]:
    """Return each value as one line without its end, and the rejects (frames, `source_row` is the index).

    Rejected values become blank lines.
    """
    lines = [value.removesuffix(b"\n") for value in values]
    if max(map(len, lines)) <= MAX_LINE_BYTES and not any(b"\n" in line for line in lines):
        return lines, []
    long = [place for place, line in enumerate(lines) if len(line) > MAX_LINE_BYTES]
    for place in long:
        lines[place] = b""
    rejects = [reject_frame(long, "too_long", "the line is longer than 1 MiB")]
    broken = [place for place, line in enumerate(lines) if b"\n" in line]
    for place in broken:  # valid JSON has newlines only between tokens, where a space means the same
        lines[place] = lines[place].replace(b"\n", b" ") if is_json else b""
    if not is_json:
        rejects.append(reject_frame(broken, "malformed", "found several lines; expected one record in a message"))
    return lines, rejects


def _arrival(records: Sequence[Numbered]) -> int:
    """Return the latest arrival time of the records, in microseconds. A time that may not count is replaced."""
    return max(arrival_of(timestamp_us, message)[0] for _, timestamp_us, message in records)


def with_carried_lists(mapping: Mapping, lists: bytes) -> Mapping:
    """Return the mapping with the values of its looked-up fields, taken from a header `lists`.

    If the header is empty, the lookups have no entries. Raises ValueError if the header is malformed.
    """
    if not mapping.lookups:
        return mapping
    try:
        held = msgspec.json.decode(_unpacked(lists), type=list[dict[str, str]]) if lists else []
    except msgspec.MsgspecError as error:
        raise ValueError(f"found lists that cannot be read ({error}); expected an object for each lookup") from None
    known = dict(zip(mapping.lookups, held, strict=False))

    def filled(fields: dict[str, Field]) -> dict[str, Field]:
        return {
            target: field
            if field.lookup is None
            else msgspec.structs.replace(field, values=known.get(field.lookup, {}))
            for target, field in fields.items()
        }

    rules = tuple(msgspec.structs.replace(rule, fields=filled(rule.fields)) for rule in mapping.records)
    return msgspec.structs.replace(mapping, fields=filled(mapping.fields), records=rules)


def decode_chunk(message: RawMessage, facts: Facts, decoder: Callable[[], Decoder]) -> Chunk:
    """Decode a chunk as the decoder of its file did. `end` of the result is meaningless.

    Raises ValueError, MappingError or pyarrow's errors if the content does not match the headers.
    """
    content = content_of(message, facts)
    if facts.form == ROWS:
        return _from_rows(content, facts)
    if facts.too_long and facts.origin is None:
        block = LineBlock(content, facts.row, 1, Position(), too_long=True)
        chunk = decoder().decode(block)
        rejects = chunk.rejects.with_columns(pl.lit(facts.too_long).alias("message"))
        return replace(chunk, rejects=rejects)
    block = _block(content, facts)
    chunk = replace(decoder().decode(block), header=repeatable(facts.header, block.lines))
    return chunk if facts.offsets is None else renumbered(chunk, np.frombuffer(facts.offsets, "<i8"))


def renumbered(chunk: Chunk, offsets: Ints) -> Chunk:
    """Return the chunk with `offsets[row]` for each row number. `offsets` must ascend."""
    numbers = pl.Series("source_row", offsets, dtype=pl.Int64)

    def places(wanted: list[int]) -> list[int]:
        return [int(place) for place in np.searchsorted(offsets, wanted)]

    return replace(
        chunk,
        raw=chunk.raw.with_columns(numbers.gather(chunk.raw["source_row"])),
        rejects=chunk.rejects.with_columns(numbers.gather(chunk.rejects["source_row"])),
        raw_lines=lambda wanted: chunk.raw_lines(places(wanted)),
    )


def origin_of(raw: RawMessage, rows: Sequence[int]) -> Origin:
    """Return the origin of rows of a chunk, given by `source_row`, for records that the fold rejects (F5).

    Raises ValueError or pyarrow's errors if the message is not a chunk or lacks a row; no usage came from such a
    message.
    """
    facts = facts_of(raw)
    if not facts.form:
        raise ValueError("found a single record; expected a chunk")
    content, wanted = content_of(raw, facts), list(rows)
    if facts.form == ROWS:
        return Origin(facts.fingerprint, None, cut_lines_of(_from_rows(content, facts).raw_lines(wanted)))
    block = _block(content, facts)
    if facts.offsets is not None:
        wanted = np.searchsorted(np.frombuffer(facts.offsets, "<i8"), wanted).tolist()
    return Origin(facts.fingerprint, repeatable(facts.header, block.lines), cut_lines_of(block.raw_lines(wanted)))


def content_of(message: RawMessage, facts: Facts) -> bytes:
    """Return the decompressed value. Raises ValueError or pyarrow's errors if it is damaged or too large."""
    if not facts.packed:
        return message.value
    return _unpacked(message.value, MAX_CONTENT_BYTES if facts.form == ROWS else MAX_LINES_BYTES)


def _block(content: bytes, facts: Facts) -> LineBlock:
    if not content.endswith(b"\n"):
        content += b"\n"
    lines = int(np.count_nonzero(np.frombuffer(content, np.uint8) == 10))  # takes a quarter of the time of bytes.count
    if facts.offsets is None:
        return LineBlock(content, facts.row, lines, Position())
    offsets = np.frombuffer(facts.offsets, "<i8")
    if len(offsets) != lines:
        raise ValueError(f"found {len(offsets)} offsets of {lines} lines; expected one of each line")
    return LineBlock(content, 0, lines, Position())


def _from_rows(content: bytes, facts: Facts) -> Chunk:
    table = rows_of(content)
    if facts.offsets is not None and table["source_row"].to_list() != np.frombuffer(facts.offsets, "<i8").tolist():
        raise ValueError("found rows of other offsets than the headers say; expected one row of each")
    lined = table.filter(pl.col(RAW).is_not_null())
    lines = lined.select("source_row", RAW)
    refused = pl.DataFrame(schema=REJECT_SCHEMA)
    if REASON in table.columns:
        bad = table.filter(pl.col(REASON).is_not_null())
        refused = bad.select(
            "source_row",
            pl.lit(None, dtype=pl.String).alias("record_key"),
            pl.col(REASON).alias("reason"),
            pl.lit(None, dtype=pl.String).alias("field"),
            pl.col(MESSAGE).alias("message"),
        )
        table = table.filter(pl.col(REASON).is_null())

    def raw_lines(wanted: list[int]) -> list[bytes]:
        named = lines.filter(pl.col("source_row").is_in(wanted))
        known: dict[int, bytes] = dict(named.iter_rows())
        return [known[row] for row in wanted]

    raw = table.drop(RAW, REASON, MESSAGE, strict=False)
    return Chunk(raw, refused, raw_lines, Position(), repeatable(facts.header, len(table)))


def _unpacked(value: bytes, most_bytes: int = MAX_CONTENT_BYTES) -> bytes:
    pieces: list[bytes] = []
    size_bytes = 0
    step = max(64 << 10, 4 * len(value))  # enough for most chunks in one read, without allocating for the largest
    with pa.CompressedInputStream(pa.BufferReader(value), "zstd") as stream:
        while size_bytes <= most_bytes and (piece := stream.read(min(step, most_bytes + 1 - size_bytes))):
            pieces.append(piece)
            size_bytes += len(piece)
    content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if len(content) > most_bytes:
        raise ValueError(f"found more than {most_bytes:,} bytes; expected a smaller chunk")
    return content
