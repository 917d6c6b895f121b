"""Memory of firings: which rule has fired for which SIM, so that each rule repeats as `repetition` says (L8, L10).

A row is a combination of rule, SIM and window. The window is the billing cycle or day of a total, the term that ends,
or the ongoing silence; it is 0 for rules that fire only once ever. Pool rules, too, have one row per SIM, so that each
SIM that goes on using becomes a target once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rating.columnar.groups import Groups
from rating.columnar.key_index import Ints, KeyIndex, reserve
from schemas.rules import Repetition

RULE_BITS: Final = 16
WINDOW_BITS: Final = 20

_NEVER: Final = -(1 << 30)

_COLUMNS: Final = (
    "level",  # number of threshold levels that have fired
    "day",  # local day of arrival of the last firing
    "held",  # 1 while a suspension that the rule requested still awaits its automatic resume
)


def memory_key(rule: Ints | int, card: Ints, window: Ints) -> Ints:
    """int64[n]: the key that packs card (< 2**27), rule (< 2**16) and window (< 2**20)."""
    return (card << (RULE_BITS + WINDOW_BITS)) | (rule << WINDOW_BITS) | window


@dataclass(frozen=True)
class Occurrences:
    """SIMs that meet the condition of a rule, each in a window; int64[n]."""

    card: Ints
    window: Ints
    level: Ints  # number of levels that hold, 1 or more
    day: Ints  # local day of arrival


class Memory:
    """Columns of int64, one row per combination of rule, SIM and window that fired."""

    def __init__(self) -> None:
        self.index = KeyIndex()
        self._columns = {name: np.zeros(1024, np.int64) for name in _COLUMNS}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, name: str) -> Ints:
        """int64[len], writable: the column `name`."""
        return self._columns[name][: len(self.index)]

    @property
    def keys(self) -> Ints:
        """int64[len]: the key of each row."""
        return self.index.keys.view(np.int64)

    @property
    def card(self) -> Ints:
        """int64[len]: the card of each row."""
        return self.keys >> (RULE_BITS + WINDOW_BITS)

    @property
    def rule(self) -> Ints:
        """int64[len]: the rule of each row."""
        return (self.keys >> WINDOW_BITS) & ((1 << RULE_BITS) - 1)

    @property
    def window(self) -> Ints:
        """int64[len]: the window of each row."""
        return self.keys & ((1 << WINDOW_BITS) - 1)

    def levels(self, rule: int, card: Ints, window: Ints) -> Ints:
        """int64[n]: number of levels of the rule that have fired for each pair of SIM and window."""
        if not len(self):
            return np.zeros(len(card), np.int64)
        rows = self.index.find(memory_key(rule, card, window).view(np.uint64))
        return np.where(rows >= 0, self["level"][rows], 0)

    def admit(
        self,
        rule: Ints | int,
        repetition: Repetition,
        found: Occurrences,
        held: npt.NDArray[np.bool_] | bool = False,
    ) -> tuple[npt.NDArray[np.bool_], Ints]:
        """Return which occurrences fire (bool[n]), and the level that had fired for each before it (int64[n]).

        The occurrences of each rule are in journal order. By repetition, these fire:
        - once, once_per_window: those with a level that has not fired yet;
        - daily: the first of a SIM, window and day;
        - always: all.

        What fires is remembered. If `held`, it is remembered as a suspension that a resume has to follow.
        """
        card, window, level, day = found.card, found.window, found.level, found.day
        count = len(card)
        if not count:
            return np.zeros(0, bool), np.zeros(0, np.int64)
        groups = Groups.of(memory_key(rule, card, np.zeros_like(window) if repetition == "once" else window))
        before = len(self)
        rows = self.index.insert(groups.keys.view(np.uint64))
        reserve(self._columns, len(self.index))
        self["day"][before:] = _NEVER
        known = groups.scatter(_reached_before(groups, level[groups.order], self["level"][rows]))
        if repetition == "always":
            fires = np.ones(count, bool)
        elif repetition == "daily":
            # All candidates have the same arrival time, so each SIM has one local day.
            first = np.zeros(count, bool)
            first[groups.order[groups.starts]] = True
            fires = first & (day > groups.scatter(self["day"][rows][groups.segment]))
        else:
            fires = level > known
        fired = np.logical_or.reduceat(fires[groups.order], groups.starts)
        top = np.maximum.reduceat(np.where(fires, level, 0)[groups.order], groups.starts)
        self["level"][rows] = np.maximum(self["level"][rows], top)
        self["day"][rows[fired]] = day[groups.order[groups.starts]][fired]
        holds = np.broadcast_to(held, count)[groups.order[groups.starts]]
        self["held"][rows[fired & holds]] = 1
        return fires, known

    def forget(self, rules: list[int]) -> None:
        """Reset these rules to "never fired". Rows of suspensions that still await their automatic resume are kept."""
        own = np.isin(self.rule, rules)
        self["level"][own] = 0
        self["day"][own] = _NEVER
        self.keep(~own | (self["held"] == 1))

    def let_go(self, rule: Ints, card: Ints, again: bool) -> None:
        """Note that the suspensions of these pairs of rule and card (int64[n] each) await no resume any more.

        With `again`, they did not come about: the rule can fire again in the same window.
        """
        if not len(rule) or not len(self):
            return
        own = np.isin((self.card << RULE_BITS) | self.rule, (card << RULE_BITS) | rule)
        self["held"][own] = 0
        if again:
            self["level"][own] = 0
            self["day"][own] = _NEVER

    def keep(self, mask: npt.NDArray[np.bool_]) -> None:
        """Drop the rows whose `mask` (bool[len]) is false. The others keep their order."""
        kept = np.flatnonzero(mask)
        if len(kept) < len(self):
            self._columns = {name: column[kept] for name, column in self._columns.items()}
            self.index = KeyIndex(self.index.keys[kept])

    def to_table(self) -> pa.Table:
        """Return a table of `key` and every column, all int64, in row order."""
        return pa.table({"key": self.keys, **{name: self[name] for name in _COLUMNS}})

    @classmethod
    def from_table(cls, table: pa.Table) -> Memory:
        """Return the memory from a table that `to_table` returned."""
        memory = cls()
        memory.index.insert(np.array(table["key"].to_numpy()).view(np.uint64))
        memory._columns = {name: np.array(table[name].to_numpy()) for name in _COLUMNS}
        return memory


def _reached_before(groups: Groups, levels: Ints, held: Ints) -> Ints:
    """int64[n] in group order: the highest level in the group before each row, including `held`, the initial level."""
    most = int(max(levels.max(initial=0), held.max(initial=0))) + 1
    shifted = np.zeros_like(levels)
    shifted[1:] = levels[:-1]
    shifted[groups.starts] = held
    # Adding group number * most separates the groups, so one running maximum serves all of them.
    return np.maximum.accumulate(groups.segment * most + shifted) - groups.segment * most
