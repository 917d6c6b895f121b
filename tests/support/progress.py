"""Waits of tests. A wait ends when its condition is met, or when there is no progress: never by the clock alone.

So tests also pass on a slow machine. Progress is: processes that want a processor, growing logs, and whatever a test
itself can observe, such as landed rows or offsets of topics.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.support.processes import Child, Marked, look, new_mark

T = TypeVar("T")
Text = TypeVar("Text", str, bytes)

LOOK_EVERY_S: Final = 1.0
STILL_LOOKS: Final = 60  # A standstill is so many looks in a row without progress.
# Processes make progress if they are busy at this share of the looks. On a machine with nine runnable threads for each
# processor, an idle broker and two idle workers are busy at less than 0.3 of the looks, and a process that waits for a
# processor at nearly all of them.
BUSY_SHARE: Final = 0.5
MOST_CPU_S: Final = 1200.0  # A wait that uses more CPU time without visible progress is an endless loop.
FOR_EVER_S: Final = "86400"  # For `weir send --timeout`, so that the wait for the command decides.
_TAIL_BYTES: Final = 4000

MINE: Final = Marked(new_mark("tests"))  # All descendants of this process.


class Standstill(AssertionError):
    """A test waited, and there was no progress any more."""


class Movement:
    """Detector of progress while a test waits.

    `what` is the condition in words. `seen` returns a value that changes if there is progress. `logs` are growing
    files, or patterns of files in a folder. If `itself` is true, this process counts too, except the thread that looks.
    """

    def __init__(
        self,
        what: str,
        seen: Callable[[], object] | None = None,
        logs: Sequence[Path] = (),
        *,
        itself: bool = False,
        still_looks: int = STILL_LOOKS,
        most_cpu_s: float = MOST_CPU_S,
    ) -> None:
        self.what = what
        self._seen = seen
        self._logs = logs
        self._itself = itself
        self._still_looks = still_looks
        self._most_cpu_s = most_cpu_s
        self._busy: deque[bool] = deque(maxlen=still_looks)  # Since the last visible change.
        self._began_s = self._looked_s = time.monotonic()
        self._last = self._visible()
        self._children = self._look()
        self._cpu_s = 0.0

    def check(self) -> None:
        """Look for progress, at most every LOOK_EVERY_S seconds.

        Raises Standstill after `still_looks` looks without progress, or after `most_cpu_s` without a visible change.
        """
        now_s = time.monotonic()
        elapsed_s = now_s - self._looked_s
        if elapsed_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        before = {(child.pid, child.start): child.cpu_s for child in self._children}
        self._children = self._look()
        used_s = sum(max(0.0, c.cpu_s - before.get((c.pid, c.start), 0.0)) for c in self._children)
        self._busy.append(any(child.wants_cpu for child in self._children) or used_s >= BUSY_SHARE * elapsed_s)
        self._cpu_s += used_s
        visible = self._visible()
        if visible != self._last:
            self._last, self._cpu_s = visible, 0.0
            self._busy.clear()
        if len(self._busy) == self._still_looks and sum(self._busy) < BUSY_SHARE * self._still_looks:
            raise Standstill(self.told(f"nothing has moved at {self._still_looks} looks, {LOOK_EVERY_S:g} s apart"))
        if self._cpu_s > self._most_cpu_s:
            raise Standstill(self.told(f"{self._cpu_s:.0f} s of CPU time were used, and nothing came of them"))

    def told(self, why: str) -> str:
        """Return the error message: what the test waited for, why it gives up, the last `seen`, processes and logs."""
        lines = [f"waited {time.monotonic() - self._began_s:.0f} s for {self.what}: {why}"]
        if self._seen is not None:
            lines.append(f"last seen: {self._last[0]!r}")
        lines += [f"process {one.pid}, {one.cpu_s:.1f} s of CPU time: {one.command[:200]}" for one in self._children]
        for file in self._files():
            tail = file.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
            lines.append(f"{file} ends:\n{tail}")
        return "\n".join(lines)

    def _look(self) -> list[Child]:
        own = look(os.getpid(), without_thread=threading.get_native_id()) if self._itself else None
        return MINE.children() + ([] if own is None else [own])

    def _visible(self) -> tuple[object, int]:
        seen = None if self._seen is None else self._seen()
        return seen, sum(file.stat().st_size for file in self._files())

    def _files(self) -> list[Path]:
        return sorted(file for log in self._logs for file in log.parent.glob(log.name))


def wait_until(
    find: Callable[[], T | None],
    what: str,
    seen: Callable[[], object] | None = None,
    logs: Sequence[Path] = (),
    *,
    runs: Sequence[subprocess.Popen[Any]] = (),
    pause_s: float = 0.05,
) -> T:
    """Call `find` until its result is neither None nor False, and return the result.

    Raises Standstill if there is no progress any more, or if one of the processes `runs` has ended.
    """
    movement = Movement(what, seen, logs)
    while (found := find()) is None or found is False:
        require_running(runs, movement)
        movement.check()
        time.sleep(pause_s)
    return found


def require_running(processes: Sequence[subprocess.Popen[Any]], movement: Movement) -> None:
    """Raise Standstill with the output of the process if one of the processes has ended."""
    for process in processes:
        if process.poll() is not None:
            said = []
            for pipe in (process.stdout, process.stderr):
                said += [str(pipe.read())[-_TAIL_BYTES:]] if pipe is not None and not pipe.closed else []
            why = f"process {process.pid} ended with status {process.returncode}"
            raise Standstill(movement.told("\n".join([why, *said])))


def ended(process: subprocess.Popen[Any], logs: Sequence[Path] = ()) -> int:
    """Wait for the end of a process and return its status. At a standstill, kill the process and raise Standstill."""
    movement = Movement(f"the end of process {process.pid}: {_words(process.args)}", logs=logs)
    while True:
        try:
            return process.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            _check_or_kill(process, movement)


def communicated(process: subprocess.Popen[Text], given: Text | None = None) -> tuple[Text, Text]:
    """Return the output of a process after its end. At a standstill, kill the process and raise Standstill."""
    movement = Movement(f"the end of process {process.pid}: {_words(process.args)}")
    while True:
        try:
            return process.communicate(given, timeout=LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            _check_or_kill(process, movement)


def completed(
    command: Sequence[str | Path],
    *,
    text: bool = True,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: Any = subprocess.PIPE,
) -> subprocess.CompletedProcess[Any]:
    """Run a command and capture its output, as subprocess.run does.

    At a standstill, kill the command and raise Standstill.
    """
    with subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=text, cwd=cwd, env=env) as process:
        try:
            out, errors = communicated(process)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, errors)


def _check_or_kill(process: subprocess.Popen[Any], movement: Movement) -> None:
    try:
        movement.check()
    except Standstill as error:
        process.kill()
        said = process.communicate()
        error.add_note("\n".join(str(one)[-_TAIL_BYTES:] for one in said if one))
        raise


def _words(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else " ".join(map(str, arguments))
