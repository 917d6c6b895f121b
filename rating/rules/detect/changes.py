"""Rules on changes of card data: status, plan, MSISDN, IMEI and custom fields (L7).

A catalogue or the result of an action changes a card. A plan that was announced for a later day changes at the first
tick of that day.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import polars as pl

from rating.columnar.key_index import Flags, Ints
from rating.rules.active_rule import Watch
from rating.rules.detect.events import admit_events, matching, named, placed
from rating.rules.detect.last_seen import devices
from rating.rules.firing.firings import Fires
from rating.usage.accept import local_days
from schemas.rules import Rule

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet
    from rating.rules.state import RuleState


def change_fires(
    ruleset: RuleSet, state: RuleState, before: pl.DataFrame, after: pl.DataFrame, offset: Ints | int, now_us: int
) -> list[Fires]:
    """Return the firings for card data that a catalogue or the result of an action changed; update IMEIs in sightings.

    `before` and `after` have the columns of CARD_SCHEMA and one row per card: all cards, or the changed ones. A card
    that is in only one of them does not count as changed. `offset` is one journal offset, or int64[rows of after]. A
    first IMEI is not a change of device. A first MSISDN, plan or custom field is a change from null. A plan that is
    announced for a later day is no change yet; see `plan_fires`. A card that is activated is known from now on: nobody
    could hear of it before.
    """
    directory, sightings = ruleset.directory, state.sightings
    watches = [watch for watch in ruleset.watches if watch.trigger.kind == "change"]
    if not len(sightings) and not watches:
        return []
    was = after.select("iccid").join(before, on="iccid", how="left", maintain_order="left")
    known = after["iccid"].is_in(before["iccid"].implode())
    differs = pl.DataFrame({name: was[name].ne_missing(after[name]) for name in _COMPARED}).select(
        pl.any_horizontal(*_COMPARED)
    )
    at = np.flatnonzero((known & differs.to_series()).to_numpy())
    if not len(at):
        return []
    was, now = was[at], after[at]
    card = directory.rows_of(now["iccid"])
    offsets = np.broadcast_to(np.asarray(offset, np.int64), (len(after),))[at]
    day = local_days(ruleset.book, directory.account[card], np.full(len(card), now_us, np.int64))
    if len(sightings):
        inactive = was["status"].fill_null(_ACTIVE) != _ACTIVE
        woken = np.flatnonzero((inactive & (now["status"].fill_null(_ACTIVE) == _ACTIVE)).to_numpy())
        sightings["known_us"][card[woken]] = now_us
    imei = was["imei"]
    if "imei" in sightings:
        imei = sightings.texts["imei"].named(sightings["imei"][card])
        told = np.flatnonzero((now["imei"].is_not_null() & was["imei"].ne_missing(now["imei"])).to_numpy())
        sightings["imei"][card[told]] = sightings.texts["imei"].numbers(now["imei"].gather(told))
    fires: list[Fires] = []
    for watch in watches:
        rule, column = watch.rule, watch.trigger.column
        if column == "custom":
            changed, old, new = _fields_changed(rule, was["custom"], now["custom"])
        elif column == "plan":
            fires += _plan_changes(ruleset, state, watch, card, offsets, now_us)
            continue
        elif column is not None:
            old, new = was[column], now[column]
            changed = old.ne_missing(new).to_numpy()
            if column == "status":
                old, new = old.fill_null("activated"), new.fill_null("activated")
                changed = (old != new).to_numpy()
            elif column == "imei":
                old = imei
                changed &= (devices(old) != devices(new)).fill_null(False).to_numpy()
            changed = changed & named(rule, old, new, column == "imei")
        else:
            continue
        held = {name: sightings[name][card] for name in ("zone", "rat") if name in sightings}
        keep = changed & matching(ruleset, watch, card, day) & placed(ruleset, watch, sightings, held)
        texts = {"from_value": old.filter(pl.Series(keep)), "to_value": new.filter(pl.Series(keep))}
        fires += admit_events(state, watch, card[keep], day[keep], {"offset": offsets[keep]} | texts)
    if "plan" in sightings:
        sightings["plan"][card] = plans_now(ruleset, now_us, card)
    return fires


def plan_fires(ruleset: RuleSet, state: RuleState, now_us: int, offset: int) -> list[Fires]:
    """Return the firings for cards whose plan in force is another one than at the entry before; remember the new ones.

    A change of plan that was announced takes effect at the first tick of its day.
    """
    sightings = state.sightings
    if "plan" not in sightings:
        return []
    card = np.flatnonzero(sightings["plan"] != plans_now(ruleset, now_us))
    fires: list[Fires] = []
    for watch in ruleset.watches:
        if watch.trigger.column == "plan":
            fires += _plan_changes(ruleset, state, watch, card, np.full(len(card), offset, np.int64), now_us)
    sightings["plan"][card] = plans_now(ruleset, now_us, card)
    return fires


def plans_now(ruleset: RuleSet, now_us: int, card: Ints | None = None) -> Ints:
    """int64[n]: the plan in force of these cards, or of all, as of their local day; -1 without a plan."""
    directory = ruleset.directory
    card = np.arange(len(directory)) if card is None else card
    day = local_days(ruleset.book, directory.account[card], np.full(len(card), now_us, np.int64))
    return directory.plans.at(card, day)


def _plan_changes(
    ruleset: RuleSet, state: RuleState, watch: Watch, card: Ints, offsets: Ints, now_us: int
) -> list[Fires]:
    """Return the firings of a rule on plans for those of the cards whose plan in force has changed."""
    sightings, directory = state.sightings, ruleset.directory
    was, now = sightings["plan"][card], plans_now(ruleset, now_us, card)
    names = pl.Series(ruleset.vocabulary.plans.names or [""], dtype=pl.String)
    old, new = (names.gather(np.maximum(one, 0)).set(pl.Series(one < 0), None) for one in (was, now))
    day = local_days(ruleset.book, directory.account[card], np.full(len(card), now_us, np.int64))
    held = {name: sightings[name][card] for name in ("zone", "rat") if name in sightings}
    keep = (was != now) & named(watch.rule, old, new)
    keep &= matching(ruleset, watch, card, day) & placed(ruleset, watch, sightings, held)
    texts = {"from_value": old.filter(pl.Series(keep)), "to_value": new.filter(pl.Series(keep))}
    return admit_events(state, watch, card[keep], day[keep], {"offset": offsets[keep]} | texts)


_ACTIVE: Final = "activated"
_COMPARED: Final = ("status", "msisdn", "plan", "imei", "custom")


def _fields_changed(rule: Rule, was: pl.Series, now: pl.Series) -> tuple[Flags, pl.Series, pl.Series]:
    """Return whether custom fields of each card changed as the rule asks (bool[n]), and old and new values (String[n]).

    For a rule that names no field, the values are JSON objects of all fields of the card that changed.
    """
    changed = was.ne_missing(now).to_numpy().copy()
    texts: list[list[str | None]] = [[None] * len(now), [None] * len(now)]
    for row in np.flatnonzero(changed).tolist():
        old, new = _custom(was[row]), _custom(now[row])
        moved = {
            name: (old.get(name), new.get(name))
            for name in sorted(old | new)
            if old.get(name) != new.get(name)
            and rule.attribute in (None, name)
            and rule.from_ in (None, old.get(name))
            and rule.to in (None, new.get(name))
        }
        changed[row] = bool(moved)
        for side, column in enumerate(texts):
            told = {name: pair[side] for name, pair in moved.items() if pair[side] is not None}
            column[row] = told.get(rule.attribute) if rule.attribute is not None else _JSON.encode(told).decode()
    from_value, to_value = (pl.Series(column, dtype=pl.String) for column in texts)
    return changed, from_value, to_value


_JSON: Final = msgspec.json.Encoder()


def _custom(text: str | None) -> dict[str, str]:
    """Return the custom fields of a card as text, without those that are null."""
    fields: dict[str, Any] = msgspec.json.decode(text) if text else {}
    return {
        name: value if isinstance(value, str) else _JSON.encode(value).decode()
        for name, value in fields.items()
        if value is not None
    }
