"""What rules remember of their firings: repetition by SIM and window, and what is forgotten (L8, L10)."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rating.rules.firing.repetition import Memory, Occurrences
from schemas.cards import Catalogue
from schemas.commands import Activate, Deactivate
from schemas.plans import Rate
from schemas.rules import Action, Repetition, Rule
from tests.support.fold_case import RECEIVED, engine, plan, us, usage

TELL = Action(sequence=1, type="notify", by=("system",))
HOLD = Action(sequence=1, type="suspend", reason="over_quota", until="window_end")


def admitted(memory: Memory, repetition: Repetition, *candidates: tuple[int, int, int, int]) -> list[bool]:
    """Which of (card, window, level, day) fire, as candidates of rule 3."""
    columns = np.array(candidates, np.int64).reshape(-1, 4).T
    fires, _ = memory.admit(3, repetition, Occurrences(*columns))
    return fires.tolist()


def test_once_per_window_fires_anew_for_each_window_and_level() -> None:
    """A SIM fires once a window and level, whatever else fires."""
    memory = Memory()
    assert admitted(memory, "once_per_window", (7, 1, 1, 0), (7, 1, 1, 0), (8, 1, 1, 0)) == [True, False, True]
    assert admitted(memory, "once_per_window", (7, 1, 1, 1), (7, 2, 1, 1), (7, 1, 2, 1)) == [False, True, True]


def test_once_fires_once_for_ever() -> None:
    """Another window changes nothing; a further level does."""
    memory = Memory()
    assert admitted(memory, "once", (7, 1, 1, 0), (7, 2, 1, 0)) == [True, False]
    assert admitted(memory, "once", (7, 9, 2, 40), (7, 9, 2, 40)) == [True, False]


def test_daily_fires_once_a_local_day_of_arrival() -> None:
    """Not for another level on the same day, but again on the next."""
    memory = Memory()
    assert admitted(memory, "daily", (7, 1, 1, 10), (7, 1, 2, 10)) == [True, False]
    assert admitted(memory, "daily", (7, 1, 2, 10), (8, 1, 1, 10)) == [False, True]
    assert admitted(memory, "daily", (7, 1, 1, 11)) == [True]
    assert admitted(memory, "daily", (7, 1, 1, 9)) == [False]


def test_always_fires_for_each() -> None:
    """Every candidate fires, however often it did."""
    memory = Memory()
    assert admitted(memory, "always", (7, 1, 1, 10), (7, 1, 1, 10)) == [True, True]
    assert admitted(memory, "always", (7, 1, 1, 10)) == [True]


def test_the_level_known_before_comes_along() -> None:
    """It is the highest that fired for the SIM in the window, within the batch too."""
    memory = Memory()
    fires, known = memory.admit(
        3, "once_per_window", Occurrences(*np.array([[7, 1, 1, 0], [7, 1, 3, 0], [7, 1, 2, 0]]).T)
    )
    assert fires.tolist() == [True, True, False]
    assert known.tolist() == [0, 1, 3]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(1, 3), st.just(5)), max_size=30),
    st.integers(0, 30),
    st.sampled_from(["once", "once_per_window", "daily", "always"]),
)
def test_any_batches_admit_the_same(rows: list[tuple[int, int, int, int]], cut: int, repetition: Repetition) -> None:
    """However candidates are cut into batches, the same ones fire, and a restored memory goes on alike."""
    whole = admitted(Memory(), repetition, *rows)
    memory = Memory()
    first = admitted(memory, repetition, *rows[:cut])
    assert whole == first + admitted(Memory.from_table(memory.to_table()), repetition, *rows[cut:])


def test_forgetting_a_rule_leaves_others_and_what_is_held() -> None:
    """A rule that starts anew may fire again, but its suspensions are still to be ended."""
    memory = Memory()
    one = np.array([1])
    memory.admit(3, "once_per_window", Occurrences(one, one, one, one))
    memory.admit(3, "once_per_window", Occurrences(one + 1, one, one, one), True)
    memory.admit(4, "once_per_window", Occurrences(one, one, one, one))
    memory.forget([3])
    assert sorted(zip(memory.rule.tolist(), memory.card.tolist(), memory["held"].tolist(), strict=True)) == [
        (3, 2, 1),
        (4, 1, 0),
    ]
    assert admitted(memory, "once_per_window", (1, 1, 1, 1), (2, 1, 1, 1)) == [True, True]


def started(rule: Rule) -> Any:
    """An engine with one active rule over card 1."""
    fold = engine(plan(Rate(service="data", allowance=1000)))
    fold.apply(Catalogue(rules=(rule,)))
    fold.command([Activate(rule=rule.id)], us(RECEIVED) - 1)
    return fold


@pytest.mark.parametrize(("action", "held"), [(TELL, 0), (HOLD, 0)])
def test_what_fired_in_a_cycle_is_forgotten_when_it_takes_no_more_usage(action: Action, held: int) -> None:
    """The memory does not grow with the months; it lasts as long as usage of the cycle can still come."""
    fold = started(Rule(id="r", trigger="data_usage_cycle", threshold=10, actions=(action,)))
    fold.usage(usage({"quantity": 11}))
    fold.tick(us(RECEIVED) + 86_400_000_000)
    assert len(fold.state.rules.memory) == 1
    fold.tick(us(RECEIVED + dt.timedelta(days=30)))
    assert len(fold.state.rules.memory) == held


def test_a_broken_silence_is_forgotten() -> None:
    """Of each SIM one silence is remembered, the one that goes on."""
    fold = started(Rule(id="r", trigger="not_connected_24h", actions=(TELL,)))
    day = dt.timedelta(days=1)
    assert fold.tick(us(RECEIVED + day)).firings.num_rows == 1
    assert fold.tick(us(RECEIVED + day * 1.5)).firings.num_rows == 0
    fold.usage(usage({"quantity": 1, "used_at": RECEIVED + day * 2}, received=RECEIVED + day * 2))
    assert fold.tick(us(RECEIVED + day * 2)).firings.num_rows == 0
    assert fold.tick(us(RECEIVED + day * 3)).firings.num_rows == 1
    fold.tick(us(RECEIVED + day * 3.5))
    assert len(fold.state.rules.memory) == 1


def test_a_rule_that_was_stopped_and_started_fires_again() -> None:
    """Once for ever is for ever of one activation."""
    fold = started(Rule(id="r", trigger="data_usage_cycle", threshold=10, repetition="once", actions=(TELL,)))
    assert fold.usage(usage({"quantity": 11})).firings.num_rows == 1
    assert fold.usage(usage({"quantity": 11}, first_row=2)).firings.num_rows == 0
    fold.command([Deactivate(rule="r"), Activate(rule="r")], us(RECEIVED))
    assert fold.usage(usage({"quantity": 11}, first_row=3)).firings.num_rows == 1


def test_a_stopped_rule_finds_the_total_of_what_it_holds() -> None:
    """Its suspension ends with the day, long after it was stopped; when it starts again nothing is left to be ended."""
    cut = Rule(id="cut", trigger="data_usage_24h", threshold=10, actions=(HOLD,))
    fold = started(Rule(id="other", trigger="data_usage_24h", threshold=1000, actions=(TELL,)))
    fold.apply(Catalogue(rules=(cut,)))
    fold.command([Activate(rule="cut")], us(RECEIVED) - 1)
    fold.usage(usage({"quantity": 11, "used_at": RECEIVED - dt.timedelta(hours=1)}))
    fold.command([Deactivate(rule="cut")], us(RECEIVED))
    later = us(RECEIVED + dt.timedelta(days=10))
    (released,) = fold.tick(later).firings.to_pylist()
    assert ("released", 11) == (released["kind"], released["value_now"])
    fold.command([Activate(rule="cut")], later)
    assert fold.tick(later).firings.num_rows == 0
