"""Ids of actions, read back: the result of an action names the firing that asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_RELEASED: Final = ".released"
_PARTS: Final = 5  # partition, offset, ICCID, sequence, rule


@dataclass(frozen=True)
class ActionId:
    """What an action id says: <partition>.<offset>.<iccid>.<sequence>.<rule>, and perhaps an ordinal and `.released`.

    `rest` is the rule with what follows it. `released` says whether the action belongs to the end of a suspension.
    """

    offset: int
    iccid: str
    sequence: int
    rest: str

    @property
    def released(self) -> bool:
        """True if the id ends as those of a release do."""
        return self.rest.endswith(_RELEASED)

    def rule(self, rows: Mapping[str, int]) -> int | None:
        """Return the number of the rule that asked; None if no rule of `rows` did. Ids of rules may contain dots."""
        text = self.rest
        if text not in rows:
            text = text.removesuffix(_RELEASED)
        if text not in rows:
            head, _, ordinal = text.rpartition(".")
            text = head if ordinal.isdecimal() else text
        return rows.get(text)


def read_action_id(text: str | None) -> ActionId | None:
    """Return what an action id says; None if it is none of Weir's."""
    parts = (text or "").split(".", _PARTS - 1)
    if len(parts) < _PARTS or not all(part.isdecimal() and part.isascii() for part in (*parts[:2], parts[3])):
        return None
    return ActionId(int(parts[1]), parts[2], int(parts[3]), parts[4])
