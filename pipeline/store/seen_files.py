"""Seen keys on disk: the runs of rating/dedupe/seen.py as files of the checkpoint (F4).

A run file has a header, then the columns lo, hi and content, the Bloom filter, the fence (here: every FENCE_STEP-th
value of lo) and the arrival days, all little-endian. The columns stay on disk and are memory-mapped. Filter and fence,
about two bytes a key, are read into memory. docs/decisions/0020 says why, with measurements.

Each checkpoint adds a run with the keys since the last one. Four runs of similar size, whose keys expire at about the
same time, are merged into one, so the number of runs grows with the logarithm of the number of keys. Runs larger than
`MERGED_KEYS` are not merged, which bounds the time and memory of a merge.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

import numpy as np

from pipeline.store.directory import Checkpoint, DataDirectory, storage_errors
from pipeline.store.manifest import FileEntry
from rating.dedupe.bloom import enter, words_for
from rating.dedupe.runs import FENCE_STEP, SLICE_KEYS, slices_joined
from rating.dedupe.seen import DIGESTS, UNNAMED_DIGESTS, Columns, Run, Seen, require_digests
from rating.errors import StorageError

GROUP = "seen"
FAN_IN = 4
SMALLEST_KEYS = 1 << 14
MERGED_KEYS = 32 << 20
# All keys of a run are dropped together. A wider bucket means fewer runs, but keys stay on disk longer.
BUCKET_DAYS = 8

# Magic, keys, filter words, first and last arrival day, and the name of the digests in ASCII, filled up with zeros.
_HEADER = struct.Struct("<8sQQII8s")
_MAGIC = b"WSEEN\x00\x00\x01"  # the last byte is the version of this layout


@dataclass(frozen=True)
class _Layout:
    """The byte offsets of the sections of a run file."""

    keys: int
    words: int

    @property
    def lo(self) -> int:
        return _HEADER.size

    @property
    def hi(self) -> int:
        return self.lo + 8 * self.keys

    @property
    def content(self) -> int:
        return self.hi + 8 * self.keys

    @property
    def filter(self) -> int:
        return self.content + 8 * self.keys

    @property
    def fence(self) -> int:
        return self.filter + 8 * self.words

    @property
    def day(self) -> int:
        return self.fence + 8 * self.fences

    @property
    def fences(self) -> int:
        return -(-self.keys // FENCE_STEP)

    @property
    def size_bytes(self) -> int:
        return self.day + 2 * self.keys


@dataclass(frozen=True)
class _Source:
    """Keys that go into a run: those of a committed run, or those since the last checkpoint."""

    columns: Columns
    last_day: int
    run: Run | None = None
    pages: mmap.mmap | None = None


class _Keyed(Protocol):
    """Keys with their latest arrival day."""

    @property
    def columns(self) -> Columns:
        """The keys."""

    @property
    def last_day(self) -> int:
        """The latest day."""


Dated = TypeVar("Dated", bound=_Keyed)


class _Held(NamedTuple):
    """The file of a committed run, and its mapped pages."""

    entry: FileEntry
    pages: mmap.mmap


class SeenFiles:
    """The seen keys of a data directory. The fold looks keys up in `seen`.

    `today` is the latest arrival day (days since 1970 UTC) that the fold has reached. Raises StorageError if a run file
    cannot be read, is damaged, has changed since it was written, or has digests of an unknown algorithm.
    """

    def __init__(self, directory: DataDirectory, today: int = 0) -> None:
        self._held: dict[int, _Held] = {}
        runs = []
        for entry in directory.manifest.group(GROUP):
            run, pages = load_run(directory.check(entry))
            self._held[id(run)] = _Held(entry, pages)
            runs.append(run)
            today = max(today, run.last_day)
        self.seen = Seen(runs, today)

    def save(self, checkpoint: Checkpoint) -> None:
        """Stage the keys since the last checkpoint, and merge and drop runs. Afterwards `seen` uses the new runs.

        If the checkpoint is not committed afterwards, this object must not be used any more.
        """
        seen = self.seen
        sources = []
        for run in seen.runs:
            held = self._held[id(run)]
            # Release the pages that lookups touched; otherwise the whole file would end up in memory.
            held.pages.madvise(mmap.MADV_DONTNEED)
            if seen.expired(run):
                checkpoint.retire(held.entry)
            else:
                sources.append([_Source(run.columns, run.last_day, run, held.pages)])
        recent = seen.seal()
        if len(recent):
            sources.append([_Source(recent, int(recent.day.max()))])
        runs, held_now = [], {}
        for part, group in enumerate(planned(sources)):
            run, held = self._kept_or_written(checkpoint, group, part)
            runs.append(run)
            held_now[id(run)] = held
        self._held = held_now
        seen.replace_runs(runs)

    def _kept_or_written(self, checkpoint: Checkpoint, group: list[_Source], part: int) -> tuple[Run, _Held]:
        if len(group) == 1 and group[0].run is not None:
            return group[0].run, self._held[id(group[0].run)]
        for source in group:
            if source.run is not None:
                checkpoint.retire(self._held[id(source.run)].entry)
        written: list[Run] = []

        def write(target: Path) -> None:
            with target.open("wb") as file:
                pages = [source.pages for source in group if source.pages is not None]
                written.append(write_run(file, [source.columns for source in group], pages))

        entry = checkpoint.stage(
            GROUP,
            f"seen/{checkpoint.number:010}-{part:03}.run",
            write,
            rows=sum(len(source.columns) for source in group),
        )
        columns, pages = map_columns(checkpoint.staged(entry))
        return replace(written[0], columns=columns), _Held(entry, pages)


def planned(sources: list[list[Dated]]) -> list[list[Dated]]:
    """Group the sources that become one run: FAN_IN of the same size and bucket at a time, until no more merge."""
    while True:
        alike: dict[tuple[int, int], list[list[Dated]]] = {}
        for group in sources:
            alike.setdefault((_bucket(group), _level(_keys(group))), []).append(group)
        for groups in alike.values():
            if len(groups) >= FAN_IN and sum(map(_keys, groups[:FAN_IN])) <= MERGED_KEYS:
                merged = [source for group in groups[:FAN_IN] for source in group]
                rest = [group for group in sources if not any(group is one for one in groups[:FAN_IN])]
                sources = [*rest, merged]
                break
        else:
            return sources


def _keys(group: list[Dated]) -> int:
    return sum(len(source.columns) for source in group)


def _bucket(group: list[Dated]) -> int:
    return max(source.last_day for source in group) // BUCKET_DAYS


def _level(keys: int) -> int:
    level = 0
    while keys >= SMALLEST_KEYS * FAN_IN ** (level + 1):
        level += 1
    return level


def write_run(file: BinaryIO, parts: list[Columns], pages: Sequence[mmap.mmap] = ()) -> Run:
    """Write the keys of `parts`, each sorted by `lo`, as one run file. Returns the run without its columns.

    Memory is bounded by the filter and one slice, whatever the number of keys: the `pages` from which the parts are
    mapped are released after each slice.
    """
    keys = sum(len(part) for part in parts)
    layout = _Layout(keys, words_for(keys))
    words = np.zeros(layout.words, np.uint64)
    fence = np.empty(layout.fences, np.uint64)
    first_day, last_day, at = 0xFFFFFFFF, 0, 0
    for piece in slices_joined(parts, SLICE_KEYS):
        if not len(piece):
            continue
        enter(words, piece.lo, piece.hi)
        first_fence = -(-at // FENCE_STEP)
        fences = piece.lo[first_fence * FENCE_STEP - at :: FENCE_STEP]
        fence[first_fence : first_fence + len(fences)] = fences
        first_day, last_day = min(first_day, int(piece.day.min())), max(last_day, int(piece.day.max()))
        for start, column, size in (
            (layout.lo, piece.lo, 8),
            (layout.hi, piece.hi, 8),
            (layout.content, piece.content, 8),
            (layout.day, piece.day, 2),
        ):
            file.seek(start + size * at)
            file.write(np.ascontiguousarray(column).data)
        at += len(piece)
        for mapped in pages:
            mapped.madvise(mmap.MADV_DONTNEED)
    file.seek(layout.filter)
    file.write(words.data)
    file.write(fence.data)
    file.seek(0)
    file.write(_HEADER.pack(_MAGIC, keys, layout.words, first_day, last_day, DIGESTS.encode("ascii")))
    nothing = np.empty(0, np.uint64)
    return Run(Columns(nothing, nothing, nothing, np.empty(0, np.uint16)), words, fence, first_day, last_day)


def load_run(path: Path) -> tuple[Run, mmap.mmap]:
    """Load filter and fence of a run file and map its columns. Returns the run and the mapped pages.

    Raises StorageError if the file is damaged or its digests are of an unknown algorithm.
    """
    with storage_errors(path, "read seen keys"), path.open("rb") as file:
        layout, first_day, last_day = _read_header(file, path)
        file.seek(layout.filter)
        words = np.fromfile(file, np.uint64, layout.words)
        fence = np.fromfile(file, np.uint64, layout.fences)
    columns, pages = map_columns(path)
    return Run(columns, words, fence, first_day, last_day), pages


def map_columns(path: Path) -> tuple[Columns, mmap.mmap]:
    """Map the columns of a run file. Pages are read on first access, and can be released at any time."""
    with storage_errors(path, "read seen keys"), path.open("rb") as file:
        layout, _, _ = _read_header(file, path)
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    whole = np.frombuffer(pages, np.uint8)
    lo, hi, content, filter_ = layout.lo, layout.hi, layout.content, layout.filter
    columns = Columns(
        whole[lo:hi].view(np.uint64),
        whole[hi:content].view(np.uint64),
        whole[content:filter_].view(np.uint64),
        whole[layout.day :].view(np.uint16),
    )
    return columns, pages


def _require_digests(name: bytes, path: Path) -> None:
    try:
        require_digests(name.rstrip(b"\0").decode("ascii", "backslashreplace") or UNNAMED_DIGESTS)
    except ValueError as unknown:
        raise StorageError(f"{path}: {unknown}: use the version that wrote the data directory") from None


def _read_header(file: BinaryIO, path: Path) -> tuple[_Layout, int, int]:
    header = file.read(_HEADER.size)
    if len(header) == _HEADER.size:
        magic, keys, words, first_day, last_day, digests = _HEADER.unpack(header)
        layout = _Layout(keys, words)
        if magic == _MAGIC and layout.size_bytes == path.stat().st_size:
            _require_digests(digests, path)
            return layout, first_day, last_day
    raise StorageError(f"{path}: the file of seen keys is damaged; restore the data directory from a backup")
