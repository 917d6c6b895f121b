"""Messages of `usage.rated` and the other output topics: encode, decode, cut into pieces and join.

    magic (its last byte is the version of this layout), CRC-32 of all that follows, bytes of the head,
    head (JSON), streams of Arrow IPC packed with LZ4, one after another

The number of journal messages in an output depends on how many were waiting to be folded, but the rows of each journal
message do not. So a sink that has landed some of the messages takes `after` for the others. A piece identifies its
output by the journal messages covered and a digest of all rows, so pieces of two producers are never joined.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.history.writer import with_used_words
from pipeline.journal.messages import LIMIT_BYTES, Fence
from pipeline.outbox.message import Target, outgoing
from pipeline.streaming.rate.output import EMPTY, SCHEMAS, STATUSES, Counts, Output, Part, Ruled, assembled, stacked
from rating.columnar.arrow import instant, text, words
from rating.errors import StorageError, WorldError
from rating.usage.rerating import frame_of
from schemas.rules import Action
from schemas.tables import REJECTED

if TYPE_CHECKING:
    from pipeline.streaming.raw.reading import Origin

_MAGIC: Final = b"WOUT\x01"
_NUMBERS: Final = struct.Struct("<II")  # checksum, bytes of the head
# Compressing a column takes less time than handing it to another thread, and the worker has no idle threads.
_PACKED: Final = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_UNPACKED: Final = pa.ipc.IpcReadOptions(use_threads=False)
_ROW_BYTES: Final = 128  # first estimate of a row's size, rather too large
_FILL: Final = 0.93  # of a piece, to leave room because row sizes are estimated from earlier rows
_MORE_BYTES: Final = 512  # size of the head without its parts
_FILLED: Final = ("reject_id", "raw", "raw_header")


class Rows(msgspec.Struct, frozen=True, array_like=True):
    """A stream in a piece: its table and its size in bytes."""

    table: str
    size: int


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    partition: int
    first_offset: int
    piece: int
    pieces: int
    digest: int  # CRC-32 of all streams of the output
    parts: tuple[Part, ...]
    streams: tuple[Rows, ...]


@dataclass(frozen=True)
class OutputPiece:
    """A message of `usage.rated`: some rows of an output, and the facts that all its pieces share."""

    partition: int
    first_offset: int
    piece: int
    pieces: int
    digest: int
    parts: tuple[Part, ...]
    tables: tuple[tuple[str, pa.Table], ...]

    @property
    def journal_offset(self) -> int:
        """The offset of the last message that the output covers."""
        return self.parts[-1].journal_offset

    @property
    def output(self) -> tuple[int, ...]:
        """Identity of the output: equal for pieces of the same output, also if it was made again, and for no others."""
        return (self.partition, self.parts[0].journal_offset, self.journal_offset, self.pieces, self.digest)


class Packed(NamedTuple):
    """A message of `usage.rated`, and the piece that it encodes."""

    content: bytes
    piece: OutputPiece


class _Stream(NamedTuple):
    table: str
    rows: pa.Table
    content: pa.Buffer


def encode(output: Output, limit_bytes: int = LIMIT_BYTES) -> list[bytes]:
    """Encode an output as messages of at most `limit_bytes` each; at least one.

    Raises WorldError if a single row is larger.
    """
    return [one.content for one in packed(output, limit_bytes)]


def packed(output: Output, limit_bytes: int = LIMIT_BYTES) -> list[Packed]:
    """Like `encode`, with the piece that `decode` would return for each message (same values in the same chunks)."""
    room = limit_bytes - _MORE_BYTES - len(msgspec.json.encode(output.parts))
    streams: list[list[_Stream]] = [[]]
    left, digest = room, 0
    for name, table in output.all_tables().items():
        for stream in _streams(table, room, name):
            size = len(stream.content)
            if size > left:
                streams.append([])
                left = room
            streams[-1].append(stream)
            left -= size
            digest = zlib.crc32(stream.content, digest)
    found = []
    for number, held in enumerate(streams):
        place = (output.partition, output.first_offset, number, len(streams), digest, output.parts)
        head = msgspec.json.encode(_Head(*place, tuple(Rows(one.table, len(one.content)) for one in held)))
        checksum = zlib.crc32(head)
        for one in held:
            checksum = zlib.crc32(one.content, checksum)
        content = b"".join((_MAGIC, _NUMBERS.pack(checksum, len(head)), head, *(one.content for one in held)))
        found.append(Packed(content, OutputPiece(*place, tuple((one.table, one.rows) for one in held))))
    return found


def decode(content: bytes, where: str) -> OutputPiece:
    """Decode a message made by `encode`. `where` names its topic, partition and offset in errors.

    Raises StorageError if it is damaged, is not a message of `usage.rated`, or has a layout unknown to this version.
    """
    if content[: len(_MAGIC)] != _MAGIC:
        raise StorageError(
            f"{where}: found a message that begins with {content[: len(_MAGIC)]!r}; expected {_MAGIC!r}: upgrade the "
            "workers that read before those that write, and let nothing else write to this topic"
        )
    start = len(_MAGIC) + _NUMBERS.size
    try:
        checksum, head_bytes = _NUMBERS.unpack_from(content, len(_MAGIC))
        if zlib.crc32(memoryview(content)[start:]) != checksum:
            raise ValueError("it does not fit its checksum")
        head = msgspec.json.decode(content[start : start + head_bytes], type=_Head)
        at, tables = start + head_bytes, []
        for rows in head.streams:
            with pa.ipc.open_stream(pa.py_buffer(content).slice(at, rows.size), options=_UNPACKED) as stream:
                tables.append((rows.table, stream.read_all()))
            at += rows.size
    except (ValueError, struct.error, msgspec.MsgspecError, pa.ArrowException, KeyError) as error:
        raise StorageError(
            f"{where}: the output is damaged: {error}; stop the workers and restore the topic from a replica or a "
            "backup"
        ) from error
    return OutputPiece(
        head.partition, head.first_offset, head.piece, head.pieces, head.digest, head.parts, tuple(tables)
    )


def join(pieces: Sequence[OutputPiece]) -> Output:
    """Join all pieces of an output. Raises ValueError if they are not exactly the pieces of one output."""
    ordered = sorted(pieces, key=lambda one: one.piece)
    if [one.piece for one in ordered] != list(range(ordered[0].pieces)) or len({one.output for one in ordered}) > 1:
        raise ValueError(f"pieces {[one.piece for one in ordered]} of {ordered[0].pieces} are not one output")
    tables: dict[str, list[pa.Table]] = {name: [] for name in SCHEMAS}
    for piece in ordered:
        for name, table in piece.tables:
            tables[name].append(table)
    first = ordered[0]
    whole = {name: stacked(name, held) for name, held in tables.items()}
    return assembled(first.partition, first.first_offset, first.parts, whole)


class Gathering:
    """Collects the pieces of one partition until outputs are complete.

    Pieces of several producers may be interleaved.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, ...], dict[int, OutputPiece]] = {}

    def take(self, piece: OutputPiece) -> Output | None:
        """Add a piece. Returns the output if this was its last missing piece, else None.

        Once an output is complete, pieces of outputs that do not end later are dropped.
        """
        held = self._held.setdefault(piece.output, {})
        held[piece.piece] = piece
        if len(held) < piece.pieces:
            return None
        self._held = {
            key: others for key, others in self._held.items() if next(iter(others.values())).journal_offset
            > piece.journal_offset
        }  # fmt: skip
        return join(list(held.values()))


def rejected_rows(rejects: pl.DataFrame, feed: str, sources: pl.Series, received_at_us: int) -> pa.Table:
    """Return rows of REJECTED for records that the fold rejected (REJECT_SCHEMA).

    `fill_rejected` adds ids and raw bytes.
    """
    if rejects.is_empty():
        return EMPTY["rejected"]
    count = len(rejects)
    none = pa.nulls(count, pa.binary())
    columns = {
        "reject_id": pa.nulls(count, pa.string()),
        "feed": words(np.zeros(count, np.int64), [feed]),
        "source": text(sources).dictionary_encode(),
        "source_row": rejects["source_row"].to_arrow(),
        "received_at": instant(received_at_us, count),
        "reason": text(rejects["reason"]).dictionary_encode(),
        "field": text(rejects["field"]).dictionary_encode(),
        "message": text(rejects["message"]),
        "record_key": text(rejects["record_key"]),
        "raw": none,
        "raw_header": none,
    }
    return pa.table(columns, schema=REJECTED)


class Refused(NamedTuple):
    """Records that the fold rejected of one message: first row in `rejected`, fence, and row numbers in the source."""

    start: int
    fence: Fence
    rows: list[int]


def refused_rows(output: Output) -> list[Refused]:
    """Return the rejected records whose id and raw bytes are still missing, grouped by message."""
    table, at, found = output.rejected, 0, []
    if not table["reject_id"].null_count:
        return []
    empty, rows = table["reject_id"].is_null().to_numpy(), table["source_row"].to_numpy()
    for part in output.parts:
        end = at + part.rejected
        if part.fence is not None and empty[at:end].any():
            found.append(Refused(at, part.fence, rows[at:end].tolist()))
        at = end
    return found


def fill_rejected(output: Output, find: Callable[[Fence, Sequence[int]], Origin]) -> Output:
    """Return the output with ids and raw bytes filled in for records that the fold rejected (F5).

    `find(fence, rows)` returns the origin of the rows (`source_row`) of the message with this fence.
    """
    refused = refused_rows(output)
    if not refused:
        return output
    table = output.rejected
    keys = table["record_key"].to_pylist()
    ids, raw, headers = (table[name].to_pylist() for name in _FILLED)
    for start, fence, rows in refused:
        origin, end = find(fence, rows), start + len(rows)
        ids[start:end] = [
            f"{origin.fingerprint}:{row}" if key is None else f"{origin.fingerprint}:{row}:{key}"
            for row, key in zip(rows, keys[start:end], strict=True)
        ]
        raw[start:end] = origin.lines
        headers[start:end] = [origin.header] * len(rows)
    for name, values in zip(_FILLED, (ids, raw, headers), strict=True):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))
    return replace(output, tables={**output.tables, "rejected": table})


def action_messages(output: Output) -> list[tuple[bytes, bytes]]:
    """Return (ICCID, message) of every action in order, as in docs/action.schema.json.

    A notify lists all its channels.
    """
    if not any(one.actions_count for one in output.outcomes):
        return []
    found = outgoing(frame_of(output.actions), frame_of(output.firings), _everywhere)
    return [(one.iccid.encode(), one.body) for one in found]


def status_messages(output: Output) -> list[tuple[bytes, bytes]]:
    """Return (ICCID, message) of every change of status or status reason, in order (C9)."""
    rows = output.statuses.to_pylist() if output.statuses.num_rows else []
    return [(row["iccid"].encode(), msgspec.json.encode({"version": 1, "id": _status_id(row), **row})) for row in rows]


def _status_id(row: dict[str, Any]) -> str:
    return f"{row['journal_partition']}.{row['journal_offset']}.{row['iccid']}"


def _everywhere(action: Action, rule: str) -> Sequence[Target]:
    return (Target("", action.by),)


def _streams(table: pa.Table, room: int, name: str) -> Iterator[_Stream]:
    """Encode the rows of a table as streams, each small enough for a piece.

    Raises WorldError if a single row is too large.
    """
    row_bytes = float(_ROW_BYTES)
    if not table.num_rows:
        return
    table = table.combine_chunks()
    at = 0
    while at < len(table):
        step = max(1, int(_FILL * room / row_bytes))
        rows = with_used_words(table.slice(at, step))
        content = _to_ipc(rows)
        if len(content) <= room:
            yield _Stream(name, rows, content)
            at += len(rows)
        elif len(rows) == 1:
            raise WorldError(
                f"a row of {name} takes {len(content):,} bytes; expected at most {room:,}, what is left of the largest "
                "message: raise the limit of messages together with max.message.bytes of the topic"
            )
        row_bytes = max(len(content) / len(rows), row_bytes * 1.5 if len(content) > room else 1)


def _to_ipc(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=_PACKED) as stream:
        stream.write_table(rows)
    return sink.getvalue()


__all__ = [
    "STATUSES",
    "Counts",
    "Gathering",
    "Output",
    "OutputPiece",
    "Packed",
    "Part",
    "Ruled",
    "action_messages",
    "decode",
    "encode",
    "fill_rejected",
    "join",
    "packed",
    "refused_rows",
    "rejected_rows",
    "status_messages",
]
