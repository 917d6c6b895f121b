"""What questions are asked of: a state and its compiled catalogue. An Engine is one."""

from __future__ import annotations

from typing import Protocol

from rating.apply import Compiled
from rating.queried_state import QueriedState


class Queried(Protocol):
    """A state and its compiled catalogue."""

    @property
    def state(self) -> QueriedState:
        """The state."""

    @property
    def compiled(self) -> Compiled:
        """The compiled catalogue of the state."""
