"""The result of sending a message, and the interface of senders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Outcome = Literal["delivered", "again", "dead"]


@dataclass(frozen=True)
class Sent:
    """Result of one attempt.

    "again" may succeed later, "dead" never will. `after_s` is the wait in seconds that the receiver requested.
    """

    outcome: Outcome
    error: str | None = None
    after_s: float = 0.0


class Sender(Protocol):
    """Sender of messages to one destination. Several threads call it at the same time."""

    def send(self, action_id: str, body: bytes) -> Sent:
        """Send one message. Failures of the network or the receiver are returned, not raised."""

    def close(self) -> None:
        """Close all connections."""
