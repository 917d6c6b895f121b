"""Checkpoints of the state of a partition, stored as segments in a compacted topic. Recovery begins from a checkpoint.

    <partition>/base/<journal offset>                      manifest: the segments of the checkpoint (JSON)
    <partition>/seg/<name>/<journal offset>/<place>-<digest>   segment: rows of a table as Arrow IPC, or the facts

Keys are content-addressed: any writer, however late, writes identical bytes under a key. So a zombie producer, one that
has lost its partition, cannot corrupt a checkpoint.

Checkpoints are incremental. Tables are cut at fixed row numbers, and a segment is not written again if the previous
checkpoint has one with the same bytes. Cards and their histories are not even compared while their generation is the
same. Each run of seen keys is written once; runs are merged as in a data directory (pipeline.store.seen_files).

The previous checkpoint stays until the next one is complete, so recovery can use it if the newest one is damaged.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.journal.messages import LIMIT_BYTES, Fence, Fences
from pipeline.store.seen_files import planned
from pipeline.streaming.rate.fold import PartitionFold
from rating.dedupe.runs import joined
from rating.dedupe.seen import DIGESTS, UNNAMED_DIGESTS, Columns, Run, Seen, require_digests, run_of
from rating.errors import StorageError, WorldError
from rating.queried_state import HISTORIES, STEADY
from rating.state import State

FORMAT: Final = 1
_FACTS: Final = "facts"
_SEEN: Final = "seen"
_ROWS: Final = 1 << 14  # rows of a table in one segment; halved while they exceed a message
_KEYS: Final = 1 << 15  # keys of a run in one segment
_FACTS_BYTES: Final = 800_000
_PACKED: Final = pa.ipc.IpcWriteOptions(compression="lz4")


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """A segment that a manifest refers to: its key, and its size in bytes."""

    key: str
    size: int


class _Manifest(msgspec.Struct, frozen=True):
    format: int
    applied: int
    clock_us: int
    generation: int
    today: int  # the latest arrival day for which the seen keys were queried
    fences: tuple[Fence, ...]
    tables: dict[str, tuple[Segment, ...]]
    runs: tuple[tuple[Segment, ...], ...]
    digests: str = UNNAMED_DIGESTS  # of the seen keys
    checksum: int | None = None  # of the last applied message, by which its log is recognised

    def segments(self) -> Iterator[Segment]:
        for segments in (*self.tables.values(), *self.runs):
            yield from segments


class _Format(msgspec.Struct):
    format: int


@dataclass(frozen=True)
class Kept:
    """A complete, durable checkpoint, with what the next checkpoint needs to know about it.

    `runs` are the runs of seen keys with their segments. `merged` lists source runs with the run that replaced them.
    `older` are the keys of earlier checkpoints that are still in the topic.
    """

    key: bytes
    manifest: _Manifest
    runs: tuple[tuple[Run, tuple[Segment, ...]], ...]
    merged: tuple[tuple[tuple[Run, ...], Run], ...] = ()
    older: frozenset[bytes] = frozenset()

    @property
    def size_bytes(self) -> int:
        """Total size of the segments, in bytes."""
        return sum(segment.size for segment in self.manifest.segments())

    def keys(self) -> frozenset[bytes]:
        """Return the key of the manifest and of each of its segments."""
        return frozenset([self.key, *(segment.key.encode() for segment in self.manifest.segments())])


class Restored(NamedTuple):
    """The state of a checkpoint, and the checkpoint itself for the next `draft`."""

    fold: PartitionFold
    kept: Kept


@dataclass
class Draft:
    """A checkpoint being written. It is a frozen copy: the fold may continue meanwhile."""

    partition: int
    applied: int
    clock_us: int
    generation: int
    today: int
    fences: Fences
    facts: bytes
    tables: dict[str, pa.Table]
    steady: dict[str, pl.DataFrame]
    groups: list[list[Run]]
    checksum: int | None
    former: Kept | None
    _kept: Kept | None = field(default=None)

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the (key, value) messages to write, the manifest last. Call it in the thread that made the draft.

        Raises WorldError if the manifest is larger than a message.
        """
        had = {} if self.former is None else {one.key: one for one in self.former.manifest.segments()}
        by_content = {_content_of(key): one for key, one in had.items()}
        tables: dict[str, tuple[Segment, ...]] = {}
        for name, contents in self._contents():
            found = []
            for place, content in enumerate(contents):
                written = self._segment(name, place, content)
                known = by_content.get(_content_of(written.key))
                found.append(written if known is None else known)
                if known is None:
                    yield written.key.encode(), content
            tables[name] = tuple(found)
        if self.former is not None:
            former = self.former.manifest.tables
            tables = {name: former[name] for name in STEADY if name in former} | tables
        runs, merged = list[tuple[Run, tuple[Segment, ...]]](), list[tuple[tuple[Run, ...], Run]]()
        written_before = {} if self.former is None else {id(run): segments for run, segments in self.former.runs}
        place = 0
        for group in self.groups:
            if len(group) == 1 and id(group[0]) in written_before:
                runs.append((group[0], written_before[id(group[0])]))
                continue
            run = group[0] if len(group) == 1 else run_of(joined([one.columns for one in group]))
            if len(group) > 1:
                merged.append((tuple(group), run))
            found = []
            for content in _run_contents(run.columns):
                found.append(self._segment(_SEEN, place, content))
                yield found[-1].key.encode(), content
                place += 1
            runs.append((run, tuple(found)))
        manifest = _Manifest(
            FORMAT,
            self.applied,
            self.clock_us,
            self.generation,
            self.today,
            msgspec.json.decode(self.fences.to_bytes(), type=tuple[Fence, ...]),
            tables,
            tuple(segments for _, segments in runs),
            DIGESTS,
            self.checksum,
        )
        content = msgspec.json.encode(manifest)
        if len(content) > LIMIT_BYTES:
            raise WorldError(
                f"partition {self.partition}: the manifest of a base takes {len(content):,} bytes; expected at most "
                f"{LIMIT_BYTES:,}: make a new journal of more partitions"
            )
        key = _base_key(self.partition, self.applied)
        older = frozenset() if self.former is None else self.former.keys()
        self._kept = Kept(key, manifest, tuple(runs), tuple(merged), older)
        yield key, content

    @property
    def kept(self) -> Kept:
        """This checkpoint for the next `draft`, once its manifest is acknowledged.

        Raises ValueError if `messages` has not been consumed.
        """
        if self._kept is None:
            raise ValueError("the messages of the base have not been made")
        return self._kept

    def obsolete(self) -> list[bytes]:
        """Return the keys to delete once the manifest is acknowledged.

        These belong to checkpoints before the previous one, and neither the previous nor this checkpoint uses them.
        """
        if self.former is None:
            return []
        return sorted(self.former.older - self.former.keys() - self.kept.keys())

    def _contents(self) -> Iterator[tuple[str, Iterable[bytes]]]:
        """Yield the segment contents of each table by name; steady tables only if they have changed."""
        facts = self.facts
        yield _FACTS, (facts[at : at + _FACTS_BYTES] for at in range(0, len(facts), _FACTS_BYTES))
        for name, frame in self.steady.items():
            yield name, _table_contents(frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
        for name, table in self.tables.items():
            yield name, _table_contents(table)

    def _segment(self, name: str, place: int, content: bytes) -> Segment:
        digest = hashlib.blake2b(content, digest_size=12).hexdigest()
        return Segment(f"{self.partition}/seg/{name}/{self.applied:020}/{place:05}-{digest}", len(content))


def draft(fold: PartitionFold, former: Kept | None) -> Draft:
    """Copy the parts of the state that the fold can change. Call it between two steps.

    Expired counters, sessions and seen keys are dropped first (F4, T5). `former` is the previous durable checkpoint
    (`Draft.kept`, or `kept` of `restore`), or None if there is none.
    """
    fold.expire()
    state = fold.engine.state
    runs = _with_merged(state.seen.runs, former)
    recent = state.seen.seal()
    if len(recent):
        runs.append(run_of(recent))
    state.seen.replace_runs(runs)
    state.addon_used = fold.engine.compiled.addons.usage()
    catalogue = state.catalogue
    nothing = catalogue.cards.clear()
    # Leave out tables that never change in place: keeping a reference to them costs nothing.
    histories = {name: getattr(state, name) for name in HISTORIES}
    empty = {name: frame.clear() for name, frame in histories.items()}
    lean = replace(state, catalogue=replace(catalogue, cards=nothing), **empty)
    facts, tables = lean.snapshot()
    changed = former is None or former.manifest.generation != state.generation
    steady = {"cards": catalogue.cards, **histories}
    return Draft(
        fold.partition,
        fold.applied,
        state.clock_us,
        state.generation,
        state.seen.today,
        Fences.from_bytes(fold.fences.to_bytes()),
        facts,
        {name: _copied(table) for name, table in tables.items() if name not in STEADY},
        steady if changed else {},
        planned([[run] for run in runs]),
        fold.checksum,
        former,
    )


def restore(partition: int, items: Mapping[bytes, bytes]) -> Restored | None:
    """Restore the newest complete checkpoint among the items; None if there is none.

    Raises StorageError if a checkpoint has another format, or digests of another algorithm; the message says what to
    do.
    """
    prefix = f"{partition}/base/".encode()
    for key in sorted((key for key in items if key.startswith(prefix)), reverse=True):
        manifest = _read_manifest(items[key], key)
        if manifest is not None and all(_is_whole(segment, items) for segment in manifest.segments()):
            return _restored(partition, key, manifest, items)
    return None


def _restored(partition: int, key: bytes, manifest: _Manifest, items: Mapping[bytes, bytes]) -> Restored:
    def content(segment: Segment) -> bytes:
        return items[segment.key.encode()]

    try:
        facts = b"".join(content(segment) for segment in manifest.tables[_FACTS])
        tables = {
            name: _whole([_from_ipc(content(segment)) for segment in segments], name)
            for name, segments in manifest.tables.items()
            if name != _FACTS
        }
        runs = [
            (run_of(_columns([_from_ipc(content(segment)) for segment in segments])), segments)
            for segments in manifest.runs
        ]
        seen = Seen([run for run, _ in runs], manifest.today)
        state = State.restore(facts, tables, seen)
    except (ValueError, KeyError, msgspec.MsgspecError, pa.ArrowException) as error:
        raise StorageError(
            f"base {key.decode()}: found content of another shape ({error}); expected that of this version of weir: "
            "use the one that wrote it, or remove the bases of this partition so that its journal is folded again"
        ) from error
    at, fences = manifest.applied, Fences(manifest.fences)
    fold = PartitionFold(partition, state, applied=at, fences=fences, checksum=manifest.checksum)
    # Keys that are not newer and not part of this checkpoint: earlier checkpoints, and segments of an unfinished one.
    mine, end = f"{partition}/".encode(), _made_at(key)
    kept = Kept(key, manifest, tuple(runs))
    older = frozenset(one for one in items if one.startswith(mine) and _made_at(one) <= end) - kept.keys()
    return Restored(fold, replace(kept, older=older))


def _with_merged(runs: Iterable[Run], former: Kept | None) -> list[Run]:
    """Return the runs, with source runs replaced by the merged run that the previous checkpoint wrote."""
    left = list(runs)
    for sources, run in () if former is None else former.merged:
        gone = {id(one) for one in sources}
        if gone <= {id(one) for one in left}:
            left = [one for one in left if id(one) not in gone] + [run]
    return left


def _read_manifest(content: bytes, key: bytes) -> _Manifest | None:
    """Return the manifest, or None if it cannot be decoded.

    Raises StorageError if this version of weir does not know its format or the algorithm of its digests.
    """
    try:
        found = msgspec.json.decode(content, type=_Format).format
        if found != FORMAT:
            raise ValueError(f"found format {found}; this version of weir knows {FORMAT}")
        manifest = msgspec.json.decode(content, type=_Manifest)
        require_digests(manifest.digests)
        return manifest
    except msgspec.MsgspecError:
        return None
    except ValueError as unknown:
        raise StorageError(
            f"base {key.decode()}: {unknown}: use the one that wrote it, or remove the bases of this partition so that "
            "its journal is folded again"
        ) from None


def _is_whole(segment: Segment, items: Mapping[bytes, bytes]) -> bool:
    content = items.get(segment.key.encode())
    if content is None or len(content) != segment.size:
        return False
    return hashlib.blake2b(content, digest_size=12).hexdigest() == segment.key.rsplit("-", 1)[-1]


def _base_key(partition: int, applied: int) -> bytes:
    return f"{partition}/base/{applied:020}".encode()


def _made_at(key: bytes) -> int:
    """Return the journal offset in a key."""
    fields = key.split(b"/")
    return int(fields[2 if fields[1] == b"base" else 3])


def _content_of(key: str) -> tuple[str, str]:
    """Return (name, digest) of a segment key, which identify the content of the segment."""
    fields = key.split("/")
    return fields[2], fields[-1].rsplit("-", 1)[-1]


def _copied(table: pa.Table) -> pa.Table:
    """Copy the integer columns of a table, because the state changes them in place."""
    columns = [
        pa.array(np.concatenate([chunk.to_numpy() for chunk in column.chunks]))
        if pa.types.is_integer(column.type) and len(column) and not column.null_count
        else column
        for column in table.itercolumns()
    ]
    return pa.table(columns, names=table.column_names)


def _table_contents(table: pa.Table) -> Iterator[bytes]:
    """Yield the segments of a table, cut at fixed row numbers; at least one."""
    table = table.combine_chunks()
    for at in range(0, max(1, len(table)), _ROWS):
        yield from _fitting(table.slice(at, _ROWS))


def _fitting(rows: pa.Table) -> Iterator[bytes]:
    content = _to_ipc(rows)
    if len(content) <= LIMIT_BYTES or len(rows) < 2:
        yield content
        return
    half = len(rows) // 2
    yield from _fitting(rows.slice(0, half))
    yield from _fitting(rows.slice(half))


def _run_contents(columns: Columns) -> Iterator[bytes]:
    """Yield the segments of a run, with columns lo, hi, content and day."""
    for at in range(0, len(columns), _KEYS):
        part = columns.take(slice(at, at + _KEYS))
        yield _to_ipc(pa.table({"lo": part.lo, "hi": part.hi, "content": part.content, "day": part.day}))


def _columns(tables: list[pa.Table]) -> Columns:
    whole = pa.concat_tables(tables)
    return Columns(*(np.array(whole[name].to_numpy()) for name in ("lo", "hi", "content", "day")))


def _whole(parts: list[pa.Table], name: str) -> pa.Table:
    """Concatenate the parts.

    The steady tables, which are the largest, stay chunked: their reader rechunks them itself.
    """
    table = pa.concat_tables(parts)
    return table if name in STEADY else table.unify_dictionaries().combine_chunks()


def _to_ipc(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=_PACKED) as stream:
        stream.write_table(table)
    return sink.getvalue()


def _from_ipc(content: bytes) -> pa.Table:
    with pa.ipc.open_stream(content) as stream:
        return stream.read_all()
