"""What became of sending a message, and the interface of what sends them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Outcome = Literal["delivered", "again", "dead"]


@dataclass(frozen=True)
class Sent:
    """How it went: "again" may go better later, "dead" never will. `after_s` is what the receiver asked to wait."""

    outcome: Outcome
    error: str | None = None
    after_s: float = 0.0


class Sender(Protocol):
    """Sends one message at a time, from several threads at once."""

    def send(self, action_id: str, body: bytes) -> Sent:
        """Send it; what goes wrong outside is told, not raised."""

    def close(self) -> None:
        """Give connections back."""
