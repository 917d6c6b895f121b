"""Processes of a test run. A mark in their environment, which children inherit, identifies them.

    python tests/support/processes.py MARK PROCESS

waits for the end of PROCESS and then kills all processes with MARK. Needs Linux (/proc and pidfd), as other tests do.
Imports nothing of Weir, so that it starts at once.
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

MARKS = "WEIR_TEST_MARKS"  # Marks separated by colons, the mark of the outermost run first.
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_START = 19  # Column of /proc/PID/stat, counted after the name of the command.
_END_ROUNDS = 100
_END_PAUSE_S = 0.02


@dataclass(frozen=True)
class Child:
    """A snapshot of a process."""

    pid: int
    start: int  # In clock ticks after the boot. Together with the pid, it identifies a process uniquely.
    cpu_s: float  # CPU time of the process, and of its children that have ended and were waited for.
    wants_cpu: bool  # True if a thread runs, waits for a processor or waits for the disk.

    @property
    def command(self) -> str:
        """The command line; empty if the process has ended."""
        return _read(self.pid, "cmdline").replace("\0", " ").strip()


def new_mark(name: str) -> str:
    """Return a new unique mark. Processes that this process starts from now on inherit it."""
    mark = f"{name}-{uuid.uuid4().hex}"
    os.environ[MARKS] = ":".join([*_split(os.environ.get(MARKS, "")), mark])
    return mark


class Marked:
    """The processes with a mark, except this process."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self._known: dict[tuple[int, int], bool] = {}  # Whether (pid, start) has the mark.

    def children(self) -> list[Child]:
        """Return the processes that have not ended, sorted by pid."""
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
            # Only a mark that was found is remembered. Until a forked process runs its own program, /proc shows the
            # initial environment of its parent, which may lack the mark.
            known[key] = self._known.get(key, False) or self.mark in _marks_of(pid)
            child = look(pid) if known[key] else None
            if child is not None:
                found.append(child)
        self._known = known
        return sorted(found, key=lambda child: child.pid)

    def end(self) -> list[Child]:
        """Kill all these processes and those that they start meanwhile. Return the killed ones.

        It tries _END_ROUNDS times.
        """
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
    """Return a snapshot of a process, or None if it has ended. `wants_cpu` ignores the thread `without_thread`."""
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
    """Start a process that waits until this one ends, in whatever way, and then kills all processes with the mark."""
    environment = {name: value for name, value in os.environ.items() if name != MARKS}
    # In a new session, Ctrl-C and the end of the terminal do not reach the process.
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
    # The name of the command is in brackets before the other fields, and may contain any characters.
    return stat.rpartition(")")[2].split()


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:  # The process has ended, or belongs to another user.
        return ""


def _wait_and_end(mark: str, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        guarded = os.pidfd_open(pid)
        if os.getppid() == pid:  # Otherwise it has ended already, and another process may have its pid.
            select.select([guarded], [], [])
    Marked(mark).end()


if __name__ == "__main__":
    # Whoever interrupts all processes of a run at once needs this one most.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _wait_and_end(sys.argv[1], int(sys.argv[2]))
