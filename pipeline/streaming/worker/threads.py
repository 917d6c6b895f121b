"""The thread of an event loop that works on Polars objects."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor


def work_in_one_thread() -> None:
    """Run every `asyncio.to_thread` call of the running event loop in one and the same thread.

    This thread owns all Polars objects beside the loop (rating.columnar.sharing), so the loop itself touches none. More threads
    would not be faster: work on columns is many short calls, and each waits for the interpreter behind the others.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "columns"))
