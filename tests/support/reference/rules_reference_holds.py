"""Holds in the reference model of the rules: why a SIM is suspended, and what ends each reason (L1, L2, C1)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.cards import CARD_SCHEMA
from schemas.commands import Command, Failed, PlanChanged, Resumed, StatusChanged, Suspended
from schemas.rules import Action, Rule
from tests.support.reference.reference_terms import LONG_AGO, Day, Row
from tests.support.reference.rules_reference_terms import custom_of, status_of
from tests.support.reference.rules_reference_totals import Memory

if TYPE_CHECKING:
    import datetime as dt

REASONS = ("over_quota", "hard_cut", "device_change", "region", "expired", "security", "manual")
OUTSIDE = "\uffff"  # The cause of a hold that no rule asked for. It comes after the ids of all rules.
SHARED = (("status", "status_reason"), ("plan", "plan_from"), ("tags",), ("custom",))
Key = tuple[str, str, str]  # ICCID, cause, reason


@dataclass
class Hold:
    """One reason for which a SIM is suspended: what ends it, whether it was confirmed, and when it was asked for."""

    until: str
    told: bool
    offset: int


class Suspensions:
    """Mixin of RuleModel for holds, results of actions, and card lists that come again."""

    if TYPE_CHECKING:
        at: dt.datetime
        memory: Memory
        rules: dict[str, Rule]
        cards: dict[str, Row]
        actions: list[Row]

        def change_plan(self, card: Row, plan: str, day: Day) -> None: ...
        def local(self, account: str, moment: dt.datetime) -> dt.datetime: ...
        def follow_facts(self, before: Row, after: Row, since: Day, told: set[str], stated: bool) -> bool: ...

    def __init__(self) -> None:
        super().__init__()
        self.holds: dict[Key, Hold] = {}
        self.listed: dict[str, Row] = {}
        self.failures: set[Key] = set()  # Suspensions that failed, and of which nothing was heard since.
        self.pending: list[tuple[tuple[int, int, int, int], Action, Row]] = []

    def on(self, iccid: str) -> list[Key]:
        """Return the holds that are on a SIM."""
        return [key for key in self.holds if key[0] == iccid]

    def take_holds(self) -> None:
        """Put and lift holds as the actions of firings ask, in journal order.

        A resume is not asked for while another hold is on the SIM, and never for a cancelled one.
        """
        for place, action, row in sorted(self.pending, key=lambda one: one[0]):
            iccid, key = row["iccid"], (row["iccid"], row["rule_id"], action.reason)
            if action.type == "suspend":
                told = key in self.holds and self.holds[key].told
                self.holds[key] = Hold(action.until, told, place[0])
                continue
            for one in self.on(iccid):
                if self.holds[one].until == "released":
                    del self.holds[one]
                    self.failures.discard(one)
            if self.on(iccid) or status_of(self.cards[iccid]) == "cancelled":
                self.actions.remove(row)
        self.pending = []

    def lift(self, keys: list[Key], again: bool = False) -> None:
        """End holds. Their rules await no resume any more; with `again` they may fire anew in the same window."""
        for key in keys:
            del self.holds[key]
            self.failures.discard(key)
            if again:
                self.failures.add(key)
            for (rule, iccid, _), row in self.memory.rows.items():
                if (iccid, rule) == key[:2]:
                    row.held = False
                    if again:
                        row.level, row.day = 0, LONG_AGO

    def release(self, iccid: str, rule: str) -> bool:
        """End the hold of a rule that ends by itself. Return True if the SIM is to be resumed."""
        ended = [key for key in self.on(iccid) if key[1] == rule and self.holds[key].until != "released"]
        never = bool(ended) and self.failures >= set(ended)
        for key in ended:
            del self.holds[key]
            self.failures.discard(key)
        if never:
            return False
        return not self.on(iccid) and status_of(self.cards[iccid]) != "cancelled"

    # Results

    def remember_list(self, iccid: str) -> None:
        """Remember what the card list last said of a card, before a result or an action changes it."""
        if iccid not in self.listed:
            card = self.cards[iccid]
            self.listed[iccid] = {name: card[name] for names in SHARED for name in names}

    def result(self, one: Command, offset: int) -> None:
        """Apply the result of an action to the holds and to the card."""
        iccid = getattr(one, "iccid", None)
        if isinstance(one, Failed):
            self._failed(one)
            return
        if iccid not in self.cards:
            return
        card = self.cards[iccid]
        before = dict(card)
        if isinstance(one, PlanChanged):
            self.remember_list(iccid)
            self.change_plan(card, one.plan, one.from_ or self.local(card["account"], self.at).date())
        elif isinstance(one, (Suspended, Resumed)) and status_of(card) == "cancelled":
            return
        elif isinstance(one, Suspended):
            self.remember_list(iccid)
            named = self.asked_by(one.action_id)
            keys = [key for key in self.on(iccid) if key[2] == one.reason and named in (None, key[1])]
            if named and not keys:
                self._late(iccid, named, str(one.action_id), offset)
            self._confirmed(iccid, keys, None if named else one.reason, offset)
            card |= {"status": "suspended", "status_reason": one.reason}
        elif isinstance(one, Resumed):
            self.remember_list(iccid)
            self._resumed(card, one)
        elif isinstance(one, StatusChanged):
            self.remember_list(iccid)
            self._status_changed(card, one.status, offset)
        since = self.local(card["account"], min(one.at or self.at, self.at)).date()
        self.follow_facts(before, card, since, {"status"}, one.at is not None and not isinstance(one, PlanChanged))

    def _confirmed(self, iccid: str, keys: list[Key], reason: str | None, offset: int) -> None:
        for key in keys:
            self.holds[key].told = True
            self.failures.discard(key)
        if not keys and reason is not None:
            self.holds[iccid, OUTSIDE, reason] = Hold("released", True, offset)

    def _late(self, iccid: str, rule: str, action_id: str, offset: int) -> None:
        """Put a hold on again that had ended before the SIM was suspended. The next tick ends it."""
        sequence = int(action_id.split(".")[3])
        for action in self.rules[rule].actions:
            if action.sequence == sequence and action.type == "suspend" and action.until != "released":
                self.holds[iccid, rule, action.reason] = Hold(action.until, True, offset)
                self.failures.discard((iccid, rule, action.reason))

    def _resumed(self, card: Row, one: Resumed) -> None:
        keys = self.on(card["iccid"])
        if one.reason is not None:
            keys = [key for key in keys if key[2] == one.reason]
        elif self.is_action(one.action_id) and str(one.action_id).endswith(".released"):
            keys = []
        else:
            keys = [key for key in keys if self.holds[key].until == "released"]
        self.lift(keys)
        self._settle_status(card)

    def _settle_status(self, card: Row) -> None:
        told = [key for key in self.on(card["iccid"]) if self.holds[key].told]
        card |= {"status": "activated", "status_reason": None}
        if told:
            latest = max(told, key=lambda key: (self.holds[key].offset, REASONS.index(key[2])))
            card |= {"status": "suspended", "status_reason": latest[2]}

    def _status_changed(self, card: Row, status: str, offset: int) -> None:
        keys = self.on(card["iccid"])
        if status == "activated":
            self.lift([key for key in keys if self.holds[key].until == "released"])
            self._settle_status(card)
            return
        if status == "suspended":
            self._confirmed(card["iccid"], keys, "manual", offset)
        else:
            self.lift(keys)
        card |= {"status": status, "status_reason": None}

    def is_action(self, action_id: str | None) -> bool:
        """Return True if a text has the form of an action id."""
        parts = (action_id or "").split(".", 4)
        return len(parts) == 5 and parts[0].isdigit() and parts[1].isdigit() and parts[3].isdigit()

    def asked_by(self, action_id: str | None) -> str | None:
        """Return the rule that asked for an action. An ordinal and `.released` may follow it."""
        if not self.is_action(action_id):
            return None
        rest = str(action_id).split(".", 4)[4].removesuffix(".released")
        head, _, ordinal = rest.rpartition(".")
        names = (rest, head if ordinal.isdigit() else rest)
        return next((name for name in names if name in self.rules), None)

    def _failed(self, one: Failed) -> None:
        rule = self.asked_by(one.action_id)
        if rule is None or one.action_id.endswith(".released"):
            return
        _, offset, iccid, sequence, _ = one.action_id.split(".", 4)
        for action in self.rules[rule].actions:
            key = (iccid, rule, action.reason)
            if action.sequence == int(sequence) and action.type == "suspend" and key in self.holds:
                hold = self.holds[key]
                if hold.offset == int(offset) and not hold.told:
                    self.lift([key], again=True)

    # Card lists

    def list_row(self, row: Row) -> Row:
        """Return a row of a card list as it takes effect: what results and actions have set is not undone."""
        iccid = row["iccid"]
        if iccid in self.listed and iccid in self.cards:
            row = self._kept(row, self.cards[iccid], self.listed[iccid])
        if iccid in self.cards:
            row = self._listed_status(row, self.cards[iccid])
        return row

    def _kept(self, row: Row, now: Row, told: Row) -> Row:
        taken, given = dict(row), given_in(row)
        for names in SHARED:
            if names[0] not in given or (names[0] == "plan" and row["plan"] is None):
                continue  # The list says nothing of it, or the card leaves its plan.
            says = row[names[0]] is not None and any(row[name] != told[name] for name in names if name in given)
            if not says:
                given -= set(names)
            elif names[0] == "tags":
                added = [tag for tag in now["tags"] or [] if tag not in (told["tags"] or [])]
                taken["tags"] = list(dict.fromkeys([*row["tags"], *added]))
            elif names[0] == "custom":
                before, fields = _fields(told["custom"]), _fields(row["custom"])
                for name, value in custom_of(now).items():
                    if before.get(name) != value and fields.get(name) == before.get(name):
                        fields[name] = value
                taken["custom"] = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
        for names in SHARED:
            if names[0] in given_in(row) and row[names[0]] is not None:
                self.listed[row["iccid"]] |= {name: row[name] for name in names if name in given_in(row)}
        return taken | {"given": ",".join(name for name in CARD_SCHEMA if name in given)}

    def _listed_status(self, row: Row, now: Row) -> Row:
        becomes, keys = status_of(row), self.on(row["iccid"])
        if "status" not in given_in(row):
            return row
        if not keys or becomes in (status_of(now), "suspended"):
            return row
        if becomes != "activated":
            self.lift(keys)
            return row
        self.lift([key for key in keys if self.holds[key].until == "released"])
        told = [key for key in self.on(row["iccid"]) if self.holds[key].told]
        if told:
            order = {rule: number for number, rule in enumerate([*self.rules, OUTSIDE])}
            last = max(told, key=lambda key: (order[key[1]], REASONS.index(key[2])))
            return row | {"status": "suspended", "status_reason": last[2]}
        return row

    def hold_listed(self, iccid: str, before: Row | None, offset: int) -> None:
        """Put a hold on a card that a list suspends, unless one that is confirmed has its reason."""
        card = self.cards[iccid]
        was = (before["status"], before["status_reason"]) if before is not None else (None, None)
        reason = card["status_reason"] or "manual"
        if card["status"] != "suspended" or was == (card["status"], card["status_reason"]):
            return
        if not any(key[2] == reason and self.holds[key].told for key in self.on(iccid)):
            self.holds[iccid, OUTSIDE, reason] = Hold("released", True, offset)


def given_in(row: Row) -> set[str]:
    """Return the columns that a row of a card list says something about."""
    if row.get("given") is not None:
        return set(row["given"].split(","))
    return {name for name in CARD_SCHEMA if name not in ("plan", "pool") or row[name] is not None}


def _fields(custom: str | None) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(custom) if custom else {}
    return fields
