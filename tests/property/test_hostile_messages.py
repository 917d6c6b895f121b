"""Nothing that a writer of `usage.raw` or `commands` sends stops a lane, a registry or a fold, or costs a neighbour."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.journal.entries import Apply, Tick
from pipeline.streaming.rate.output_messages import encode
from pipeline.streaming.raw.headers import RawMessage
from schemas.cards import Account, Catalogue
from tests.support.hostile_messages import (
    AS_OF_US,
    RAW,
    Folding,
    bad_commands,
    chunk,
    drawn,
    drawn_commands,
    line,
    packed,
)


@pytest.mark.parametrize("name", RAW)
def test_a_hostile_message_costs_only_itself(name: str) -> None:
    """The records before and after it are rated, in the same batch and later; the clock does not move."""
    folding = Folding()
    folding.usage(chunk([line("before", 1)]), RAW[name], chunk([line("after", 2)], digest=b"11"))
    folding.usage(chunk([line("later", 3)], digest=b"22"))
    assert {"before", "after", "later"} <= _keys(folding, "before", "after", "later")
    assert AS_OF_US == folding.fold.engine.state.clock_us


def test_a_false_origin_moves_nothing() -> None:
    """Commands and the records of a carrier are applied, whatever packed chunks claimed before."""
    folding = Folding()
    for origin in (b"weir.commands 0", b"weir.usage.raw 0", b"carrier.other 0", b"carrier.cdr 7"):
        folding.usage(packed([line("e1", 1), line("e2", 2)], origin, 10**17))
    assert folding.command(Tick(AS_OF_US + 1000)) is None
    assert folding.fold.engine.state.clock_us == AS_OF_US + 1000
    assert folding.command(Apply(Catalogue(accounts=(Account(id="late"),)), AS_OF_US)) is None
    assert "late" in {account.id for account in folding.fold.engine.state.catalogue.accounts}
    folding.usage(packed([line("own", 4)], b"carrier.cdr 0", 0))
    assert {"own"} == _keys(folding, "own")
    folding.usage(packed([line("own", 4)], b"carrier.cdr 0", 0))  # packed twice, applied once
    assert {"own"} == _keys(folding, "own")


@pytest.mark.parametrize("name", bad_commands())
def test_a_hostile_command_is_refused(name: str) -> None:
    """It says why, changes nothing, and the next command is taken."""
    folding = Folding()
    assert folding.command(bad_commands()[name])
    assert AS_OF_US == folding.fold.engine.state.clock_us
    assert folding.command(Tick(AS_OF_US + 5)) is None
    assert folding.fold.engine.state.clock_us == AS_OF_US + 5


@settings(max_examples=15)
@given(st.integers(0, 2**32))
def test_no_messages_stop_a_partition(seed: int) -> None:
    """Drawn messages and commands, in batches: each leaves usage, a reject or nothing, and good records go through."""
    random = Random(seed)
    folding, commands = Folding(), drawn_commands(random)
    for at in range(3):
        batch = list(islice(drawn(random), random.randrange(1, 8)))
        for output in folding.usage(*batch, chunk([line(f"good{at}", at)], digest=b"g%d" % at)):
            assert max(map(len, encode(output))) <= 900_000
        folding.command(next(commands))
        assert {f"good{at}"} == _keys(folding, f"good{at}")


def test_no_drawn_message_is_left_unmediated() -> None:
    """Each of some thousands becomes usage or rejects; none has to be skipped."""
    folding = Folding()
    for seed in range(5):
        assert folding.mediate(*islice(drawn(Random(seed)), 100)).unmediated == []


def test_a_message_that_cannot_even_be_rejected_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result names its offset, and what follows goes on."""
    folding = Folding()
    readers = folding.lane._readers
    real = readers.unread

    def failing(records: list[tuple[int, int, RawMessage]], why: str) -> object:
        if records[0][2].value == b"poison":
            raise MemoryError("no room")
        return real(records, why)

    monkeypatch.setattr(readers, "unread", failing)
    done = folding.mediate(RawMessage(b"poison"), chunk([line("x", 1)]))
    assert [1] == [one.raw_offset for one in done.unmediated]
    assert "MemoryError" in done.unmediated[0].why
    assert 1 == done.records


def _keys(folding: Folding, *keys: str) -> set[str]:
    """Those of the keys that were rated: given once more, they are duplicates."""
    before = folding.rated
    found = set()
    for key in keys:
        folding.usage(chunk([line(key, 1)], digest=b"again"))
        if folding.rated == before:
            found.add(key)
        before = folding.rated
    return found
