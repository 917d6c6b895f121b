"""Waits of tests. They end when what they wait for has come, or when nothing moves any more: never by the clock alone.

A machine may be as slow as it likes. What counts as movement: processes that want a processor, bytes that they print or
log, and whatever a test itself can see, such as rows that have landed or offsets of topics.
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
STILL_LOOKS: Final = 60  # so many looks in a row without movement are a standstill
# Processes move if they are busy at this share of the looks. A broker and two workers that idle are at less than 0.3 of
# them on a machine with nine runnable threads for each processor; what waits for a processor is at nearly all.
BUSY_SHARE: Final = 0.5
MOST_CPU_S: Final = 1200.0  # what uses more for one wait, and shows nothing for it, goes round in circles
FOR_EVER_S: Final = "86400"  # for `weir send --timeout`: the wait for the command ends it
_TAIL_BYTES: Final = 4000

MINE: Final = Marked(new_mark("tests"))  # all processes that this process starts, and those that they start


class Standstill(AssertionError):
    """A test waited, and nothing moved any more."""


class Movement:
    """Tells whether anything moves while a test waits.

    `what` names what is waited for. `seen` gives something that changes if there is progress. `logs` are files, or
    patterns of files in a folder, that grow. `itself` counts this process, too, but not the thread that looks.
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
        self._busy: deque[bool] = deque(maxlen=still_looks)  # since something was last seen to change
        self._began_s = self._looked_s = time.monotonic()
        self._last = self._visible()
        self._children = self._look()
        self._cpu_s = 0.0

    def check(self) -> None:
        """Look, if the last look is long enough ago. Raises Standstill if nothing has moved for long."""
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
        """What a test should say that gives up: what was waited for, what was seen last, processes and logs."""
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
    """What `find` finds, as soon as that is neither None nor False.

    Raises Standstill if nothing moves any more, or if one of the processes that must run (`runs`) has ended.
    """
    movement = Movement(what, seen, logs)
    while (found := find()) is None or found is False:
        require_running(runs, movement)
        movement.check()
        time.sleep(pause_s)
    return found


def require_running(processes: Sequence[subprocess.Popen[Any]], movement: Movement) -> None:
    """Raises Standstill if one of the processes has ended."""
    for process in processes:
        if process.poll() is not None:
            said = []
            for pipe in (process.stdout, process.stderr):
                said += [str(pipe.read())[-_TAIL_BYTES:]] if pipe is not None and not pipe.closed else []
            why = f"process {process.pid} ended with status {process.returncode}"
            raise Standstill(movement.told("\n".join([why, *said])))


def ended(process: subprocess.Popen[Any], logs: Sequence[Path] = ()) -> int:
    """The status of a process, once it has ended. If nothing moves any more it is killed, and Standstill is raised."""
    movement = Movement(f"the end of process {process.pid}: {_words(process.args)}", logs=logs)
    while True:
        try:
            return process.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            _check_or_kill(process, movement)


def communicated(process: subprocess.Popen[Text], given: Text | None = None) -> tuple[Text, Text]:
    """What a process prints to its pipes up to its end. As `ended` does, it kills and raises at a standstill."""
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
    """Run a command to its end, as subprocess.run does with captured output; at a standstill it is killed."""
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
