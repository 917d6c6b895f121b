"""Bounds how many HTTP connections a worker holds, and for how long without a request.

aiohttp waits for ever for the rest of a request. Whoever opens connections and sends nothing could hold as many as the
process may have files, and the history could not be opened any more.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 10.0  # for a request to come, and for its answer to be taken
_MOST: Final = 512
_SHARE: Final = 4  # of the files that the process may have open


def most_connections() -> int:
    """Return how many connections the worker holds at most: a quarter of the files that it may have open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(8, min(_MOST, files // _SHARE))


class Door:
    """A factory of protocols for `create_server`, in front of that of aiohttp.

    A connection beyond `most` is closed at once. One that brings no whole request within `patience_s` is closed then.
    """

    def __init__(
        self, make: Callable[[], asyncio.Protocol], most: int | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        self.most = most_connections() if most is None else most
        self.patience_s = patience_s
        self.visits: dict[asyncio.BaseTransport, Visit] = {}
        self._make = make

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return Visit(self, self._make())

    def began(self, transport: asyncio.BaseTransport | None) -> None:
        """Note that a request of a connection is whole: it is answered, however long that takes."""
        if transport is not None and transport in self.visits:
            self.visits[transport].stay()

    def ended(self, transport: asyncio.BaseTransport | None) -> None:
        """Note that a request was answered: from now on the connection waits for the next one."""
        if transport is not None and transport in self.visits:
            self.visits[transport].wait()


class Visit(asyncio.Protocol):
    """One connection, passed on to the protocol of aiohttp."""

    def __init__(self, door: Door, inner: asyncio.Protocol) -> None:
        self._door = door
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or close it if there are too many."""
        assert isinstance(transport, asyncio.Transport)
        if len(self._door.visits) >= self._door.most:
            transport.abort()
            return
        self._transport = transport
        self._door.visits[transport] = self
        self._inner.connection_made(transport)
        self.wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end of the connection on."""
        self.stay()
        if self._transport is not None:
            self._door.visits.pop(self._transport, None)
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        if self._transport is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass the end of the client's bytes on."""
        return self._inner.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        """Pass on that the client reads too slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client reads again."""
        self._inner.resume_writing()

    def wait(self) -> None:
        """Close the connection after the patience of the door, unless a request comes."""
        self.stay()
        if self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(self._door.patience_s, self._transport.abort)

    def stay(self) -> None:
        """Let the connection live on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
