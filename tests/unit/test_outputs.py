"""Outputs as messages: every row comes back once, in pieces, from several producers; ids and texts beside them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.journal.entries import Apply, Commands, Tick, Usage
from pipeline.journal.messages import Fence
from pipeline.streaming.rate.fold import PartitionFold
from pipeline.streaming.rate.output_messages import (
    Gathering,
    Output,
    action_messages,
    decode,
    encode,
    fill_rejected,
    join,
)
from pipeline.streaming.rate.reject_details import reject_messages
from pipeline.streaming.raw.reading import Origin
from rating.errors import StorageError, WorldError
from rating.rules.totals.cycle_and_day import BASELINE
from schemas.actions import ActionMessage
from schemas.cards import Account, Catalogue
from schemas.commands import Activate
from schemas.plans import Price, Rate
from schemas.rules import Action, Rule
from tests.support.fold_case import cards, plan, usage
from tests.unit.test_partition_fold import AT_US, message, opened, records

WHERE = "usage.rated[3]@9"


def outputs(count: int = 30, together: int = 4) -> list[Output]:
    """Outputs of a catalogue and of usage that is rated, rejected, and makes a rule fire."""
    told = Action(sequence=1, type="notify", by=("email", "sms"), text="{iccid} used {value}")
    change = Catalogue(
        accounts=(Account(id="a"),),
        plans=(plan(Rate(service="data", price=Price(model="flat", price="0.01"))),),
        rules=(Rule(id="r", trigger="data_usage_cycle", threshold="15 B", actions=(told,)),),
        cards=cards(*({"iccid": str(name), "plan": "p"} for name in range(count))),
    )
    fold = PartitionFold(3)
    fold.step(opened(fold, message(Apply(change, AT_US), 0)))
    start = opened(fold, message(Commands((Activate(rule="r"),), AT_US), 1))
    fold.step(start, baseline=pl.DataFrame(schema=BASELINE))
    rows = [{"iccid": str(n % count), "record_key": f"k{n}"} for n in range(3 * count)]
    found = []
    for at in range(0, len(rows), count // 2):
        entry = records(at + 1, *rows[at : at + count // 2], {"iccid": "404", "record_key": f"bad{at}"})
        found.append(message(entry, at + 2))
    done = []
    for at in range(0, len(found), together):
        stride = [opened(fold, content, ahead) for ahead, content in enumerate(found[at : at + together])]
        output, _ = fold.steps(stride)
        assert output is not None
        done.append(output)
    return done


def rows_of(output: Output) -> dict[str, list[dict[str, object]]]:
    """All rows by table."""
    return {name: table.to_pylist() for name, table in output.all_tables().items()}


def assert_same(one: Output, other: Output) -> None:
    """Both say the same."""
    assert rows_of(one) == rows_of(other)
    assert (one.partition, one.first_offset, one.parts) == (other.partition, other.first_offset, other.parts)
    assert one.counts == other.counts
    assert {name: table.schema for name, table in one.all_tables().items()} == {
        name: table.schema for name, table in other.all_tables().items()
    }


@pytest.mark.parametrize("limit", [900_000, 16_000])
def test_an_output_comes_back(limit: int) -> None:
    """All rows, counts and places, in one piece or many, each below the limit."""
    for output in outputs():
        contents = encode(output, limit)
        assert max(map(len, contents)) <= limit
        assert (len(contents) == 1) == (limit == 900_000)
        assert_same(output, join([decode(content, WHERE) for content in contents]))


def test_an_output_without_rows_is_a_piece() -> None:
    """What a tick gave tells how far the journal has been folded."""
    fold = PartitionFold(3)
    output = fold.step(opened(fold, message(Tick(AT_US), 0)))
    (content,) = encode(output)
    found = join([decode(content, WHERE)])
    assert (0, 1, AT_US, 0) == (found.journal_offset, found.next_offset, found.arrived_us, found.counts.records)


def test_a_row_that_is_too_large_is_refused() -> None:
    """The message says what to raise."""
    fold = PartitionFold(3)
    change = Catalogue(accounts=(Account(id="a"),), plans=(plan(Rate(service="data")),))
    change = Catalogue(accounts=change.accounts, plans=change.plans, cards=cards({"iccid": "1", "plan": "p"}))
    fold.step(opened(fold, message(Apply(change, AT_US), 0)))
    output = fold.step(opened(fold, message(Usage(usage({"session_id": "x" * 60_000})), 1)))
    assert encode(output, 20_000)  # it is packed
    with pytest.raises(WorldError, match=r"a row of rated takes .* max\.message\.bytes"):
        encode(output, 5_000)


@given(st.data())
def test_any_flipped_bit_of_a_piece_is_found(data: st.DataObject) -> None:
    """Whatever bit is another one, or where it is cut off: it is refused with its place."""
    content = _PIECE
    flipped = bytearray(content)
    flipped[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (bytes(flipped), content[: data.draw(st.integers(0, len(content) - 1))]):
        with pytest.raises(StorageError, match=r"^usage\.rated\[3\]@9: "):
            decode(damaged, WHERE)


_PIECE = encode(outputs(10, 1)[0])[0]


@given(st.randoms(use_true_random=False))
def test_pieces_of_several_producers_are_told_apart(random: Random) -> None:
    """Pieces of one output that were cut differently, and of other strides, mixed: each whole output comes out."""
    sent = [[decode(content, WHERE) for content in encode(one, limit)] for one, limit in _SENT]
    mixed = []
    while any(sent):
        pieces = random.choice([one for one in sent if one])
        mixed.append(pieces.pop(0))
    gathering = Gathering()
    found = [output for piece in mixed if (output := gathering.take(piece)) is not None]
    assert found
    expected = [rows_of(one) for one, _ in _SENT]
    for output in found:
        assert rows_of(output) in expected
    last = max(output.journal_offset for output in found)
    assert last == max(one.journal_offset for one, _ in _SENT)


_SENT = [(outputs(40, 4)[0], 17_000), (outputs(40, 4)[0], 15_500), (outputs(40, 2)[0], 17_500)]


@pytest.mark.parametrize("together", [1, 2, 5])
def test_the_rest_of_an_output_is_what_the_later_messages_gave(together: int) -> None:
    """After any message, what is left is what folding the rest by itself gives; nothing where nothing is left."""
    single = outputs(20, 1)
    for output in outputs(20, together):
        for part in output.parts:
            rest = output.after(part.journal_offset)
            later = [one for one in single if part.journal_offset < one.journal_offset <= output.journal_offset]
            if rest is None:
                assert not later
            else:
                assert_same(Output.joined(later), rest)
        assert output.after(output.first_journal_offset - 1) is output


def test_rejects_of_the_fold_are_filled_in() -> None:
    """Each gets the id and bytes of its row in its own source (F5)."""
    asked = []

    def find(fence: Fence, rows: Sequence[int]) -> Origin:
        asked.append((fence.offset, list(rows)))
        return Origin(f"d{fence.offset}", b"head", [f"line {row}".encode() for row in rows])

    (output, *_) = outputs(20, 2)
    filled = fill_rejected(output, find)
    assert [(2, [11]), (12, [21])] == asked
    assert [("d2:11:bad0", b"line 11", b"head"), ("d12:21:bad10", b"line 21", b"head")] == [
        (row["reject_id"], row["raw"], row["raw_header"]) for row in filled.rejected.to_pylist()
    ]
    assert fill_rejected(filled, find) is filled
    told = [msgspec.json.decode(one) for one in reject_messages(filled)]
    assert [("d2:11:bad0", "bGluZSAxMQ==", "aGVhZA=="), ("d12:21:bad10", "bGluZSAyMQ==", "aGVhZA==")] == [
        (one["reject_id"], one["raw"], one["raw_header"]) for one in told
    ]
    assert [filled.rejected.column_names] * 2 == [list(one) for one in told]


def test_actions_are_messages() -> None:
    """Each action is one message of docs/action.schema.json, keyed by ICCID, with all channels of a notify."""
    found = [pair for output in outputs(10) for pair in action_messages(output)]
    assert [str(n).encode() for n in range(10)] == [key for key, _ in found]
    messages = [msgspec.json.decode(body, type=ActionMessage) for _, body in found]
    assert {("email", "sms")} == {one.parameters.by for one in messages}  # type: ignore[union-attr]
    assert "0 used 20" == messages[0].parameters.text  # type: ignore[union-attr]
    fold = PartitionFold(3)
    assert [] == action_messages(fold.step(opened(fold, message(Tick(AT_US), 0))))
