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

from pipeline.embedded.progress import Source
from pipeline.feeds.batch import batch_of
from pipeline.feeds.decode import Chunk, Position
from pipeline.feeds.decode.chunk import merge_rejects, reject_frame
from pipeline.feeds.decode.lines import KEPT_LINE_BYTES, MAX_LINE_BYTES, LineBlock
from pipeline.history.rejects import reject_table
from pipeline.journal.messages import LIMIT_BYTES
from pipeline.streaming.raw.headers import (
    MAX_HEADER_BYTES,
    MESSAGE,
    RAW,
    REASON,
    ROWS,
    Decoder,
    Facts,
    RawMessage,
    decoder_of,
    facts_of,
    instant_of,
)
from rating.columnar.key_index import Ints
from rating.errors import MappingError
from rating.mediation.records import mediate
from schemas.mapping import Field, Mapping
from schemas.usage import REJECT_SCHEMA, UsageBatch

MOST_RAW_BYTES: Final = LIMIT_BYTES - MAX_HEADER_BYTES - (64 << 10)
MAX_CONTENT_BYTES: Final = 64 << 20  # of a decompressed chunk


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


class Readers:
    """Decodes and mediates the messages of one raw partition. Caches decoders."""

    def __init__(self, topic: str, partition: int, mappings: Named[str, Mapping]) -> None:
        self._topic = topic
        self._place = f"{topic}[{partition}]"
        self._mappings = mappings
        self._decoders: dict[tuple[str, bytes | None], Decoder] = {}

    def chunk(self, offset: int, timestamp_us: int, message: RawMessage) -> Reading:
        """Return usage and rejected records of a chunk. A chunk that cannot be read becomes one rejected record."""
        try:
            facts = facts_of(message)
            if facts.origin is not None and facts.origin[0] == self._topic:
                raise ValueError(f"found origin {facts.source}; expected another topic than the chunk is in")
            mapping = self._mapping(facts)
            chunk = decode_chunk(message, facts, lambda: self._decoder(facts.feed, facts.header))
        except _UNREADABLE as error:
            return self._unread([(offset, timestamp_us, message)], str(error))
        received_at_us = facts.as_of_us if facts.as_of_us >= 0 else timestamp_us
        reading = _mediated(chunk, mapping, Source("", facts.source, 0, facts.fingerprint), received_at_us)
        return replace(reading, origin=facts.origin)

    def run(self, records: Sequence[Numbered]) -> Reading:
        """Return usage and rejected records of single records whose headers agree."""
        try:
            facts = facts_of(records[0][2])
            mapping = self._mapping(facts)
            decoder = self._decoder(facts.feed, facts.header)
            values = [content_of(message, facts) for _, _, message in records]
        except _UNREADABLE as error:
            return self._unread(records, str(error))
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

    def _unread(self, records: Sequence[Numbered], why: str) -> Reading:
        numbers = [offset for offset, _, _ in records]
        values = {offset: message.value[:KEPT_LINE_BYTES] for offset, _, message in records}
        feed = (records[0][2].header("feed") or b"")[:64].decode("utf-8", "replace")
        rejects = reject_frame(numbers, "malformed", why[:300])
        chunk = Chunk(pl.DataFrame(), rejects, lambda wanted: [values[row] for row in wanted], Position())
        received_at_us = _arrival(records)
        source = Source("", self._place, 0, self._place)
        empty = UsageBatch(feed, self._place, received_at_us, False, pl.DataFrame())
        return Reading(empty, reject_table(rejects, chunk, feed, source, received_at_us))


def kept_line(value: bytes) -> bytes:
    """Return the bytes of a single record for a rejected record: without line end, and cut if it is too long."""
    line = value.removesuffix(b"\n").removesuffix(b"\r")
    return line if len(line) <= MAX_LINE_BYTES else line[:KEPT_LINE_BYTES]


def _mediated(chunk: Chunk, mapping: Mapping, source: Source, received_at_us: int) -> Reading:
    usage, rejects = mediate(chunk.raw, mapping, source.name)
    if len(chunk.rejects):
        rejects = pl.concat([chunk.rejects, rejects]).sort("source_row", maintain_order=True)
    batch = batch_of(mapping, source.name, received_at_us, usage)
    fitting = replace(chunk, raw_lines=lambda rows: _cut(chunk.raw_lines(rows)))
    return Reading(batch, reject_table(rejects, fitting, mapping.name, source, received_at_us))


def _cut(lines: list[bytes]) -> list[bytes]:
    """Cut lines that no journal message could carry to KEPT_LINE_BYTES."""
    return [line if len(line) <= MOST_RAW_BYTES else line[:KEPT_LINE_BYTES] for line in lines]


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
    """Return the latest arrival time of the records, in microseconds."""
    found = []
    for _, timestamp_us, message in records:
        as_of_us = instant_of(message.header("as-of"))
        found.append(timestamp_us if as_of_us is None else as_of_us)
    return max(found)


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
    if facts.offsets is None:
        return decoder().decode(block)
    return renumbered(decoder().decode(block), np.frombuffer(facts.offsets, "<i8"))


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
        return Origin(facts.fingerprint, None, _cut(_from_rows(content, facts).raw_lines(wanted)))
    block = _block(content, facts)
    if facts.offsets is not None:
        wanted = np.searchsorted(np.frombuffer(facts.offsets, "<i8"), wanted).tolist()
    return Origin(facts.fingerprint, facts.header, _cut(block.raw_lines(wanted)))


def content_of(message: RawMessage, facts: Facts) -> bytes:
    """Return the decompressed value. Raises ValueError or pyarrow's errors if it is damaged or too large."""
    return _unpacked(message.value) if facts.packed else message.value


def _block(content: bytes, facts: Facts) -> LineBlock:
    if not content.endswith(b"\n"):
        content += b"\n"
    lines = int(np.count_nonzero(np.frombuffer(content, np.uint8) == 10))  # takes a quarter of the time of bytes.count
    if facts.offsets is None:
        return LineBlock(content, facts.row, lines, Position())
    offsets = np.frombuffer(facts.offsets, "<i8")
    if len(offsets) != lines or (np.diff(offsets, prepend=-1) <= 0).any():
        raise ValueError(f"found {len(offsets)} offsets of {lines} lines; expected one of each line, ascending")
    return LineBlock(content, 0, lines, Position())


def _from_rows(content: bytes, facts: Facts) -> Chunk:
    with pa.ipc.open_stream(content) as stream:
        found = stream.read_all()
    found.validate(full=True)
    table = pl.from_arrow(found)
    assert isinstance(table, pl.DataFrame)
    strings = [name for name in table.columns if name not in ("source_row", RAW)]
    wrong = table.schema.get("source_row") != pl.Int64 or table.schema.get(RAW) != pl.Binary
    if wrong or any(table.schema[name] != pl.String for name in strings) or table["source_row"].null_count():
        raise ValueError(f"found rows of {str(dict(table.schema))[:200]}; expected texts, source_row and {RAW}")
    if facts.offsets is not None and table["source_row"].to_list() != np.frombuffer(facts.offsets, "<i8").tolist():
        raise ValueError("found rows of other offsets than the headers say; expected one row of each")
    lined = table.filter(pl.col(RAW).is_not_null())
    lines = lined.select("source_row", RAW)
    refused = pl.DataFrame(schema=REJECT_SCHEMA)
    if {REASON, MESSAGE} <= set(table.columns):
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
    return Chunk(raw, refused, raw_lines, Position(), facts.header)


def _unpacked(value: bytes) -> bytes:
    pieces: list[bytes] = []
    size_bytes = 0
    step = max(64 << 10, 4 * len(value))  # enough for most chunks in one read, without allocating for the largest
    with pa.CompressedInputStream(pa.BufferReader(value), "zstd") as stream:
        while size_bytes <= MAX_CONTENT_BYTES and (piece := stream.read(min(step, MAX_CONTENT_BYTES + 1 - size_bytes))):
            pieces.append(piece)
            size_bytes += len(piece)
    content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if len(content) > MAX_CONTENT_BYTES:
        raise ValueError(f"found more than {MAX_CONTENT_BYTES:,} bytes; expected a smaller chunk")
    return content
