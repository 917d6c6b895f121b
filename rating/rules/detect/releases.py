"""Ends of suspensions: as a window ends, as a SIM recovers, or as usage is taken back (L1, L2, F6).

Each release ends only the hold of its own rule. A resume is asked for if no other hold is on the SIM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rating.columnar.key_index import Ints
from rating.rules.active_rule import Watch
from rating.rules.commands.results import CANCELLED
from rating.rules.firing.firings import NONE, RESUMES, Fires
from rating.rules.firing.repetition import RULE_BITS
from rating.rules.holds import OUTSIDE, RELEASED
from rating.rules.totals.current import TERM, Standing, Windows, label_of, standing, windows_of
from rating.rules.totals.cycle_and_day import Slice

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet
    from rating.rules.state import RuleState


def release_fires(ruleset: RuleSet, state: RuleState, now_us: int, offset: int, ticking: bool = False) -> list[Fires]:
    """Return the `released` firings of suspensions that end, and record that they no longer await a resume (L1, L2).

    A suspension ends when its condition is over, if the rule says "recovered"; with `ticking` also when its window is
    over. The condition is over if the total no longer exceeds the limit with the current quota, or if the term was
    extended. A rule that was changed so that it no longer suspends releases all its SIMs. Unless its repetition is
    `once`, the rule can then fire again in the same window.

    Each release ends only the hold of its own rule. A resume is asked for if no other hold is on the SIM.
    """
    memory = state.memory
    if not memory["held"].any() and not len(state.holds):
        return []
    held = np.flatnonzero(memory["held"])
    rule_of = memory.rule[held]
    fires: list[Fires] = []
    for watch in (*ruleset.watches, *ruleset.resting):
        rows = held[rule_of == watch.row]
        if not len(rows):
            continue
        windows = windows_of(ruleset, watch, memory.card[rows], memory.window[rows], memory["day"][rows], now_us)
        now = standing(ruleset, state, watch, windows, now_us)
        recovers = any(one.type == "suspend" and one.until == "recovered" for one in watch.rule.actions)
        recovered = ((now.level == 0) & recovers) | (not watch.holds_back)
        ended = windows.over if ticking else np.zeros(len(rows), bool)
        at = np.flatnonzero(recovered | ended)
        if not len(at):
            continue
        fires.append(_let_go(ruleset, state, watch, (rows, windows, now), at, offset))
    return fires + (_without_window(ruleset, state, offset) if ticking else [])


def settle_fires(ruleset: RuleSet, state: RuleState, card: int, now_us: int, offset: int) -> list[Fires]:
    """Return the releases after usage of a card was taken back (F6), and let rules fire anew for what they fired for.

    A SIM that is below the threshold again is released, whatever was to end its suspension. A level that is not met any
    more can fire again in its window. A pool rule looks at all SIMs, because they share the total.
    """
    memory, fires = state.memory, list[Fires]()
    for watch in (*ruleset.watches, *ruleset.resting) if len(memory) else ():
        if Slice.of(watch.rule, watch.trigger) is None or watch.rule.repetition == "once":
            continue
        own = memory.rule == watch.row
        if watch.trigger.kind != "pool":
            own &= memory.card == card
        rows = np.flatnonzero(own & ((memory["level"] > 0) | (memory["held"] == 1)) & (memory.window < TERM))
        if not len(rows):
            continue
        windows = windows_of(ruleset, watch, memory.card[rows], memory.window[rows], memory["day"][rows], now_us)
        now = standing(ruleset, state, watch, windows, now_us)
        memory["level"][rows] = np.minimum(memory["level"][rows], now.level)
        at = np.flatnonzero((memory["held"][rows] == 1) & (now.level == 0))
        if len(at):
            fires.append(_let_go(ruleset, state, watch, (rows, windows, now), at, offset))
    return [one for one in fires if len(one)]


def _let_go(
    ruleset: RuleSet, state: RuleState, watch: Watch, found: tuple[Ints, Windows, Standing], at: Ints, offset: int
) -> Fires:
    """End the suspensions of a rule at these indices of memory rows, windows and what holds in them; return a release
    for each SIM that no other window of the rule keeps suspended.
    """
    rows, windows, now = found
    memory = state.memory
    memory["held"][rows[at]] = 0
    if watch.rule.repetition != "once":
        memory["level"][rows[at[~windows.over[at]]]] = 0
    at = at[_last_of_card(windows, at, windows.card[memory["held"][rows] == 1])]
    nothing = np.zeros(len(at), np.int64)
    withheld = _release(ruleset, state, watch, windows.card[at])
    return Fires(
        watch.row,
        windows.card[at],
        np.full(len(at), offset, np.int64),
        windows.window[at],
        level=nothing,
        known=nothing,
        now=now.value[at],
        size=now.size[at],
        pool=windows.pool[at],
        label=label_of(ruleset, watch, windows.window[at]),
        withheld=withheld,
        released=True,
    )


def _without_window(ruleset: RuleSet, state: RuleState, offset: int) -> list[Fires]:
    """Return the releases of holds that end by themselves and whose window is not known any more.

    The network carried such a suspension out after its hold had ended.
    """
    holds, memory = state.holds, state.memory
    rows = np.flatnonzero((holds["on"] == 1) & (holds["until"] != RELEASED) & (holds.cause != OUTSIDE))
    held = memory["held"] == 1
    rows = rows[
        ~np.isin(holds.card[rows] << RULE_BITS | holds.cause[rows], memory.card[held] << RULE_BITS | memory.rule[held])
    ]
    fires: list[Fires] = []
    for watch in (*ruleset.watches, *ruleset.resting) if len(rows) else ():
        card = np.unique(holds.card[rows[holds.cause[rows] == watch.row]])
        if len(card):
            none = np.zeros(len(card), np.int64)
            withheld = _release(ruleset, state, watch, card)
            offsets = np.full(len(card), offset, np.int64)
            fires.append(Fires(watch.row, card, offsets, none, none, none, withheld=withheld, released=True))
    return fires


def _release(ruleset: RuleSet, state: RuleState, watch: Watch, card: Ints) -> Ints:
    """Lift the holds of a rule that end by themselves; return which resumes are withheld, int64[n] (Fires.withheld).

    A resume is asked for when the last hold of a card ends. It is not asked for a cancelled card, nor for one whose
    suspension failed, was asked for again, and got no answer.
    """
    holds = state.holds
    rows = holds.rows_on(card)
    rows = rows[(holds.cause[rows] == watch.row) & (holds["until"][rows] != RELEASED)]
    never = rows[holds["failed"][rows] == 1]
    never_suspended = np.isin(card, holds.card[never]) & ~np.isin(card, holds.card[np.setdiff1d(rows, never)])
    holds.lift(rows)
    cancelled = (ruleset.directory.cards["status"].gather(card) == CANCELLED).fill_null(False).to_numpy()
    return np.where(holds.any_on(card) | cancelled | never_suspended, RESUMES, NONE)


def _last_of_card(windows: Windows, at: Ints, still: Ints) -> Ints:
    """int64[k]: the indices in `at` of the latest window of each card, without the cards in `still`.

    `still` are cards that another window of the rule keeps suspended.
    """
    order = np.lexsort((windows.start[at], windows.end[at], windows.card[at]))
    card = windows.card[at][order]
    last = np.append(card[1:] != card[:-1], True)
    ended: Ints = np.sort(order[last & ~np.isin(card, still)])
    return ended
