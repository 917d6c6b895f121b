"""The cached pieces of a worker are equal to the decoded bytes, in their rows and in the files written from them."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.streaming.land.folder import PartitionLanding, folder_of
from pipeline.streaming.rate.output import EMPTY, assembled
from pipeline.streaming.rate.output_messages import Gathering, Output, OutputPiece, Packed, Part, decode, encode, packed
from pipeline.streaming.rate.recent import RecentPieces
from tests.unit.test_outputs import WHERE, assert_same, outputs

HERE = 3  # the partition of `outputs`
_OUTPUTS = outputs(40, 4)
_SENT = [packed(_OUTPUTS[0], 17_000), packed(outputs(40, 4)[0], 15_500), packed(outputs(40, 2)[0], 17_500)]


def holding(*sent: list[Packed], limit_bytes: int = 1 << 20) -> RecentPieces:
    """What a worker has at hand that lands the partition and has sent this."""
    recent = RecentPieces(limit_bytes)
    recent.begin(HERE)
    for pieces in sent:
        recent.note(pieces)
    return recent


def gathered(pieces: list[OutputPiece]) -> list[Output]:
    """The outputs that come of pieces."""
    gathering = Gathering()
    return [output for piece in pieces if (output := gathering.take(piece)) is not None]


@given(st.randoms(use_true_random=False))
def test_pieces_at_hand_and_decoded_ones_make_the_same_outputs(random: Random) -> None:
    """Pieces of three producers, each at hand or not: the outputs are those of decoding all, in order."""
    sent = [list(one) for one in _SENT]
    contents, recent = list[bytes](), holding()
    while any(sent):
        one = random.choice([pieces for pieces in sent if pieces]).pop(0)
        contents.append(one.content)
        if random.random() < 0.5:
            recent.note([one])
    mixed = gathered([recent.take(HERE, content) or decode(content, WHERE) for content in contents])
    expected = gathered([decode(content, WHERE) for content in contents])
    assert len(expected) == len(mixed) > 0
    for output, other in zip(expected, mixed, strict=True):
        assert_same(output, other)


@pytest.mark.parametrize("limit", [900_000, 16_000])
def test_files_are_the_same_whichever_way(limit: int, tmp_path: Path) -> None:
    """Landing what is at hand writes the same bytes as landing what was decoded."""
    sent = [one for output in (_before(_OUTPUTS[0]), *_OUTPUTS) for one in packed(output, limit)]
    assert (len(sent) == 1 + len(_OUTPUTS)) == (limit == 900_000)
    found = []
    for pieces in ([one.piece for one in sent], [decode(one.content, WHERE) for one in sent]):
        history = tmp_path / str(len(found))
        history.mkdir()
        with PartitionLanding(folder_of(history, HERE), HERE, None) as landing:
            landing.land(gathered(pieces))
        found.append({file.relative_to(history): file.read_bytes() for file in history.rglob("*.parquet")})
    assert found[0] == found[1]
    assert len(found[0]) > 1


def _before(output: Output) -> Output:
    """What comes before an output, without rows."""
    nothing = Part(-1, output.first_offset, None, 0, 0, 0, 0, 0)
    parts = [msgspec.structs.replace(nothing, journal_offset=at) for at in range(output.first_journal_offset)]
    return assembled(output.partition, 0, tuple(parts), dict(EMPTY))


def test_only_the_very_bytes_are_taken_and_once() -> None:
    """The same rows in other bytes are not taken, and what was taken is not held."""
    recent = holding(_SENT[0])
    assert all(recent.take(HERE, content) is None for content in encode(_OUTPUTS[0], 14_000))
    assert recent.take(HERE + 1, _SENT[0][0].content) is None
    for one in reversed(_SENT[0]):
        assert recent.take(HERE, bytes(bytearray(one.content))) is one.piece
        assert recent.take(HERE, one.content) is None


def test_of_a_partition_that_is_landed_elsewhere_nothing_is_held() -> None:
    """Neither before it begins nor after it ends, and room is made."""
    recent = RecentPieces(1 << 20)
    recent.note(_SENT[0])
    recent.begin(HERE)
    assert recent.take(HERE, _SENT[0][0].content) is None
    for _ in range(2):
        recent.begin(HERE)
        recent.note(_SENT[0])
        recent.end(HERE)
        recent.note(_SENT[0])
        assert recent.take(HERE, _SENT[0][0].content) is None


def test_what_has_no_room_is_not_held_and_the_older_stays() -> None:
    """Room comes back with what is taken, forgotten or ends."""
    one = _SENT[0][0]
    size_bytes = len(one.content) + sum(rows.nbytes for _, rows in one.piece.tables)
    recent = holding([one], limit_bytes=2 * size_bytes - 1)
    other = Packed(one.content + b" ", one.piece)
    for make_room in (
        lambda: recent.take(HERE, one.content),
        lambda: recent.forget(HERE, one.piece.journal_offset),
        lambda: (recent.end(HERE), recent.begin(HERE)),
    ):
        recent.note([other])
        assert recent.take(HERE, other.content) is None
        make_room()
        recent.note([Packed(other.content, other.piece)])
        assert recent.take(HERE, other.content) is other.piece
        recent.note([one])


def test_what_is_older_than_what_came_back_is_forgotten() -> None:
    """What covers later entries of the journal stays."""
    early, late = packed(_OUTPUTS[0]), packed(_OUTPUTS[1])
    recent = holding(early, late)
    recent.forget(HERE, _OUTPUTS[0].journal_offset - 1)
    recent.forget(HERE, _OUTPUTS[0].journal_offset)
    assert recent.take(HERE, early[0].content) is None
    assert recent.take(HERE, late[0].content) is late[0].piece
