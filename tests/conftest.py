"""Setup of all tests: Hypothesis profiles, watching for standstills, no network, and no silent skips in CI."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.support import polars_threads
from tests.support.broker import kafka, own_broker
from tests.support.guarded import pytest_configure, pytest_unconfigure
from tests.support.order import pytest_collection_modifyitems, pytest_xdist_make_scheduler
from tests.support.weir_command import weir

__all__ = [
    "kafka",  # Fixtures for all tests.
    "own_broker",
    "pytest_collection_modifyitems",  # Hooks of pytest.
    "pytest_configure",
    "pytest_unconfigure",
    "pytest_xdist_make_scheduler",
    "weir",  # A fixture.
]

# This must run before anything creates a Polars object that is kept. Child processes of tests watch, too.
polars_threads.watch()
_VIOLATIONS = Path(tempfile.mkdtemp(prefix="weir-tests-")) / "polars-threads.txt"
atexit.register(shutil.rmtree, _VIOLATIONS.parent, ignore_errors=True)
os.environ[polars_threads.VARIABLE] = str(_VIOLATIONS)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(__file__).parent / "support" / "watched"), os.environ.get("PYTHONPATH")))
)

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

# No profile has a deadline, because a slow machine must not fail a property. CI must end within a quarter of an hour,
# so by default it draws fewer examples than the 100 of a manual run, and does not make a failing example smaller, which
# takes minutes. With `HYPOTHESIS_PROFILE=ci` a developer draws the same examples.
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    max_examples=50,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.target),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "dev"))


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a data directory that does not exist yet, and set WEIR_DATA to it."""
    path = tmp_path / "weir-data"
    monkeypatch.setenv("WEIR_DATA", str(path))
    return path


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Make connections to other machines fail. The loopback interface and Unix sockets still work."""
    connect = socket.socket.connect

    def local_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise PermissionError(f"a test tried to connect to {address!r}; tests use no network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_connect)
        yield


@pytest.fixture(autouse=True)
def _polars_objects_stay_in_their_threads() -> Iterator[None]:
    """Fail the test if two threads touched one Polars object, here or in a child process, even if the error was caught.

    tests/support/polars_threads.py detects it.
    """
    yield
    polars_threads.found.clear()
    found = _VIOLATIONS.read_text(encoding="utf-8") if _VIOLATIONS.exists() else ""
    _VIOLATIONS.unlink(missing_ok=True)
    assert found == ""


# Skips as "test: reason". They are collected in the process that gets the reports (with xdist, the controller).
_skipped: list[str] = []


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and "may_skip" not in getattr(report, "keywords", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append(f"{report.nodeid}: {reason}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note_skip(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, fail the run if a test was skipped and is not marked `may_skip`."""
    if IN_CI and _skipped and not hasattr(session.config, "workerinput") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if IN_CI and _skipped:
        terminalreporter.section("skipped in CI, which fails the run", red=True)
        for line in sorted(_skipped):
            terminalreporter.line(line)
