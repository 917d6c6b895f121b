"""Dated facts of cards in the reference model: one list of spells for each fact of each card, asked day by day."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

from schemas.cards import CARD_SCHEMA, Account, Catalogue, Pool
from schemas.plans import Plan, PlanVersion
from tests.support.reference.reference_terms import FOR_EVER, LONG_AGO, Day, Row, Spell, add_months, follow, held

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
ONE_DAY = dt.timedelta(days=1)
DATED = ("account", "status", "device", "imsi", "msisdn", "activated_on", "term_months")
_OWNED = {"plan_from": "plan", "pool_from": "pool", "pool_until": "pool", "status_reason": "status"}


class Facts:
    """The cards of the reference model, with the history of each fact. A card that never changed has none."""

    accounts: dict[str, Account]
    plans: dict[str, Plan]
    pools: dict[str, Pool]

    def __init__(self) -> None:
        self.cards: dict[str, Row] = {}
        self.card_plans: dict[str, list[Spell]] = defaultdict(list)
        self.card_pools: dict[str, list[Spell]] = defaultdict(list)
        self.dated: dict[tuple[str, str], list[Spell]] = {}
        self.first_account: dict[str, str] = {}

    def local(self, account: str, moment: dt.datetime) -> dt.datetime:
        """Return an instant in the account's local time (T1)."""
        return moment.astimezone(ZoneInfo(self.accounts[account].time_zone))

    # Changes

    def take_cards(self, change: Catalogue, at: dt.datetime) -> None:
        """Upsert the cards of a catalogue that arrived at a time."""
        for row in change.cards.iter_rows(named=True):
            self.take_card(row, at)

    def take_card(self, row: Row, at: dt.datetime) -> None:
        """Upsert one card."""
        iccid = row["iccid"]
        before = self.cards.get(iccid)
        told = self._told(row)
        if before is None:
            self.cards[iccid] = {name: row[name] for name in CARD_SCHEMA}
            self.first_account[iccid] = row["account"]
            since = row.get("from") or LONG_AGO
            if row["plan"] is not None:
                self._plan(iccid, row["plan_from"] or since, FOR_EVER, row["plan"])
            if row["pool"] is not None:
                self._pool(iccid, row["pool_from"] or since, row["pool_until"] or FOR_EVER, row["pool"])
            return
        after = dict(before)
        for name in CARD_SCHEMA:
            owner = _OWNED.get(name)
            if name in told or (owner in told and row[owner or ""] != before[owner or ""]):
                after[name] = row[name]
        since = row.get("from") or self.local(after["account"], at).date()
        stated = row.get("from") is not None
        self.cards[iccid] = after
        moved = self.follow_facts(before, after, since, told, stated)
        if "plan" in told:
            differs = row["plan"] != before["plan"] or (row["plan"] is not None and stated)
            if differs or row["plan_from"] not in (None, before["plan_from"]):
                self._plan(iccid, row["plan_from"] or since, FOR_EVER, row["plan"])
        redated = any(name in told and row[name] != before[name] for name in ("pool_from", "pool_until"))
        if "pool" in told and row["pool"] is not None:
            if row["pool"] != before["pool"] or redated or stated:
                self._pool(iccid, row["pool_from"] or since, row["pool_until"] or FOR_EVER, row["pool"])
        elif "pool_until" in told and row["pool_until"] is not None:
            self._pool(iccid, row["pool_until"] + ONE_DAY, FOR_EVER, None)
        elif ("pool" in told and before["pool"] is not None) or (
            moved and before["pool"] is not None and self.pools[before["pool"]].account != after["account"]
        ):
            self._pool(iccid, since, FOR_EVER, None)

    def _told(self, row: Row) -> set[str]:
        if row.get("given") is not None:
            return set(row["given"].split(","))
        told = set(CARD_SCHEMA)
        for owner in ("plan", "pool"):
            if row[owner] is None:
                told -= {owner, *(name for name, whose in _OWNED.items() if whose == owner)}
        return told

    def follow_facts(self, before: Row, after: Row, since: Day, told: set[str], stated: bool) -> bool:
        """Add the changed facts of a card to their histories. Return whether the account is among them."""
        iccid, moved = after["iccid"], False
        old, new = before["activated_on"], after["activated_on"]
        follows = not stated and new is not None and new != old and (old is None or new > old)
        for fact in DATED:
            was, now = self.value(before, fact), self.value(after, fact)
            known = (iccid, fact) in self.dated
            if was == now and not (stated and known and fact in told):
                continue
            begins = since
            serves = fact == "status" and not counts(was) and counts(now)
            if follows and (fact == "activated_on" or serves):
                begins = min(new, since)
            spells = self.dated.get((iccid, fact), [Spell(LONG_AGO, FOR_EVER, was)])
            self.dated[iccid, fact] = follow(spells, Spell(begins, FOR_EVER, now))
            moved |= fact == "account"
        return moved

    def _plan(self, iccid: str, first: Day, last: Day, plan: str | None) -> None:
        spells = follow(self.card_plans[iccid], Spell(first, last, plan))  # type: ignore[arg-type]
        self.card_plans[iccid] = [spell for spell in spells if spell.target is not None]

    def _pool(self, iccid: str, first: Day, last: Day, pool: str | None) -> None:
        spells = follow(self.card_pools[iccid], Spell(first, last, pool))  # type: ignore[arg-type]
        self.card_pools[iccid] = [spell for spell in spells if spell.target is not None]

    # Questions

    def value(self, card: Row, fact: str) -> Any:
        """Return a fact of a card as its row says it; a status with its reason."""
        return (card["status"] or "activated", card["status_reason"]) if fact == "status" else card[fact]

    def fact_on(self, iccid: str, fact: str, day: Day) -> Any:
        """Return a fact of a card on a day."""
        spells = self.dated.get((iccid, fact))
        return self.value(self.cards[iccid], fact) if spells is None else held(spells, day)

    def owner_at(self, iccid: str, moment: dt.datetime) -> str:
        """Return the account that owned a card at an instant: midnight is that of the new account."""
        account: str = self.cards[iccid]["account"]
        for spell in self.dated.get((iccid, "account"), []):
            if self.local(spell.target, moment).date() >= spell.first:
                account = spell.target
        return account

    def card_at(self, iccid: str, moment: dt.datetime) -> Row:
        """Return the row of a card with the facts of the local day of an instant."""
        account = self.owner_at(iccid, moment)
        day = self.local(account, moment).date()
        return self.cards[iccid] | {
            "account": account,
            **{name: self.fact_on(iccid, name, day) for name in ("device", "activated_on", "term_months")},
        }

    def who_had(self, name: str, number: str, moment: dt.datetime) -> str | None:
        """Return the ICCID of the card that had a number on the local day of an instant (F1), or None."""
        best: tuple[Day, int] | None = None
        found = None
        for place, (iccid, card) in enumerate(self.cards.items()):
            day = self.local(self.owner_at(iccid, moment), moment).date()
            spells = self.dated.get((iccid, name), [Spell(LONG_AGO, FOR_EVER, card[name])])
            for spell in spells:
                mine = spell.target == number and spell.first <= day <= spell.last
                if mine and (best is None or (spell.first, place) > best):
                    best, found = (spell.first, place), iccid
        return found

    def version_on(self, plan: str | None, day: Day) -> PlanVersion | None:
        """Return the plan version in force on a day (P1), or None."""
        if plan is None:
            return None
        begun = [version for version in self.plans[plan].versions if version.effective <= day]
        return max(begun, key=lambda version: version.effective, default=None)

    def term_end(self, card: Row, plan: str | None = None) -> Day:
        """Return the last day of a card's term (T3), or FOR_EVER if it has none."""
        months = card["term_months"]
        plan = card["plan"] if plan is None else plan
        if months is None and plan is not None:
            months = self.plans[plan].term_months
        if months is None or card["activated_on"] is None:
            return FOR_EVER
        return add_months(card["activated_on"].replace(day=1), months) - dt.timedelta(days=1)

    def in_term(self, iccid: str, day: Day) -> bool:
        """Return whether a day is not after the term of a card, by the plan and the facts of that day."""
        facts = {name: self.fact_on(iccid, name, day) for name in ("term_months", "activated_on")} | {"plan": None}
        return day <= self.term_end(facts, held(self.card_plans[iccid], day))

    def serves(self, iccid: str, day: Day) -> bool:
        """Return whether a card was in service at any time of a day."""
        counted = any(counts(self.fact_on(iccid, "status", one)) for one in (day, day - ONE_DAY))
        active = self.fact_on(iccid, "activated_on", day)
        return counted and (active is None or active <= day) and self.in_term(iccid, day)

    def ended(self, iccid: str, day: Day) -> bool:
        """Return whether a card has no allowance on a day: its term is over, or it was stopped on an earlier day."""
        stops = [self.fact_on(iccid, "status", one)[0] in ("deactivated", "cancelled") for one in (day, day - ONE_DAY)]
        return all(stops) or not self.in_term(iccid, day)

    def days_served(
        self, iccid: str, cycle: tuple[Day, Day], counts_on: Callable[[Day], bool]
    ) -> dict[tuple[str, int], int]:
        """Return the days of service of a card in a cycle by plan and version, of the days that count."""
        days: dict[tuple[str, int], int] = defaultdict(int)
        day = cycle[0]
        while day <= cycle[1]:
            plan = held(self.card_plans[iccid], day)
            version = self.version_on(plan, day)
            if version is not None and self.serves(iccid, day) and counts_on(day):
                days[plan or "", version.version] += 1
            day += ONE_DAY
        return days

    def share(
        self,
        iccid: str,
        cycle: tuple[Day, Day],
        units_of: Callable[[PlanVersion], int],
        counts_on: Callable[[Day], bool],
    ) -> int:
        """Return the allowance of a card by its days of service in a cycle (P9), of the days that count."""
        plans = {spell.target for spell in self.card_plans[iccid] if spell.first <= cycle[1] and spell.last >= cycle[0]}
        if not any(units_of(version) for plan in plans for version in self.plans[plan].versions):
            return 0
        total = 0
        for (plan, number), days in self.days_served(iccid, cycle, counts_on).items():
            version = next(one for one in self.plans[plan].versions if one.version == number)
            total += units_of(version) * days // ((cycle[1] - cycle[0]).days + 1)
        return total

    def owned_by(self, iccid: str, account: str) -> Callable[[Day], bool]:
        """Return a function that tells whether an account owns a card on a day."""
        return lambda day: self.fact_on(iccid, "account", day) == account


def counts(status: tuple[str, str | None]) -> bool:
    """Return whether a card with this status is in service (P7)."""
    return status[0] in ("activated", "suspended")
