"""The fold of a journal partition: fences, order, entries folded together, and what asks for the history."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from pipeline.journal.entries import Apply, Commands, Entry, Rejects, Tick, Usage
from pipeline.journal.messages import Fence, messages_of
from pipeline.streaming.rate.fold import Opened, PartitionFold
from pipeline.streaming.rate.output_messages import Output, rejected_rows, status_messages
from rating.dedupe.seen import run_of
from rating.errors import StorageError
from schemas.cards import Account, Catalogue
from schemas.commands import Activate, StatusChanged, Suspended
from schemas.plans import Price, Rate
from schemas.rules import Rule
from schemas.usage import RecordType
from tests.support.fold_case import RECEIVED, Row, cards, plan, us, usage

AT_US = us(RECEIVED)
CATALOGUE = Catalogue(
    accounts=(Account(id="a"),),
    plans=(plan(Rate(service="data", price=Price(model="flat", price="0.01"))),),
    rules=(Rule(id="r", trigger="data_usage_cycle", threshold=5),),
    cards=cards(*({"iccid": name, "plan": "p"} for name in "12")),
)


def message(entry: Entry | Rejects, offset: int, partition: int = 0, **fence: int) -> bytes:
    """The one message of an entry that was made from an offset of usage.raw."""
    (content,) = messages_of(entry, Fence("usage.raw", partition, offset, **fence))
    return content


def started() -> PartitionFold:
    """A fold that has applied the catalogue."""
    fold = PartitionFold(3)
    fold.step(opened(fold, message(Apply(CATALOGUE, AT_US), 0)))
    return fold


def opened(fold: PartitionFold, content: bytes, ahead: int = 0) -> Opened:
    """The next message of the fold, or one after so many others that were opened ahead."""
    found = fold.open(fold.applied + 1 + ahead, content, f"journal[3]@{fold.applied + 1 + ahead}")
    assert found is not None
    return found


def records(first: int, *rows: Row, source: str = "usage.csv", **facts: dt.datetime) -> Usage:
    """Usage whose rows in the source begin at `first`; keys go on with them."""
    batch = usage(*({"quantity": 10} | row for row in rows), first_row=first, **facts)  # type: ignore[arg-type]
    return Usage(type(batch)(batch.feed, source, batch.received_at_us, False, batch.rows))


def test_a_message_is_applied_once() -> None:
    """What is opened again is skipped by its offset; what comes again under a new offset, by its fence."""
    fold = started()
    content = message(records(1, {}, {}), 1)
    assert (2, 2, 0) == _counted(fold.step(opened(fold, content)))
    assert fold.open(1, content, "") is None
    again = fold.step(opened(fold, content))
    assert (0, 0, 0) == _counted(again)
    assert (2, 3, 3, 0) == (again.journal_offset, again.first_offset, again.next_offset, again.rated.num_rows)


def test_part_of_a_message_that_comes_again_is_skipped() -> None:
    """Of a piece that was cut otherwise only what is new is folded."""
    fold = started()
    fold.step(opened(fold, message(records(1, {}, {}), 1)))
    output = fold.step(opened(fold, message(records(1, {}, {}, {}), 1)))
    assert [3] == output.rated["source_row"].to_pylist()


def _counted(output: Output) -> tuple[int, int, int]:
    counts = output.counts
    return counts.records, counts.rated, counts.duplicates


def test_a_gap_in_the_journal_stops() -> None:
    """An offset beyond the next says what is missing and what to do."""
    fold = started()
    with pytest.raises(StorageError, match=r"journal\[3\]@2: found offset 2; expected 1: .* restore the topic"):
        fold.open(2, message(Tick(AT_US), 2), "journal[3]@2")


def test_steps_out_of_order_are_refused() -> None:
    """Entries opened ahead are applied in their order."""
    fold = started()
    first, second = (opened(fold, message(Tick(AT_US), 1 + ahead), ahead) for ahead in range(2))
    with pytest.raises(ValueError, match="found offset 2; expected 1"):
        fold.step(second)
    assert ([1], [2]) == tuple([part.journal_offset for part in fold.step(one).parts] for one in (first, second))


def test_opening_ahead_leaves_the_fences_of_the_state() -> None:
    """The fences say what has been applied, not what has been opened."""
    fold = started()
    before = fold.fences.to_bytes()
    ahead = opened(fold, message(records(1, {}), 1))
    assert before == fold.fences.to_bytes()
    fold.step(ahead)
    assert before != fold.fences.to_bytes()


def test_entries_folded_together_are_told_apart() -> None:
    """Usage of two sources in one go: rows keep source and row, and each message its own counts."""
    entries = [
        records(7, {"record_key": "x"}, {"record_key": "y", "iccid": "9"}),
        records(7, {"record_key": "x"}, {"record_key": "z"}, {"record_key": "x", "quantity": 3}, source="b.csv"),
        records(1, {"record_key": "w", "iccid": "404"}, source="c.csv"),
    ]
    contents = [message(entry, 5, partition) for partition, entry in enumerate(entries)]
    one, other = started(), started()
    together, left = one.steps([opened(one, content, ahead) for ahead, content in enumerate(contents)])
    assert together is not None
    assert not left
    apart = [other.step(opened(other, content)) for content in contents]
    for name, table in together.all_tables().items():
        assert table.to_pylist() == [row for output in apart for row in output.all_tables()[name].to_pylist()]
    assert list(together.parts) == [part for output in apart for part in output.parts]
    assert [(2, 1, 0, 1), (3, 1, 1, 1), (1, 0, 0, 1)] == [
        (part.records, part.rated, part.duplicates, part.rejected) for part in together.parts
    ]
    assert ["usage.csv", "b.csv"] == together.rated["source"].to_pylist()
    assert [7, 8] == together.rated["source_row"].to_pylist()
    assert [("usage.csv", 8), ("b.csv", 9), ("c.csv", 1)] == [
        (row["source"], row["source_row"]) for row in together.rejected.to_pylist()
    ]


def test_what_arrived_at_another_time_is_folded_by_itself() -> None:
    """Entries of different arrivals are one output, each with its own time of arrival."""
    later = RECEIVED + dt.timedelta(hours=1)
    fold = started()
    contents = [message(records(1, {}), 1), message(records(2, {}, received=later), 2), message(Tick(AT_US), 3)]
    output, _ = fold.steps([opened(fold, content, ahead) for ahead, content in enumerate(contents)])
    assert output is not None
    assert [RECEIVED, later] == output.rated["received_at"].to_pylist()
    assert [AT_US, us(later), AT_US] == [part.arrived_us for part in output.parts]
    assert us(later) == output.arrived_us


def test_corrections_and_rules_on_totals_ask_for_the_history() -> None:
    """`steps` stops before an entry that needs the history; `step` refuses it without."""
    fold = started()
    entries: list[Entry] = [
        records(1, {"record_key": "k"}),
        records(2, {"record_key": "back", "record_type": RecordType.REVERSE, "corrects_key": "k"}),
        Commands((Activate(rule="r"),), AT_US),
    ]
    done, left = fold.steps([opened(fold, message(entry, 1 + ahead), ahead) for ahead, entry in enumerate(entries)])
    assert done is not None
    assert (1, 2) == (done.journal_offset, len(left))
    with pytest.raises(ValueError, match="corrections without the rows"):
        fold.step(left[0])
    corrections = left[0].corrections
    assert corrections is not None
    assert ["k"] == corrections.rows["corrects_key"].to_list()
    undone = fold.step(left[0], done.rated)
    assert [-10] == undone.rated["quantity_raw"].to_pylist()
    nothing, left = fold.steps(left[1:])
    assert nothing is None
    assert left[0].wants_baseline
    with pytest.raises(ValueError, match="without a baseline"):
        fold.step(left[0])
    assert 2 == fold.applied


def test_what_mediation_refused_passes_through() -> None:
    """Rejects of mediation are rows of the output and move the fold by nothing; some that come again are skipped."""
    fold = started()
    rejects = (
        usage({}, {})
        .rows.select("source_row", "record_key")
        .with_columns(
            reason=np.array(["missing", "negative"]), field=np.array(["f", "g"]), message=np.array(["m", "n"])
        )
    )
    table = rejected_rows(rejects, "plain", rejects["reason"], AT_US)
    first = fold.step(opened(fold, message(Rejects(table.slice(0, 1)), 4)))
    output = fold.step(opened(fold, message(Rejects(table), 4)))
    assert ([1], [2]) == (first.rejected["source_row"].to_pylist(), output.rejected["source_row"].to_pylist())
    assert (1, {"negative": 1}, AT_US) == (output.counts.records, output.counts.rejected, output.arrived_us)
    assert output.first_offset == output.next_offset == fold.engine.state.offset


def test_a_change_of_status_is_told() -> None:
    """Commands and catalogues that change the status of a card say so, of cards that were there before (C1, C9)."""
    fold = started()
    assert 0 == fold.step(opened(fold, message(Tick(AT_US), 1))).statuses.num_rows
    output = fold.step(opened(fold, message(Commands((Suspended(iccid="2", reason="over_quota"),), AT_US), 2)))
    (row,) = output.statuses.to_pylist()
    assert ("2", "a", "suspended", "over_quota", "activated", None, AT_US, 3, 2) == tuple(row.values())
    more = Catalogue(cards=cards({"iccid": "1", "plan": "p", "status": "silent"}, {"iccid": "7", "status": "silent"}))
    (row,) = fold.step(opened(fold, message(Apply(more, AT_US), 3))).statuses.to_pylist()
    assert ("1", "silent", "activated") == (row["iccid"], row["status"], row["from_status"])
    output = fold.step(opened(fold, message(Commands((StatusChanged(iccid="1", status="activated"),), AT_US), 4)))
    (told,) = status_messages(output)
    assert b"1" == told[0]
    assert b'{"version":1,"id":"3.4.1","iccid":"1","account":"a","status":"activated"' in told[1]


def test_expired_keys_are_dropped() -> None:
    """Runs of keys that are known no more go; the others stay (F4)."""
    fold = started()
    fold.step(opened(fold, message(records(1, {}), 1)))
    seen = fold.engine.state.seen
    seen.replace_runs([run_of(seen.seal())])
    fold.expire()
    assert 1 == len(seen.runs)
    late = RECEIVED + dt.timedelta(days=40)
    fold.step(opened(fold, message(records(2, {"used_at": late}, received=late), 2)))
    fold.expire()
    assert 0 == len(seen.runs)
