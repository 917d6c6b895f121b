"""Taking in and keeping: each action once, whatever the files look like; queues a SIM; retries; forgetting."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from jobs.warehouse.compact import compact
from pipeline.config import FileDestination, Outbox, Route, WebhookDestination
from pipeline.outbox import Deliverer, Store
from pipeline.outbox import deliver as delivering
from pipeline.outbox.appended import Begun, append
from pipeline.outbox.deliver import delay_s
from pipeline.outbox.message import Outgoing
from pipeline.outbox.store import Cursor
from pipeline.store.directory import DataDirectory
from rating.errors import ConfigError, LockedError, StorageError, UsageError
from tests.support.outbox_case import Act, commit, lines, sim

ORDERED = frozenset({"hook"})
LATER = 10**18


def delivered(data: Path, config: Outbox | None = None) -> list[str]:
    """Deliver what is due; the ids in the default file so far, in its order."""
    with Deliverer(data, config or Outbox()) as deliverer:
        deliverer.run()
    return [line["id"] for line in lines(data / "outbox" / "actions.ndjson")]


def ids(acts: Sequence[Act]) -> list[str]:
    """The ids of actions."""
    return [one.action_id for one in acts]


def kept(store: Store, acts: Sequence[Act], destination: str = "hook") -> None:
    """Keep actions for a destination."""
    messages = [
        Outgoing(one.partition, one.offset, one.action_id, destination, one.iccid, one.rule, one.action, b"{}")
        for one in acts
    ]
    store.take_in(messages, {0: Cursor(9, frozenset(), "f")}, ORDERED, 1)


def test_actions_of_further_checkpoints_are_taken_in_once(tmp_path: Path) -> None:
    """Each run delivers what was committed since the last one, in the order of the journal."""
    acts = [Act(offset, sim(offset % 3)) for offset in range(40)]
    commit(tmp_path, acts[:15], group_rows=4)
    assert ids(acts[:15]) == delivered(tmp_path)
    assert ids(acts[:15]) == delivered(tmp_path)
    commit(tmp_path, acts[15:30])
    commit(tmp_path, acts[30:])
    assert ids(acts) == delivered(tmp_path)


def test_several_actions_at_one_offset_over_two_checkpoints(tmp_path: Path) -> None:
    """Actions at the offset of the cursor that come with a later checkpoint are not taken for old ones."""
    acts = [Act(5, sim(1)), Act(5, sim(2)), Act(5, sim(3), sequence=2)]
    commit(tmp_path, acts[:1])
    delivered(tmp_path)
    commit(tmp_path, acts[1:])
    delivered(tmp_path)
    assert ids(acts) == delivered(tmp_path)


def test_partitions_have_cursors_of_their_own(tmp_path: Path) -> None:
    """A low offset of one partition is new although another one is far beyond it."""
    acts = [Act(100, partition=0), Act(3, partition=1), Act(101, partition=0)]
    commit(tmp_path, acts[:1])
    delivered(tmp_path)
    commit(tmp_path, acts[1:])
    assert sorted(ids(acts)) == sorted(delivered(tmp_path))


def test_merged_files_are_not_taken_in_again(tmp_path: Path) -> None:
    """A compaction that merges old and new actions into one file neither repeats nor hides any."""
    acts = [Act(offset) for offset in range(9)]
    commit(tmp_path, acts[:3])
    delivered(tmp_path)
    commit(tmp_path, acts[3:6])
    commit(tmp_path, acts[6:])
    compact(tmp_path)
    assert ids(acts) == delivered(tmp_path)


def test_a_follower_sees_files_that_a_compaction_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One deliverer that goes on looking takes in what comes, also while files are merged."""
    monkeypatch.setattr(delivering, "LOOK_S", 0.0)
    acts = [Act(offset) for offset in range(9)]
    commit(tmp_path, acts[:3])
    with Deliverer(tmp_path, Outbox()) as deliverer:
        deliverer.run()
        commit(tmp_path, acts[3:6])
        compact(tmp_path)
        commit(tmp_path, acts[6:])
        assert 9 == deliverer.run().taken_in
    assert ids(acts) == delivered(tmp_path)


def test_the_data_directory_tolerates_the_outbox(tmp_path: Path) -> None:
    """Opening to write, committing and compacting beside an open outbox leave it alone."""
    commit(tmp_path, [Act(1)])
    with Deliverer(tmp_path, Outbox()) as deliverer:
        commit(tmp_path, [Act(2)])
        compact(tmp_path)
        deliverer.run()
    DataDirectory.open(tmp_path, write=True).close()
    assert {"actions.ndjson", "lock", "outbox.sqlite"} == {path.name for path in (tmp_path / "outbox").iterdir()}
    assert 2 == len(delivered(tmp_path))


def test_one_deliverer_at_a_time(tmp_path: Path) -> None:
    """A second one is refused; listing is not, and the lock goes with the first one, however it ends."""
    commit(tmp_path, [Act(1)])
    with Deliverer(tmp_path, Outbox()):
        with pytest.raises(LockedError):
            Deliverer(tmp_path, Outbox())
        with Store.open(tmp_path, deliver=False) as store:
            assert {} == store.counts()
    hook = WebhookDestination(name="hook", secret_env="WEIR_TEST_ABSENT")
    with pytest.raises(ConfigError):
        Deliverer(tmp_path, Outbox(webhooks=(hook,)))
    Deliverer(tmp_path, Outbox()).__exit__(None, None, None)


def test_a_directory_without_data_is_refused(tmp_path: Path) -> None:
    """Where nothing was ever written there is nothing to deliver, and nothing is made."""
    with pytest.raises(UsageError, match="no data directory"):
        Deliverer(tmp_path / "none", Outbox())
    assert not (tmp_path / "none").exists()


def test_a_sims_later_actions_wait(tmp_path: Path) -> None:
    """Of each SIM the earliest is due; the next one is when that is delivered or dead, not while it is tried again."""
    acts = [Act(1, sim(1)), Act(2, sim(2)), Act(3, sim(1)), Act(4, sim(1))]
    (tmp_path / "outbox").mkdir()
    with Store.open(tmp_path, deliver=True) as store:
        kept(store, acts[:3])
        kept(store, acts[3:])
        first, second = store.due("hook", LATER, 10)
        assert ids(acts[:2]) == [first.action_id, second.action_id]
        with store.marking(2) as marks:
            marks.again(first, "busy", 50)
            marks.delivered("hook", second, None)
        assert [] == store.due("hook", 49, 10)
        assert 50 == store.next_due_us("hook")
        with store.marking(3) as marks:
            marks.dead("hook", store.due("hook", 50, 10)[0], "gone")
        assert [acts[2].action_id] == [one.action_id for one in store.due("hook", 50, 10)]
        assert {"hook": {"pending": 2, "delivered": 1, "dead": 1}} == store.counts()


def test_a_dead_letter_gets_in_line_again(tmp_path: Path) -> None:
    """A retried dead letter is due where its SIM waits for nothing else, and waits its turn where it does."""
    acts = [Act(1, sim(1)), Act(2, sim(1)), Act(3, sim(2))]
    (tmp_path / "outbox").mkdir()
    with Store.open(tmp_path, deliver=True) as store:
        kept(store, acts)
        with store.marking(1) as marks:
            for one in store.due("hook", LATER, 10):
                marks.dead("hook", one, "gone")
        with pytest.raises(UsageError, match="no dead letter"):
            store.retry([acts[0].action_id, "unheard of"], 2)
        assert 2 == store.retry(None, 2)
        due = store.due("hook", LATER, 10)
        assert {acts[1].action_id, acts[2].action_id} == {one.action_id for one in due}
        with store.marking(3) as marks:
            marks.delivered("hook", next(one for one in due if one.action_id == acts[1].action_id), None)
        assert acts[0].action_id in {one.action_id for one in store.due("hook", LATER, 10)}
        assert 0 == store.retry(None, 4)


def test_what_waited_for_a_webhook_goes_to_a_file_of_its_name(tmp_path: Path) -> None:
    """A destination that became a file gets all that waited, those queued behind others too."""
    commit(tmp_path, [Act(1), Act(2)])
    (tmp_path / "outbox").mkdir()
    with Store.open(tmp_path, deliver=True) as store:
        kept(store, [Act(1), Act(2)])
    config = Outbox(files=(FileDestination(name="hook", path=str(tmp_path / "hook")),), routes=(Route(to=("hook",)),))
    with Deliverer(tmp_path, config) as deliverer:
        assert 2 == deliverer.run().delivered
    assert 2 == len(lines(tmp_path / "hook"))


def test_destinations_that_are_gone_are_told(tmp_path: Path) -> None:
    """What waits for a destination that the configuration no longer has stays, and the run names it."""
    commit(tmp_path, [Act(1)])
    (tmp_path / "outbox").mkdir()
    with Store.open(tmp_path, deliver=True) as store:
        kept(store, [Act(1)], "old")
    with Deliverer(tmp_path, Outbox()) as deliverer:
        tally = deliverer.run()
    assert (["old"], 1) == (tally.unknown, tally.pending)


def test_delivered_ones_are_forgotten_after_a_while_and_not_taken_in_again(tmp_path: Path) -> None:
    """With keep_days 0 the list empties itself; the cursor still knows."""
    commit(tmp_path, [Act(1), Act(2)])
    delivered(tmp_path)
    time.sleep(0.001)
    assert 2 == len(delivered(tmp_path, Outbox(keep_days=0)))
    with Store.open(tmp_path, deliver=False) as store:
        assert {} == store.counts()


@pytest.mark.parametrize("cut", [0, 1, 7, -1])
def test_a_half_line_of_a_killed_process_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    """The file has whole lines only, wherever a process was killed while it wrote."""
    file = tmp_path / "own.ndjson"
    commit(tmp_path, [Act(1), Act(2)])

    def killed(path: str, bodies: Sequence[bytes], begun: Begun | None, mark: Callable[[Begun | None], None]) -> None:
        append(path, bodies, begun, lambda now: mark(now) if now is not None else None)
        written = file.read_bytes()
        line = written.index(b"\n") + 1
        os.truncate(file, line + cut if cut >= 0 else len(written) - 1)
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.outbox.deliver.append", killed)
    with pytest.raises(KeyboardInterrupt):
        delivered(tmp_path, Outbox(file=str(file)))
    monkeypatch.undo()
    delivered(tmp_path, Outbox(file=str(file)))
    first, second = Act(1).action_id, Act(2).action_id  # the whole first line comes again, after what was cut
    assert [first, first, second] == [line["id"] for line in lines(file)]


@pytest.mark.parametrize("theirs", [b"no newline at the end", b'{"id":"', b"{", b"whole\n", b"whole\nhalf", b""])
def test_what_the_outbox_did_not_write_is_never_cut(tmp_path: Path, theirs: bytes) -> None:
    """A last line of somebody else stays, before the first delivery and after it, and ends where it ended."""
    commit(tmp_path, [Act(1)])
    file = tmp_path / "own.ndjson"
    file.write_bytes(theirs)
    delivered(tmp_path, Outbox(file=str(file)))
    before = file.read_bytes()
    assert before.startswith(theirs)
    assert Act(1).action_id == json.loads(before.splitlines()[-1])["id"]
    file.write_bytes(before + theirs)
    commit(tmp_path, [Act(2)])
    delivered(tmp_path, Outbox(file=str(file)))
    assert file.read_bytes().startswith(before + theirs)
    assert Act(2).action_id == json.loads(file.read_bytes().splitlines()[-1])["id"]


def test_a_file_that_cannot_be_written_loses_nothing(tmp_path: Path) -> None:
    """The run ends with an error, and the next one delivers."""
    commit(tmp_path, [Act(1)])
    with pytest.raises(StorageError, match="cannot append actions"):
        delivered(tmp_path, Outbox(file=str(tmp_path / "none" / "file")))
    assert [Act(1).action_id] == delivered(tmp_path)


def test_an_outbox_of_another_version_is_refused(tmp_path: Path) -> None:
    """It is neither read nor changed."""
    (tmp_path / "outbox").mkdir()
    with Store.open(tmp_path, deliver=True) as store:
        store._connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="version 99"):
        Store.open(tmp_path, deliver=True)


def test_delays_double_up_to_the_longest() -> None:
    """The delay doubles with each attempt, less up to a half by chance, and never exceeds the longest."""
    config = Outbox(first_delay_s=2, longest_delay_s=60)
    assert [2, 4, 8, 16, 32, 60, 60] == [delay_s(n, config, 0.0) for n in range(1, 8)]
    assert 1.0 < delay_s(1, config, 0.999) < 1.01
    assert 60 == delay_s(10_000, config, 0.0)
