"""Results of actions: which holds they confirm or lift, and how the card changes (L10, C1)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from rating.rules.commands.action_ids import ActionId, read_action_id
from rating.rules.commands.card_changes import Change
from rating.rules.holds import OUTSIDE, REASONS, RELEASED, UNTILS, reason_code
from schemas.commands import Command, Failed, PlanChanged, Resumed, StatusChanged, Suspended
from schemas.rules import Action

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet
    from rating.rules.state import RuleState

CANCELLED: Final = "cancelled"  # for good: nothing suspends or resumes such a card
_SUSPENDED: Final = "suspended"
_ACTIVE: Final = "activated"


def card_of(command: Command) -> str | None:
    """Return the ICCID of the card that a result is about. A failure may name it in its action id only."""
    iccid: str | None = getattr(command, "iccid", None)
    if iccid is None and isinstance(command, Failed):
        named = read_action_id(command.action_id)
        return None if named is None else named.iccid
    return iccid


class Results:
    """Applies results to the holds of a state, and says how the cards change.

    Take the results of one round: each card occurs at most once. Call `close` after the last one.
    """

    def __init__(self, ruleset: RuleSet, state: RuleState, iccids: Sequence[str]) -> None:
        self._ruleset, self._state = ruleset, state
        self._card = ruleset.directory.rows_of(pl.Series(iccids, dtype=pl.String))
        status = ruleset.directory.cards["status"].gather(self._card).fill_null(_ACTIVE)
        self._status: list[str] = status.to_list()
        self._rows: dict[int, list[int]] = {}
        holds = state.holds
        rows = holds.rows_on(self._card)
        for row, card in zip(rows.tolist(), holds.card[rows].tolist(), strict=True):
            self._rows.setdefault(card, []).append(row)
        self._lifted: list[int] = []
        self._failed: list[int] = []
        self._rules = {rule.id: rule for rule in ruleset.catalogue.rules}

    def take(self, place: int, offset: int, command: Command, today: dt.date) -> Change | None:
        """Apply the result at index `place` of the round. Returns the change of the card, or None.

        `today` is the local day of the command.
        """
        card, status = int(self._card[place]), self._status[place]
        if isinstance(command, Suspended):
            return self._suspended(card, status, command, offset)
        if isinstance(command, Resumed):
            return self._resumed(card, status, command)
        if isinstance(command, StatusChanged):
            return self._status_changed(card, status, command, offset)
        if isinstance(command, PlanChanged):
            return {"plan": command.plan, "plan_from": command.from_ or today}
        if isinstance(command, Failed):
            self._fails(card, command)
        return None

    def close(self) -> None:
        """Lift the holds that the results ended, and let failed suspensions be asked for again."""
        holds, memory = self._state.holds, self._state.memory
        for rows, again in ((self._lifted, False), (self._failed, True)):
            at = np.array(rows, np.int64)
            holds.lift(at, again)
            memory.let_go(holds.cause[at], holds.card[at], again)

    def _suspended(self, card: int, status: str, command: Suspended, offset: int) -> Change | None:
        if status == CANCELLED:
            return None
        code = reason_code(command.reason)
        named = self._asked_by(command.action_id)
        rows = [row for row in self._rows.get(card, ()) if self._state.holds.reason[row] == code]
        if named is not None:
            rows = [row for row in rows if self._state.holds.cause[row] == named[1]]
        if named is not None and not rows:
            self._late(card, named, offset)
        self._tell(card, code, rows, offset, is_new=named is None)
        return {"status": _SUSPENDED, "status_reason": command.reason}

    def _tell(self, card: int, code: int, rows: list[int], offset: int, is_new: bool) -> None:
        """Note that the SIM is suspended: for the holds `rows`, else, with `is_new`, by somebody outside."""
        holds = self._state.holds
        if rows:
            holds.tell(rows)
        elif is_new:
            holds.put(np.array([card]), OUTSIDE, code, RELEASED, np.array([offset]), told=True)

    def _late(self, card: int, named: tuple[ActionId, int], offset: int) -> None:
        """Put a hold on again that ended before the network carried it out, so that the next tick ends it (L1)."""
        asked, number = named
        action = self._action(asked, number)
        if action is None or action.type != "suspend" or action.until == "released":
            return
        until, one = UNTILS.index(action.until), np.array([card])
        self._state.holds.put(one, number, reason_code(action.reason), until, np.array([offset]), told=True)

    def _action(self, asked: ActionId, number: int) -> Action | None:
        """Return the action of a rule that an action id names."""
        rule = self._rules.get(self._ruleset.vocabulary.rules.names[number])
        return next((one for one in rule.actions if one.sequence == asked.sequence), None) if rule else None

    def _resumed(self, card: int, status: str, command: Resumed) -> Change | None:
        if status == CANCELLED:
            return None
        named = read_action_id(command.action_id)
        rows = self._rows.get(card, [])
        holds = self._state.holds
        if command.reason is not None:
            lifted = [row for row in rows if holds.reason[row] == reason_code(command.reason)]
        elif named is not None and named.released:
            lifted = []  # the hold ended when this resume was asked for
        else:
            lifted = [row for row in rows if holds["until"][row] == RELEASED]
        self._lifted += lifted
        return self._left(rows, lifted)

    def _left(self, rows: list[int], lifted: list[int]) -> Change:
        """Return the status of a card after some of its holds were lifted: suspended while a confirmed one is on."""
        holds = self._state.holds
        still = [row for row in rows if row not in lifted and holds["told"][row]]
        if not still:
            return {"status": _ACTIVE, "status_reason": None}
        latest = max(still, key=lambda row: (holds["offset"][row], holds.reason[row]))
        return {"status": _SUSPENDED, "status_reason": REASONS[holds.reason[latest]]}

    def _status_changed(self, card: int, status: str, command: StatusChanged, offset: int) -> Change:
        rows = self._rows.get(card, [])
        if command.status == _SUSPENDED:
            self._tell(card, reason_code("manual"), rows, offset, is_new=True)
        elif command.status == _ACTIVE:
            lifted = [row for row in rows if self._state.holds["until"][row] == RELEASED]
            self._lifted += lifted
            return self._left(rows, lifted)
        else:
            self._lifted += rows  # a card that is not in service has nothing to be resumed from
        return {"status": command.status, "status_reason": None}

    def _fails(self, card: int, command: Failed) -> None:
        """End the hold of a suspension that failed. Its rule can fire again in the same window."""
        named = self._asked_by(command.action_id)
        if named is None:
            return
        asked, number = named
        holds = self._state.holds
        action = self._action(asked, number)
        if action is None or action.type != "suspend" or asked.released:
            return
        self._failed += [
            row
            for row in self._rows.get(card, ())
            if holds.cause[row] == number
            and holds.reason[row] == reason_code(action.reason)
            and holds["offset"][row] == asked.offset
            and not holds["told"][row]
        ]

    def _asked_by(self, action_id: str | None) -> tuple[ActionId, int] | None:
        """Return an action id with the number of its rule; None if no rule asked for it."""
        named = read_action_id(action_id)
        number = None if named is None else named.rule(self._ruleset.vocabulary.rules.rows)
        return None if named is None or number is None else (named, number)
