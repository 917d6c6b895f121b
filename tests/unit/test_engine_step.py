"""`Engine.step` folds every kind of journal entry as the method for that kind does."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from rating.dedupe.digests import Prints
from rating.engine import Engine
from rating.entries import Apply, Commands, Entry, Rerate, Tick, Usage
from schemas.cards import Catalogue
from schemas.commands import Activate, Connected
from schemas.plans import Rate
from schemas.rules import Action, Rule
from tests.support.fold_case import RECEIVED, cards, engine, plan, us, usage

NOW_US = us(RECEIVED)
RULE = Rule(
    id="much", trigger="data_usage_cycle", threshold=5, actions=(Action(sequence=1, type="notify", by=("system",)),)
)
CATALOGUE = Catalogue(cards=cards({"iccid": "2"}))
AGAIN = Rerate(engine(plan(Rate(service="data"))).usage(usage({"quantity": 7})).rated, NOW_US + 4, "asked", "audit")
COMMANDS = (Activate(rule="much"), Connected(iccid="1", imei="490154203237518"))
CASES: dict[type[Entry], tuple[Entry, Callable[[Engine], object]]] = {
    Usage: (Usage(usage({"quantity": 7})), lambda weir: weir.usage(usage({"quantity": 7}))),
    Apply: (Apply(CATALOGUE, NOW_US + 1), lambda weir: weir.apply(CATALOGUE, NOW_US + 1)),
    Tick: (Tick(NOW_US + 2), lambda weir: weir.tick(NOW_US + 2)),
    Commands: (Commands(COMMANDS, NOW_US + 3), lambda weir: weir.command(COMMANDS, NOW_US + 3)),
    Rerate: (AGAIN, lambda weir: weir.rerate(AGAIN)),
}


def world() -> Engine:
    """One card on a plan, and a rule that is not active yet."""
    return engine(plan(Rate(service="data", allowance=10)), rules=(RULE,))


def test_every_kind_of_entry_has_a_case() -> None:
    """A new kind of entry needs one here."""
    assert set(get_args(Entry)) == set(CASES)


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_a_step_leaves_what_the_method_of_the_kind_leaves(kind: type[Entry]) -> None:
    """The offset advances by the count of the entry, and the bytes of the state are the same."""
    entry, direct = CASES[kind]
    stepped, called = world(), world()
    before, offset = stepped.snapshot(), stepped.state.offset
    stepped.step(entry)
    direct(called)
    assert stepped.state.offset == offset + entry.count
    assert stepped.snapshot() == called.snapshot() != before


def test_digests_that_the_driver_made_give_the_same() -> None:
    """They are those of the batch."""
    batch = usage({"quantity": 7})
    with_digests, without = world(), world()
    with_digests.step(Usage(batch), Prints.of(batch))
    without.step(Usage(batch))
    assert with_digests.snapshot() == without.snapshot()
