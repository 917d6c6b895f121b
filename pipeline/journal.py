"""The journal: everything that can change a number, in one order (append-only).

An entry is a batch of usage, a catalogue, a tick of the clock or a list of commands. Offsets count usage records and
commands; a catalogue and a tick count one each. Entries are kept in segments, files of the checkpoint that made them
durable; a segment's facts in the manifest are its `first_offset` and `next_offset`.

A segment is a magic, then frames: a header (kind, checksum, offset, count, length), then as many bytes. Usage is held
as Parquet: packed as differences it is half the size of compressed Arrow IPC, and quicker to write and to read.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.background import Background
from pipeline.catalogue.wire import catalogue_from_bytes, catalogue_to_bytes
from pipeline.datadir import Checkpoint, DataDirectory, storage_errors
from rating.errors import StorageError
from schemas.cards import Catalogue
from schemas.commands import Command
from schemas.usage import USAGE_SCHEMA, UsageBatch

GROUP = "journal"
SEGMENT_BYTES = 64 << 20

_MAGIC = b"WJNL\x02"  # the last byte is the version of this layout
_FORMER = (b"WJNL\x01",)
_FRAME = struct.Struct("<BxxxIQQQ")  # kind, CRC-32 of all that follows, offset, count, payload bytes
_PLACE = struct.Struct("<QQQ")
_LENGTHS = struct.Struct("<III")  # of the facts, the usage rows, the originals
_COMMAND_LENGTHS = struct.Struct("<qIQ")  # when they arrived; of the commands, the baseline
_INSTANT = struct.Struct("<q")
_NEVER = -(1 << 63)  # stands for a catalogue that came without a time


@dataclass(frozen=True)
class Usage:
    """A batch of usage; with `originals`, the rated rows that its corrections undo (F6)."""

    batch: UsageBatch
    originals: pa.Table | None = None


@dataclass(frozen=True)
class Apply:
    """A catalogue that holds from here on; it came at `at_us`, at the latest arrival before it where that is None."""

    catalogue: Catalogue
    at_us: int | None = None


@dataclass(frozen=True)
class Tick:
    """The clock, in microseconds since 1970 UTC."""

    now_us: int


@dataclass(frozen=True)
class Commands:
    """Commands that came at `at_us`.

    `baseline` is what the history says of totals that a rule among them is the first to look at, as
    rating.rules.totals has it; None where no rule needs it.
    """

    commands: tuple[Command, ...]
    at_us: int
    baseline: pl.DataFrame | None = None


Entry = Usage | Apply | Tick | Commands

_USAGE, _APPLY, _TICK, _COMMANDS = 1, 2, 3, 4
_NAMES = {_USAGE: "usage", _APPLY: "catalogue", _TICK: "tick", _COMMANDS: "commands"}


class _BatchFacts(msgspec.Struct, forbid_unknown_fields=True):
    feed: str
    source: str
    received_at_us: int
    cumulative: bool


def count_of(entry: Entry) -> int:
    """By how much an entry advances the offset."""
    if isinstance(entry, Usage):
        return entry.batch.rows.height
    return len(entry.commands) if isinstance(entry, Commands) else 1


def encode(entry: Entry, offset: int) -> bytes:
    """An entry as a frame, the same bytes for the same entry; may be called from any thread."""
    kind, payload = _payload(entry)
    count = count_of(entry)
    return _FRAME.pack(kind, _checksum(offset, count, payload), offset, count, len(payload)) + payload


def _checksum(offset: int, count: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_PLACE.pack(offset, count, len(payload))))


def _payload(entry: Entry) -> tuple[int, bytes]:
    if isinstance(entry, Tick):
        return _TICK, _INSTANT.pack(entry.now_us)
    if isinstance(entry, Apply):
        at_us = _NEVER if entry.at_us is None else entry.at_us
        return _APPLY, _INSTANT.pack(at_us) + catalogue_to_bytes(entry.catalogue)
    if isinstance(entry, Commands):
        words = msgspec.json.encode(entry.commands)
        held = b"" if entry.baseline is None else _parquet(entry.baseline.to_arrow(compat_level=_PLAIN_ARROW))
        return _COMMANDS, b"".join((_COMMAND_LENGTHS.pack(entry.at_us, len(words), len(held)), words, held))
    batch = entry.batch
    facts = msgspec.json.encode(_BatchFacts(batch.feed, batch.source, batch.received_at_us, batch.cumulative))
    rows = _parquet(batch.rows.to_arrow(compat_level=_PLAIN_ARROW))
    originals = b"" if entry.originals is None else _parquet(entry.originals)
    return _USAGE, b"".join((_LENGTHS.pack(len(facts), len(rows), len(originals)), facts, rows, originals))


_PLAIN_ARROW = pl.CompatLevel.oldest()
# Words that repeat within a batch; the other text differs from row to row.
_WORDS = ("service", "direction", "record_type", "plmn", "country", "zone", "rat", "apn")


def _parquet(table: pa.Table) -> bytes:
    # Said to be never null where it is not, a column is quicker to write.
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


class Journal:
    """Appends entries to the segments of one checkpoint, encoding and writing in the background thread.

    `offset` is where the journal ends, and the next entry begins.
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
        """Add an entry and return its offset; an empty batch adds nothing. Durable once the checkpoint is committed.

        The entry must not be changed afterwards. Raises StorageError where an earlier one could not be written.
        """
        offset, count = self.offset, count_of(entry)
        if count:
            self._background.submit(lambda: self._write(entry, offset, offset + count))
            self.offset = offset + count
        return offset

    def flush(self) -> None:
        """Have all entries appended so far staged, in the background."""
        end = self.offset
        self._background.submit(lambda: self._stage(end))

    def finish(self) -> None:
        """Wait until all entries are staged; then the checkpoint can be committed."""
        self.flush()
        self._background.finish()

    def _write(self, entry: Entry, offset: int, next_offset: int) -> None:
        frame = encode(entry, offset)
        self._frames.append(frame)
        self._bytes += len(frame)
        if self._bytes >= self._segment_bytes:
            self._stage(next_offset)

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
    """Where the committed journal ends; 0 where it is empty."""
    return max((int(entry.facts["next_offset"]) for entry in directory.manifest.group(GROUP)), default=0)


def read(directory: DataDirectory, from_offset: int = 0) -> Iterator[tuple[int, Entry]]:
    """The committed entries at and after an offset, with their offsets, in order.

    Raises StorageError where a segment is damaged, and ValueError where `from_offset` lies inside an entry.
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
            yield offset, _decode(kind, payload, path)


def _frames(content: bytes, path: Path) -> Iterator[tuple[int, int, int, bytes]]:
    """(offset, count, kind, payload) of each frame of a segment."""
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


def _decode(kind: int, payload: bytes, path: Path) -> Entry:
    if kind == _TICK:
        return Tick(*_INSTANT.unpack(payload))
    if kind == _APPLY:
        (at_us,) = _INSTANT.unpack_from(payload)
        return Apply(catalogue_from_bytes(payload[_INSTANT.size :]), None if at_us == _NEVER else at_us)
    if kind == _COMMANDS:
        return _commands(payload)
    if kind != _USAGE:
        known = ", ".join(f"{number} ({name})" for number, name in _NAMES.items())
        raise StorageError(
            f"{path}: entry of kind {kind}, this version of weir knows {known}; use the one that wrote it"
        )
    facts_bytes, rows_bytes, originals_bytes = _LENGTHS.unpack_from(payload)
    at = _LENGTHS.size
    facts = msgspec.json.decode(payload[at : at + facts_bytes], type=_BatchFacts)
    at += facts_bytes
    rows = pl.from_arrow(pq.read_table(io.BytesIO(payload[at : at + rows_bytes])))
    assert isinstance(rows, pl.DataFrame)
    rows = rows.with_columns(pl.col(name).cast(USAGE_SCHEMA[name]) for name in rows.columns)
    at += rows_bytes
    originals = pq.read_table(io.BytesIO(payload[at : at + originals_bytes])) if originals_bytes else None
    if originals is not None:
        originals = originals.cast(pa.schema([field.with_nullable(True) for field in originals.schema]))
    batch = UsageBatch(facts.feed, facts.source, facts.received_at_us, facts.cumulative, rows)
    return Usage(batch, originals)


def _commands(payload: bytes) -> Commands:
    at_us, words_bytes, held_bytes = _COMMAND_LENGTHS.unpack_from(payload)
    at = _COMMAND_LENGTHS.size
    commands = msgspec.json.decode(payload[at : at + words_bytes], type=tuple[Command, ...])
    at += words_bytes
    baseline = pl.from_arrow(pq.read_table(io.BytesIO(payload[at : at + held_bytes]))) if held_bytes else None
    assert baseline is None or isinstance(baseline, pl.DataFrame)
    return Commands(commands, at_us, baseline)


def _damaged(path: Path, how: str) -> StorageError:
    return StorageError(f"{path}: the journal is damaged: {how}; restore the data directory from a backup")
