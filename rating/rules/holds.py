"""Holds: why SIMs are suspended (L1, L2, C1). A SIM is suspended as long as at least one hold is on it.

A hold is one row for each SIM, cause and reason. The cause is a rule, or somebody outside of Weir: a person, the
carrier or a card list. Each hold has an end of its own: a person releases it, the window of its rule ends, or the SIM
recovers. Whatever ends one hold leaves the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rating.columnar.key_index import Ints, KeyIndex, reserve
from rating.rules.firing.repetition import RULE_BITS, Memory
from schemas.rules import Reason, Rule

REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
UNTILS: Final = ("released", "window_end", "recovered")
RELEASED: Final = 0  # in the column `until`: somebody has to release the SIM
OUTSIDE: Final = (1 << RULE_BITS) - 1  # the cause of a suspension that no rule asked for; no rule has this number

_REASON_BITS: Final = 3
_COLUMNS: Final = (
    "until",  # index into UNTILS
    "told",  # 1 after the network or a card list said that the SIM is suspended; 0 while it is only asked for
    "offset",  # journal offset of the latest entry that asked for it or reported it
    "on",  # 0 after the hold ended
    "failed",  # 1 after the suspension failed, until the network says that it succeeded or its hold ends
)


def reason_code(reason: Reason) -> int:
    """Return the number of a reason: its index in REASONS."""
    return REASONS.index(reason)


@dataclass(frozen=True)
class HoldRows:
    """Holds in ascending order of card, cause and reason, int64[n] each. The others as in Holds."""

    card: Ints
    cause: Ints
    reason: Ints
    until: Ints
    told: Ints
    offset: Ints

    def __len__(self) -> int:
        return len(self.card)


class Holds:
    """All holds: columns of int64. A row stays after its hold has ended, until `expire` drops it."""

    def __init__(self) -> None:
        self.index = KeyIndex()
        self._columns = {name: np.zeros(64, np.int64) for name in _COLUMNS}

    def __len__(self) -> int:
        """Return the number of holds that are on."""
        return int(np.count_nonzero(self["on"]))

    def __getitem__(self, name: str) -> Ints:
        """int64[rows], writable: the column `name`, with the rows of holds that have ended."""
        return self._columns[name][: len(self.index)]

    @property
    def card(self) -> Ints:
        """int64[rows]: the card of each row."""
        return self._keys >> (RULE_BITS + _REASON_BITS)

    @property
    def cause(self) -> Ints:
        """int64[rows]: the number of the rule of each row, or OUTSIDE."""
        return (self._keys >> _REASON_BITS) & ((1 << RULE_BITS) - 1)

    @property
    def reason(self) -> Ints:
        """int64[rows]: the reason of each row, as an index into REASONS."""
        return self._keys & ((1 << _REASON_BITS) - 1)

    @property
    def _keys(self) -> Ints:
        return self.index.keys.view(np.int64)

    def put(self, card: Ints, cause: int, reason: int, until: int, offset: Ints, told: bool = False) -> None:
        """Put a hold on each card (int64[n], each at most once). If it is on already, it gets the new offset and end.

        A confirmed hold stays confirmed. `offset` is int64[n].
        """
        if not len(card):
            return
        keys = (((card << RULE_BITS) | cause) << _REASON_BITS) | reason
        rows = self.index.insert(keys.view(np.uint64))
        reserve(self._columns, len(self.index))
        told_before = (self["on"][rows] == 1) & (self["told"][rows] == 1)
        self["until"][rows], self["offset"][rows], self["on"][rows] = until, offset, 1
        self["told"][rows] = told_before | told
        self["failed"][rows[self["told"][rows] == 1]] = 0

    def rows_on(self, cards: Ints) -> Ints:
        """int64[k]: the rows of the holds that are on these cards, in ascending order of card, cause and reason."""
        rows = np.flatnonzero(self["on"])
        rows = rows[np.isin(self.card[rows], cards)]
        return rows[np.argsort(self._keys[rows])]

    def any_on(self, cards: Ints) -> npt.NDArray[np.bool_]:
        """bool[n]: whether a hold is on each card."""
        return np.isin(cards, self.card[np.flatnonzero(self["on"])])

    def tell(self, rows: list[int]) -> None:
        """Note that the SIMs of these holds are suspended."""
        self["told"][rows], self["failed"][rows] = 1, 0

    def lift(self, rows: Ints, failed: bool = False) -> None:
        """End the holds of these rows. With `failed`, they did not come about."""
        self["on"][rows], self["failed"][rows] = 0, failed

    def shown(self, cards: Ints | None = None) -> HoldRows:
        """Return the holds that are on these cards, or on all."""
        rows = np.flatnonzero(self["on"])
        if cards is not None:
            rows = rows[np.isin(self.card[rows], cards)]
        rows = rows[np.argsort(self._keys[rows])]
        columns = (self.card, self.cause, self.reason, self["until"], self["told"], self["offset"])
        return HoldRows(*(column[rows] for column in columns))

    def expire(self) -> None:
        """Drop the rows of holds that have ended, unless they failed. This changes no later result."""
        rows = np.flatnonzero((self["on"] == 1) | (self["failed"] == 1))
        if len(rows) < len(self.index):
            self._columns = {name: column[rows] for name, column in self._columns.items()}
            self.index = KeyIndex(self.index.keys[rows])

    def to_table(self) -> pa.Table:
        """Return a table of `key` and every column, all int64, in order of the key. Equal holds give equal tables."""
        rows = np.flatnonzero((self["on"] == 1) | (self["failed"] == 1))
        rows = rows[np.argsort(self._keys[rows])]
        return pa.table({"key": self._keys[rows], **{name: self[name][rows] for name in _COLUMNS}})

    @classmethod
    def from_table(cls, table: pa.Table) -> Holds:
        """Return the holds from a table that `to_table` returned."""
        holds = cls()
        holds.index = KeyIndex(np.array(table["key"].to_numpy()).view(np.uint64))
        holds._columns = {name: np.array(table[name].to_numpy()) for name in _COLUMNS}
        return holds

    @classmethod
    def of_former(cls, memory: Memory, rules: dict[int, Rule], suspended: dict[int, Reason | None]) -> Holds:
        """Return the holds that a snapshot without holds implies.

        `rules` are the rules by number: a suspension that awaits its automatic resume is a hold of its rule.
        `suspended` has the reason of each suspended card. If no rule's hold has this reason, somebody outside holds it.
        """
        holds = cls()
        waits = np.flatnonzero(memory["held"])
        for number in np.unique(memory.rule[waits]).tolist():
            for action in rules[number].actions if number in rules else ():
                if action.type == "suspend" and action.until != "released":
                    cards = np.unique(memory.card[waits[memory.rule[waits] == number]])
                    told = np.array([suspended.get(card, "") == action.reason for card in cards.tolist()], bool)
                    for some, is_told in ((cards[told], True), (cards[~told], False)):
                        nothing = np.zeros(len(some), np.int64)
                        code, until = reason_code(action.reason), UNTILS.index(action.until)
                        holds.put(some, number, code, until, nothing, is_told)
        told_cards = set(holds.card[holds["told"] == 1].tolist())
        for card, reason in suspended.items():
            if card not in told_cards:
                one = np.array([card], np.int64)
                code = reason_code(reason if reason in REASONS else "manual")
                holds.put(one, OUTSIDE, code, RELEASED, np.zeros(1, np.int64), True)
        return holds
