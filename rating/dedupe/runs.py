"""Storage of seen keys: sorted pieces of recent keys, and immutable sorted runs of all others (F4).

The plain version is a dict of keys. It needs over 100 bytes of memory per key. Here 100 million keys take 2.06 bytes
each in filters and fences (docs/decisions/0020-seen-keys-in-runs.md). tests/property/test_seen_keys.py compares the
look-ups with those of a dict.

A key is 128 bits, `hi` and `lo`, evenly spread. Stored with it are the digest of its content and its arrival day (days
since 1970 UTC), which says how long the key counts as seen. All columns of a run may be on disk (memory-mapped). Only
the filter and every 256th `lo` need memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rating.dedupe.bloom import U64, enter, may_hold, words_for

U16 = npt.NDArray[np.uint16]
Positions = npt.NDArray[np.int64]

FENCE_STEP = 256
SLICE_KEYS = 1 << 17

FIRST_CAPACITY = 1 << 15


@dataclass(frozen=True)
class Columns:
    """Keys with their data, one element per key: lo, hi and content uint64[n], arrival day uint16[n]."""

    lo: U64
    hi: U64
    content: U64
    day: U16

    def __len__(self) -> int:
        return len(self.lo)

    def take(self, at: npt.NDArray[np.intp] | slice) -> Columns:
        """Return the rows at these positions, in this order."""
        return Columns(self.lo[at], self.hi[at], self.content[at], self.day[at])


def order_of(lo: U64) -> npt.NDArray[np.intp]:
    """Return the stable sorting order of digests: a radix pass over the high 16 bits, then a merge sort.

    This is four times as fast as one argsort if the digests are evenly spread. It is correct for all digests.
    """
    rough = np.argsort((lo >> np.uint64(48)).astype(np.uint16), kind="stable")
    return rough[np.argsort(lo[rough], kind="stable")]


def joined(parts: Sequence[Columns]) -> Columns:
    """Merge parts that are each in order of `lo`. The result is in order of `lo`, equal keys in order of the parts."""
    if len(parts) == 1:
        return parts[0]
    count = sum(len(part) for part in parts)
    whole = Columns(
        np.empty(count, np.uint64), np.empty(count, np.uint64), np.empty(count, np.uint64), np.empty(count, np.uint16)
    )
    start = 0
    for piece in slices_joined(parts, SLICE_KEYS):
        rows = slice(start, start + len(piece))
        whole.lo[rows], whole.hi[rows] = piece.lo, piece.hi
        whole.content[rows], whole.day[rows] = piece.content, piece.day
        start = rows.stop
    return whole


def slices_joined(parts: Sequence[Columns], slice_keys: int) -> Iterator[Columns]:
    """Yield the rows of `joined(parts)` in slices by ranges of `lo`, of about `slice_keys` rows each.

    If keys are evenly spread, the size of a slice bounds the memory needed.
    """
    slices = max(1, -(-sum(len(part) for part in parts) // slice_keys))
    bounds = np.array([(i << 64) // slices for i in range(1, slices)], np.uint64)
    cuts = [np.concatenate(([0], np.searchsorted(part.lo, bounds), [len(part)])).astype(np.int64) for part in parts]
    for i in range(slices):
        pieces = [part.take(slice(int(cut[i]), int(cut[i + 1]))) for part, cut in zip(parts, cuts, strict=True)]
        lo = np.concatenate([piece.lo for piece in pieces])
        order = np.argsort(lo, kind="stable")
        yield Columns(
            lo[order],
            np.concatenate([piece.hi for piece in pieces])[order],
            np.concatenate([piece.content for piece in pieces])[order],
            np.concatenate([piece.day for piece in pieces])[order],
        )


def match_from(
    columns: Columns, row: Positions, asked: Positions, hi: U64, lo: U64, since_day: int
) -> tuple[Positions, Positions]:
    """Return the live rows of keys, as (element of `asked`, row).

    `row` is the first row of each key whose `lo` is not below that of the key; `asked` identifies the key for the
    caller. A row is live if its arrival day is `since_day` or later. A key has at most one live row.
    """
    hits: list[Positions] = []
    rows: list[Positions] = []
    while len(asked):
        inside = np.flatnonzero(row < len(columns))
        inside = inside[columns.lo[row[inside]] == lo[inside]]
        asked, lo, hi, row = asked[inside], lo[inside], hi[inside], row[inside]
        match = (columns.hi[row] == hi) & (columns.day[row] >= since_day)
        hits.append(asked[match])
        rows.append(row[match])
        other = ~match
        asked, lo, hi, row = asked[other], lo[other], hi[other], row[other] + 1
    if not hits:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate(hits), np.concatenate(rows)


class Recent:
    """Keys since the last checkpoint: sorted pieces in memory, with one filter for all.

    Eight pieces of about the same age are merged into one, so there are few. If many keys of a look-up pass the filter,
    all pieces are merged first.
    """

    def __init__(self) -> None:
        self._levels: list[list[Columns]] = [[]]
        self._count = 0
        self._filter = np.zeros(words_for(FIRST_CAPACITY), np.uint64)

    def __len__(self) -> int:
        return self._count

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory of the keys and their filter."""
        return self._count * 26 + self._filter.nbytes

    def _pieces(self) -> list[Columns]:
        return [piece for level in reversed(self._levels) for piece in level]

    def find(self, hi: U64, lo: U64, bits: U64, since_day: int) -> tuple[Positions, U64]:
        """Find keys with an arrival day of `since_day` or later. Returns (index of the key, its content digest)."""
        asked = np.flatnonzero(may_hold(self._filter, lo, bits))
        if len(asked) * 16 > self._count:
            self._levels = [[], [self.entries()]]
        lo, hi = lo[asked], hi[asked]
        found: list[tuple[Positions, U64]] = []
        for piece in self._pieces() if len(asked) else ():
            row = np.searchsorted(piece.lo, lo)
            if not (piece.lo[np.minimum(row, len(piece) - 1)] == lo).any():
                continue  # nearly always: keys that pass the filter are usually new too
            at, row = match_from(piece, row, asked, hi, lo, since_day)
            found.append((at, piece.content[row]))
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.uint64)
        return np.concatenate([at for at, _ in found]), np.concatenate([content for _, content in found])

    def insert(self, new: Columns, ordered: bool = False) -> None:
        """Add keys of which no live one is stored yet, each once.

        `ordered` says that they are in order of `lo`.
        """
        if len(new) == 0:
            return
        new = new if ordered else new.take(order_of(new.lo))
        self._count += len(new)
        self._add_piece(new, 0)
        if words_for(self._count) > len(self._filter):
            self._filter = np.zeros(2 * words_for(self._count), np.uint64)
            for piece in self._pieces():
                enter(self._filter, piece.lo, piece.hi)
        else:
            enter(self._filter, new.lo, new.hi)

    def _add_piece(self, piece: Columns, level: int) -> None:
        if level == len(self._levels):
            self._levels.append([])
        pieces = self._levels[level]
        pieces.append(piece)
        if len(pieces) == 8:
            self._levels[level] = []
            self._add_piece(joined(pieces), level + 1)

    def entries(self) -> Columns:
        """Return all keys in order of `lo`."""
        pieces = self._pieces()
        if not pieces:
            none = np.empty(0, np.uint64)
            return Columns(none, none, none, np.empty(0, np.uint16))
        return joined(pieces)

    def drain(self) -> Columns:
        """Return all keys in order of `lo`, and remove them."""
        columns = self.entries()
        self._levels = [[]]
        self._count = 0
        self._filter[:] = 0
        return columns


@dataclass(frozen=True)
class Run:
    """Immutable keys in order of `lo`, with their filter. `fence[i]` is `lo[256 * i]`.

    `first_day` and `last_day` are the first and last arrival day of the keys.
    """

    columns: Columns
    filter_words: U64
    fence: U64
    first_day: int
    last_day: int

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that the run needs, for its filter and fence."""
        return self.filter_words.nbytes + self.fence.nbytes

    def find(self, hi: U64, lo: U64, bits: U64, since_day: int) -> tuple[Positions, Positions]:
        """Find keys with an arrival day of `since_day` or later. Returns (index of the key, its row in the run)."""
        asked = np.flatnonzero(may_hold(self.filter_words, lo, bits))
        lo, hi = lo[asked], hi[asked]
        return match_from(self.columns, self._first_not_below(lo), asked, hi, lo, since_day)

    def _first_not_below(self, lo: U64) -> Positions:
        """Return the first row whose `lo` is not below each given one, int64[n]: binary search between two fences."""
        block = np.searchsorted(self.fence, lo, side="left").astype(np.int64)
        low = np.maximum(block - 1, 0) * FENCE_STEP
        high = np.minimum(block * FENCE_STEP, len(self))
        while True:
            searching = low < high
            if not searching.any():
                return low
            middle = (low + high) >> 1
            below = self.columns.lo[np.minimum(middle, len(self) - 1)] < lo
            low = np.where(searching & below, middle + 1, low)
            high = np.where(searching & ~below, middle, high)


def run_of(columns: Columns) -> Run:
    """Return a run in memory over columns that are in order of `lo` and not empty."""
    words = np.zeros(words_for(len(columns)), np.uint64)
    enter(words, columns.lo, columns.hi)
    fence = columns.lo[::FENCE_STEP].copy()
    return Run(columns, words, fence, int(columns.day.min()), int(columns.day.max()))
