"""How far a stage has come in its partition, and by what it knows that the partition is still the same log."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

import msgspec


class Told(Protocol):
    """A message of a log, as far as its digest goes."""

    @property
    def timestamp_us(self) -> int:
        """Time of the message in microseconds."""
        ...

    @property
    def value(self) -> bytes:
        """Content of the message."""
        ...


class StagePosition(msgspec.Struct, frozen=True):
    """The offset of the next message, and the digest of the message before it; empty if that is not known."""

    next_offset: int = 0
    digest: str = ""


def digest_of(message: Told) -> str:
    """Return a digest of content and time. A topic that is made anew has other messages at the same offsets."""
    digest = hashlib.blake2b(message.value, digest_size=12)
    digest.update(message.timestamp_us.to_bytes(8, "little", signed=True))
    return digest.hexdigest()


def same_as(digest: str) -> Callable[[Told], bool] | None:
    """Return the test whether a message has this digest; None if it is empty."""
    return (lambda message: digest_of(message) == digest) if digest else None
