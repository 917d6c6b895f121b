"""The one worker thread beside the event loop, which works on Polars objects."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor


def work_in_one_thread() -> None:
    """Run every `asyncio.to_thread` call of the running event loop in one and the same thread.

    This thread owns all Polars objects outside the event loop (rating.columnar.sharing), so the loop itself must use
    none. More threads would not be faster: work on columns is many short calls, and the calls of each thread would wait
    for the interpreter lock held by another.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "columns"))
