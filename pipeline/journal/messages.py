"""Journal entries as self-contained messages: encode and decode.

    magic (its last byte is the version of this layout), CRC-32 of all that follows,
    kind, count, parts, source partition, first and last source offset, parts of the first before, parts of the last,
    bytes of the source topic's name, that name (and after a zero byte where the entry's bytes are, if elsewhere),
    payload

Tables are Arrow IPC streams compressed with LZ4. They take more bytes than the Parquet of the segment files (about 68 a
record of a plain feed, against 42), but lack Parquet's fixed cost for each file, so small batches are faster to read.

An entry that exceeds the message limit is split into several entries, its pieces. The journal contains the pieces, and
the fold sees nothing else. Where an entry is cut depends on its encoded size, which also depends on the memory contents
under nulls. So a fence counts parts (records, commands, catalogue entries, rejected records) and not pieces. All parts
of an entry belong to one source offset; in a run of single records, to the offsets in `source_row`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.journal.entries import REJECTS, Entry, Rejects, TableCodec, entry_of, kind_of, payload_of
from rating.columnar.key_index import Ints
from rating.errors import StorageError, WorldError

LIMIT_BYTES: Final = 900_000  # default limits: 1 MiB with batch headers in brokers, 1,000,000 bytes in clients

MAGIC: Final = b"WMSG\x01"  # the last byte is the version of the layout
_CHECKSUM: Final = struct.Struct("<I")
_HEAD: Final = struct.Struct("<BIIqqqQII")
_START: Final = len(MAGIC) + _CHECKSUM.size
_FILL: Final = 0.95  # of a message, to leave room because the size of a piece is estimated


class Fence(NamedTuple):
    """The source position of an entry: one offset of a topic partition, or a run of single records up to that offset.

    `part` is the number of parts, from the entry's first offset, that come before the entry in this journal partition;
    rejected records (`rejects`) are counted separately. `first` is the first offset of a run, None if there is only one
    offset. `via` is the partition and offset of the chunk in usage.raw that carried records packed from another topic;
    such fences have a space of their own, whatever topic the chunk names.
    """

    topic: str
    partition: int
    offset: int
    part: int = 0
    first: int | None = None
    rejects: bool = False
    via: tuple[int, int] | None = None

    @classmethod
    def run(cls, topic: str, partition: int, via: tuple[int, int] | None = None) -> Fence:
        """Return the fence of a run, for `messages_of`.

        The rows must ascend by their source offsets in `source_row`.
        """
        return cls(topic, partition, -1, 0, -1, via=via)

    @property
    def source(self) -> tuple[str, int, bool, int]:
        """What has a position of its own: topic and partition, rejects or not, and the raw partition of packed records.

        The last is -1 for all other records. So no packed chunk can move the position of `commands` or of usage.raw.
        """
        return self.topic, self.partition, self.rejects, -1 if self.via is None else self.via[0]

    @property
    def name(self) -> bytes:
        """Topic and `via` as encoded in a message."""
        topic = self.topic.encode()
        return topic if self.via is None else b"%s\0%d %d" % (topic, *self.via)

    def after(self, entry: Entry | Rejects) -> Fence:
        """Return the fence of the next entry of the same offset or run in the same journal partition."""
        if self.first is None or not kind_of(entry).parts(entry):
            return self._replace(part=self.part + kind_of(entry).parts(entry))
        rows = kind_of(entry).source_rows(entry)
        offset, parts = int(rows[-1]), int((rows == rows[-1]).sum())
        return self._replace(offset=offset, part=parts + (self.part if rows[0] == offset == self.offset else 0))


class Fences:
    """The highest source position already applied, for each source partition.

    Replayed or repeated messages are skipped. Entries of one source partition come in order of offset and part. An
    entry that is repeated, or sent late by a producer that has lost its partition, is at or below the fence, however it
    was cut into pieces.
    """

    def __init__(self, applied: tuple[Fence, ...] = ()) -> None:
        self._applied = {fence.source: fence for fence in applied}

    def take(self, message: Message) -> int:
        """Return how many parts of the message were applied before. From now on the other parts count as applied.

        Returns 0 if the message is new or has no fence. A run is decoded only if some of it was applied. Raises
        StorageError if parts before the message are missing.
        """
        fence = message.fence
        if fence is None:
            return 0
        source = fence.source
        first = fence.offset if fence.first is None else fence.first
        known = self._applied.get(source)
        if known is None and fence.via is not None:  # earlier versions kept both in one space
            known = self._applied.get((*source[:3], -1))
        done = (-1, 0) if known is None else (known.offset, known.part)
        end = (fence.offset, message.of_last + (fence.part if first == fence.offset else 0))
        if end <= done:
            return message.parts
        reached = done[1] if first == done[0] else 0
        if first >= done[0] and fence.part > reached:
            raise StorageError(
                f"{message.where}: found part {fence.part} of {fence.topic}[{fence.partition}]@{first}; "
                f"expected part {reached}: entries are missing; restore the topic from a replica or a backup"
            )
        skip = reached - fence.part if first == done[0] else 0
        if first <= done[0] < fence.offset:
            entry = message.entry()
            rows = kind_of(entry).source_rows(entry)
            before = fence.part if first == done[0] else 0
            skip = int((rows < done[0]).sum()) + min(int((rows == done[0]).sum()), done[1] - before)
        elif first < done[0]:  # the fence is at the last offset of the run
            skip = message.parts - message.of_last + done[1]
        via = None if fence.via is None else (fence.via[0], 0)
        self._applied[source] = Fence(fence.topic, fence.partition, *end, rejects=fence.rejects, via=via)
        return skip

    def to_bytes(self) -> bytes:
        """Encode as JSON. Equal fences give equal bytes."""
        return msgspec.json.encode([self._applied[source] for source in sorted(self._applied)])

    @classmethod
    def from_bytes(cls, content: bytes) -> Fences:
        """Decode the bytes that `to_bytes` returned. Raises msgspec.MsgspecError for other content."""
        return cls(msgspec.json.decode(content, type=tuple[Fence, ...]))


@dataclass(frozen=True)
class Message:
    """A message whose checksum is correct. Its entry is decoded on demand, so that skipping a message costs little."""

    fence: Fence | None
    count: int  # by how much the entry advances the offset of the fold
    parts: int  # the number of parts, which `Fences.take` counts
    kind: int
    payload: bytes
    where: str
    of_last: int  # parts at the fence's offset; all parts unless it is a run
    checksum: int = 0

    def entry(self, skip: int = 0) -> Entry | Rejects:
        """Decode the entry without its first `skip` parts. `skip` must be less than `parts`.

        Raises StorageError if the kind is unknown or the content is malformed.
        """
        try:
            entry = entry_of(self.kind, self.payload, _TABLES, self.where)
            if skip:
                entry = kind_of(entry).part(entry, skip, self.parts)
            return entry
        except (struct.error, msgspec.MsgspecError, pl.exceptions.PolarsError, pa.ArrowException, KeyError) as error:
            raise StorageError(
                f"{self.where}: found content of another shape ({error}); expected that of this version of weir: use "
                "the one that wrote it"
            ) from error


def messages_of(entry: Entry | Rejects, fence: Fence | None = None, limit_bytes: int = LIMIT_BYTES) -> list[bytes]:
    """Encode an entry as messages of at most `limit_bytes` each; none if it has no rows or commands.

    Parts are counted from that of `fence` on; in a run (`Fence.run`) they have the offsets of their rows. Usage and
    rejected records are cut between rows, commands between commands, a catalogue so that referenced entries come first.
    Corrections with their originals are not cut, because the effect of a correction depends on those before it (F6).
    Commands with a baseline are not cut either.

    Raises WorldError if something that cannot be cut exceeds a message, ValueError if a run has other content than
    usage or rejected records, or if its rows do not ascend.
    """
    if not kind_of(entry).parts(entry):
        return []
    name = b"" if fence is None else fence.name
    room = limit_bytes - _START - _HEAD.size - len(name)
    rows = None if fence is None or fence.first is None else _run_rows(entry, fence.offset)
    found, start = [], 0
    for kind, count, parts, payload in _pieces(entry, room):
        source = _source(fence, rows, start, parts)
        head = _HEAD.pack(kind, count, parts, *source, len(name)) + name
        start += parts
        checksum = zlib.crc32(payload, zlib.crc32(head))
        found.append(b"".join((MAGIC, _CHECKSUM.pack(checksum), head, payload)))
    return found


def _source(fence: Fence | None, rows: Ints | None, start: int, parts: int) -> tuple[int, int, int, int, int]:
    """Return partition, first and last offset, earlier parts of the first, and parts of the last offset.

    The values are those of the `parts` parts of an entry from `start` on.
    """
    if fence is None:
        return -1, -1, -1, start, parts
    if rows is None:
        return fence.partition, fence.offset, fence.offset, fence.part + start, parts
    own, first = rows[start : start + parts], int(rows[start])
    before = int((rows[:start] == first).sum()) + (fence.part if first == fence.offset else 0)
    return fence.partition, first, int(own[-1]), before, int((own == own[-1]).sum())


def read_message(content: bytes, where: str) -> Message:
    """Check a message made by `messages_of`. `where` names its topic, partition and offset in errors.

    Raises StorageError if it is damaged, is not a journal message, or has a layout unknown to this version.
    """
    if content[: len(MAGIC) - 1] != MAGIC[:-1]:
        raise StorageError(
            f"{where}: found a message that begins with {content[: len(MAGIC)]!r}; expected {MAGIC!r}, an entry of "
            "the journal: let nothing else write to this topic, and name another in the configuration if this is none"
        )
    if content[: len(MAGIC)] != MAGIC:
        found, known = content[len(MAGIC) - 1 : len(MAGIC)].hex() or "nothing", MAGIC[-1]
        raise StorageError(
            f"{where}: found layout {found}; this version of weir knows {known:02x}: upgrade the workers that read "
            "before those that write, or use the version that wrote it"
        )
    if len(content) < _START + _HEAD.size:
        raise _damaged(where, f"cut off at byte {len(content)}")
    (checksum,) = _CHECKSUM.unpack_from(content, len(MAGIC))
    if zlib.crc32(memoryview(content)[_START:]) != checksum:
        raise _damaged(where, "it does not fit its checksum")
    kind, count, parts, partition, first, offset, part, of_last, name_bytes = _HEAD.unpack_from(content, _START)
    at = _START + _HEAD.size + name_bytes
    topic, _, origin = content[_START + _HEAD.size : at].decode().partition("\0")
    fence = None
    if topic:
        via = (int(origin.split()[0]), int(origin.split()[1])) if origin else None
        fence = Fence(topic, partition, offset, part, None if first == offset else first, kind == REJECTS, via)
    return Message(fence, count, parts, kind, content[at:], where, of_last, checksum)


def checksum_of(content: bytes) -> int | None:
    """Return the checksum that a message says of itself, unchecked; None if it is no message of the journal."""
    if content[: len(MAGIC)] != MAGIC or len(content) < _START:
        return None
    return int(_CHECKSUM.unpack_from(content, len(MAGIC))[0])


def _pieces(entry: Entry | Rejects, room: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (kind, count, parts, payload) of an entry, cut into as few pieces of similar size as fit."""
    kind, parts = kind_of(entry), kind_of(entry).parts(entry)
    number, payload = payload_of(entry, _TABLES)
    if len(payload) <= room:
        yield number, entry.count, parts, payload
        return
    if parts < 2 or room < 1 or not kind.can_be_cut(entry):
        raise WorldError(
            f"{kind.described(entry)} takes {len(payload):,} bytes; expected at most {room:,}, what is left of the "
            "largest message: split it if it has several parts, or raise the limit of messages "
            "together with max.message.bytes of the topic"
        )
    pieces = min(parts, max(2, -int(-len(payload) // (_FILL * room))))
    for start, stop in pairwise(parts * piece // pieces for piece in range(pieces + 1)):
        yield from _pieces(kind.part(entry, start, stop), room)


def _run_rows(entry: Entry | Rejects, after: int) -> Ints:
    rows: Ints = kind_of(entry).source_rows(entry)
    if rows[0] < max(after, 0) or (np.diff(rows) < 0).any():
        raise ValueError("the rows of a run must ascend by the offsets in source_row")
    return rows


def _to_ipc(table: pa.Table) -> bytes:
    table = table.combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_PACKED) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _from_ipc(content: bytes) -> pa.Table:
    with pa.ipc.open_stream(content) as stream:
        return stream.read_all()


_PACKED: Final = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_TABLES: Final = TableCodec(_to_ipc, _from_ipc)


def _damaged(where: str, how: str) -> StorageError:
    return StorageError(
        f"{where}: the journal is damaged: {how}; stop the workers and restore the topic from a replica or a backup"
    )
