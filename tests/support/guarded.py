"""A pytest plugin that ends tests without progress, and leaves no process behind, however the run ends.

tests/support/progress.py defines progress. A thread of the plugin watches each phase of each test.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Generator
from types import FrameType
from typing import Final

import pytest

from tests.support.processes import Child, guard
from tests.support.progress import LOOK_EVERY_S, MINE, Movement, Standstill

# Longer than the waits inside a test (progress.STILL_LOOKS), because their error says better what is missing.
STILL_LOOKS: Final = int(os.environ.get("WEIR_TEST_STILL_LOOKS", "120"))
# The process ends after so many more looks if the test does not react to the error, because it hangs in a library.
_LOOKS_TO_REACT: Final = STILL_LOOKS // 4
# faulthandler ends the process if the watching thread has not run for so long, because a library blocks all threads.
_NO_THREAD_S: Final = 600
_LOOKS_TO_ARM: Final = 30
_LOOKS_TO_END: Final = 5
_CPU_TO_END_S: Final = 60.0
_SIGNAL: Final = signal.SIGUSR1

_GUARD = pytest.StashKey["Guard"]()


def pytest_configure(config: pytest.Config) -> None:
    """Start to watch for standstills and to guard the processes of this run."""
    found = config.stash[_GUARD] = Guard()
    found.start(controls=not hasattr(config, "workerinput"))
    config.pluginmanager.register(found, "guard")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop watching, and kill the processes that this run has started."""
    found = config.stash.get(_GUARD, None)
    if found is not None:
        found.stop()


class Guard:
    """Watches each phase of each test of this process in a separate thread."""

    def __init__(self) -> None:
        self._phase: str | None = None  # The running test and its phase.
        self._error: Standstill | None = None
        self._before: set[tuple[int, int]] | None = None  # The processes that existed before the body of the test.
        self._over = threading.Event()
        self._main = threading.main_thread()
        self._stderr = os.dup(2)  # pytest does not capture standard error yet.
        self._guarding: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name="watches for a standstill", daemon=True)

    def start(self, *, controls: bool) -> None:
        """Start to watch. If this process `controls` the run, also start the process that cleans up after it."""
        if controls:
            self._guarding = guard(MINE.mark)
        signal.signal(_SIGNAL, self._raise)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. If this process controls the run, kill the processes that the run has started."""
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if self._guarding is not None:
            MINE.end()
            self._guarding.kill()
            self._guarding.wait()
        os.close(self._stderr)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        self._before = None
        with self._watched(item, "set-up"):
            yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        self._before = {(child.pid, child.start) for child in MINE.children()}
        with self._watched(item, "body"):
            yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None]:
        with self._watched(item, "tear-down"):
            yield
            if self._before is not None:
                self._require_no_process(self._before)

    @contextlib.contextmanager
    def _watched(self, item: pytest.Item, phase: str) -> Generator[None]:
        self._error = None
        self._phase = f"the {phase} of {item.nodeid}"
        try:
            yield
        finally:
            self._phase = None

    def _require_no_process(self, before: set[tuple[int, int]]) -> None:
        """Kill processes that the body of a test has left behind, and fail if there were any.

        Processes that are still busy get time to end.
        """

        def left() -> list[Child]:
            return [one for one in MINE.children() if (one.pid, one.start) not in before and not _stays(one)]

        if not left():
            return
        movement = Movement("the end of the test's processes", still_looks=_LOOKS_TO_END, most_cpu_s=_CPU_TO_END_S)
        try:
            while left():
                movement.check()
                self._over.wait(0.02)
        except Standstill:
            told = [f"process {child.pid}: {child.command}" for child in left()]
            for child in left():
                os.kill(child.pid, signal.SIGKILL)
            raise AssertionError("\n".join(["the test left processes behind, which are killed now", *told])) from None

    def _watch(self) -> None:
        watched, movement, reacting, looks = None, None, 0, 0
        while not self._over.wait(LOOK_EVERY_S):
            looks += 1
            if looks % _LOOKS_TO_ARM == 0:
                faulthandler.dump_traceback_later(_NO_THREAD_S, exit=True, file=self._stderr)
                continue  # The thread that this starts would count as busy.
            phase = self._phase
            if phase is None:
                watched = None
            elif phase != watched:
                watched, reacting = phase, 0
                movement = Movement(phase, itself=True, still_looks=STILL_LOOKS)
            elif reacting:
                reacting += 1
                if reacting > _LOOKS_TO_REACT:
                    self._give_up(phase)
            else:
                assert movement is not None
                try:
                    movement.check()
                except Standstill as error:
                    error.add_note(_stacks())
                    self._error, reacting = error, 1
                    assert self._main.ident is not None
                    signal.pthread_kill(self._main.ident, _SIGNAL)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        error, self._error = self._error, None
        if error is not None and self._phase is not None:
            raise error

    def _give_up(self, phase: str) -> None:
        """Kill all processes that this process started, and end it, because its main thread hangs in a library."""
        os.write(self._stderr, f"\n{phase}: nothing moves, and the test does not react; its process ends\n".encode())
        faulthandler.dump_traceback(self._stderr, all_threads=True)
        MINE.end()
        os._exit(70)


def _stays(child: Child) -> bool:
    """Return True for a process that Python starts once and keeps until the end."""
    return "multiprocessing.resource_tracker" in child.command


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            lines.append(f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(lines)
