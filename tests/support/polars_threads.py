"""Detection of Polars objects that two threads touch.

Each data frame, series and lazy frame of Polars has a lock. A thread that has the interpreter and waits for this lock,
and a thread that has the lock and waits for the interpreter, are in a deadlock. So an object belongs to the thread that
created it (docs/decisions/0050). `watch` enforces this rule: every method of these classes reaches the data through one
attribute, and reading this attribute in another thread raises an error.

Expressions are not watched, because they have no lock and are immutable.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

# Makes child processes watch (support/watched/sitecustomize.py); the file in which they note what they find.
VARIABLE = "WEIR_TEST_POLARS_THREADS"


class PolarsThreadError(AssertionError):
    """A thread touched a Polars object that another thread created."""


class _Thread(threading.local):
    def __init__(self) -> None:
        self.name = threading.current_thread().name


_thread = _Thread()
found: list[str] = []  # Violations in this process, also if the error was caught.


def _report(message: str) -> None:
    """Note a violation, in the file too: a process may catch the error and go on."""
    found.append(message)
    file = os.environ.get(VARIABLE)
    if file:
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(f"process {os.getpid()}: {message}\n")


class _Owned:
    """A descriptor of an attribute that only the thread that set it may read."""

    def __init__(self, attribute: str) -> None:
        self._attribute = attribute

    def __get__(self, one: Any, kind: type | None = None) -> Any:
        if one is None:
            return self
        try:
            value, owner, name = one.__dict__[self._attribute]
        except KeyError:
            raise AttributeError(self._attribute) from None
        if owner is not _thread.__dict__:
            message = f"a {type(one).__name__} of the thread {name!r} was touched by {_thread.name!r}"
            _report(message)
            raise PolarsThreadError(message)
        return value

    def __set__(self, one: Any, value: Any) -> None:
        one.__dict__[self._attribute] = (value, _thread.__dict__, _thread.name)


def watch() -> None:
    """From now on, restrict every new Polars object to the thread that creates it."""
    import polars as pl

    for kind, attribute in ((pl.DataFrame, "_df"), (pl.Series, "_s"), (pl.LazyFrame, "_ldf")):
        if not isinstance(kind.__dict__.get(attribute), _Owned):
            setattr(kind, attribute, _Owned(attribute))


class _Watching(importlib.abc.MetaPathFinder):
    """Import hook that calls `watch` when Polars is imported, so that other processes need not import it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "polars":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                sys.meta_path.remove(self)
                load(module)
                watch()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def watch_when_imported() -> None:
    """Call `watch` as soon as Polars is imported, if VARIABLE is set; at once if it already is imported."""
    if "polars" in sys.modules:
        watch()
    elif os.environ.get(VARIABLE):
        sys.meta_path.insert(0, _Watching())
