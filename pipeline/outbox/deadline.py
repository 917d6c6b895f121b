"""One deadline for a whole exchange. A timeout of a socket bounds one read, so a receiver that sends a byte a second
would keep a thread for as long as it likes.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

_AGAIN_S: Final = 0.05  # pause before the next look, if the exchange had no connection yet or opened another


class Deadline:
    """Ends the exchange on a socket after `seconds`; a context manager.

    `socket_of` returns the socket of the exchange, or None before there is one. When time is up it is shut down, so a
    read or write that waits ends at once. `passed` is True from then on.
    """

    def __init__(self, seconds: float, socket_of: Callable[[], socket.socket | None]) -> None:
        self.passed = False
        self._seconds = seconds
        self._socket_of = socket_of
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="weir-deadline", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        wait_s = self._seconds
        while not self._done.wait(wait_s):
            self.passed = True
            wait_s = _AGAIN_S
            found = self._socket_of()
            if found is not None:
                # The method of the base class: that of a TLS socket would change what the other thread reads with.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(found, socket.SHUT_RDWR)
