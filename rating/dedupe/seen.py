"""Exactly-once by key: a record whose key was accepted before changes nothing (F4).

A key is (feed, record_key), stored as a digest of 128 bits. In practice two different keys never have the same digest
(a chance of 2^-64 at four billion keys). A digest of the content is stored too. It distinguishes a duplicate from a
conflict. Keys count as seen for exactly `KEEP_DAYS` days after their arrival day, however the stream is cut into
batches and checkpoints.

    hi, lo = digest(feed, keys)
    first = first_in_batch(hi, lo)               # duplicates inside the batch
    known, content = seen.lookup(hi, lo, day)    # duplicates of what was accepted before
    ...
    seen.add(hi[new], lo[new], digests[new], day)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import polars_hash as plh

from rating.columnar.arrow import has, numbers
from rating.dedupe.bloom import U64, bits_of
from rating.dedupe.runs import Columns, Positions, Recent, Run, order_of, run_of

KEEP_DAYS = 32

# The name of the digests of this module, and with it of all that are kept on disk or sent (docs/decisions/0020). A key
# is XXH3 with 128 bits of its text in UTF-8, with a seed: XXH3 with 64 bits of the feed's name. A text of the content
# is XXH3 with 64 bits, without a seed. Whatever changes a digest needs another name; tests/unit/test_digests.py finds
# such a change.
DIGESTS: Final = "xxh3-128"
UNNAMED_DIGESTS: Final = "xxh3-128"  # of what was kept before the name was written beside it; never changes

DAY_US = 86_400_000_000

_WORD = (1 << 64) - 1


def require_digests(found: str) -> None:
    """Raise ValueError unless digests that were kept under the name `found` are those of this module."""
    if found != DIGESTS:
        raise ValueError(f"found digests of the algorithm {found!r}; this version of weir knows {DIGESTS}")


def digest(feed: str, record_key: pl.Series) -> tuple[U64, U64]:
    """Return the digests (hi, lo), uint64[n] each, of the keys of one feed. `record_key` contains no nulls."""
    return digests(record_key.alias("key").to_frame(), {"key": feed})[0]["key"]


def digests(
    rows: pl.DataFrame, feeds: Mapping[str, str], texts: Iterable[str] = ()
) -> tuple[dict[str, tuple[U64, U64]], dict[str, U64]]:
    """Return `digest` of each column in `feeds`, and a digest of 64 bits of each column in `texts`, uint64[n].

    `feeds` maps a column to the feed of its keys. A null counts as empty text in the former, and gives 0 in the latter.
    """
    words = {f"{name}/64": plh.col(name).nchash.xxh3_64() for name in texts}
    wide = {}
    for name, feed in feeds.items():
        column: Any = plh.col(name).fill_null("") if rows[name].null_count() else plh.col(name)
        wide[f"{name}/128"] = column.nchash.xxh3_128(seed=_seed_of(feed))
    hashed = rows.select(**wide, **words)
    halves = hashed.select(
        half.alias(f"{name}{side}")
        for name in wide
        for side, half in (
            ("/hi", (pl.col(name) // (1 << 64)).cast(pl.UInt64)),
            ("/lo", pl.col(name).cast(pl.UInt64, wrap_numerical=True)),
        )
    )
    return (
        {name: (halves[f"{name}/128/hi"].to_numpy(), halves[f"{name}/128/lo"].to_numpy()) for name in feeds},
        {name: numbers(hashed, f"{name}/64", 0) for name in texts},
    )


@lru_cache(maxsize=1024)
def _seed_of(feed: str) -> int:
    return int(pl.DataFrame({"feed": [feed]}).select(plh.col("feed").nchash.xxh3_64()).item())


# Content is everything that the price or the cycle depends on and that a vendor may change in a second version of a
# record. The odd factors are the fractional bits of square roots of primes. The digest is a sum of column times factor.
# It differs for any two contents that differ in one column. Contents that differ in several columns collide once in
# about 2^64.
_TEXT_FACTORS = {
    "iccid": 0x6A09E667F3BCC909,
    "imsi": 0xBB67AE8584CAA73B,
    "msisdn": 0x3C6EF372FE94F82B,
    "session_id": 0xA54FF53A5F1D36F1,
    "corrects_key": 0x510E527FADE682D1,
    "plmn": 0x9B05688C2B3E6C1F,
    "country": 0x47B5481DBEFA4FA5,
    "zone": 0xAE5F9156E7B6D99B,
}
_NUMBER_FACTORS = {
    "volume_up_bytes": 0x1F83D9ABFB41BD6B,
    "volume_down_bytes": 0x5BE0CD19137E2179,
    "quantity": 0xCBBB9D5DC1059ED9,
    "used_at": 0x629A292A367CD507,
    "sequence": 0x9159015A3070DD17,
    "started_at": 0xCF6C85D39D1A1E15,
    "ended_at": 0x2F73477D6A4563CB,
}
_KIND_FACTORS = {
    "service": 0x152FECD8F70E5939,
    "direction": 0x67332667FFC00B31,
    "record_type": 0x8EB44A8768581511,
}
# Added to numbers, so that 0 and null differ. A null adds nothing to the sum, like an absent column.
_NUMBER_OFFSET = 0x0DB0C2E0D64F98FA


def content_texts(rows: pl.DataFrame) -> list[str]:
    """Return the text columns of rows (USAGE_SCHEMA) that are part of the content and have a value."""
    return [name for name in _TEXT_FACTORS if has(rows, name)]


def content_of(rows: pl.DataFrame, texts: Mapping[str, U64]) -> U64:
    """Return the digest of the content of rows (USAGE_SCHEMA), uint64[n], given the digests of their text columns.

    By it a repeated key is a duplicate or a conflict. It covers who used what, when, where and how much. It does not
    cover the position in the source, RAT, APN, cell and IMEI. An absent column counts like a column of nulls, and a
    null record type counts as EVENT.
    """
    total = np.zeros(rows.height, np.uint64)
    part = np.empty(rows.height, np.uint64)
    for name, factor in _TEXT_FACTORS.items():
        if name in texts:
            total += np.multiply(texts[name], np.uint64(factor), out=part)
    for name, factor in _NUMBER_FACTORS.items():
        if has(rows, name):
            column = numbers(rows, name, -_NUMBER_OFFSET)
            np.add(column.view(np.uint64), np.uint64(_NUMBER_OFFSET), out=part)
            total += np.multiply(part, np.uint64(factor), out=part)
    for name, factor in _KIND_FACTORS.items():
        if has(rows, name):
            total += np.multiply(numbers(rows, name, 0), np.uint64(factor), out=part)
    total ^= total >> np.uint64(32)
    return total


def first_in_batch(hi: U64, lo: U64, order: Positions | None = None) -> Positions:
    """Return the index of the first occurrence of each key in the batch, int64[n]. The first has its own index.

    `order` is `order_of(lo)`, if the caller has computed it.
    """
    first = np.arange(len(lo), dtype=np.int64)
    order = order_of(lo) if order is None else order
    ordered = lo[order]
    equal = ordered[1:] == ordered[:-1]
    if not equal.any():
        return first
    meets = np.zeros(len(lo), np.bool_)
    meets[1:] = equal
    meets[:-1] |= equal
    few = order[meets]
    few = few[np.lexsort((few, hi[few], lo[few]))]
    starts = np.ones(len(few), np.bool_)
    starts[1:] = (lo[few[1:]] != lo[few[:-1]]) | (hi[few[1:]] != hi[few[:-1]])
    first[few] = few[np.maximum.accumulate(np.where(starts, np.arange(len(few)), 0))]
    return first


class Seen:
    """The keys accepted so far, exact to 128 bits.

    Keys since the last checkpoint are in memory. Older keys are in runs, whose columns may be on disk. Every `day` is
    an arrival day (days since 1970 UTC). `today` is the latest day given so far. A key is known while
    `today - its day <= KEEP_DAYS`.
    """

    def __init__(self, runs: Sequence[Run] = (), today: int = 0) -> None:
        self._recent = Recent()
        self._runs = list(runs)
        self._today = today

    @property
    def today(self) -> int:
        """The latest arrival day so far, in days since 1970 UTC."""
        return self._today

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs in which keys are looked up, oldest first."""
        return tuple(self._runs)

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory of the keys: recent keys, filters and fences."""
        return self._recent.memory_bytes + sum(run.memory_bytes for run in self._runs)

    def __len__(self) -> int:
        return len(self._recent) + sum(len(run) for run in self._runs)

    def lookup(self, hi: U64, lo: U64, day: int) -> tuple[npt.NDArray[np.bool_], U64]:
        """Return whether each key is known, bool[n], and the digest of its content, uint64[n] (0 if unknown)."""
        self._today = max(self._today, day)
        since = max(0, self._today - KEEP_DAYS)
        known = np.zeros(len(lo), np.bool_)
        content = np.zeros(len(lo), np.uint64)
        bits = bits_of(hi)
        at, digests = self._recent.find(hi, lo, bits, since)
        known[at] = True
        content[at] = digests
        for run in self._runs:
            if run.last_day < since:
                continue
            at, row = run.find(hi, lo, bits, since)
            known[at] = True
            content[at] = run.columns.content[row]
        return known, content

    def add(self, hi: U64, lo: U64, content: U64, day: int, ordered: bool = False) -> None:
        """Add keys that are unknown so far, each once. From now on `lookup` knows them.

        `ordered` says that they are in order of `lo`.

        If `day` is earlier than `today`, as when usage is ingested as of an earlier day, the keys are kept from `today`
        on. So a second ingest of that usage changes nothing.
        """
        self._today = max(self._today, day)
        self._recent.insert(Columns(lo, hi, content, np.full(len(lo), self._today, np.uint16)), ordered)

    def recent(self) -> Columns:
        """Return the keys since the last checkpoint, in order of `lo`. Nothing changes."""
        return self._recent.entries()

    def seal(self) -> Columns:
        """Remove and return the keys since the last checkpoint, in order of `lo`.

        The caller makes a run of them and adds it with `replace_runs`.
        """
        return self._recent.drain()

    def replace_runs(self, runs: Sequence[Run]) -> None:
        """Look up keys in these runs from now on. Together they must contain all sealed keys that are still kept."""
        self._runs = list(runs)

    def expired(self, run: Run) -> bool:
        """Return True if no key of the run is known any more, so that the run can be dropped."""
        return run.last_day < self._today - KEEP_DAYS


__all__ = [
    "DAY_US",
    "DIGESTS",
    "KEEP_DAYS",
    "UNNAMED_DIGESTS",
    "Columns",
    "Run",
    "Seen",
    "digest",
    "first_in_batch",
    "order_of",
    "require_digests",
    "run_of",
]
