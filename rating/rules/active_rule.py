"""One active rule. The evaluation of a batch, tick or command loops over them."""

from __future__ import annotations

from dataclasses import dataclass

from rating.rules.triggers import Trigger
from schemas.rules import Rule


@dataclass(frozen=True)
class Watch:
    """An active rule with its number in the vocabulary (`row`) and its index among the active rules (`place`)."""

    row: int
    place: int
    rule: Rule
    trigger: Trigger
    since_us: int  # time of activation, microseconds since 1970 UTC

    @property
    def holds_back(self) -> bool:
        """True if the rule requests a suspension that is lifted automatically (L1, L2)."""
        return any(action.type == "suspend" and action.until != "released" for action in self.rule.actions)
