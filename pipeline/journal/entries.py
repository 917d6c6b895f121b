"""Journal entries and their encoding, shared by journal files and messages.

The caller chooses how tables are encoded (`Tables`), and stores kind and count beside the payload.

An entry belongs to the thread that made it, because it has Polars frames. `written` converts it to a form that any
thread may encode.
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

_LENGTHS = struct.Struct("<III")  # length of the facts, of the usage rows, of the originals
_COMMAND_LENGTHS = struct.Struct("<qIQ")  # arrival time; length of the commands, of the baseline
_INSTANT = struct.Struct("<q")
_NEVER = -(1 << 63)  # encodes a catalogue without an arrival time


@dataclass(frozen=True)
class Usage:
    """A batch of usage. `originals` are the rated rows that its corrections undo (F6)."""

    batch: UsageBatch
    originals: pa.Table | None = None


@dataclass(frozen=True)
class Apply:
    """A catalogue in force from here on. It arrived at `at_us`; None means at the latest arrival before it."""

    catalogue: Catalogue
    at_us: int | None = None


@dataclass(frozen=True)
class Tick:
    """The clock, in microseconds since 1970 UTC."""

    now_us: int


@dataclass(frozen=True)
class Commands:
    """Commands that arrived at `at_us`.

    `baseline` has totals from the history, as in rating.rules.totals.cycle_and_day, if a rule started here is the first
    to use them; None if no rule needs them.
    """

    commands: tuple[Command, ...]
    at_us: int
    baseline: pl.DataFrame | None = None


@dataclass(frozen=True)
class Rejects:
    """Records that mediation rejected: rows of schemas.tables.REJECTED.

    Only a journal topic contains these entries, so that they land once (F5). The fold ignores them: they take none of
    its offsets.
    """

    rows: pa.Table


Entry = Usage | Apply | Tick | Commands

_USAGE, _APPLY, _TICK, _COMMANDS = 1, 2, 3, 4
_NAMES: Final = {_USAGE: "usage", _APPLY: "catalogue", _TICK: "tick", _COMMANDS: "commands"}


@dataclass(frozen=True)
class Tables:
    """The encoding of tables: how to write them as bytes and read them back."""

    write: Callable[[pa.Table], bytes]
    read: Callable[[bytes], pa.Table]


class _BatchFacts(msgspec.Struct, forbid_unknown_fields=True):
    feed: str
    source: str
    received_at_us: int
    cumulative: bool


def count_of(entry: Entry) -> int:
    """Return by how much an entry advances the offset: one for each record or command, one for other entries."""
    if isinstance(entry, Usage):
        return entry.batch.rows.height
    return len(entry.commands) if isinstance(entry, Commands) else 1


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

    def payload(self, tables: Tables) -> bytes:
        """Encode the content of the entry. The same entry gives the same bytes if `tables` does so."""
        if self.kind in (_TICK, _APPLY):
            return _INSTANT.pack(self.at_us) + self.words
        rows = b"" if self.rows is None else tables.write(_plain(self.rows))
        if self.kind == _COMMANDS:
            return b"".join((_COMMAND_LENGTHS.pack(self.at_us, len(self.words), len(rows)), self.words, rows))
        originals = b"" if self.originals is None else tables.write(self.originals)
        lengths = _LENGTHS.pack(len(self.words), len(rows), len(originals))
        return b"".join((lengths, self.words, rows, originals))


def written(entry: Entry) -> Written:
    """Convert an entry for use in any thread. Call it in the thread that made the entry; it copies no rows."""
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
    """Return the kind and the encoded content of an entry. The same entry gives the same bytes if `tables` does so."""
    whole = written(entry)
    return whole.kind, whole.payload(tables)


def entry_of(kind: int, payload: bytes, tables: Tables, where: str) -> Entry:
    """Decode an entry that `payload_of` encoded, for the calling thread. `where` names the file or message in errors.

    Raises StorageError for an unknown kind or a damaged catalogue. The caller has checked the payload's checksum, so
    other content is assumed to be valid.
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
