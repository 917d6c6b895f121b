"""What a stage waits for, and how long it has waited."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LONG_S: Final = 60.0  # a stage that waits for longer shows in /ready, in a metric and in the log


class Waiting:
    """What one stage waits for at the moment, besides new messages."""

    def __init__(self) -> None:
        self._what: str | None = None
        self._since_s = 0.0

    @contextmanager
    def for_what(self, what: str) -> Iterator[None]:
        """Say what the stage waits for while the body runs, such as "waits for offset 3 of weir.commands"."""
        self._what, self._since_s = what, time.monotonic()
        try:
            yield
        finally:
            self._what = None

    @property
    def seconds(self) -> float:
        """How long the stage has waited; 0 if it does not wait."""
        return 0.0 if self._what is None else time.monotonic() - self._since_s

    @property
    def problem(self) -> str | None:
        """What the stage has waited for longer than LONG_S; None if it has not."""
        return self._what if self.seconds > LONG_S else None
