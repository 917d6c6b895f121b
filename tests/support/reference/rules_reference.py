"""Reference model of the rules: one record and one SIM at a time in plain Python, slow, obvious, and without arrays.

It is written from docs/domain.md (L6 to L12). `RuleModel` rates with the model of tests/support/reference/reference.py
and evaluates the rated rows. Its firings and actions are dicts with the columns of schemas.tables.FIRINGS and ACTIONS.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from rating.rules.triggers import TRIGGERS
from schemas.cards import Catalogue
from schemas.commands import Activate, Command, Deactivate, Failed, PlanChanged, Resumed, StatusChanged, Suspended
from schemas.plans import PlanVersion
from schemas.rules import Action, Rule
from schemas.usage import RecordType, UsageBatch
from tests.support.reference.reference_terms import LONG_AGO, Outcome, Row, allowance_of, cycle_days, cycle_name, held
from tests.support.reference.rules_reference_corrections import Corrections, Rerated
from tests.support.reference.rules_reference_events import Events
from tests.support.reference.rules_reference_holds import Suspensions
from tests.support.reference.rules_reference_sizes import EPOCH, Sizes
from tests.support.reference.rules_reference_terms import (
    data_text,
    distinct_meters,
    home_meters,
    level_of,
    lines_of,
    nearness,
    parameters_of,
    pool_meters,
    service_name,
    service_of,
    threshold_of,
    watches_card,
    watches_place,
    way_of,
)
from tests.support.reference.rules_reference_totals import Fact, Fired, Memory, Totals, Window

# What the network does of the actions of a rule.
NETWORK = ("suspend", "resume", "throttle", "change_status", "change_plan")


class RuleModel(Corrections, Events, Suspensions, Sizes):
    """The reference model of the engine with rules. `firings` and `actions` are those of the last entry."""

    def __init__(self) -> None:
        super().__init__()
        self.rules: dict[str, Rule] = {}
        self.active: dict[str, dt.datetime] = {}
        self.memory = Memory()
        self.totals = Totals()
        self.clock = EPOCH
        self.known_since: dict[str, dt.datetime] = {}
        self.notes: list[tuple[str, Action]] = []
        self.given: dict[str, int] = {}
        self.firings: list[Row] = []
        self.actions: list[Row] = []
        self._watched: dict[str, list[Rule]] = {}

    def watching(self, card: Row) -> list[Rule]:
        """Return the active rules that watch a card now, in their order (L6, L9)."""
        iccid = card["iccid"]
        if iccid not in self._watched:
            fit = [rule for rule in self.rules.values() if rule.id in self.active and watches_card(self, rule, card)]
            best: dict[str, tuple[int, int]] = {}
            for rule in fit:
                if rule.nearest is not None:
                    best[rule.nearest] = max(best.get(rule.nearest, (0, 0)), nearness(self, rule))
            self._watched[iccid] = [
                rule for rule in fit if rule.nearest is None or nearness(self, rule) == best[rule.nearest]
            ]
        return self._watched[iccid]

    # Entries

    def _begin(self, at: dt.datetime) -> None:
        self.firings, self.actions = [], []
        self.at = at
        self.clock = max(self.clock, at)
        self._watched = {}

    def _end(self) -> None:
        cards = {iccid: number for number, iccid in enumerate(self.cards)}
        order = {rule: number for number, rule in enumerate(self.rules)}
        # The sort is stable: two firings of a rule and a SIM at one offset stay in the order of their detection.
        self.firings.sort(
            key=lambda row: (row["journal_offset"], order[row["rule_id"]], cards[row["iccid"]], row["kind"])
        )
        place = {row["firing_id"]: number for number, row in enumerate(self.firings)}
        self.actions.sort(key=lambda row: (place[row["firing_id"]], row["sequence"]))
        for row in self.actions:
            if row["action"] in ("add_tag", "set_attribute"):
                own = next(one for one in self.rules[row["rule_id"]].actions if one.sequence == row["sequence"])
                self.notes.append((row["iccid"], own))

    def applied(self, change: Catalogue, at: dt.datetime) -> None:
        """Fold a catalogue entry."""
        self._begin(at)
        offset = self.offset
        self._settle(offset)
        before = self._cards()
        cards = [self.list_row(row) for row in change.cards.iter_rows(named=True)]
        schema = dict(change.cards.schema) | {"given": pl.String()}
        self.apply(replace(change, cards=pl.DataFrame(cards, schema=schema)), at)
        for row in cards:
            self.hold_listed(row["iccid"], before.get(row["iccid"]), offset)
        self.rules |= {rule.id: rule for rule in change.rules}
        self._changes(before, offset)
        for iccid in self.cards:
            self.known_since.setdefault(iccid, self.clock)
            self.see_plan(self.cards[iccid])
        self._recover(offset)
        self._end()

    def command(self, commands: Sequence[Command], at: dt.datetime) -> None:
        """Fold an entry of commands. Each command has its own offset, and they take effect one after the other."""
        self._begin(at)
        first = self.offset
        self._settle(first)
        said = False  # True if the previous command started or stopped a rule.
        for offset, one in enumerate(commands, first):
            if one.key is not None and self.repeats(one.key):
                continue
            if said and not isinstance(one, (Activate, Deactivate)):
                self.follow()
            said = isinstance(one, (Activate, Deactivate))
            before = self._cards()
            if isinstance(one, Activate):
                if one.rule not in self.active:
                    self.active[one.rule] = self.clock
                    self.memory.forget(one.rule)
            elif isinstance(one, Deactivate):
                self.active.pop(one.rule, None)
            elif isinstance(one, (Suspended, Resumed, StatusChanged, PlanChanged, Failed)):
                self.result(one, offset)
            else:
                self.event(one, offset)
                self.take_holds()
            self._changes(before, offset)
        self.follow()
        self.offset = first + len(commands)
        self._recover(first)
        self._end()

    def repeats(self, key: str) -> bool:
        """Return True if a command with this key was given in the last 32 days (F4); otherwise remember the key."""
        day = (self.at - EPOCH).days
        known = key in self.given and day - self.given[key] <= 32
        if not known:
            self.given[key] = day
        return known

    def tick(self, now: dt.datetime) -> None:
        """Fold a tick of the clock."""
        self._begin(now)
        offset, self.offset = self.offset, self.offset + 1
        self._settle(offset)
        self.timers(offset)
        self._repeat(offset)
        self.plan_changes(offset)
        self.take_holds()
        self._recover(offset)
        self._end()

    def fold(self, batch: UsageBatch) -> Outcome:
        """Fold a batch of usage."""
        self._begin(EPOCH + dt.timedelta(microseconds=batch.received_at_us))
        outcome = self.used(batch)
        self._end()
        return outcome

    def correct(self, batch: UsageBatch, rerated: Rerated) -> None:
        """Fold a batch of corrections, with what they change in rating."""
        self._begin(EPOCH + dt.timedelta(microseconds=batch.received_at_us))
        self.corrections(batch, rerated)
        self._end()

    def used(self, batch: UsageBatch) -> Outcome:
        """Rate a batch, and evaluate the rules for each rated record."""
        first = self.offset
        outcome = self.usage(batch)
        rows: dict[int, list[Row]] = defaultdict(list)
        for rated in outcome.rated:
            rows[rated["journal_offset"]].append(rated)
        for offset, sent in enumerate(batch.rows.iter_rows(named=True), first):
            if offset in rows:
                fact = self.fact(batch, sent, rows[offset])
                self.remember(batch.feed, fact, rows[offset])
                if self.fires:
                    self.record(fact, offset)
        self.take_holds()
        return outcome

    # Cards change

    def forget_compiled(self) -> None:
        """Drop the caches after a change of the catalogue or the rules."""
        super().forget_compiled()
        self._watched = {}

    def _cards(self) -> dict[str, Row]:
        return {iccid: dict(card) for iccid, card in self.cards.items()}

    def _settle(self, offset: int) -> None:
        """Apply the changes of cards that earlier actions requested, before the rest of the entry."""
        before = self._cards()
        for iccid, action in self.notes:
            self.remember_list(iccid)
            self.note(self.cards[iccid], action)
        self.notes = []
        self._changes(before, offset)

    def _changes(self, before: dict[str, Row], offset: int) -> None:
        self.forget_compiled()
        for iccid, card in self.cards.items():
            if iccid in before and before[iccid] != card:
                self.changed(before[iccid], card, offset)
        self.take_holds()

    # Records

    def fact(self, batch: UsageBatch, sent: Row, parts: list[Row]) -> Fact:
        """Return a record with the facts that the rules need, summed over its parts."""
        row = parts[0]
        card = self.cards[row["iccid"]]
        plan = self.plans[row["plan_id"]]
        version = next(one for one in plan.versions if one.version == row["plan_version"])
        kind = self.pools[row["subject"]].cycle if row["subject_kind"] == "pool" else plan.cycle
        name = row["cycle"]
        first = dt.date.fromisoformat(name if len(name) == 10 else f"{name}-01")
        cycle = cycle_days(kind, first)
        assert cycle_name(cycle, kind) == name
        service = service_name(sent["service"])
        homes, pooled = home_meters(self, version, service, None), pool_meters(self, version, service, None)
        units = [one["billable_quantity"] - one["from_test"] for one in parts]
        stopped = RecordType(sent.get("record_type") or 0) == RecordType.STOP
        alone = sent.get("session_id") is None
        return Fact(
            iccid=row["iccid"], account=row["account_id"], version=version, service=service,
            way=way_of(sent["direction"]), zone=row["zone"], country=row["country"], used_at=row["used_at"],
            day=row["day"], today=self.today_of(card), pool=row["subject"] if row["subject_kind"] == "pool" else None,
            cycle=Window(name, *cycle), units=sum(units),
            home_units=sum(n for n, one in zip(units, parts, strict=True) if one["rate"] in homes),
            pool_units=sum(n for n, one in zip(units, parts, strict=True) if one["rate"] in pooled),
            overage=sum(one["overage"] for one in parts),
            started=service == "data" and self.begins(batch, sent),
            stopped=service == "data" and (stopped or (alone and not sent.get("record_type"))),
            session_id=sent.get("session_id"), rat=sent.get("rat"), cell_id=sent.get("cell_id"),
            imei=sent.get("imei"), key=row["record_key"],
        )  # fmt: skip

    def record(self, fact: Fact, offset: int) -> None:
        """Add a record to the totals, and fire the rules that watch its SIM (L7, L8)."""
        self.totals.add(fact, self.counts_for_day(fact), self.clock - self.grace(fact.account))
        card = self.cards[fact.iccid]
        for rule in self.watching(card):
            trigger = TRIGGERS[rule.trigger]
            by_data = rule.trigger == "price_plan_expired" and rule.by != "time"
            if (trigger.kind in ("usage", "pool") or by_data) and watches_place(rule, fact.zone, fact.rat):
                self.measure(rule, card, fact, offset)
        self.heard(fact, card, offset)

    def grace(self, account: str) -> dt.timedelta:
        """Return the grace of an account, during which late usage still counts in its day or cycle."""
        return dt.timedelta(hours=self.accounts[account].grace_hours)

    def counts_for_day(self, fact: Fact) -> bool:
        """Return True if a record counts in its local day: it arrives at most the grace after the end of that day."""
        closes = dt.datetime.combine(
            fact.day + dt.timedelta(days=1), dt.time(), tzinfo=self.local(fact.account, fact.used_at).tzinfo
        )
        return self.clock <= closes.astimezone(dt.UTC) + self.grace(fact.account)

    def measure(self, rule: Rule, card: Row, fact: Fact, offset: int, **facts: Any) -> None:
        """Fire a rule on usage if the record moves its total past the limit. `facts` replace those of the record."""
        moved = self.totals.moved(rule, fact)
        if moved is None:
            return
        before, now, window = moved
        size, extra = self.size_of(rule, card, fact.version, fact.cycle, fact.pool)
        if rule.measure == "over":
            size = now - self.totals.priced(rule, fact.iccid, window)
        lines = lines_of(rule, size, extra)
        level = level_of(lines, now) if lines is not None else 0
        if lines is None or not level:
            return
        over = window.last < fact.today
        known = self.memory.admit(rule, fact.iccid, window, level, fact.today, holds=not over)
        if known is not None:
            told = {"used_at": fact.used_at, "record_key": fact.key} | facts
            self.fire(
                rule, card, offset, window=window.name, level=level, known=known, value_before=before, value_now=now,
                size=size, threshold=threshold_of(lines, level), late=over,
                pool_id=fact.pool if TRIGGERS[rule.trigger].kind == "pool" else None, **told,
            )  # fmt: skip

    # Ticks

    def standing(self, rule: Rule, card: Row, window: Window) -> tuple[int, int | None, int | None, int]:
        """Return (reached level, total, size, threshold) of a SIM in a window as of now."""
        trigger = TRIGGERS[rule.trigger]
        if window.term:
            return int(not self._over(card, window)), None, None, 0
        plan = held(self.card_plans[card["iccid"]], self.today_of(card))
        version = self.version_on(plan, self.today_of(card))
        pool = self.pool_now(card, service_of(trigger)) if trigger.kind == "pool" else None
        if trigger.kind == "pool" and pool is None:
            return 0, None, None, 0
        total = self.totals.standing(rule, pool or card["iccid"], window, self.clock)
        size, extra = self.size_of(rule, card, version, window, pool)
        if rule.measure == "over":
            size = total - self.overage_now(rule, card, version, window, total, size or 0)
        lines = lines_of(rule, size, extra)
        level = level_of(lines, total) if lines is not None else 0
        if rule.pools and pool not in rule.pools:
            level = 0
        return level, total, size, threshold_of(lines, level) if lines is not None and level else 0

    def overage_now(
        self, rule: Rule, card: Row, version: PlanVersion | None, window: Window, used: int, quota: int
    ) -> int:
        """Return the overage of a SIM: what was priced, less what later add-ons and plans cover."""
        service = service_of(TRIGGERS[rule.trigger])
        assert service is not None
        priced = self.totals.priced(rule, card["iccid"], window)
        counters = [] if version is None else [
            name for name in distinct_meters(version, service) if allowance_of(version, name)
        ]  # fmt: skip
        if version is not None and len(counters) <= 1 and self.shared_by(card, service) is None:
            return min(priced, max(used - quota, 0))
        left = self.bought(card, service) - sum(self.addon_used[one.id] for one in self.acting(card, service))
        return max(priced - left, 0)

    def shared_by(self, card: Row, service: str) -> str | None:
        """Return the pool or device with which a SIM shares its allowance for a service today, or None."""
        pool = self.pool_now(card, service)
        if pool is not None or held(self.card_pools[card["iccid"]], self.today_of(card)) is not None:
            return pool
        plan = held(self.card_plans[card["iccid"]], self.today_of(card))
        by_device = plan is not None and self.plans[plan].entity == "device"
        return card["device"] if by_device else None

    def pool_now(self, card: Row, service: str | None) -> str | None:
        """Return the pool that a SIM would draw on today, or None."""
        name = held(self.card_pools[card["iccid"]], self.today_of(card))
        return name if name is not None and service in self.pools[name].services else None

    def _over(self, card: Row, window: Window) -> bool:
        """Return True if a window has ended. A term has ended if the card is now in another term."""
        if window.term:
            end = self.term_end(card)
            return end != window.last and self.today_of(card) <= end
        return self.today_of(card) > window.last

    def _repeat(self, offset: int) -> None:
        """Fire daily rules whose condition is met, even without usage (L3, L10).

        A pool rule has only the SIMs as targets that met its condition before in the same cycle.
        """
        for rule in self.rules.values():
            trigger = TRIGGERS[rule.trigger]
            by_data = rule.trigger == "price_plan_expired" and rule.by != "time"
            if rule.id not in self.active or rule.repetition != "daily":
                continue
            if trigger.kind == "pool":
                rows = [(key[1], row) for key, row in self.memory.rows.items() if key[0] == rule.id]
                for iccid, row in sorted(rows, key=lambda one: one[1].window.span):
                    today = self.today_of(self.cards[iccid])
                    if row.day < today <= row.window.last:
                        self._again(rule, self.cards[iccid], row.window, offset)
            elif trigger.kind == "usage" or by_data:
                for iccid, card in self.cards.items():
                    today = self.today_of(card)
                    days = [row.day for key, row in self.memory.rows.items() if key[:2] == (rule.id, iccid)]
                    window = self.window_now(rule, card)
                    if window is not None and max(days, default=LONG_AGO) < today:
                        self._again(rule, card, window, offset)

    def window_now(self, rule: Rule, card: Row) -> Window | None:
        """Return the current window of a SIM rule; None if the card has no plan."""
        trigger, today = TRIGGERS[rule.trigger], self.today_of(card)
        plan = held(self.card_plans[card["iccid"]], today)
        if plan is None:
            return None
        if trigger.window != "cycle":
            return Window(today.isoformat(), today, today)
        pool = self.pool_now(card, service_of(trigger))
        kind = self.pools[pool].cycle if pool is not None else self.plans[plan].cycle
        cycle = cycle_days(kind, today)
        return Window(cycle_name(cycle, kind), *cycle)

    def _again(self, rule: Rule, card: Row, window: Window, offset: int) -> None:
        zone, rat = self.last_place(card["iccid"])
        level, total, size, threshold = self.standing(rule, card, window)
        if not level or rule not in self.watching(card) or not watches_place(rule, zone, rat):
            return
        known = self.memory.admit(rule, card["iccid"], window, level, self.today_of(card))
        pool = (
            self.pool_now(card, service_of(TRIGGERS[rule.trigger])) if TRIGGERS[rule.trigger].kind == "pool" else None
        )
        assert known is not None
        self.fire(
            rule, card, offset, window=window.name, level=level, known=known, value_before=total, value_now=total,
            size=size, threshold=threshold, pool_id=pool,
        )  # fmt: skip

    def settle(self, iccid: str, offset: int) -> None:
        """After usage of a SIM was taken back: end what it would not have begun, and let rules fire anew.

        The total of a pool is that of all its SIMs.
        """
        ended: dict[tuple[str, str], list[Fired]] = defaultdict(list)
        for (name, whose, _), row in self.memory.rows.items():
            rule = self.rules[name]
            trigger = TRIGGERS[rule.trigger]
            by_data = rule.trigger == "price_plan_expired" and rule.by != "time"
            if row.window.term or rule.repetition == "once" or not (trigger.kind in ("usage", "pool") or by_data):
                continue
            if (name not in self.active and not row.held) or (trigger.kind != "pool" and whose != iccid):
                continue
            level, _, _, _ = self.standing(rule, self.cards[whose], row.window)
            row.level = min(row.level, level)
            if row.held and not level:
                row.held = False
                ended[name, whose].append(row)
        self._let_go(ended, offset)

    def _recover(self, offset: int) -> None:
        """End suspensions with their window, or when their condition is no longer met (L1, L2).

        A rule lets a SIM go once no firing of the rule keeps it suspended. A rule that was stopped lets go as it would
        have done, one that no longer suspends releases all.
        """
        ended: dict[tuple[str, str], list[Fired]] = defaultdict(list)
        for (name, iccid, _), row in self.memory.rows.items():
            rule, card = self.rules[name], self.cards[iccid]
            if not row.held:
                continue
            until = {one.until for one in rule.actions if one.type == "suspend"}
            gone = not until - {"released"}
            level, _, _, _ = self.standing(rule, card, row.window)
            over = self._over(card, row.window)
            if (over and self.is_tick(offset)) or ("recovered" in until and not level) or gone:
                row.held = False
                if rule.repetition != "once" and not over:
                    row.level = 0  # If the condition is met again, the rule fires again.
                ended[name, iccid].append(row)
        self._let_go(ended, offset)
        order = {name: (name not in self.active, number) for number, name in enumerate(self.rules)}
        waiting = {key[:2] for key, row in self.memory.rows.items() if row.held}
        late = {
            (rule, iccid)
            for (iccid, rule, _), hold in self.holds.items()
            if rule in order and hold.until != "released" and (rule, iccid) not in waiting
        }
        # The network carried these suspensions out after their holds had ended.
        for name, iccid in sorted(late, key=lambda one: order[one[0]]) if self.is_tick(offset) else ():
            rule, card = self.rules[name], self.cards[iccid]
            self.fire(rule, card, offset, released=True, level=0, known=0, resumes=self.release(iccid, name))

    def _let_go(self, ended: dict[tuple[str, str], list[Fired]], offset: int) -> None:
        """Release the SIMs of these suspensions of rules, unless another window of the rule keeps them suspended."""
        holding = {key[:2] for key, row in self.memory.rows.items() if row.held}
        order = {name: (name not in self.active, number) for number, name in enumerate(self.rules)}
        for (name, iccid), rows in sorted(ended.items(), key=lambda one: order[one[0][0]]):
            if (name, iccid) in holding:
                continue
            rule, card = self.rules[name], self.cards[iccid]
            trigger = TRIGGERS[rule.trigger]
            window = max((row.window for row in rows), key=lambda one: one.span)
            _, total, size, _ = self.standing(rule, card, window)
            pool = self.pool_now(card, service_of(trigger)) if trigger.kind == "pool" else None
            self.fire(
                rule, card, offset, released=True, window=window.name, level=0, known=0, value_now=total, size=size,
                pool_id=pool, resumes=self.release(iccid, name),
            )  # fmt: skip

    def is_tick(self, offset: int) -> bool:
        """Return True if the current entry is a tick. Only ticks end windows."""
        return self.ticking == offset

    # What leaves

    def fire(
        self, rule: Rule, card: Row, offset: int, *, level: int, known: int, released: bool = False,
        late: bool = False, resumes: bool = True, **facts: Any
    ) -> None:  # fmt: skip
        """Add a firing and its actions (L10, L12).

        If the window of the firing was over (`late`), the network does nothing. Without `resumes`, a release asks for
        nothing, because something else keeps the SIM suspended.
        """
        trigger = TRIGGERS[rule.trigger]
        kind = "released" if released else "fired"
        told = [rule.id, card["iccid"], kind, offset]
        same = [
            row for row in self.firings if told == [row["rule_id"], row["iccid"], row["kind"], row["journal_offset"]]
        ]
        end = (f".{len(same) + 1}" if same else "") + (".released" if released else "")
        from_level = known if level > known else level - 1
        crossed = [str(one) for one in rule.levels[from_level:level]] if level else []
        if level and rule.measure == "hard_cut":
            crossed = [data_text(facts["threshold"])]
        named = f"0.{offset}.{card['iccid']}."
        self.firings.append(
            {
                "firing_id": f"{named}{rule.id}{end}", "rule_id": rule.id, "kind": kind,
                "trigger": rule.trigger, "owner": rule.owner, "account_id": card["account"], "iccid": card["iccid"],
                "pool_id": None, "window": None, "unit": trigger.unit, "value_before": None, "value_now": None,
                "size": None, "threshold": None, "levels": crossed,
                "from_value": None, "to_value": None, "used_at": None, "record_key": None, "fired_at": self.at,
                "journal_partition": 0, "journal_offset": offset,
            }
            | facts
        )  # fmt: skip
        asked = sorted(rule.actions, key=lambda one: one.sequence)
        if released:
            asked = [one for one in asked if one.type == "suspend" and one.until != "released"]
            asked = asked or [Action(sequence=1, type="suspend")]
        if late:
            asked = [one for one in asked if one.type not in NETWORK]
        for one in asked if resumes else ():
            self.actions.append(
                {
                    "action_id": f"{named}{one.sequence}.{rule.id}{end}", "firing_id": f"{named}{rule.id}{end}",
                    "rule_id": rule.id, "sequence": one.sequence, "action": "resume" if released else one.type,
                    "account_id": card["account"], "iccid": card["iccid"],
                    "parameters": parameters_of(one, released), "created_at": self.at,
                    "journal_partition": 0, "journal_offset": offset,
                }
            )  # fmt: skip
            if not released and one.type in ("suspend", "resume"):
                numbers = [list(self.rules).index(rule.id), list(self.cards).index(card["iccid"])]
                self.pending.append(((offset, *numbers, one.sequence), one, self.actions[-1]))
