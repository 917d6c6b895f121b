"""What tests wait with gives up at a standstill only; what guards their processes lets none outlive a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import MARKS, Child, Marked, new_mark
from tests.support.progress import Movement, Standstill, communicated, completed, ended, wait_until

ROOT = Path(__file__).parents[2]
STILL = "import sys, time; print('here I am', flush=True); time.sleep(86_400)"
BUSY = "while True: pass"
# Starts a process in a session of its own that starts another one and loses it, as a broker of a killed worker would.
LEAVES_BEHIND = """
import subprocess, sys
WAITS = "import time; time.sleep(86_400)"
STARTS = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {WAITS!r}]); print(1, flush=True)"

def start():
    ended = subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE, start_new_session=True)
    ended.stdout.readline()
    ended.wait()
    subprocess.Popen([sys.executable, "-c", WAITS], start_new_session=True)
"""
# A lock of the C library that is taken twice: a wait that no signal ends.
HANGS_IN_C = """
import ctypes

def hang():
    lock, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)
"""


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Marked]:
    """A mark of the test's own for what it starts; all of that is ended after the test."""
    monkeypatch.setenv(MARKS, os.environ[MARKS])
    found = Marked(new_mark("guarded"))
    yield found
    found.end()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for tests that the plugin guards, in which a standstill is short."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("WEIR_TEST_STILL_LOOKS", "4")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.support.guarded"]\n')
    (tmp_path / "leaves.py").write_text(LEAVES_BEHIND)
    (tmp_path / "hangs.py").write_text(HANGS_IN_C)
    return tmp_path


def pytest_command(project: Path, test: str, *words: str) -> list[str]:
    """What runs one test, whose body is given."""
    body = textwrap.indent(textwrap.dedent(test), "    ")
    (project / "test_one.py").write_text(f"import leaves, hangs, threading, time\n\ndef test_it():\n{body}\n")
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *words, str(project)]


def check_for_ever(movement: Movement) -> None:
    """Wait for what never comes."""
    while True:
        movement.check()
        time.sleep(0.1)


def test_a_process_that_stands_still_is_given_up_and_shown() -> None:
    """The error names what was waited for, what was seen last, the process and its output. The process is killed."""
    process = subprocess.Popen([sys.executable, "-c", STILL], stdout=subprocess.PIPE, text=True)
    movement = Movement("rows to land", lambda: {"rows": 7}, still_looks=3)
    with pytest.raises(Standstill) as told:
        check_for_ever(movement)
    assert "for rows to land: nothing has moved at 3 looks" in str(told.value)
    assert "last seen: {'rows': 7}" in str(told.value)
    assert f"process {process.pid}, " in str(told.value)
    process.kill()
    assert process.communicate()[0] == "here I am\n"


def test_logs_are_told(tmp_path: Path) -> None:
    """The end of each log is in the error."""
    (tmp_path / "worker-0.log").write_text("x" * 10_000 + "cannot reach Kafka")
    movement = Movement("replies", logs=[tmp_path / "worker-*.log"], still_looks=2)
    with pytest.raises(Standstill, match=r"worker-0\.log ends:\nx+cannot reach Kafka$"):
        check_for_ever(movement)


@pytest.mark.parametrize("sign", ["processor", "log", "what is seen"])
def test_what_moves_is_waited_for(sign: str, tmp_path: Path) -> None:
    """A process at work, a log that grows and a figure that changes are each a reason to wait on."""
    log = tmp_path / "worker.log"
    log.touch()
    looks = 0

    def seen() -> int:
        return looks if sign == "what is seen" else 0

    process = subprocess.Popen(
        [sys.executable, "-c", BUSY if sign == "processor" else STILL], stdout=subprocess.DEVNULL
    )
    try:
        movement = Movement("what never comes", seen, [log], still_looks=3)
        for looks in range(60):
            if sign == "log" and looks % 10 == 0:
                log.write_text(log.read_text() + "one more line\n")
            movement.check()
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()


def test_a_process_that_goes_round_in_circles_is_given_up() -> None:
    """Beyond a limit of CPU time that brings nothing the wait ends, too."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        movement = Movement("what never comes", most_cpu_s=1.5)
        with pytest.raises(Standstill, match="s of CPU time were used, and nothing came of them"):
            check_for_ever(movement)
    finally:
        process.kill()
        process.wait()


def test_a_process_that_must_run_and_has_ended_is_told_at_once() -> None:
    """With its status and what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.exit('no such topic')"], stderr=subprocess.PIPE, text=True
    )
    with process, pytest.raises(Standstill, match=r"(?s)for rows: process \d+ ended with status 1\nno such topic"):
        wait_until(lambda: False, "rows", runs=[process])


def test_ends_and_output_are_waited_for() -> None:
    """Status and output come as they do from subprocess, in text and in bytes."""
    command = [sys.executable, "-c", "import sys; print(input()); sys.exit(3)"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert communicated(process, b"given") == (b"given\n", b"")
    done = completed([sys.executable, "-c", "import sys; print('out'); sys.exit('err')"])
    assert (done.returncode, done.stdout, done.stderr) == (1, "out\n", "err\n")
    assert ended(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"])) == 0


def test_a_run_that_is_killed_leaves_no_process(project: Path, mark: Marked) -> None:
    """kill -9 of pytest ends what its tests have started, also what lost its parent and what has its own session."""
    command = pytest_command(project, "leaves.start()\ntime.sleep(86_400)")
    run = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL)

    def waiting() -> list[Child]:
        return [child for child in mark.children() if child.command.endswith("import time; time.sleep(86_400)")]

    wait_until(lambda: len(waiting()) == 2, "both processes of the test", runs=[run])
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_until(lambda: mark.children() == [], "the end of all processes", lambda: len(mark.children()))


def test_a_run_that_is_interrupted_leaves_no_process(project: Path, mark: Marked) -> None:
    """Ctrl-C."""
    command = pytest_command(project, "leaves.start()\ntime.sleep(86_400)")
    run = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL)
    wait_until(lambda: len(mark.children()) == 3, "the processes of the test", runs=[run])
    run.send_signal(signal.SIGINT)
    assert ended(run) == pytest.ExitCode.INTERRUPTED
    assert mark.children() == []


def test_a_killed_process_of_a_parallel_run_leaves_no_process(project: Path, mark: Marked) -> None:
    """The run as a whole is killed while two processes work for it."""
    command = pytest_command(project, "leaves.start()\ntime.sleep(86_400)", "-p", "xdist", "-n", "2")
    run = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL)
    wait_until(lambda: len(mark.children()) == 5, "the processes of the test", runs=[run])
    run.kill()
    run.wait()
    wait_until(lambda: mark.children() == [], "the end of all processes", lambda: len(mark.children()))


def test_a_test_that_leaves_a_process_fails(project: Path, mark: Marked) -> None:
    """The test passes and its tear-down fails, with the command of what was left; that is killed."""
    done = completed(pytest_command(project, "leaves.start()"), cwd=project)
    assert "1 passed, 1 error" in done.stdout
    assert "the test left processes behind, which are killed now" in done.stdout
    assert "import time; time.sleep(86_400)" in done.stdout
    assert mark.children() == []


def test_a_test_that_stands_still_fails(project: Path) -> None:
    """It fails alone, with the stacks of all threads."""
    done = completed(pytest_command(project, "threading.Event().wait()"), cwd=project)
    assert done.returncode == 1
    assert "for the body of test_one.py::test_it: nothing has moved at 4 looks" in done.stdout
    assert "thread MainThread:" in done.stdout
    assert "1 failed" in done.stdout


def test_a_test_that_hangs_in_a_library_ends_its_process(project: Path, mark: Marked) -> None:
    """It cannot be interrupted: the stacks are printed, and the process ends with all that it has started."""
    done = completed(pytest_command(project, "leaves.start()\nhangs.hang()"), cwd=project)
    assert done.returncode == 70
    assert "nothing moves, and the test does not react; its process ends" in done.stderr
    assert "in hang" in done.stderr
    wait_until(lambda: mark.children() == [], "the end of all processes", lambda: len(mark.children()))
