"""A rule that is active: what the evaluation of a batch, a tick or a command loops over."""

from __future__ import annotations

from dataclasses import dataclass

from rating.rules.triggers import Trigger
from schemas.rules import Rule


@dataclass(frozen=True)
class Watch:
    """An active rule with its number in the vocabulary (`row`) and its place among the active ones."""

    row: int
    place: int
    rule: Rule
    trigger: Trigger
    since_us: int  # active since

    @property
    def holds_back(self) -> bool:
        """Whether a suspension that it asks for is followed by a resume of its own accord (L1, L2)."""
        return any(action.type == "suspend" and action.until != "released" for action in self.rule.actions)
