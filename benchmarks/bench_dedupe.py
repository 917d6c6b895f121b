"""Keys seen before (F4): digests, the look-up of new and of known keys, and what a key costs in memory."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from rating.dedupe.runs import run_of
from rating.dedupe.seen import Seen, digest, first_in_batch

KNOWN = 4_000_000
BATCH = 250_000
DAY = 20_750


@pytest.fixture(scope="module")
def seen() -> Seen:
    """Four million known keys in a sealed run."""
    rng = np.random.default_rng(1)
    keys = Seen()
    hi, lo, content = (rng.integers(0, 2**64, KNOWN, dtype=np.uint64) for _ in range(3))
    keys.add(hi, lo, content, DAY)
    keys.replace_runs([run_of(keys.seal())])
    return keys


def bench_digest(benchmark: BenchmarkFixture) -> None:
    """Digests of keys of 16 characters."""
    keys = pl.Series([f"{number:016x}" for number in range(BATCH)])
    benchmark.extra_info["records"] = BATCH
    hi, lo = benchmark(digest, "plain", keys)
    assert BATCH == len(np.unique(lo)) == len(hi)


def bench_first_in_batch(benchmark: BenchmarkFixture) -> None:
    """Repeats inside a batch, one in a hundred."""
    rng = np.random.default_rng(2)
    hi, lo = (rng.integers(0, 2**64, BATCH, dtype=np.uint64) for _ in range(2))
    again = rng.integers(0, BATCH, BATCH // 100)
    hi[-len(again) :], lo[-len(again) :] = hi[again], lo[again]
    benchmark.extra_info["records"] = BATCH
    first = benchmark(first_in_batch, hi, lo)
    assert (first < np.arange(BATCH)).sum() >= len(again) * 0.9


def bench_lookup_of_new_keys(benchmark: BenchmarkFixture, seen: Seen) -> None:
    """Keys that are new: what nearly every record is. Says also what a known key costs in memory."""
    rng = np.random.default_rng(3)
    hi, lo = (rng.integers(0, 2**64, BATCH, dtype=np.uint64) for _ in range(2))
    benchmark.extra_info["records"] = BATCH
    benchmark.extra_info["memory_bytes_per_key"] = seen.memory_bytes / len(seen)
    known, _ = benchmark(seen.lookup, hi, lo, DAY + 1)
    assert not known.any()


def bench_lookup_of_known_keys(benchmark: BenchmarkFixture, seen: Seen) -> None:
    """Keys that are known: a file that comes twice."""
    columns = seen.runs[0].columns
    rows = np.random.default_rng(4).integers(0, KNOWN, BATCH)
    hi, lo = columns.hi[rows], columns.lo[rows]
    benchmark.extra_info["records"] = BATCH
    known, content = benchmark(seen.lookup, hi, lo, DAY + 1)
    assert known.all()
    assert (content == columns.content[rows]).all()
