"""Compaction keeps every row and its place, is crash-safe, deterministic, and done when it is done."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.warehouse.compact import compact
from pipeline.history.writer import Landing
from pipeline.store.background import Background
from pipeline.store.directory import DataDirectory
from rating.errors import LockedError, UsageError
from schemas.tables import FIRINGS, GAPS, RATED
from tests.support.rated_rows import Event, rated_table

ONE = "8988303000000000001"


def land(path: Path, days: list[int], checkpoint: int) -> None:
    """One checkpoint with a rated row a day, one gap and one firing; quantities tell checkpoints and rows apart."""
    with DataDirectory.open(path, write=True) as directory, Background() as background, directory.begin() as step:
        landing = Landing(step, background)
        landing.add("rated", rated_table(Event(ONE, day, 1000 * checkpoint + n) for n, day in enumerate(days)))
        landing.add("gaps", pa.Table.from_pylist([{"feed": "f", "missing": checkpoint}], schema=GAPS))
        fired = {"rule_id": "cap", "value_now": checkpoint, "levels": [f"{checkpoint} GB", "5 GB"]}
        landing.add("firings", pa.Table.from_pylist([fired], schema=FIRINGS))
        landing.finish()
        step.commit()


def history(path: Path) -> dict[str, list[int]]:
    """Quantities of each partition in the order of its files, by the manifest."""
    rows: dict[str, list[int]] = {}
    with DataDirectory.open(path, write=False) as directory:
        for entry in directory.manifest.group("rated"):
            table = pq.ParquetFile(directory.locate(entry)).read()
            assert RATED.types == table.schema.types
            rows.setdefault(os.path.dirname(entry.path), []).extend(table.column("quantity_raw").to_pylist())
    return rows


def files(path: Path) -> dict[str, bytes]:
    """All Parquet files with their bytes."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*.parquet"))}


def filled(path: Path) -> Path:
    """Five checkpoints over two days."""
    for checkpoint in range(1, 6):
        land(path, [7, 8, 7], checkpoint)
    return path


def test_small_files_become_one_a_partition(data_dir: Path) -> None:
    """Rows and their order stay, other tables are merged too, and nothing of the old files is left."""
    before = history(filled(data_dir))
    done = compact(data_dir)
    assert before == history(data_dir)
    none = {"rejected": 0, "actions": 0, "results": 0, "charges": 0}
    assert {"rated": 10, "gaps": 5, "firings": 5, **none} == done.files_before
    assert {"rated": 2, "gaps": 1, "firings": 1, **none} == done.files_after
    assert 25 == done.rows
    fired = pq.read_table(data_dir / "history/firings/0000000001-000.merged-0000000006.parquet")
    assert FIRINGS.types == fired.schema.types
    assert [[f"{number} GB", "5 GB"] for number in range(1, 6)] == fired["levels"].to_pylist()
    assert [
        "history/firings/0000000001-000.merged-0000000006.parquet",
        "history/gaps/0000000001-000.merged-0000000006.parquet",
        "history/rated/cycle=2026-10/day=2026-10-07/0000000001-000.merged-0000000006.parquet",
        "history/rated/cycle=2026-10/day=2026-10-08/0000000001-000.merged-0000000006.parquet",
    ] == list(files(data_dir))


def test_again_changes_nothing(data_dir: Path) -> None:
    """A second compaction finds nothing to do, and makes no checkpoint."""
    compact(filled(data_dir))
    before = files(data_dir)
    done = compact(data_dir)
    assert done.files_before == done.files_after
    assert before == files(data_dir)
    assert 6 == DataDirectory.open(data_dir, write=False).manifest.checkpoint


def test_files_are_merged_up_to_the_target(data_dir: Path) -> None:
    """Neighbours are merged as long as they fit; order holds where a large file stands between small ones."""
    before = history(filled(data_dir))
    compact(data_dir, target_rows=4)
    assert before == history(data_dir)
    seventh = [name.split("/")[-1] for name in files(data_dir) if "day=2026-10-07" in name]
    assert [
        "0000000001-000.merged-0000000006.parquet",
        "0000000003-000.merged-0000000006.parquet",
        "0000000005-000.parquet",
    ] == seventh
    land(data_dir, [7], 7)
    before = history(data_dir)
    compact(data_dir, target_rows=4)
    assert before == history(data_dir)
    compact(data_dir)
    assert before == history(data_dir)


def test_landing_goes_on_after_a_compaction(data_dir: Path) -> None:
    """New files sort behind merged ones, and are merged with them later."""
    compact(filled(data_dir))
    land(data_dir, [7], 9)
    before = history(data_dir)
    assert 9000 == before["history/rated/cycle=2026-10/day=2026-10-07"][-1]
    compact(data_dir)
    assert before == history(data_dir)


def test_compaction_is_deterministic(tmp_path: Path) -> None:
    """The same history compacted twice gives the same files and bytes."""
    one, other = filled(tmp_path / "one"), filled(tmp_path / "other")
    compact(one)
    compact(other)
    assert files(one) == files(other)


@pytest.mark.parametrize("call", ["os.rename:1", "os.rename:3", "os.remove:4"])
def test_killed_compaction_goes_on(tmp_path: Path, call: str) -> None:
    """Killed at any step, no reader of the manifest misses a row or sees one twice, and the next run ends the same."""
    undisturbed, killed = filled(tmp_path / "undisturbed"), filled(tmp_path / "killed")
    compact(undisturbed)
    before = history(killed)
    event, count = call.split(":")
    program = f"""
        import os, signal, sys
        from pathlib import Path
        from jobs.warehouse.compact import compact
        left = [{count}]
        def killer(event, args):
            if event == "{event}" and "weir-data" not in str(args[0]) and "killed" in str(args[0]):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(killer)
        compact(Path(sys.argv[1]))
        """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(killed)], check=False)
    assert -signal.SIGKILL == result.returncode
    assert before == history(killed)
    names = [path.name for path in killed.rglob("*.parquet") if "staging" not in str(path)]
    globbed = [
        quantity
        for path in killed.glob("history/rated/**/*.parquet")
        for quantity in pq.ParquetFile(path).read().column("quantity_raw").to_pylist()
    ]
    assert len(names) == len(list(killed.glob("history/**/*.parquet")))
    assert len(globbed) <= sum(map(len, before.values()))
    compact(killed)
    assert files(undisturbed) == files(killed)
    assert (undisturbed / "manifest.json").read_bytes() == (killed / "manifest.json").read_bytes()


def test_it_needs_the_directory_for_itself(data_dir: Path) -> None:
    """While another process ingests, compaction is refused; without a directory there is nothing to compact."""
    with pytest.raises(UsageError, match="no data directory yet"):
        compact(data_dir)
    assert not data_dir.exists()
    with DataDirectory.open(filled(data_dir), write=True), pytest.raises(LockedError):
        compact(data_dir)


def test_rows_of_a_partition_are_its_days(data_dir: Path) -> None:
    """After a merge each file still holds its own day alone."""
    compact(filled(data_dir))
    for name in files(data_dir):
        if "day=" in name:
            days = pq.ParquetFile(data_dir / name).read().column("day").unique().to_pylist()
            assert [dt.date.fromisoformat(name.split("day=")[1][:10])] == days
