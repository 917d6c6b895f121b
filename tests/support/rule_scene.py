"""Active rules with a catalogue and constructed traffic, for tests of single parts of the rules."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from rating.engine import Engine
from rating.rules.active_rules import RuleSet
from rating.rules.detect.changes import change_fires, plans_now
from rating.rules.detect.events import event_fires, traffic_fires
from rating.rules.detect.last_seen import needs
from rating.rules.detect.releases import release_fires
from rating.rules.detect.timers import tick_fires
from rating.rules.detect.traffic import Traffic
from rating.rules.detect.usage import usage_fires
from rating.rules.firing.firings import NONE, Fires, Labels
from rating.rules.state import RuleState
from rating.usage.accept import local_days
from rating.usage.cycles import cycle_code, cycle_days
from schemas.cards import Catalogue
from schemas.commands import NetworkEvent
from schemas.rules import Rule
from schemas.usage import USAGE_SCHEMA, Service
from tests.support.fold_case import NOON, Row, us

ZONES = ["home", "far"]


class Scene:
    """The catalogue of an engine, with rules that are active since `since`. `fired` has all firings so far, in order.

    Each method that evaluates an entry returns the firings of this entry.
    """

    def __init__(self, engine: Engine, *rules: Rule, since: dt.datetime = NOON, known: dt.datetime = NOON) -> None:
        self.engine = engine
        self.state = RuleState()
        self.known_us = us(known)
        self.offset = 0
        self.fired: list[Row] = []
        self.activate(*rules, since=since)

    def activate(self, *rules: Rule, since: dt.datetime = NOON) -> None:
        """Make these rules active, and no others. A rule that was already active keeps its start."""
        self.state.active = {rule.id: self.state.active.get(rule.id, us(since)) for rule in rules}
        self.rules = rules
        self.settle()

    def settle(self) -> None:
        """Recompile the current rules and catalogue."""
        engine = self.engine
        state = SimpleNamespace(
            vocabulary=engine.state.vocabulary,
            catalogue=replace(engine.state.catalogue, rules=self.rules),
            rules=self.state,
            clock_us=self.known_us,
        )
        self.set = RuleSet(state, engine.compiled, ZONES)  # type: ignore[arg-type]
        plan = plans_now(self.set, self.known_us)
        self.state.sightings.follow(needs(self.set.watches), self.set.directory.cards["imei"], plan, self.known_us)

    def apply(self, at: dt.datetime = NOON, **parts: Any) -> list[Row]:
        """Apply a catalogue entry: changes of cards fire, and suspensions end."""
        before = self.engine.state.catalogue.cards
        self.known_us = us(at)
        self.engine.apply(Catalogue(**parts))
        self.settle()
        self.offset += 1
        after = self.engine.state.catalogue.cards
        changed = change_fires(self.set, self.state, before, after, self.offset, us(at))
        return self._told(changed + release_fires(self.set, self.state, us(at), self.offset))

    def hear(self, *rows: Row, received: dt.datetime = NOON) -> list[Row]:
        """Evaluate a batch of records; see `traffic`."""
        traffic = self.traffic(rows, received, self.offset)
        self.offset += len(rows)
        events = traffic_fires(self.set, self.state, traffic)
        return self._told(events + usage_fires(self.set, self.state, traffic))

    def told(self, *events: NetworkEvent, at: dt.datetime = NOON) -> list[Row]:
        """Evaluate network events."""
        offsets = self.offset + np.arange(len(events))
        self.offset += len(events)
        return self._told(event_fires(self.set, self.state, events, offsets, us(at)))

    def tick(self, at: dt.datetime) -> list[Row]:
        """Evaluate a tick of the clock."""
        self.offset += 1
        return self._told(tick_fires(self.set, self.state, us(at), self.offset))

    def traffic(self, rows: Sequence[Row], received: dt.datetime, offset: int) -> Traffic:
        """Return records as Traffic. By default, a record is of card 0 at NOON, of data and in the home zone."""
        count = len(rows)

        def column(name: str, default: int) -> np.ndarray:
            return np.array([row.get(name, default) for row in rows], np.int64)

        directory, book = self.set.directory, self.set.book
        card = column("card", 0)
        account = directory.account[card]
        used_us = np.array([us(row.get("used_at", NOON)) for row in rows], np.int64)
        day = local_days(book, account, used_us)
        plan = directory.plans.at(card, day)
        cycle = np.zeros(count, np.int64)
        for place, kind in enumerate(book.plan_cycle[plan].tolist()):
            number = book.cycle_calendars[kind].index(day[place : place + 1].astype(np.int32)).astype(np.int64)
            cycle[place] = cycle_code(kind, number)[0]
        days = np.array([cycle_days(book, code) for code in cycle.tolist()], np.int64).reshape(-1, 2)
        zone = [row.get("zone", "home") for row in rows]
        nothing = np.zeros(count, np.int64)
        texts = ("imei", "cell_id", "rat", "session_id")
        names = [name for name in texts if any(name in row for row in rows)]
        frame = pl.DataFrame({name: [row.get(name) for row in rows] for name in names},
                             schema={name: USAGE_SCHEMA[name] for name in names})  # fmt: skip
        return Traffic(
            received_us=us(received), clock_us=us(received), offset=offset + np.arange(count),
            place=np.arange(count), card=card, account=account, version=book.version_of(plan, day),
            service=column("service", int(Service.DATA)), direction=nothing,
            zone=np.array([ZONES.index(one) if one else -1 for one in zone], np.int64),
            country=nothing - 1, countries=[], used_us=used_us, day=day,
            today=local_days(book, account, np.full(count, us(received), np.int64)), pool=nothing - 1,
            cycle=cycle, cycle_start=days[:, 0], cycle_end=days[:, 1], units=column("units", 0), home_units=nothing,
            pool_units=nothing, overage=column("overage", 0),
            started=column("started", 0).astype(bool),
            stopped=column("stopped", 0).astype(bool), rows=frame,
        )  # fmt: skip

    def _told(self, fires: Iterable[Fires]) -> list[Row]:
        found = []
        watches = {watch.row: watch.rule.id for watch in self.set.watches}
        iccids = self.set.directory.cards["iccid"].to_list()
        for one in fires:
            for place in range(len(one)):
                row: Row = {"rule": watches[one.rule], "iccid": iccids[int(one.card[place])]}
                for name in ("offset", "level", "known", "before", "now", "size", "threshold"):
                    value = int(getattr(one, name)[place])
                    row[name] = None if value == NONE else value
                for name in ("from_value", "to_value", "label"):
                    text = getattr(one, name)
                    text = text.text() if isinstance(text, Labels) else text
                    row[name] = None if text is None else text[place]
                found.append(row | {"released": one.released})
        found.sort(key=lambda row: (row["offset"], row["rule"], iccids.index(row["iccid"]), row["released"]))
        self.fired += found
        return found


def iccids(rows: Iterable[Row], rule: str | None = None) -> list[str]:
    """Return the ICCIDs of firings, in order: of one rule if `rule` is given."""
    return [row["iccid"] for row in rows if rule in (None, row["rule"])]
