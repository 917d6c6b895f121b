"""Reads ahead: another thread makes the next item while the caller works on the current one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
_END: Final = object()


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items in the same order, one item ahead.

    An exception of the source is raised in place of the item at which it occurred.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="weir-read") as reader:
        ahead = reader.submit(next, items, _END)
        while (item := ahead.result()) is not _END:
            ahead = reader.submit(next, items, _END)
            yield item  # type: ignore[misc]  # the sentinel is excluded above
