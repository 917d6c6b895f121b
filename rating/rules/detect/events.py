"""Rules on events: sessions, blocks, changes of device or cell, and changes of card data (L7).

Events have no total, so the window is the event itself: `once_per_window` fires for each event.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from rating.columnar.key_index import Flags, Ints
from rating.rules.active_rule import Watch
from rating.rules.detect.last_seen import NEVER, UNKNOWN, Heard, Reports, Sightings, devices
from rating.rules.detect.told_sessions import begun
from rating.rules.detect.traffic import Traffic
from rating.rules.detect.usage import count_sessions
from rating.rules.firing.firings import Fires
from rating.rules.firing.repetition import Occurrences
from rating.rules.triggers import Trigger
from rating.usage.accept import local_days
from schemas.commands import Blocked, Connected, NetworkEvent, SessionStarted, SessionStopped
from schemas.rules import Repetition, Rule
from schemas.usage import Service

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet
    from rating.rules.state import RuleState

_TOLD_BY: Final = {"session_started": SessionStarted, "session_stopped": SessionStopped, "blocked": Blocked}


def admit(
    state: RuleState,
    watch: Watch,
    found: Occurrences,
    columns: Mapping[str, Any],
    repetition: Repetition | None = None,
    held: bool = False,
) -> list[Fires]:
    """Return the firings of one rule that its memory admits; an empty list if there are none.

    `found` is in journal order. `columns` are further fields of Fires; `offset` is among them. `repetition` is that of
    the rule if it is None.
    """
    if not len(found.card):
        return []
    fires, known = state.memory.admit(watch.row, repetition or watch.rule.repetition, found, held)
    at = np.flatnonzero(fires)
    if not len(at):
        return []
    fired = Fires(watch.row, found.card, window=found.window, level=found.level, known=known, **columns)
    return [fired if len(at) == len(found.card) else fired.take(at)]


def admit_events(state: RuleState, watch: Watch, card: Ints, day: Ints, columns: Mapping[str, Any]) -> list[Fires]:
    """Return the firings of a rule on events that its memory admits. The window of an event is the event itself.

    `card` and `day` (local day of arrival) are int64[n] in journal order, `columns` as for `admit`.
    """
    found = Occurrences(card, np.zeros(len(card), np.int64), np.ones(len(card), np.int64), day)
    return admit(state, watch, found, columns, "always" if watch.rule.repetition == "once_per_window" else None)


def traffic_fires(ruleset: RuleSet, state: RuleState, traffic: Traffic) -> list[Fires]:
    """Update the sightings with a batch and return the firings of rules on sessions, IMEI and location."""
    sightings = state.sightings
    heard = None
    if len(sightings.columns) > 1:
        heard = sightings.hear(sightings.reports_of(traffic, ruleset.zones))
    fires: list[Fires] = []
    for watch in ruleset.watches:
        texts: dict[str, pl.Series] = {}
        if watch.trigger.event == "session_started":
            at = np.flatnonzero(traffic.started)
        elif watch.trigger.event == "session_stopped":
            at = np.flatnonzero(traffic.stopped)
        elif watch.trigger.fact is not None and heard is not None:
            at, texts = _moves(watch.rule, watch.trigger.fact, sightings, heard)
        else:
            continue
        keep = matching(ruleset, watch, traffic.card[at], traffic.today[at])
        if ruleset.filters.looks_at(watch.place, "zone") or ruleset.filters.looks_at(watch.place, "rat"):
            rat = heard.reports.texts["rat"] if heard is not None and "rat" in heard.reports.texts else None
            rat = np.full(len(traffic), UNKNOWN, np.int64) if rat is None else rat
            rats = sightings.texts["rat"].series.to_list()
            keep &= ruleset.filters.places(watch.place, traffic.zone[at], ruleset.zones, rat[at], rats)
        at, texts = at[keep], {name: column.filter(pl.Series(keep)) for name, column in texts.items()}
        columns = {name: getattr(traffic, name)[at] for name in ("offset", "used_us", "place")}
        fires += admit_events(state, watch, traffic.card[at], traffic.today[at], columns | texts)
    return fires


def event_fires(
    ruleset: RuleSet, state: RuleState, events: Sequence[NetworkEvent], offsets: Ints, now_us: int
) -> list[Fires]:
    """Update the sightings with network events and return the firings.

    `offsets` (int64[n]) are the journal offsets of the events. Events of SIMs that are not in the directory are
    ignored. An event dated after its arrival counts as of its arrival.
    """
    if not events:
        return []
    sightings, directory = state.sightings, ruleset.directory
    card = directory.rows_of(pl.Series([one.iccid for one in events], dtype=pl.String))
    rows = np.flatnonzero(card >= 0)
    events = [events[row] for row in rows.tolist()]
    card, offsets = card[rows], offsets[rows]
    if not events:
        return []
    used_us = np.array([_at_us(one, now_us) for one in events], np.int64)
    heard = sightings.hear(_reports(sightings, events, card, used_us))
    day = local_days(ruleset.book, directory.account[card], np.full(len(card), now_us, np.int64))
    fires = count_sessions(ruleset, state, begun(ruleset, sightings, events, (card, offsets, used_us), now_us))
    for watch in ruleset.watches:
        trigger, texts = watch.trigger, dict[str, pl.Series]()
        if trigger.event is not None:
            at = np.flatnonzero([_is_told(trigger, one) for one in events])
        elif trigger.fact is not None:
            at, texts = _moves(watch.rule, trigger.fact, sightings, heard)
        else:
            continue
        keep = matching(ruleset, watch, card[at], day[at]) & placed(
            ruleset, watch, sightings, {name: heard.after[name][at] for name in ("zone", "rat") if name in heard.after}
        )
        at, texts = at[keep], {name: column.filter(pl.Series(keep)) for name, column in texts.items()}
        fires += admit_events(state, watch, card[at], day[at], {"offset": offsets[at]} | texts)
    return fires


def _is_told(trigger: Trigger, event: NetworkEvent) -> bool:
    """Return whether a network event is the event of the trigger."""
    if not isinstance(event, _TOLD_BY[str(trigger.event)]):
        return False
    if not isinstance(event, Blocked):
        return True
    return trigger.service is not None and event.service == trigger.service.name.lower()


def matching(ruleset: RuleSet, watch: Watch, card: Ints, day: Ints) -> Flags:
    """bool[n]: whether the rule watches each card."""
    keep: Flags = ruleset.filters.cards(watch.place, card, day)
    return keep


def placed(ruleset: RuleSet, watch: Watch, sightings: Sightings, seen: dict[str, Ints]) -> Flags | bool:
    """bool[n]: whether the last-seen zone and RAT of each SIM match the rule; True if the rule has no such filter.

    `seen` has the last-seen values as numbers of Sightings.texts, by name ("zone", "rat").
    """
    filters = ruleset.filters
    if not (filters.looks_at(watch.place, "zone") or filters.looks_at(watch.place, "rat")):
        return True
    count = max((len(column) for column in seen.values()), default=0)
    column = {name: seen.get(name, np.full(count, UNKNOWN, np.int64)) for name in ("zone", "rat")}
    names = {name: sightings.texts[name].series.to_list() for name in column}
    keep: Flags = filters.places(watch.place, column["zone"], names["zone"], column["rat"], names["rat"])
    return keep


def last_seen(ruleset: RuleSet, watch: Watch, sightings: Sightings, card: Ints) -> Flags | bool:
    """bool[n]: whether the last-seen zone and RAT of each card match the rule; True if it has no such filter (L9)."""
    held = {name: sightings[name][card] for name in ("zone", "rat") if name in sightings}
    return placed(ruleset, watch, sightings, held)


def _moves(rule: Rule, name: str, sightings: Sightings, heard: Heard) -> tuple[Ints, dict[str, pl.Series]]:
    """Return the reports in which the IMEI or cell changed as the rule asks, and the old and new value.

    The values are String[k], named `from_value` and `to_value`.
    """
    at = heard.moved.get(name, np.zeros(0, np.int64))
    if name == "cell" and rule.across != "any":
        at = at[heard.within[at] == (rule.across == "during")]
    if not len(at):
        return at, {}
    texts = sightings.texts[name]
    old, new = texts.named(heard.before[name][at]), texts.named(heard.after[name][at])
    keep = named(rule, old, new, name == "imei")
    return at[keep], {"from_value": old.filter(pl.Series(keep)), "to_value": new.filter(pl.Series(keep))}


def named(rule: Rule, old: pl.Series, new: pl.Series, by_device: bool = False) -> Flags:
    """bool[n]: whether each change matches `from` and `to` of the rule. With `by_device`, the values are IMEIs."""
    keep = np.ones(len(new), bool)
    for wanted, values in ((rule.from_, old), (rule.to, new)):
        if wanted is None:
            continue
        one = pl.Series([wanted], dtype=pl.String)
        one, values = (devices(one), devices(values)) if by_device else (one, values)
        keep &= (values == one[0]).fill_null(False).to_numpy()
    return keep


def _reports(sightings: Sightings, events: Sequence[NetworkEvent], card: Ints, used_us: Ints) -> Reports:
    """Return the reports in network events. A block gets the time NEVER: it shows an attempt, not a connection."""
    attached = [one if isinstance(one, Connected) else None for one in events]
    texts = {
        name: sightings.texts[name].numbers(
            pl.Series([None if one is None else getattr(one, told) for one in attached], dtype=pl.String)
        )
        for name, told in (("imei", "imei"), ("cell", "cell_id"), ("rat", "rat"), ("zone", "zone"))
        if name in sightings
    }
    in_session = [isinstance(one, (SessionStarted, SessionStopped)) for one in events]
    service = np.where(in_session, int(Service.DATA), UNKNOWN)
    blocked = np.array([isinstance(one, Blocked) for one in events], bool)
    return Reports(card, np.where(blocked, NEVER, used_us), service, texts)


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _at_us(event: NetworkEvent, now_us: int) -> int:
    if event.at is None:
        return now_us
    aware = event.at if event.at.tzinfo is not None else event.at.replace(tzinfo=dt.UTC)
    return min((aware - _EPOCH) // dt.timedelta(microseconds=1), now_us)
