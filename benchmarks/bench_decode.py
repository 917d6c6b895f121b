"""From the bytes of a CSV file to usage records: decoding, and decoding with mediation."""

from __future__ import annotations

from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import RECORDS
from jobs.demo.generate import Generated
from pipeline.feeds.decode import open_source
from pipeline.feeds.mappings import load_mapping
from rating.mediation.records import mediate


def bench_decode_csv(benchmark: BenchmarkFixture, usage_file: Path) -> None:
    """Raw text columns of the plain feed."""
    mapping = load_mapping("plain")

    def decode() -> int:
        return sum(chunk.raw.height + chunk.rejects.height for chunk in open_source(usage_file, mapping))

    benchmark.extra_info["records"] = RECORDS
    assert RECORDS == benchmark(decode)


def bench_decode_and_mediate_csv(benchmark: BenchmarkFixture, fleet: Generated) -> None:
    """Internal usage records of the plain feed; what they refuse is what the generator spoilt."""
    mapping = load_mapping("plain")

    def read() -> tuple[int, int]:
        good = refused = 0
        for chunk in open_source(fleet.usage, mapping):
            usage, rejects = mediate(chunk.raw, mapping)
            good += usage.height
            refused += rejects.height + chunk.rejects.height
        return good, refused

    spoilt = {"malformed", "encoding", "missing", "bad_value", "bad_time", "negative", "unknown_service"}
    expected = sum(count for reason, count in fleet.rejected.items() if reason in spoilt)
    benchmark.extra_info["records"] = RECORDS
    assert (RECORDS - expected, expected) == benchmark(read)
