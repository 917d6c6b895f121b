"""The append-only journal: everything that can change a number, in one order.

An entry is a batch of usage, a catalogue, a tick of the clock or a list of commands. Offsets count usage records and
commands; a catalogue and a tick count as one each. Entries are stored in segments, files of the checkpoint that made
them durable. The manifest records `first_offset` and `next_offset` of each segment.

A segment is a magic, then frames: a header (kind, checksum, offset, count, length) and a payload. Usage is stored as
delta-encoded Parquet, which is half the size of compressed Arrow IPC and faster to write and to read.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.journal.entries import (
    Apply,
    Commands,
    Entry,
    Rejects,
    TableCodec,
    Tick,
    Usage,
    Written,
    entry_of,
    written,
)
from pipeline.store.background import Background
from pipeline.store.directory import Checkpoint, DataDirectory, storage_errors
from rating.errors import StorageError

__all__ = ["Apply", "Commands", "Entry", "Journal", "Tick", "Usage", "encode", "end_offset", "read"]

GROUP = "journal"
SEGMENT_BYTES = 64 << 20

_MAGIC = b"WJNL\x02"  # the last byte is the version of this layout
_FORMER = (b"WJNL\x01",)
_FRAME = struct.Struct("<BxxxIQQQ")  # kind, CRC-32 of all that follows, offset, count, payload bytes
_PLACE = struct.Struct("<QQQ")


def encode(entry: Written, offset: int) -> bytes:
    """Encode an entry as a frame. The same entry gives the same bytes. May be called from any thread."""
    payload, count = entry.payload(_TABLES), entry.count
    return _FRAME.pack(entry.kind, _checksum(offset, count, payload), offset, count, len(payload)) + payload


def _checksum(offset: int, count: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_PLACE.pack(offset, count, len(payload))))


# Columns whose words repeat within a batch; other text differs from row to row.
_WORDS = ("service", "direction", "record_type", "plmn", "country", "zone", "rat", "apn")


def _parquet(table: pa.Table) -> bytes:
    # A column declared non-null is faster to write.
    schema = pa.schema(
        [field.with_nullable(column.null_count > 0) for field, column in zip(table.schema, table.columns, strict=True)]
    )
    table = pa.table(table.columns, schema=schema)
    packed = [field.name for field in schema if field.type == pa.int64() or pa.types.is_timestamp(field.type)]
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        use_dictionary=[field.name for field in schema if field.name in _WORDS or pa.types.is_dictionary(field.type)],
        column_encoding=dict.fromkeys(packed, "DELTA_BINARY_PACKED"),
        compression={name: "none" if name in packed else "lz4" for name in table.column_names},
        write_statistics=False,
    )
    return sink.getvalue()


def _from_parquet(content: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(content))


_TABLES = TableCodec(_parquet, _from_parquet)


class Journal:
    """Appends entries to the segments of one checkpoint. Encodes and writes in the background thread.

    `offset` is the end of the journal, where the next entry begins.
    """

    def __init__(
        self, checkpoint: Checkpoint, background: Background, offset: int, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.offset = offset
        self._checkpoint = checkpoint
        self._background = background
        self._segment_bytes = segment_bytes
        self._frames: list[bytes] = []
        self._bytes = 0
        self._first_offset = offset
        self._parts = 0

    def append(self, entry: Entry) -> int:
        """Append an entry and return its offset. An empty batch adds nothing. Durable once the checkpoint is committed.

        Raises StorageError if an earlier entry could not be written.
        """
        offset, shared = self.offset, written(entry)
        if shared.count:
            self._background.submit(lambda: self._write(shared, offset))
            self.offset = offset + shared.count
        return offset

    def flush(self) -> None:
        """Stage all entries appended so far, in the background."""
        end = self.offset
        self._background.submit(lambda: self._stage(end))

    def finish(self) -> None:
        """Wait until all entries are staged. Then the checkpoint can be committed."""
        self.flush()
        self._background.finish()

    def _write(self, entry: Written, offset: int) -> None:
        frame = encode(entry, offset)
        self._frames.append(frame)
        self._bytes += len(frame)
        if self._bytes >= self._segment_bytes:
            self._stage(offset + entry.count)

    def _stage(self, next_offset: int) -> None:
        if not self._frames:
            return
        frames, self._frames, self._bytes = self._frames, [], 0

        def write(target: Path) -> None:
            with target.open("wb") as file:
                file.write(_MAGIC)
                file.writelines(frames)

        self._checkpoint.stage(
            GROUP,
            f"journal/{self._checkpoint.number:010}-{self._parts:03}.journal",
            write,
            rows=next_offset - self._first_offset,
            facts={"first_offset": self._first_offset, "next_offset": next_offset},
        )
        self._parts += 1
        self._first_offset = next_offset


def end_offset(directory: DataDirectory) -> int:
    """Return the end offset of the committed journal; 0 if it is empty."""
    return max((int(entry.facts["next_offset"]) for entry in directory.manifest.group(GROUP)), default=0)


def read(directory: DataDirectory, from_offset: int = 0) -> Iterator[tuple[int, Entry]]:
    """Yield the committed entries at and after an offset, with their offsets, in order.

    Raises StorageError if a segment is damaged, ValueError if `from_offset` is inside an entry.
    """
    for segment in directory.manifest.group(GROUP):
        if int(segment.facts["next_offset"]) <= from_offset:
            continue
        path = directory.locate(segment)
        with storage_errors(path, "read the journal"):
            content = path.read_bytes()
        for offset, count, kind, payload in _frames(content, path):
            if offset + count <= from_offset:
                continue
            if offset < from_offset:
                raise ValueError(f"offset {from_offset} lies inside the entry at {offset}")
            entry = entry_of(kind, payload, _TABLES, str(path))
            if isinstance(entry, Rejects):
                raise _damaged(path, "it has rejects, which only a journal topic has")
            yield offset, entry


def _frames(content: bytes, path: Path) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (offset, count, kind, payload) of each frame of a segment."""
    if content[: len(_MAGIC)] in _FORMER:
        found, known = content[len(_MAGIC) - 1], _MAGIC[-1]
        raise StorageError(f"{path}: layout {found}, this version of weir knows {known}; use the one that wrote it")
    if content[: len(_MAGIC)] != _MAGIC:
        raise _damaged(path, f"begins with {content[: len(_MAGIC)]!r}, expected {_MAGIC!r}")
    at = len(_MAGIC)
    while at < len(content):
        if len(content) - at < _FRAME.size:
            raise _damaged(path, f"cut off at byte {at}")
        kind, checksum, offset, count, size_bytes = _FRAME.unpack_from(content, at)
        at += _FRAME.size
        payload = content[at : at + size_bytes]
        if len(payload) != size_bytes or _checksum(offset, count, payload) != checksum:
            raise _damaged(path, "an entry does not fit its checksum")
        at += size_bytes
        yield offset, count, kind, payload


def _damaged(path: Path, how: str) -> StorageError:
    return StorageError(f"{path}: the journal is damaged: {how}; restore the data directory from a backup")
