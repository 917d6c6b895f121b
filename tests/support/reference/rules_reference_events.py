"""Events, silence, changes of cards and ends of terms in the reference model of the rules (L4, L5, L7)."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import structs

from rating.rules.triggers import TRIGGERS, Trigger
from schemas.commands import Blocked, Command, Connected, SessionStarted, SessionStopped
from schemas.rules import Action, Rule
from schemas.usage import Direction, UsageBatch
from tests.support.reference.reference_terms import FOR_EVER, Day, Row, Spell, cycle_days, cycle_name, follow, held
from tests.support.reference.rules_reference_terms import (
    custom_of,
    device_of,
    service_of,
    status_of,
    watches_place,
)
from tests.support.reference.rules_reference_totals import Fact, Memory, Totals, Window, quarter_of

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo


@dataclass
class Seen:
    """Reports of a SIM: all times, by service and for any service (None), and its last device and location."""

    times: dict[str | None, list[dt.datetime]] = field(default_factory=lambda: defaultdict(list))
    imei: str | None = None
    cell_id: str | None = None
    session_id: str | None = None
    zone: str | None = None
    rat: str | None = None
    latest: dt.datetime | None = None  # Latest time of a report that can have a device or a location.

    def remember(self, imei: str | None, cell_id: str | None, session_id: str | None, rat: str | None) -> None:
        """Store the values of a report. A value stays until another report has a new one."""
        self.imei = imei or self.imei
        self.rat = rat or self.rat
        if cell_id is not None:
            self.cell_id, self.session_id = cell_id, session_id


class Events:
    """Mixin of RuleModel for everything that needs no totals."""

    if TYPE_CHECKING:
        at: dt.datetime
        memory: Memory
        clock: dt.datetime
        offset: int
        active: dict[str, dt.datetime]
        known_since: dict[str, dt.datetime]
        cards: dict[str, Row]
        card_plans: dict[str, list[Spell]]
        rules: dict[str, Rule]
        plans: dict[str, Any]
        accounts: dict[str, Any]
        totals: Totals

        def grace(self, account: str) -> dt.timedelta: ...
        def measure(self, rule: Rule, card: Row, fact: Fact, offset: int, **facts: Any) -> None: ...
        def watching(self, card: Row) -> list[Rule]: ...
        def today_of(self, card: Row) -> Day: ...
        def fire(self, rule: Rule, card: Row, offset: int, *, level: int, known: int, **facts: Any) -> None: ...
        def term_end(self, card: Row) -> Day: ...
        def local(self, account: str, moment: dt.datetime) -> dt.datetime: ...

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[tuple[str, str, str], int] = {}
        self.followed: set[str] = set()
        self.seen_of: dict[str, Seen] = {}
        self.ticking = -1
        self.plan_seen: dict[str, str | None] = {}

    def last_place(self, iccid: str) -> tuple[str | None, str | None]:
        """Return the zone and the RAT of a SIM's last report."""
        seen = self.seen_of.get(iccid, Seen())
        return seen.zone, seen.rat

    def begins(self, batch: UsageBatch, sent: Row) -> bool:
        """Return True if a data record is the first of its session to arrive, or has no session."""
        session = sent.get("session_id")
        if session is None:
            return True
        day = batch.received_at_us // (86_400 * 10**6)
        name = (batch.feed, str(sent["service"]), session)
        last = self.begun.get(name)
        self.begun[name] = day if last is None else max(day, last)
        return last is None or day - last > 35

    # Events

    def _happened(self, rule: Rule, card: Row, offset: int, **facts: Any) -> None:
        """Fire a rule for an event, as its repetition allows. Each event is a window of its own."""
        window = Window(None)
        if rule.repetition in ("once_per_window", "always"):
            self.fire(rule, card, offset, level=1, known=0, **facts)
            return
        known = self.memory.admit(rule, card["iccid"], window, 1, self.today_of(card))
        if known is not None:
            self.fire(rule, card, offset, level=1, known=known, **facts)

    def heard(self, fact: Fact, card: Row, offset: int) -> None:
        """Evaluate the events that a record reports of its SIM: sessions, another device, another cell."""
        seen = self.sighting(card)
        told: Row = {"used_at": fact.used_at, "record_key": fact.key}
        cell_id = fact.cell_id if fact.service == "data" else None
        news = seen.latest is None or fact.used_at >= seen.latest
        for rule in self.watching(card):
            if not watches_place(rule, fact.zone, fact.rat):
                continue
            if (rule.trigger == "data_session_started" and fact.started) or (
                rule.trigger == "data_session_stopped" and fact.stopped
            ):
                self._happened(rule, card, offset, **told)
            elif rule.trigger == "imei_changed" and news:
                self._moved(rule, card, offset, seen.imei, fact.imei, **told)
            elif rule.trigger == "location_changed" and news:
                same = fact.session_id is not None and fact.session_id == seen.session_id
                if rule.across in ("any", "during" if same else "across"):
                    self._moved(rule, card, offset, seen.cell_id, cell_id, **told)
        if news:
            seen.remember(fact.imei, cell_id, fact.session_id, fact.rat)
            seen.zone = fact.zone
            seen.latest = fact.used_at
        for service in (None, fact.service):
            seen.times[service].append(fact.used_at)

    def follow(self) -> None:
        """Forget the facts that no active rule needs. A rule that starts later begins without them."""
        wanted: set[str] = set()
        for name in self.active:
            rule = self.rules[name]
            trigger = TRIGGERS[rule.trigger]
            if trigger.kind == "silence":
                wanted.add(f"{service_of(trigger)}")
            wanted |= {"imei_changed": {"imei"}, "location_changed": {"cell"}}.get(rule.trigger, set())
            if rule.trigger == "price_plan_changed":
                wanted.add("plan")
            sessions = rule.trigger == "data_session_count_24h"
            if trigger.kind not in ("usage", "pool") or sessions or rule.repetition == "daily":
                wanted |= {one.type for one in rule.filters} & {"zone", "rat"}
        texts = {"imei", "cell", "zone", "rat"}
        if wanted & texts:
            wanted.add("None")
        kept = wanted & self.followed
        for iccid, seen in self.seen_of.items():
            for service in (None, "data", "sms", "voice"):
                if f"{service}" not in kept:
                    seen.times[service] = []
            if "None" not in kept:
                seen.latest = None
            if "imei" not in kept:
                seen.imei = self.cards[iccid]["imei"]
            if "cell" not in kept:
                seen.cell_id = seen.session_id = None
            seen.zone = seen.zone if "zone" in kept else None
            seen.rat = seen.rat if "rat" in kept else None
        if "plan" not in kept:
            self.plan_seen = {}
        self.followed = wanted
        for card in self.cards.values():
            self.see_plan(card)

    def plan_now(self, card: Row) -> str | None:
        """Return the plan of a card that is in force today."""
        return held(self.card_plans[card["iccid"]], self.today_of(card))

    def see_plan(self, card: Row) -> None:
        """Note the plan of a card that is new to the rules on plans. What it had before is no change."""
        if "plan" in self.followed:
            self.plan_seen.setdefault(card["iccid"], self.plan_now(card))

    def plan_changes(self, offset: int) -> None:
        """Fire for changes of plan that were announced and take effect by now."""
        for card in self.cards.values():
            self._plan_change(card, offset)

    def _plan_change(self, card: Row, offset: int) -> None:
        if card["iccid"] not in self.plan_seen:
            return
        former, latter = self.plan_seen[card["iccid"]], self.plan_now(card)
        self.plan_seen[card["iccid"]] = latter
        seen = self.sighting(card)
        for rule in self.watching(card) if former != latter else ():
            if rule.trigger != "price_plan_changed" or not watches_place(rule, seen.zone, seen.rat):
                continue
            if rule.from_ in (None, former) and rule.to in (None, latter):
                self._happened(rule, card, offset, from_value=former, to_value=latter)

    def sighting(self, card: Row) -> Seen:
        """Return the reports of a card. Without reports, its device is the one in the catalogue."""
        return self.seen_of.setdefault(card["iccid"], Seen(imei=card["imei"]))

    def _moved(self, rule: Rule, card: Row, offset: int, former: str | None, latter: str | None, **told: Any) -> None:
        if former is None or latter is None or device_of(former) == device_of(latter):
            return
        if rule.from_ is not None and device_of(rule.from_) != device_of(former):
            return
        if rule.to is None or device_of(rule.to) == device_of(latter):
            told = {"from_value": former, "to_value": latter} | told
            self._happened(rule, card, offset, **told)

    def event(self, one: Command, offset: int) -> None:
        """Evaluate a network event of a SIM."""
        if not isinstance(one, (SessionStarted, SessionStopped, Connected, Blocked)) or one.iccid not in self.cards:
            return
        card = self.cards[one.iccid]
        seen, at = self.sighting(card), min(one.at or self.at, self.at)
        if isinstance(one, SessionStarted):
            self._count_session(card, at, offset)
        news = seen.latest is None or at >= seen.latest
        zone, rat = seen.zone, seen.rat
        if isinstance(one, Connected) and news:
            zone, rat = one.zone or zone, one.rat or rat
        for rule in self.watching(card):
            if not watches_place(rule, zone, rat):
                continue
            if (
                (rule.trigger == "data_session_started" and isinstance(one, SessionStarted))
                or (rule.trigger == "data_session_stopped" and isinstance(one, SessionStopped))
                or (isinstance(one, Blocked) and rule.trigger == f"{one.service}_blocked")
            ):
                self._happened(rule, card, offset)
            elif isinstance(one, Connected) and news and rule.trigger == "imei_changed":
                self._moved(rule, card, offset, seen.imei, one.imei)
            elif isinstance(one, Connected) and news and rule.trigger == "location_changed" and rule.across != "during":
                self._moved(rule, card, offset, seen.cell_id, one.cell_id)
        if isinstance(one, Connected) and news:
            seen.remember(one.imei, one.cell_id, None, one.rat)
            seen.zone = one.zone or seen.zone
        if not isinstance(one, Blocked):
            seen.latest = at if news else seen.latest
            seen.times[None].append(at)
            if not isinstance(one, Connected):
                seen.times["data"].append(at)

    def _count_session(self, card: Row, at: dt.datetime, offset: int) -> None:
        """Count a data session that the network reported, and fire the rules on the number of sessions."""
        iccid, seen = card["iccid"], self.sighting(card)
        day = self.local(card["account"], at).date()
        closes = self.midnight(card, day + dt.timedelta(days=1)) + self.grace(card["account"])
        in_day, oldest = self.clock <= closes, self.clock - self.grace(card["account"])
        self.totals.add_session(iccid, day, at, in_day, oldest)
        for rule in self.watching(card):
            if rule.trigger == "data_session_count_24h" and watches_place(rule, seen.zone, seen.rat):
                fact = Fact(
                    iccid=iccid, account=card["account"], version=None, service="data",  # type: ignore[arg-type]
                    way=Direction.BOTH, zone=seen.zone, country=None, used_at=at, day=day, today=self.today_of(card),
                    pool=None, cycle=Window(None), units=0, home_units=0, pool_units=0, overage=0,
                    started=True, stopped=False,
                    session_id=None, rat=seen.rat, cell_id=None, imei=None, key="",
                )  # fmt: skip
                self.measure(rule, card, fact, offset, used_at=None, record_key=None)

    # Changes of cards

    def note(self, card: Row, action: Action) -> None:
        """Apply an action that adds a tag or sets a custom field of a card."""
        if action.type == "add_tag":
            card["tags"] = list(dict.fromkeys([*(card["tags"] or []), action.tag]))
        else:
            card["custom"] = json.dumps(custom_of(card) | {action.attribute: action.value})

    def change_plan(self, card: Row, plan: str, day: Day) -> None:
        """Put a card on another plan from a day on."""
        card |= {"plan": plan, "plan_from": day}
        iccid = card["iccid"]
        self.card_plans[iccid] = follow(self.card_plans[iccid], Spell(day, FOR_EVER, plan))

    def changed(self, before: Row, after: Row, offset: int) -> None:
        """Evaluate a change of a card in the catalogue."""
        seen = self.sighting(before)
        if status_of(before) != "activated" and status_of(after) == "activated":
            self.known_since[after["iccid"]] = self.at
        if any(before[name] != after[name] for name in ("status", "msisdn", "plan", "imei", "custom")):
            self._plan_change(after, offset)
        for rule in self.watching(after):
            if not watches_place(rule, seen.zone, seen.rat):
                continue
            former = latter = None
            if rule.trigger == "billing_status_changed":
                former, latter = status_of(before), status_of(after)
            elif rule.trigger == "imei_changed":
                # Neither the first device nor the removal of the device counts as a change.
                if before["imei"] != after["imei"]:
                    self._moved(rule, after, offset, seen.imei, after["imei"], to_value=after["imei"])
                continue
            elif rule.trigger == "msisdn_changed":
                former, latter = before["msisdn"], after["msisdn"]
            elif rule.trigger == "custom_attribute_changed":
                former, latter = self._fields(rule, custom_of(before), custom_of(after))
            else:
                continue
            fits = rule.trigger == "custom_attribute_changed" or (
                rule.from_ in (None, former) and rule.to in (None, latter)
            )
            if former != latter and fits:
                self._happened(rule, after, offset, from_value=former, to_value=latter)
        if after["imei"] is not None and before["imei"] != after["imei"]:
            seen.imei = after["imei"]

    @staticmethod
    def _fields(rule: Rule, old: dict[str, str], new: dict[str, str]) -> tuple[str | None, str | None]:
        """Return the old and the new value of the field that a rule names.

        If it names none, the values are JSON objects of all changed fields.
        """
        pairs = {
            name: (old.get(name), new.get(name))
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
            and rule.attribute in (None, name)
            and rule.from_ in (None, old.get(name))
            and rule.to in (None, new.get(name))
        }
        if rule.attribute is not None:
            return pairs.get(rule.attribute, (None, None))
        sides = [{name: pair[side] for name, pair in pairs.items() if pair[side] is not None} for side in (0, 1)]
        former, latter = (json.dumps(side, separators=(",", ":")) for side in sides)
        return former, latter

    # Ticks

    def timers(self, offset: int) -> None:
        """Evaluate silence and ends of terms at a tick."""
        self.ticking = offset
        for card in self.cards.values():
            for rule in self.watching(card):
                trigger = TRIGGERS[rule.trigger]
                if not watches_place(rule, *self.last_place(card["iccid"])):
                    continue
                if trigger.kind == "silence" and status_of(card) == "activated":
                    self._silence(rule, trigger, card, offset)
                elif status_of(card) == "cancelled":
                    continue  # Nobody is notified of the end of its term.
                elif rule.trigger == "term_ends":
                    self._term(rule, card, offset)
                elif rule.trigger == "price_plan_expired" and rule.by != "data":
                    end = self.term_end(card)
                    since = self.local(card["account"], self.active[rule.id]).date()
                    if end != FOR_EVER and self.today_of(card) > end and since <= end + dt.timedelta(days=1):
                        self._due(rule, card, offset, Window(end.isoformat(), end, end, term=True), 1)

    def _due(self, rule: Rule, card: Row, offset: int, window: Window, level: int, **facts: Any) -> None:
        # The repetition "always" means for each record. No record triggers a silence or a term, so these fire once per
        # window.
        once = rule if rule.repetition != "always" else structs.replace(rule, repetition="once_per_window")
        known = self.memory.admit(once, card["iccid"], window, level, self.today_of(card))
        if known is not None:
            self.fire(rule, card, offset, level=level, known=known, window=window.name, **facts)

    def _silence(self, rule: Rule, trigger: Trigger, card: Row, offset: int) -> None:
        iccid = card["iccid"]
        times = self.sighting(card).times[service_of(trigger)]
        since = max(self.active[rule.id], self.known_since[iccid])
        if trigger.window == "day":
            began = max(since, max(times, default=since))
            if self.at - began >= dt.timedelta(hours=24):
                # The quarter of an hour in which a silence began identifies it.
                self._due(rule, card, offset, Window(None, number=quarter_of(began)), 1)
            return
        plan = held(self.card_plans[iccid], self.today_of(card))
        if plan is None:
            return
        kind = self.plans[plan].cycle
        first, _ = cycle_days(kind, self.today_of(card))
        former = cycle_days(kind, first - dt.timedelta(days=1))
        begins, ends = self.midnight(card, former[0]), self.midnight(card, first)
        if since <= begins and not any(begins <= time < ends for time in times):
            self._due(rule, card, offset, Window(cycle_name(former, kind), *former), 1)

    def midnight(self, card: Row, day: Day) -> dt.datetime:
        """Return the start of a card's local day, in UTC."""
        zone: ZoneInfo = self.local(card["account"], self.at).tzinfo  # type: ignore[assignment]
        return dt.datetime.combine(day, dt.time(), tzinfo=zone).astimezone(dt.UTC)

    def _term(self, rule: Rule, card: Row, offset: int) -> None:
        end = self.term_end(card)
        left = (end - self.today_of(card)).days
        if end == FOR_EVER or left < 0:
            return
        # A level is reached so many days before the end, and stays reached.
        limits = [int(str(level)) for level in rule.levels]
        level = sum(left <= limit for limit in limits)
        if level:
            window = Window(end.isoformat(), end, end, term=True)
            self._due(rule, card, offset, window, level, value_now=left, threshold=limits[level - 1])
