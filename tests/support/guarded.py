"""A plugin of pytest: ends tests in which nothing moves, and leaves no process behind, however the run ends."""

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

# More than a wait of a test itself has, which can say better what it waits for.
STILL_LOOKS: Final = int(os.environ.get("WEIR_TEST_STILL_LOOKS", "120"))
# For a test that does not react to the error because it hangs in a library.
_LOOKS_TO_REACT: Final = STILL_LOOKS // 4
# For a test that hangs in a library that lets no other thread run: this long the thread that watches did not run.
_NO_THREAD_S: Final = 600
_LOOKS_TO_ARM: Final = 30
_LOOKS_TO_END: Final = 5
_CPU_TO_END_S: Final = 60.0
_SIGNAL: Final = signal.SIGUSR1

_GUARD = pytest.StashKey["Guard"]()


def pytest_configure(config: pytest.Config) -> None:
    """Watch for standstills, and guard the processes of this run."""
    found = config.stash[_GUARD] = Guard()
    found.start(controls=not hasattr(config, "workerinput"))
    config.pluginmanager.register(found, "guard")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End what this run has started."""
    found = config.stash.get(_GUARD, None)
    if found is not None:
        found.stop()


class Guard:
    """Watches each phase of each test of this process from a thread of its own."""

    def __init__(self) -> None:
        self._phase: str | None = None  # the test that runs now, with its phase
        self._error: Standstill | None = None
        self._before: set[tuple[int, int]] | None = None  # processes that were there before the body of the test
        self._over = threading.Event()
        self._main = threading.main_thread()
        self._stderr = os.dup(2)  # pytest has not taken it yet
        self._guarding: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name="watches for a standstill", daemon=True)

    def start(self, *, controls: bool) -> None:
        """Begin to watch; the process that `controls` the run is guarded as well."""
        if controls:
            self._guarding = guard(MINE.mark)
        signal.signal(_SIGNAL, self._raise)
        self._thread.start()

    def stop(self) -> None:
        """End what this run has started."""
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
        """Fail if processes that the body of a test started outlive it; they are killed."""

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
                continue  # the thread that this starts would count as busy
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
        """End this process: the main thread does not come back from a library. What it started ends with it."""
        os.write(self._stderr, f"\n{phase}: nothing moves, and the test does not react; its process ends\n".encode())
        faulthandler.dump_traceback(self._stderr, all_threads=True)
        MINE.end()
        os._exit(70)


def _stays(child: Child) -> bool:
    """Whether it is a process that Python starts once, for all that come later."""
    return "multiprocessing.resource_tracker" in child.command


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            lines.append(f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(lines)
