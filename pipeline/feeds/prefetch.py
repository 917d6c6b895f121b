"""Reads ahead: the next item is made in another thread while this one is worked on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
_END: Final = object()


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """The same items in the same order, one made ahead; an exception of the source comes where its item would."""
    with ThreadPoolExecutor(1, thread_name_prefix="weir-read") as reader:
        ahead = reader.submit(next, items, _END)
        while (item := ahead.result()) is not _END:
            ahead = reader.submit(next, items, _END)
            yield item  # type: ignore[misc]  # the sentinel has just been told apart
