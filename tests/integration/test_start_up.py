"""What commands import: help and completion nothing heavy, every other command only what it runs with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_cli import AS_OF, BERLIN, CATALOGUE, USAGE

HEAVY = {
    "polars",
    "pyarrow",
    "duckdb",
    "pandas",
    "numpy",
    "msgspec",
    "jinja2",
    "xlsxwriter",
    "faust",
    "rich",
    "pydantic",
}
UNUSED = {"pandas", "jinja2", "xlsxwriter", "faust", "aiokafka", "clickhouse_connect", "pydantic"}
# What only the fold, feeds, catalogue files, the report or a configuration need.
FOLD = {
    "rating.engine",
    "rating.state",
    "rating.rules.evaluate",
    "rating.mediation.records",
    "pipeline.embedded.driver",
    "pipeline.catalogue",
    "pipeline.config",
    "pipeline.feeds.decode",
    "pipeline.history.writer",
    "pipeline.journal",
    "pipeline.store.seen_files",
    "jobs.report.build",
    "jobs.report.columnar",
    "pyarrow.dataset",
    "pyarrow.parquet",
}
RUN = """
import json, sys
from jobs.start import main
sys.argv[0] = "weir"
try:
    main()
except SystemExit as end:
    found = sorted(name for name, module in sys.modules.items() if module)
    print("\\n" + json.dumps([end.code, found]), file=sys.stderr)
"""


def imported(*arguments: object, **environment: str) -> set[str]:
    """The modules that a command has imported when it ends well."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
    )
    status, modules = json.loads(done.stderr.splitlines()[-1])
    assert not status, done.stderr.splitlines()[0]
    return set(modules)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a few records, and the files that they came from beside it."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "catalogue.toml").write_text(CATALOGUE)
    (folder / "usage.csv").write_text(USAGE)
    imported("--data", folder / "data", "apply", folder / "catalogue.toml")
    imported("--data", folder / "data", "ingest", "--feed", "plain", folder / "usage.csv", "--as-of", AS_OF)
    return folder


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("cards", "--help"), ("rules", "--help"), ("worker", "--help")]
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """Help and the version come from the declarations alone."""
    assert set() == HEAVY & imported(*arguments)


@pytest.mark.parametrize("words", ["weir ", "weir cards --st", "weir ingest --feed ", "weir rules list --trigger "])
def test_completion_imports_nothing_heavy(words: str) -> None:
    """A shell that asks how a word may go on has its answer from the declarations alone."""
    cells = words.split(" ")
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(cells) - 1), "_WEIR_COMPLETE": "complete_bash"}
    assert set() == HEAVY & imported(**asked)


@pytest.mark.parametrize(
    ("command", "more"),
    [
        (("ingest", "--feed", "plain", "usage.csv"), {"duckdb"}),
        (("apply", "catalogue.toml"), {"duckdb"}),
        (("tick",), {"duckdb"}),
        (("compact",), {"duckdb"}),
        (("outbox", "list"), {"duckdb"}),
        (("feeds", "list"), {"duckdb"}),
        (("status",), FOLD),
        (("cards", "--limit", "20"), FOLD | {"duckdb"}),
        (("card", BERLIN), FOLD),
        (("pools",), FOLD | {"duckdb"}),
        (("rules",), FOLD),
        (("rejected",), set()),
        (("report", "--cycle", "2026-10", "--format", "csv"), set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_commands_import_what_they_use(
    data: Path, command: tuple[str, ...], more: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No command imports what another one runs with; pandas is installed here, and nothing imports it."""
    monkeypatch.chdir(data)
    assert set() == (UNUSED | more) & imported("--data", data / "data", *command)


def test_a_worker_imports_what_it_uses() -> None:
    """Neither reports nor the engines of SQL are part of what a worker runs with."""
    said = "import sys, jobs.cli.worker\nfrom pipeline.streaming.worker import app, logs\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True, timeout=240)
    loaded = set(done.stdout.split())
    assert "faust" in loaded
    assert set() == {"pandas", "jinja2", "xlsxwriter", "duckdb", "chdb", "pydantic", "jobs.report"} & loaded


def test_pyarrow_does_without_pandas_until_it_is_asked_for() -> None:
    """Arrays made in any way import no pandas; `to_pandas` still does."""
    pytest.importorskip("pandas")
    made = """
import sys
import numpy as np, polars as pl
from rating.step import RATED
import pyarrow as pa
made = pa.array([1, None]), pa.array(np.zeros(3)), pa.array(pl.Series(["a"])), pa.scalar(1), RATED.empty_table()
made[1].to_numpy(), made[0].fill_null(0).to_pylist()
assert "pandas" not in sys.modules
assert [1, 2] == pa.array([1, 2]).to_pandas().tolist()
"""
    subprocess.run([sys.executable, "-c", made], check=True, timeout=240)
