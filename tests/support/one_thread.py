"""Runs `asyncio.to_thread` in the thread of the event loop, for tests that made an engine in that thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class _ThisThread(ThreadPoolExecutor):
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call the function at once."""
        done: Future[Any] = Future()
        try:
            done.set_result(function(*args, **kwargs))
        except Exception as failure:
            done.set_exception(failure)
        return done


def work_in_this_thread() -> None:
    """Have the running loop call what `asyncio.to_thread` is given at once, in its own thread."""
    asyncio.get_running_loop().set_default_executor(_ThisThread(1))
