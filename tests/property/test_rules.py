"""The rules of the fold and a slow model of them agree on every firing and action, in any batch split (L6 to L12)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.support.fold_case import Row
from tests.support.rules_case import Driver, Fold, Slow, pieces
from tests.support.strategies.rules_strategies import Entry, Fleet, fleet, shown


def differences(slow: list[Row], fast: list[Row], name: str) -> list[str]:
    """What is in one list of rows and not in the other, and which columns that both have differ; a few of each."""
    mine, theirs = ({row[name]: row for row in rows} for rows in (slow, fast))
    found = [f"the {whose} has an id twice" for whose, rows, ids in (("model", slow, mine), ("fold", fast, theirs))
             if len(rows) != len(ids)]  # fmt: skip
    found += [f"only the model has {mine[one]}" for one in mine if one not in theirs][:4]
    found += [f"only the fold has {theirs[one]}" for one in theirs if one not in mine][:4]
    for one in [one for one in mine if one in theirs]:
        differ = {key: (mine[one][key], theirs[one][key]) for key in mine[one] if mine[one][key] != theirs[one][key]}
        if differ:
            found.append(f"{one} (model, fold): {differ}")
    if not found and list(mine) != list(theirs):
        first = next(pair for pair in zip(mine, theirs, strict=True) if pair[0] != pair[1])
        found.append(f"another order (model, fold): {first}")
    return found[:12]


def compare(fleet: Fleet, slow: Driver, fold: Fold) -> None:
    """Both fired and asked for the same, in one order; where not, say the seed, the rules and what differs."""
    found = differences(slow.fired, fold.fired, "firing_id")
    found = found or differences(slow.asked, fold.asked, "action_id")
    if found:
        pytest.fail(f"fleet of seed {fleet.seed}\n" + "\n".join(found) + f"\n{shown(fleet)}")


def run(driver: Driver, found: Fleet, ends: list[int] | None = None, restart_after: int = -1) -> Driver:
    """Take the entries, usage in pieces that end at the given rows; the state is written and read back once."""
    for number, entry in enumerate(found.entries):
        if entry.usage is None:
            driver.take(entry)
        else:
            for piece in pieces(entry.usage, ends or []):
                driver.take(Entry(entry.at, usage=piece, corrects=entry.corrects))
        if number == restart_after and isinstance(driver, Fold):
            driver.restart()
    return driver


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 1 << 32), st.integers(1, 5), st.integers(2, 10), st.integers(0, 160), st.integers(1, 10), st.data()
)
def test_small_fleets_fire_as_the_model_does(
    seed: int, sims: int, rules: int, records: int, steps: int, data: st.DataObject
) -> None:
    """A few SIMs and rules: every firing and action is the one that the model works out, however usage is cut."""
    found = fleet(seed, sims, 2, rules, records, data.draw(st.integers(1, 10), "steps"))
    note(f"seed {seed}")
    ends = data.draw(st.lists(st.integers(1, 20), max_size=4))
    slow, fold = Slow(), Fold()
    run(slow, found)
    run(fold, found, ends, data.draw(st.integers(-1, len(found.entries))))
    compare(found, slow, fold)


# A fleet takes half a minute: one that fails is not made smaller, its seed is printed.
@settings(max_examples=1, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow], print_blob=True)
@given(st.integers(0, 1 << 32), st.lists(st.integers(1, 400), max_size=6), st.integers(0, 100))
def test_large_fleets_fire_as_the_model_does(seed: int, ends: list[int], restart_after: int) -> None:
    """200 SIMs, 20 pools, 40 rules and 20,000 records, in any batch split, with a snapshot on the way."""
    found = fleet(seed)
    slow, fold = Slow(), Fold()
    run(slow, found)
    run(fold, found, ends, restart_after)
    compare(found, slow, fold)
