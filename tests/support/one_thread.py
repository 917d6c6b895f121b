"""Replacement of the event loop's executor, for tests that create an engine in the thread of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class _ThisThread(ThreadPoolExecutor):
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call the function at once, in the caller's thread."""
        done: Future[Any] = Future()
        try:
            done.set_result(function(*args, **kwargs))
        except Exception as failure:
            done.set_exception(failure)
        return done


def work_in_this_thread() -> None:
    """Make `asyncio.to_thread` call its function at once in the thread of the running loop."""
    asyncio.get_running_loop().set_default_executor(_ThisThread(1))
