"""Entries of the journal, and their content as bytes: the same bytes in files of the journal and in messages.

The caller says how tables are written (`Tables`), and keeps kind and count beside the payload.

An entry belongs to the thread that made it, because it has Polars frames. `written` makes of it an entry that any
thread may turn into bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import polars as pl
import pyarrow as pa

from pipeline.catalogue.wire import catalogue_from_bytes, catalogue_to_bytes
from rating.columnar.sharing import own_frame, shared_table
from rating.errors import StorageError
from schemas.cards import Catalogue
from schemas.commands import Command
from schemas.usage import USAGE_SCHEMA, UsageBatch

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
    rating.rules.totals.cycle_and_day has it; None where no rule needs it.
    """

    commands: tuple[Command, ...]
    at_us: int
    baseline: pl.DataFrame | None = None


@dataclass(frozen=True)
class Rejects:
    """What mediation refused: rows of schemas.tables.REJECTED.

    Only the journal of a topic holds them, so that they land once (F5). The fold knows nothing of them: they take no
    offset of it.
    """

    rows: pa.Table


Entry = Usage | Apply | Tick | Commands

_USAGE, _APPLY, _TICK, _COMMANDS = 1, 2, 3, 4
_NAMES: Final = {_USAGE: "usage", _APPLY: "catalogue", _TICK: "tick", _COMMANDS: "commands"}


@dataclass(frozen=True)
class Tables:
    """How tables are written as bytes and read back."""

    write: Callable[[pa.Table], bytes]
    read: Callable[[bytes], pa.Table]


class _BatchFacts(msgspec.Struct, forbid_unknown_fields=True):
    feed: str
    source: str
    received_at_us: int
    cumulative: bool


def count_of(entry: Entry) -> int:
    """By how much an entry advances the offset: usage and commands by one each, a catalogue and a tick by one."""
    if isinstance(entry, Usage):
        return entry.batch.rows.height
    return len(entry.commands) if isinstance(entry, Commands) else 1


@dataclass(frozen=True)
class Written:
    """An entry as bytes and Arrow tables alone, which any thread may read: `payload` encodes it.

    `words` is the part of the content that is not a table. `rows` and `originals` are the tables of usage; `rows` of
    commands is their baseline.
    """

    kind: int
    count: int
    words: bytes
    at_us: int = 0
    rows: pa.Table | None = None
    originals: pa.Table | None = None

    def payload(self, tables: Tables) -> bytes:
        """The content of the entry; the same bytes for the same entry if `tables` writes them so."""
        if self.kind in (_TICK, _APPLY):
            return _INSTANT.pack(self.at_us) + self.words
        rows = b"" if self.rows is None else tables.write(_plain(self.rows))
        if self.kind == _COMMANDS:
            return b"".join((_COMMAND_LENGTHS.pack(self.at_us, len(self.words), len(rows)), self.words, rows))
        originals = b"" if self.originals is None else tables.write(self.originals)
        lengths = _LENGTHS.pack(len(self.words), len(rows), len(originals))
        return b"".join((lengths, self.words, rows, originals))


def written(entry: Entry) -> Written:
    """The entry for any thread. Call it in the thread that made the entry; it copies no rows."""
    count = count_of(entry)
    if isinstance(entry, Tick):
        return Written(_TICK, count, b"", entry.now_us)
    if isinstance(entry, Apply):
        at_us = _NEVER if entry.at_us is None else entry.at_us
        return Written(_APPLY, count, catalogue_to_bytes(entry.catalogue), at_us)
    if isinstance(entry, Commands):
        baseline = None if entry.baseline is None else shared_table(entry.baseline)
        return Written(_COMMANDS, count, msgspec.json.encode(entry.commands), entry.at_us, baseline)
    batch = entry.batch
    facts = msgspec.json.encode(_BatchFacts(batch.feed, batch.source, batch.received_at_us, batch.cumulative))
    return Written(_USAGE, count, facts, rows=shared_table(batch.rows), originals=entry.originals)


def payload_of(entry: Entry, tables: Tables) -> tuple[int, bytes]:
    """The kind of an entry and its content; the same bytes for the same entry if `tables` writes them so."""
    whole = written(entry)
    return whole.kind, whole.payload(tables)


def entry_of(kind: int, payload: bytes, tables: Tables, where: str) -> Entry:
    """The entry that `payload_of` wrote, for the calling thread. `where` names the file or message in errors.

    Raises StorageError for a kind that this version does not know, or where a catalogue is damaged; a payload that
    was checked against its checksum has no other fault.
    """
    if kind == _TICK:
        return Tick(*_INSTANT.unpack(payload))
    if kind == _APPLY:
        (at_us,) = _INSTANT.unpack_from(payload)
        return Apply(catalogue_from_bytes(payload[_INSTANT.size :]), None if at_us == _NEVER else at_us)
    if kind == _COMMANDS:
        return _commands(payload, tables)
    if kind != _USAGE:
        known = ", ".join(f"{number} ({name})" for number, name in _NAMES.items())
        raise StorageError(
            f"{where}: entry of kind {kind}, this version of weir knows {known}; use the one that wrote it"
        )
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
    batch = UsageBatch(facts.feed, facts.source, facts.received_at_us, facts.cumulative, rows)
    return Usage(batch, originals)


def _commands(payload: bytes, tables: Tables) -> Commands:
    at_us, words_bytes, held_bytes = _COMMAND_LENGTHS.unpack_from(payload)
    at = _COMMAND_LENGTHS.size
    commands = msgspec.json.decode(payload[at : at + words_bytes], type=tuple[Command, ...])
    at += words_bytes
    baseline = own_frame(tables.read(payload[at : at + held_bytes])) if held_bytes else None
    return Commands(commands, at_us, baseline)


def _plain(table: pa.Table) -> pa.Table:
    """The table with text as offsets and bytes, as every reader of Arrow knows it, and not as views."""
    return table.cast(pa.schema([(field.name, _plain_type(field.type)) for field in table.schema]))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_type(kind.value_type))
    return kind
