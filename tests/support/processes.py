"""The processes of a test run: found by a mark in their environment, which children inherit, and ended with the run.

    python tests/support/processes.py MARK PROCESS    waits for the end of PROCESS, then kills what carries MARK

Needs Linux (/proc and pidfd), as other tests do. Imports nothing of Weir, so that the guard starts at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

MARKS = "WEIR_TEST_MARKS"  # marks separated by colons, that of the outermost run first
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_START = 19  # the column of /proc/PID/stat, counted behind the name of the command
_END_ROUNDS = 100
_END_PAUSE_S = 0.02


@dataclass(frozen=True)
class Child:
    """A process as it was when it was looked at."""

    pid: int
    start: int  # in clock ticks after the boot; with the pid it names a process for good
    cpu_s: float  # its own and that of its children that have ended and were waited for
    wants_cpu: bool  # whether a thread of it runs, waits for a processor or waits for the disk

    @property
    def command(self) -> str:
        """Its command line; empty if it has ended."""
        return _read(self.pid, "cmdline").replace("\0", " ").strip()


def new_mark(name: str) -> str:
    """A mark that no other process has. What is started from now on in this process carries it."""
    mark = f"{name}-{uuid.uuid4().hex}"
    os.environ[MARKS] = ":".join([*_split(os.environ.get(MARKS, "")), mark])
    return mark


class Marked:
    """The processes that carry a mark, without the process that looks."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self._known: dict[tuple[int, int], bool] = {}  # by pid and start: whether it carries the mark

    def children(self) -> list[Child]:
        """Those that have not ended, by pid."""
        found = []
        known: dict[tuple[int, int], bool] = {}
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            pid = int(name)
            fields = _fields(_read(pid, "stat"))
            if not fields:
                continue
            key = (pid, int(fields[_START]))
            # A process that was just forked has the environment of its parent until it runs its own program.
            known[key] = self._known.get(key, False) or self.mark in _marks_of(pid)
            child = look(pid) if known[key] else None
            if child is not None:
                found.append(child)
        self._known = known
        return sorted(found, key=lambda child: child.pid)

    def end(self) -> list[Child]:
        """Kill all of them, and those that they start meanwhile; what was killed. None runs afterwards."""
        ended: dict[tuple[int, int], Child] = {}
        for _ in range(_END_ROUNDS):
            left = self.children()
            if not left:
                break
            for child in left:
                ended.setdefault((child.pid, child.start), child)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(child.pid, signal.SIGKILL)
            time.sleep(_END_PAUSE_S)
        return list(ended.values())


def look(pid: int, *, without_thread: int = 0) -> Child | None:
    """A process, or None if it has ended. `without_thread` is not asked whether it wants a processor."""
    fields = _fields(_read(pid, "stat"))
    if not fields or fields[0] in "ZX":
        return None
    wants = False
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            if int(thread) != without_thread:
                state = _fields(_read(pid, f"task/{thread}/stat"))
                wants = wants or (bool(state) and state[0] in "RD")
    cpu_ticks = sum(map(int, fields[11:15]))
    return Child(pid, int(fields[_START]), cpu_ticks / _TICKS_PER_S, wants)


def guard(mark: str) -> subprocess.Popen[bytes]:
    """Start a process that waits for the end of this one, however it ends, and then kills what carries the mark."""
    environment = {name: value for name, value in os.environ.items() if name != MARKS}
    # A session of its own, so that Ctrl-C and the end of the terminal do not reach it.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, mark, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )


def _marks_of(pid: int) -> list[str]:
    for variable in _read(pid, "environ").split("\0"):
        if variable.startswith(f"{MARKS}="):
            return _split(variable.partition("=")[2])
    return []


def _split(marks: str) -> list[str]:
    return [mark for mark in marks.split(":") if mark]


def _fields(stat: str) -> list[str]:
    # The name of the command comes second, in brackets, and may hold anything.
    return stat.rpartition(")")[2].split()


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:  # it has ended, or belongs to somebody else
        return ""


def _wait_and_end(mark: str, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        guarded = os.pidfd_open(pid)
        if os.getppid() == pid:  # else it had ended before, and another process may have its number
            select.select([guarded], [], [])
    Marked(mark).end()


if __name__ == "__main__":
    _wait_and_end(sys.argv[1], int(sys.argv[2]))
