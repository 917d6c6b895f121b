"""Holds of firings: a firing that suspends puts a hold on its SIM, one that resumes lifts what somebody may release."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from rating.columnar.key_index import Ints
from rating.rules.commands.results import CANCELLED
from rating.rules.firing.firings import NETWORK, RESUMES, Fires
from rating.rules.holds import RELEASED, UNTILS, Holds, reason_code
from schemas.rules import Action, Rule

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet

_ONE_AFTER_THE_OTHER: Final = ("suspend", "resume")


def take_holds(ruleset: RuleSet, holds: Holds, fires: Sequence[Fires]) -> list[Fires]:
    """Put and lift holds as the actions of these firings ask, in journal order; return the firings.

    A firing whose resumes must not be asked for, because another hold is on the SIM or the SIM is cancelled, comes back
    with its resumes withheld. Releases are left alone: `release_fires` has lifted their holds.
    """
    rules = [ruleset.by_row[one.rule].rule for one in fires]
    if any(_has(rule, "resume") and not one.released for one, rule in zip(fires, rules, strict=True)):
        return _one_by_one(ruleset, holds, fires, rules)
    for one, rule in zip(fires, rules, strict=True):
        for action in () if one.released else rule.actions:
            if action.type == "suspend":
                at = np.flatnonzero(one.withheld != NETWORK)
                card, offset = _latest(one.card[at], one.offset[at])
                _put(holds, card, one.rule, action, offset)
    return list(fires)


def _put(holds: Holds, card: Ints, rule: int, action: Action, offset: Ints) -> None:
    holds.put(card, rule, reason_code(action.reason), UNTILS.index(action.until), offset)


def _latest(card: Ints, offset: Ints) -> tuple[Ints, Ints]:
    """Return each card once, ascending, and its latest offset."""
    order = np.lexsort((offset, card))
    card, offset = card[order], offset[order]
    last = np.append(card[1:] != card[:-1], True) if len(card) else np.zeros(0, bool)
    return card[last], offset[last]


def _one_by_one(ruleset: RuleSet, holds: Holds, fires: Sequence[Fires], rules: Sequence[Rule]) -> list[Fires]:
    """Do the same for firings of which some resume. These are rare, and the order of the firings decides."""
    columns = [one.withheld.copy() for one in fires]
    status = ruleset.directory.cards["status"]
    steps = [
        (int(one.offset[row]), one.rule, int(one.card[row]), action.sequence, number, row, action)
        for number, (one, rule) in enumerate(zip(fires, rules, strict=True))
        if not one.released
        for row in range(len(one))
        for action in rule.actions
        if action.type in _ONE_AFTER_THE_OTHER and one.withheld[row] != NETWORK
    ]
    steps.sort(key=lambda step: step[:6])
    for offset, rule, card, _, number, row, action in steps:
        cards = np.array([card], np.int64)
        if action.type == "suspend":
            _put(holds, cards, rule, action, np.array([offset], np.int64))
            continue
        rows = holds.rows_on(cards)
        holds.lift(rows[holds["until"][rows] == RELEASED])
        if (holds["until"][rows] != RELEASED).any() or status[card] == CANCELLED:
            columns[number][row] = RESUMES
    return [
        one if (column == one.withheld).all() else replace(one, withheld=column)
        for one, column in zip(fires, columns, strict=True)
    ]


def _has(rule: Rule, action: str) -> bool:
    return any(one.type == action for one in rule.actions)
