"""Exactly-once by key (F4): a record whose key was accepted before changes nothing.

A key is (feed, record_key), taken as a digest of 128 bits; two different keys never meet in practice (2^-64 at four
billion keys). Along with it a digest of the content is kept, which tells a duplicate from a conflict. Keys stay seen
for `KEEP_DAYS` days after their arrival day, exactly, however the stream is cut into batches and checkpoints.

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
    """Digests (hi, lo), each uint64[n], of keys of one feed. `record_key` holds no nulls."""
    return digests(record_key.alias("key").to_frame(), {"key": feed})[0]["key"]


def digests(
    rows: pl.DataFrame, feeds: Mapping[str, str], texts: Iterable[str] = ()
) -> tuple[dict[str, tuple[U64, U64]], dict[str, U64]]:
    """What `digest` gives of each column in `feeds`, and digests of 64 bits of those in `texts`, uint64[n].

    Nulls count as the empty text in the first, and are 0 in the others.
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


# Content is what the rating depends on and what a vendor may restate. The odd factors are the fractional bits of
# square roots of primes; a sum of column times factor tells apart any two contents that differ in one column, and
# contents that differ in several collide once in about 2^64.
_TEXT_FACTORS = {
    "iccid": 0x6A09E667F3BCC909,
    "imsi": 0xBB67AE8584CAA73B,
    "msisdn": 0x3C6EF372FE94F82B,
    "session_id": 0xA54FF53A5F1D36F1,
    "corrects_key": 0x510E527FADE682D1,
    "plmn": 0x9B05688C2B3E6C1F,
}
_NUMBER_FACTORS = {
    "volume_up_bytes": 0x1F83D9ABFB41BD6B,
    "volume_down_bytes": 0x5BE0CD19137E2179,
    "quantity": 0xCBBB9D5DC1059ED9,
    "used_at": 0x629A292A367CD507,
    "sequence": 0x9159015A3070DD17,
}
_KIND_FACTORS = {
    "service": 0x152FECD8F70E5939,
    "direction": 0x67332667FFC00B31,
    "record_type": 0x8EB44A8768581511,
}
# Added to numbers, so that 0 and null differ; null itself counts as nothing, like an absent column.
_NUMBER_OFFSET = 0x0DB0C2E0D64F98FA


def content_digest(rows: pl.DataFrame) -> U64:
    """Digest of the content of USAGE_SCHEMA rows, uint64[n]: what makes a repeated key a duplicate or a conflict.

    Covers who, what, when and how much; not the position in the source, nor RAT, APN, cell and IMEI. A column that is
    absent counts like one that is null throughout; a null record type counts as EVENT.
    """
    return content_of(rows, digests(rows, {}, content_texts(rows))[1])


def content_texts(rows: pl.DataFrame) -> list[str]:
    """The texts of USAGE_SCHEMA rows that are content, those that some row has."""
    return [name for name in _TEXT_FACTORS if has(rows, name)]


def content_of(rows: pl.DataFrame, texts: Mapping[str, U64]) -> U64:
    """`content_digest` of rows, whose texts have been digested."""
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
    """For each key the index of its first occurrence in the batch, int64[n]; its own index where it is the first.

    `order` is that of `order_of(lo)`, where the caller has it.
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
    """The keys accepted so far, exact on 128 bits.

    Keys since the last checkpoint are in memory, older ones in runs, whose columns may lie on disk.
    `day` is always the arrival day (days since 1970 UTC); the latest one given so far is `today`, and a key is known
    while `today - its day <= KEEP_DAYS`.
    """

    def __init__(self, runs: Sequence[Run] = (), today: int = 0) -> None:
        self._recent = Recent()
        self._runs = list(runs)
        self._today = today

    @property
    def today(self) -> int:
        """The latest arrival day so far."""
        return self._today

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs that are looked up, oldest first."""
        return tuple(self._runs)

    @property
    def memory_bytes(self) -> int:
        """What the keys occupy in memory now: recent keys, filters and fences."""
        return self._recent.memory_bytes + sum(run.memory_bytes for run in self._runs)

    def __len__(self) -> int:
        return len(self._recent) + sum(len(run) for run in self._runs)

    def lookup(self, hi: U64, lo: U64, day: int) -> tuple[npt.NDArray[np.bool_], U64]:
        """Whether each key is known, bool[n], and the digest of the content it came with, uint64[n] (0: unknown)."""
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
        """Enter keys that are unknown so far, each once; from now on `lookup` knows them.

        They come in order of `lo` where `ordered`.

        Keys of usage that is taken in as of an earlier day are kept from `today` on, so that taking it in again
        changes nothing either.
        """
        self._today = max(self._today, day)
        self._recent.insert(Columns(lo, hi, content, np.full(len(lo), self._today, np.uint16)), ordered)

    def recent(self) -> Columns:
        """The keys since the last checkpoint in order of `lo`; nothing changes."""
        return self._recent.entries()

    def seal(self) -> Columns:
        """Take the keys since the last checkpoint out, in order of `lo`; give them back as a run by `replace_runs`."""
        return self._recent.drain()

    def replace_runs(self, runs: Sequence[Run]) -> None:
        """Look keys up in these runs from now on; together they hold all keys sealed so far that are still kept."""
        self._runs = list(runs)

    def expired(self, run: Run) -> bool:
        """Whether no key of the run is known any more, so that it can be dropped."""
        return run.last_day < self._today - KEEP_DAYS


__all__ = [
    "DAY_US",
    "DIGESTS",
    "KEEP_DAYS",
    "UNNAMED_DIGESTS",
    "Columns",
    "Run",
    "Seen",
    "content_digest",
    "digest",
    "first_in_batch",
    "order_of",
    "require_digests",
    "run_of",
]
