"""The kinds of journal entries: how each is encoded, cut and described. Shared by journal files and messages.

There is one class for each kind, a subclass of `Kind`. The caller chooses how tables are encoded (`Tables`), and stores
kind and count beside the payload.

An entry belongs to the thread that made it, because it has Polars frames. `written` converts it to a form that any
thread may encode.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalogue.wire import catalogue_from_bytes, catalogue_to_bytes
from rating.columnar.key_index import Ints
from rating.columnar.sharing import own_frame, shared_table
from rating.entries import Apply, Commands, Entry, Tick, Usage
from rating.errors import StorageError
from schemas.cards import Catalogue
from schemas.commands import Command
from schemas.tables import REJECTED
from schemas.usage import USAGE_SCHEMA, UsageBatch

__all__ = [
    "REJECTS", "Apply", "Commands", "Entry", "Kind", "Rejects", "TableCodec", "Tick", "Usage", "Written", "entry_of",
    "has_baseline", "kind_number", "kind_of", "payload_of", "written",
]  # fmt: skip

_LENGTHS = struct.Struct("<III")  # length of the facts, of the usage rows, of the originals
_COMMAND_LENGTHS = struct.Struct("<qIQ")  # arrival time; length of the commands, of the baseline
_INSTANT = struct.Struct("<q")
_NEVER = -(1 << 63)  # encodes a catalogue without an arrival time
# In order of dependency, so that a part of a catalogue refers only to entries in itself or in earlier parts.
_SECTIONS: Final = ("accounts", "zones", "plans", "pools", "cards", "addons", "rules")


@dataclass(frozen=True)
class Rejects:
    """Records that mediation rejected: rows of schemas.tables.REJECTED.

    Only a journal topic contains these entries, so that they land once (F5). The fold ignores them: they take none of
    its offsets.
    """

    rows: pa.Table

    @property
    def count(self) -> int:
        """By how much the entry advances the offset: not at all."""
        return 0

    @property
    def at_us(self) -> int | None:
        """Latest arrival time in microseconds since 1970 UTC; None if there are no rows."""
        latest = pc.max(self.rows["received_at"].cast(pa.int64())).as_py()
        return None if latest is None else int(latest)


@dataclass(frozen=True)
class TableCodec:
    """The encoding of tables: how to write them as bytes and read them back."""

    write: Callable[[pa.Table], bytes]
    read: Callable[[bytes], pa.Table]


@dataclass(frozen=True)
class Written:
    """An entry as bytes and Arrow tables only, which any thread may read and encode.

    `words` is the part of the content that is not a table. `rows` and `originals` are the tables of usage. For
    commands, `rows` is the baseline.
    """

    kind: int
    count: int
    words: bytes
    at_us: int = 0
    rows: pa.Table | None = None
    originals: pa.Table | None = None

    def payload(self, tables: TableCodec) -> bytes:
        """Encode the content of the entry. The same entry gives the same bytes if `tables` does so."""
        return _BY_NUMBER[self.kind].payload(self, tables)


_Entry = TypeVar("_Entry", Usage, Apply, Tick, Commands, Rejects)


class Kind(ABC, Generic[_Entry]):
    """One kind of journal entry.

    The parts of an entry are what it can be cut into: records, commands, rejected records or catalogue entries.
    """

    number: ClassVar[int]  # in files and messages; never changed and never used again
    name: ClassVar[str]

    @abstractmethod
    def written(self, entry: _Entry) -> Written:
        """Convert an entry for use in any thread. Called in the thread that made the entry."""

    @abstractmethod
    def payload(self, entry: Written, tables: TableCodec) -> bytes:
        """Encode the content of an entry of this kind."""

    @abstractmethod
    def decode(self, payload: bytes, tables: TableCodec) -> _Entry:
        """Decode what `payload` encoded, for the calling thread."""

    def parts(self, entry: _Entry) -> int:
        """Return the number of parts."""
        return entry.count

    def can_be_cut(self, entry: _Entry) -> bool:
        """Return True if parts of the entry have the effect of the whole."""
        return True

    @abstractmethod
    def part(self, entry: _Entry, start: int, stop: int) -> _Entry:
        """Return the parts from `start` to before `stop`, as an entry."""

    @abstractmethod
    def described(self, entry: _Entry) -> str:
        """Return what the entry is, as the subject of an error message."""

    def source_rows(self, entry: _Entry) -> Ints:
        """Return int64[n], the source offset of each row of a run. Raises ValueError if the entry has no rows."""
        raise ValueError("only usage and rejects come in runs of single records")


class _BatchFacts(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    feed: str
    source: str
    received_at_us: int
    cumulative: bool
    counter_bits: int = 0
    labels: tuple[tuple[str, str], ...] = ()


class _UsageKind(Kind[Usage]):
    number, name = 1, "usage"

    def written(self, entry: Usage) -> Written:
        batch = entry.batch
        shared = {name: getattr(batch, name) for name in _BatchFacts.__struct_fields__}
        facts = msgspec.json.encode(_BatchFacts(**shared))
        rows = shared_table(batch.rows)
        return Written(self.number, entry.count, facts, rows=rows, originals=entry.originals)

    def payload(self, entry: Written, tables: TableCodec) -> bytes:
        rows = b"" if entry.rows is None else tables.write(_plain(entry.rows))
        originals = b"" if entry.originals is None else tables.write(entry.originals)
        lengths = _LENGTHS.pack(len(entry.words), len(rows), len(originals))
        return b"".join((lengths, entry.words, rows, originals))

    def decode(self, payload: bytes, tables: TableCodec) -> Usage:
        facts_bytes, rows_bytes, originals_bytes = _LENGTHS.unpack_from(payload)
        at = _LENGTHS.size
        facts = msgspec.json.decode(payload[at : at + facts_bytes], type=_BatchFacts)
        at += facts_bytes
        rows = own_frame(tables.read(payload[at : at + rows_bytes]))
        rows = rows.with_columns(pl.col(name).cast(USAGE_SCHEMA[name]) for name in rows.columns)
        at += rows_bytes
        originals = tables.read(payload[at : at + originals_bytes]) if originals_bytes else None
        if originals is not None:
            originals = originals.cast(pa.schema([field.with_nullable(True) for field in originals.schema]))
        batch = UsageBatch(rows=rows, **msgspec.structs.asdict(facts))
        return Usage(batch, originals)

    def can_be_cut(self, entry: Usage) -> bool:
        return entry.originals is None

    def part(self, entry: Usage, start: int, stop: int) -> Usage:
        return replace(entry, batch=replace(entry.batch, rows=entry.batch.rows[start:stop]))

    def described(self, entry: Usage) -> str:
        batch = entry.batch
        rows = f"row {batch.rows['source_row'][0]} of {batch.source} (feed {batch.feed})"
        return rows if entry.originals is None else f"{batch.rows.height} corrections with what they undo, from {rows},"

    def source_rows(self, entry: Usage) -> Ints:
        return np.asarray(entry.batch.rows["source_row"].to_numpy(), np.int64)


class _ApplyKind(Kind[Apply]):
    number, name = 2, "catalogue"

    def written(self, entry: Apply) -> Written:
        at_us = _NEVER if entry.at_us is None else entry.at_us
        return Written(self.number, entry.count, catalogue_to_bytes(entry.catalogue), at_us)

    def payload(self, entry: Written, tables: TableCodec) -> bytes:
        return _INSTANT.pack(entry.at_us) + entry.words

    def decode(self, payload: bytes, tables: TableCodec) -> Apply:
        (at_us,) = _INSTANT.unpack_from(payload)
        return Apply(catalogue_from_bytes(payload[_INSTANT.size :]), None if at_us == _NEVER else at_us)

    def parts(self, entry: Apply) -> int:
        # An empty catalogue has one part too, because it takes an offset.
        return max(1, sum(len(getattr(entry.catalogue, name)) for name in _SECTIONS))

    def part(self, entry: Apply, start: int, stop: int) -> Apply:
        sections = {}
        for name in _SECTIONS:
            section = getattr(entry.catalogue, name)
            sections[name] = section[max(start, 0) : max(stop, 0)]
            start, stop = start - len(section), stop - len(section)
        return Apply(Catalogue(**sections), entry.at_us)

    def described(self, entry: Apply) -> str:
        return "an entry of the catalogue"


class _TickKind(Kind[Tick]):
    number, name = 3, "tick"

    def written(self, entry: Tick) -> Written:
        return Written(self.number, entry.count, b"", entry.now_us)

    def payload(self, entry: Written, tables: TableCodec) -> bytes:
        return _INSTANT.pack(entry.at_us)

    def decode(self, payload: bytes, tables: TableCodec) -> Tick:
        return Tick(*_INSTANT.unpack(payload))

    def can_be_cut(self, entry: Tick) -> bool:
        return False

    def part(self, entry: Tick, start: int, stop: int) -> Tick:
        raise ValueError("a tick has one part only")

    def described(self, entry: Tick) -> str:
        return "a tick"


class _CommandsKind(Kind[Commands]):
    number, name = 4, "commands"

    def written(self, entry: Commands) -> Written:
        baseline = None if entry.baseline is None else shared_table(entry.baseline)
        return Written(self.number, entry.count, msgspec.json.encode(entry.commands), entry.at_us, baseline)

    def payload(self, entry: Written, tables: TableCodec) -> bytes:
        baseline = b"" if entry.rows is None else tables.write(_plain(entry.rows))
        lengths = _COMMAND_LENGTHS.pack(entry.at_us, len(entry.words), len(baseline))
        return b"".join((lengths, entry.words, baseline))

    def decode(self, payload: bytes, tables: TableCodec) -> Commands:
        at_us, words_bytes, baseline_bytes = _COMMAND_LENGTHS.unpack_from(payload)
        at = _COMMAND_LENGTHS.size
        commands = msgspec.json.decode(payload[at : at + words_bytes], type=tuple[Command, ...])
        at += words_bytes
        baseline = own_frame(tables.read(payload[at : at + baseline_bytes])) if baseline_bytes else None
        return Commands(commands, at_us, baseline)

    def can_be_cut(self, entry: Commands) -> bool:
        return entry.baseline is None

    def part(self, entry: Commands, start: int, stop: int) -> Commands:
        return replace(entry, commands=entry.commands[start:stop])

    def described(self, entry: Commands) -> str:
        return "a command" if entry.baseline is None else "a command that starts a rule with what the history says"


class _RejectsKind(Kind[Rejects]):
    number, name = 5, "rejects"

    def written(self, entry: Rejects) -> Written:
        return Written(self.number, entry.count, b"", rows=entry.rows)

    def payload(self, entry: Written, tables: TableCodec) -> bytes:
        assert entry.rows is not None
        return tables.write(entry.rows)

    def decode(self, payload: bytes, tables: TableCodec) -> Rejects:
        return Rejects(tables.read(payload).cast(REJECTED))

    def parts(self, entry: Rejects) -> int:
        return len(entry.rows)

    def part(self, entry: Rejects, start: int, stop: int) -> Rejects:
        return Rejects(entry.rows.slice(start, stop - start))

    def described(self, entry: Rejects) -> str:
        return f"the reject of row {entry.rows['source_row'][0]} of {entry.rows['source'][0]}"

    def source_rows(self, entry: Rejects) -> Ints:
        return np.asarray(entry.rows["source_row"].to_numpy(), np.int64)


_KINDS: Final[dict[type[Any], Kind[Any]]] = {
    Usage: _UsageKind(),
    Apply: _ApplyKind(),
    Tick: _TickKind(),
    Commands: _CommandsKind(),
    Rejects: _RejectsKind(),
}
REJECTS: Final = _RejectsKind.number
_BY_NUMBER: Final = {kind.number: kind for kind in _KINDS.values()}


def kind_of(entry: Entry | Rejects) -> Kind[Any]:
    """Return the kind of an entry."""
    return _KINDS[type(entry)]


def kind_number(kind: type[Entry | Rejects]) -> int:
    """Return the number of a kind of entry in files and messages."""
    return int(_KINDS[kind].number)


def has_baseline(kind: int, payload: bytes) -> bool:
    """Return whether an encoded entry is commands with a baseline, without decoding it.

    Raises struct.error if the payload is cut off.
    """
    return kind == _CommandsKind.number and _COMMAND_LENGTHS.unpack_from(payload)[2] > 0


def written(entry: Entry | Rejects) -> Written:
    """Convert an entry for use in any thread. Call it in the thread that made the entry; it copies no rows."""
    return kind_of(entry).written(entry)


def payload_of(entry: Entry | Rejects, tables: TableCodec) -> tuple[int, bytes]:
    """Return the kind and the encoded content of an entry. The same entry gives the same bytes if `tables` does so."""
    whole = written(entry)
    return whole.kind, whole.payload(tables)


def entry_of(kind: int, payload: bytes, tables: TableCodec, where: str) -> Entry | Rejects:
    """Decode an entry that `payload_of` encoded, for the calling thread. `where` names the file or message in errors.

    Raises StorageError for an unknown kind or a damaged catalogue. The caller has checked the payload's checksum, so
    other content is assumed to be valid.
    """
    if kind not in _BY_NUMBER:
        known = ", ".join(f"{number} ({one.name})" for number, one in sorted(_BY_NUMBER.items()))
        raise StorageError(
            f"{where}: entry of kind {kind}, this version of weir knows {known}; use the one that wrote it"
        )
    entry: Entry | Rejects = _BY_NUMBER[kind].decode(payload, tables)
    return entry


def _plain(table: pa.Table) -> pa.Table:
    """Return the table with text as offsets and bytes, because not every Arrow reader supports string views."""
    return table.cast(pa.schema([(field.name, _plain_type(field.type)) for field in table.schema]))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_type(kind.value_type))
    return kind
