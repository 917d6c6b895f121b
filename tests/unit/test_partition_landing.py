"""Landing of a partition: every row once, whatever comes again, is killed, full or away; read as one history."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.show.sql import connect, run_sql
from jobs.warehouse.compact import compact
from pipeline.store.directory import DataDirectory
from pipeline.streaming.land.folder import MOST_FILES, PATIENCE, PartitionLanding, folder_of, landed_of
from pipeline.streaming.rate.output import Output
from rating.errors import LockedError, StorageError, UsageError
from tests.support.landing_case import output, some, table_of

PARTITIONS = 2


def quantities(folder: Path) -> list[int]:
    """Quantities of the landed rows, in the order of files."""
    with DataDirectory.open(folder, write=False) as directory:
        found: list[int] = table_of(directory, "rated")["quantity_raw"].to_pylist()
    return found


def expected(count: int) -> list[int]:
    """What `quantities` are of the first outputs of `some`."""
    return [*range(1000, 1000 + count), *range(2000, 2000 + count)]


def files(folder: Path) -> dict[str, bytes]:
    """All files but locks, with their bytes."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of partition 0."""
    return folder_of(tmp_path / "history", 0)


def test_what_has_landed_is_skipped(folder: Path) -> None:
    """The same outputs change nothing; of those that overlap only the rest lands, also where one joins several."""
    with PartitionLanding(folder, 0, None) as landed:
        assert -1 == landed.landed
        assert 3 == landed.land(some(0, 3))
        before = files(folder)
        assert 0 == landed.land(some(0, 3))
        assert 0 == landed.land([Output.joined(some(1, 2))])
        assert 0 == landed.land([])
        assert before == files(folder)
        assert 1 == landed.land([*some(0, 2), *some(1, 3), *some(3, 1)])
        assert 1 == landed.land([Output.joined(some(2, 4))])
        assert 5 == landed.landed == landed_of(folder)
    assert sorted(expected(6)) == sorted(quantities(folder))
    with DataDirectory.open(folder, write=False) as directory:
        assert [f"0:{at}" for at in range(6)] == table_of(directory, "rejected")["reject_id"].to_pylist()


def test_a_gap_is_an_error_and_lands_nothing(folder: Path) -> None:
    """A missing message, or an offset of the fold that does not follow, is refused; what comes then lands."""
    with PartitionLanding(folder, 0, None) as landed:
        landed.land(some(0, 2))
        with pytest.raises(StorageError, match=r"message 3 of the journal.*expected that of message 2"):
            landed.land([*some(1, 1), *some(3, 1)])
        with pytest.raises(StorageError, match="from offset 9 of the fold"):
            landed.land([*some(2, 1), output(0, 3, 9, 10, {})])
        with pytest.raises(ValueError, match="output of partition 1"):
            landed.land(some(2, 1, partition=1))
        assert 1 == landed.landed
        landed.land(some(2, 1))
    assert sorted(expected(3)) == sorted(quantities(folder))


def test_outputs_without_rows_move_the_landing_on(folder: Path) -> None:
    """A message that gave nothing counts as landed, also after a restart."""
    with PartitionLanding(folder, 0, None) as landed:
        landed.land([output(0, 0, 0, 1, {}), output(0, 1, 1, 1, {})])
    with PartitionLanding(folder, 0, None) as landed:
        assert 1 == landed.landed


def test_a_second_process_is_refused(folder: Path) -> None:
    """The lock names who has it, at once; when that one is done the other goes on from where it was."""
    with PartitionLanding(folder, 0, None) as landed:
        landed.land(some(0, 1))
        with pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
            PartitionLanding(folder, 0, None)
    with PartitionLanding(folder, 0, None) as landed:
        assert 0 == landed.landed


def test_other_folders_are_refused(tmp_path: Path) -> None:
    """A folder of another partition, or a data directory of another kind, is not landed in."""
    with pytest.raises(ValueError, match="not the folder of partition 1"):
        PartitionLanding(folder_of(tmp_path, 0), 1, None)
    with DataDirectory.open(folder_of(tmp_path, 2), write=True) as directory, directory.begin() as checkpoint:
        checkpoint.commit({"under_way": []})
    with pytest.raises(StorageError, match="progress of another kind"):
        PartitionLanding(folder_of(tmp_path, 2), 2, None)


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """The system cuts off larger files, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size_bytes", [0, 2000, 7000])
def test_a_full_disk_changes_nothing_and_the_same_object_goes_on(folder: Path, size_bytes: int) -> None:
    """While there is no room all rows stay out; once there is, the same call lands them."""
    with PartitionLanding(folder, 0, None) as landed:
        landed.land(some(0, 1))
        before = files(folder)
        with files_of_at_most(size_bytes), pytest.raises(StorageError, match="File too large"):
            landed.land(some(1, 3))
        assert before == files(folder)
        assert 0 == landed.landed
        landed.land(some(1, 3))
        assert 3 == landed.landed
    assert sorted(expected(4)) == sorted(quantities(folder))


def test_an_error_after_the_commit_loses_nothing(folder: Path) -> None:
    """Where files cannot be moved to their places the rows stay committed, also when the next landing fails."""
    with PartitionLanding(folder, 0, None) as landed:
        (folder / "history").write_text("in the way")
        with pytest.raises(StorageError):
            landed.land(some(0, 2))
        with pytest.raises(StorageError):
            landed.land(some(0, 2))
        assert sorted(expected(2)) == sorted(quantities(folder))
        (folder / "history").unlink()
        with files_of_at_most(3000), pytest.raises(StorageError):
            landed.land(some(0, 20))
        assert 1 == landed.landed
        landed.land(some(0, 20))
    assert sorted(expected(20)) == sorted(quantities(folder))


@pytest.mark.parametrize("call", ["os.rename:1", "os.rename:2", "os.rename:4", "os.rename:11", "os.remove:2"])
def test_killed_at_any_step(tmp_path: Path, call: str) -> None:
    """Killed before, in and after a commit and a merge, each row is there once when the outputs have come again."""
    folder = folder_of(tmp_path, 0)
    event, count = call.split(":")
    program = f"""
        import os, signal, sys
        from pathlib import Path
        from pipeline.streaming.land.folder import PartitionLanding
        from tests.support.landing_case import some
        left = [{count}]
        def killer(event, args):
            if event == "{event}" and "partition-0000" in str(args[0]):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        with PartitionLanding(Path(sys.argv[1]), 0, None) as landing:
            sys.addaudithook(killer)
            for number in range({MOST_FILES} + 2):
                landing.land(some(number, 1))
        """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(folder)], check=False)
    assert -signal.SIGKILL == result.returncode
    with PartitionLanding(folder, 0, None) as landed:
        landed.land(some(0, 2 * MOST_FILES))
    assert sorted(expected(2 * MOST_FILES)) == sorted(quantities(folder))


def most(folder: Path) -> int:
    """Files of the folder that has the most."""
    found: dict[Path, int] = {}
    for path in folder.glob("history/**/*.parquet"):
        found[path.parent] = found.get(path.parent, 0) + 1
    return max(found.values())


def test_small_files_are_merged_as_they_come(folder: Path) -> None:
    """Files of a day stay few, and rows in their order."""
    with PartitionLanding(folder, 0, None) as landed:
        for number in range(60):
            landed.land(some(number, 1))
            assert most(folder) <= MOST_FILES
    assert expected(60) == quantities(folder)


def test_readers_hold_merging_up_but_not_for_ever(folder: Path) -> None:
    """While somebody reads files stay; once nobody does, or they are far too many, they are merged."""
    with PartitionLanding(folder, 0, None) as landed:
        landed.land(some(0, 1))
        with connect(folder.parent) as connection:
            for number in range(1, 3 * MOST_FILES):
                landed.land(some(number, 1))
            assert 3 * MOST_FILES == most(folder)
            assert (2,) == connection.execute("select count(*) from rated").fetchone()
            for number in range(3 * MOST_FILES, PATIENCE * MOST_FILES + 1):
                landed.land(some(number, 1))
            assert most(folder) < MOST_FILES
            for number in range(PATIENCE * MOST_FILES + 1, PATIENCE * MOST_FILES + 2 * MOST_FILES):
                landed.land(some(number, 1))
        landed.land(some(PATIENCE * MOST_FILES + 2 * MOST_FILES, 1))
        assert most(folder) < MOST_FILES
    assert expected(PATIENCE * MOST_FILES + 2 * MOST_FILES + 1) == quantities(folder)


def test_compact_merges_each_partition(tmp_path: Path) -> None:
    """Every partition is compacted and keeps its rows; one that a worker has is refused, with what to do."""
    for partition in range(PARTITIONS):
        with PartitionLanding(folder_of(tmp_path, partition), partition, None) as landed:
            for number in range(3):
                landed.land(some(number, 1, partition))
    done = compact(tmp_path)
    assert {"rated": 12, "rejected": 6} == {name: count for name, count in done.files_before.items() if count}
    assert {"rated": 4, "rejected": 2} == {name: count for name, count in done.files_after.items() if count}
    for partition in range(PARTITIONS):
        assert expected(3) == quantities(folder_of(tmp_path, partition))
    with (
        PartitionLanding(folder_of(tmp_path, 1), 1, None),
        pytest.raises(LockedError, match=r"partition-0001.*a worker merges small files"),
    ):
        compact(tmp_path)


def test_a_history_without_rows_has_its_tables(tmp_path: Path) -> None:
    """Queries work before anything has landed. A missing history is an error."""
    PartitionLanding(folder_of(tmp_path / "history", 3), 3, None).close()
    assert 0 == run_sql(tmp_path / "history", "select * from cycles").num_rows
    with pytest.raises(UsageError, match="no data directory yet"):
        run_sql(tmp_path / "nothing", "select 1")
    with pytest.raises(UsageError, match=r"history of streaming workers.*table cards"):
        run_sql(tmp_path / "history", "select * from cards")
