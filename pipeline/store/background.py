"""A background thread that writes files while the next batch is computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Task = Callable[[], None]


class Background:
    """Runs tasks in its own thread, one after another, in order; a context manager.

    At most `depth` tasks wait, so memory is bounded; `submit` blocks while the queue is full. After a task has failed,
    the later ones are dropped, and the next `submit` or `finish` raises its exception.
    """

    def __init__(self, depth: int = 2) -> None:
        self._tasks: queue.Queue[Task | None] = queue.Queue(depth)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="weir-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tasks.put(None)
        self._thread.join()

    def submit(self, task: Task) -> None:
        """Queue a task to run after all earlier ones. Raises the exception of a failed earlier task."""
        self._raise()
        self._tasks.put(task)

    def finish(self) -> None:
        """Wait for all tasks. Raises the exception of a failed task. The thread stays ready for more."""
        self._tasks.join()
        self._raise()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                if task is None:
                    return
                if self._failure is None:
                    task()
            except BaseException as failure:
                self._failure = failure
            finally:
                # A task may refer to a whole batch; release it now, not when the next task comes.
                del task
                self._tasks.task_done()
