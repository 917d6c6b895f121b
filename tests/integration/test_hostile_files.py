"""Hostile files of 10 MB (and a line of 100 MB) end in rejects or an error of ours, in bounded time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.hostile_files import HOSTILE, run_alone

MEMORY_LIMIT_MB = 1000
CPU_LIMIT_S = 120  # the slowest takes a tenth of it

CASES = {
    "csv: a line of 100 MB": ("read", 1, 1),
    "csv: lines of NUL": ("read", 0, 5_000_000),
    "csv: UTF-16": ("read", 0, 600_000),
    "csv: a gzip bomb of zeros": ("SourceError", 0, 0),
    "csv: a zstd bomb": ("SourceError", 0, 0),
    "ndjson: one line nested 10,000,000 deep": ("read", 0, 1),
    "ndjson: skipped fields nested deep": ("read", 0, 10),
    "ndjson: arrays in fields": ("read", 0, 11),
    "ndjson: long texts that explode": ("read", 0, 2_831_000),
    "json: nested in a record": ("read", 0, 1),
    "json: an array of empty objects": ("read", 0, 3_333_334),
    "parquet: one long text in every row": ("read", 0, 2_000_000),
    "arrow: a gzip bomb": ("SourceError", 0, 0),
    "arrow: 2 GB in a compressed buffer": ("SourceError", 0, 0),
    "arrow: 2 GB in a file": ("SourceError", 0, 0),
    "arrow: rows without buffers": ("SourceError", 0, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_survived(name: str, tmp_path: Path) -> None:
    """The file is read to its end, or refused by name, in less than 1 GB, in a process that exits by itself."""
    path = tmp_path / "hostile"
    path.write_bytes(HOSTILE[name][1]())
    outcome = run_alone(name, path)
    end, usage, rejects = CASES[name]
    assert end == str(outcome["end"]).partition(":")[0]
    assert (usage, rejects) == (outcome["usage"], outcome["rejects"])
    assert float(outcome["peak_mb"]) < MEMORY_LIMIT_MB
    assert float(outcome["cpu_s"]) < CPU_LIMIT_S
