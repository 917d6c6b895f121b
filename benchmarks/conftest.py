"""What the stage benchmarks share: a fleet's usage, and a report in records a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.demo.generate import Generated, generate

RECORDS = 500_000


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """50,000 cards in 20 pools with 500,000 records."""
    return generate(tmp_path_factory.mktemp("fleet"), 50_000, RECORDS, seed=1, pools=20)


@pytest.fixture(scope="session")
def usage_file(fleet: Generated) -> Path:
    """The usage of the fleet, in the plain feed's columns."""
    return fleet.usage


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the records a second of each benchmark that reports its number of records (`extra_info["records"]`)."""
    session = getattr(config, "_benchmarksession", None)
    for bench in getattr(session, "benchmarks", []):
        if records := bench.extra_info.get("records"):
            seconds = bench.stats.min
            terminalreporter.line(
                f"{bench.name}: {records / seconds:,.0f} records/s, {seconds / records * 1e9:.0f} ns each"
            )
