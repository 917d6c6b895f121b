"""Seen keys survive checkpoints: exact, few runs, dropped when expired, and cheap in memory (F4)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.store.directory import DataDirectory
from pipeline.store.seen_files import SeenFiles
from rating.dedupe.seen import KEEP_DAYS
from rating.errors import StorageError


def spread(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """So many different keys, evenly spread like digests."""
    draw = np.random.default_rng(seed)
    return (
        draw.integers(0, 1 << 64, count, dtype=np.uint64),
        draw.integers(0, 1 << 64, count, dtype=np.uint64),
    )


def add(path: Path, seed: int, day: int, count: int = 1000, *, commit: bool = True) -> None:
    """Add keys in a process of its own, as it were: open, add, checkpoint, close."""
    with DataDirectory.open(path, write=True) as directory, directory.begin() as step:
        files = SeenFiles(directory)
        hi, lo = spread(count, seed)
        assert not files.seen.lookup(hi, lo, day)[0].any()
        files.seen.add(hi, lo, lo ^ hi, day)
        files.save(step)
        if commit:
            step.commit()


def known(path: Path, seed: int, day: int, count: int = 1000) -> bool:
    """Whether these keys are known with their content on a day; they must be known all or none."""
    with DataDirectory.open(path, write=False) as directory:
        files = SeenFiles(directory, day)
        hi, lo = spread(count, seed)
        found, content = files.seen.lookup(hi, lo, day)
        if found.any():
            assert found.all()
            assert (lo ^ hi).tolist() == content.tolist()
        return bool(found.any())


def runs(path: Path) -> list[tuple[str, int]]:
    """The committed runs and their keys."""
    with DataDirectory.open(path, write=False) as directory:
        return [(entry.path, entry.rows) for entry in directory.manifest.group("seen")]


def test_keys_are_known_after_reopening(data_dir: Path) -> None:
    """A checkpoint keeps keys and contents; keys of an uncommitted one are not known."""
    add(data_dir, 1, 20_000)
    add(data_dir, 2, 20_000, commit=False)
    assert known(data_dir, 1, 20_000)
    assert not known(data_dir, 2, 20_000)


def test_runs_are_merged_and_stay_few(data_dir: Path) -> None:
    """Every fourth run of a size merges four into one; nothing is lost, and old files are gone."""
    for seed in range(9):
        add(data_dir, seed, 20_000)
    assert [
        ("seen/0000000007-000.run", 7000),
        ("seen/0000000008-001.run", 1000),
        ("seen/0000000009-002.run", 1000),
    ] == (runs(data_dir))
    assert 3 == len(list((data_dir / "seen").iterdir()))
    assert all(known(data_dir, seed, 20_000) for seed in range(9))


def test_runs_of_other_days_are_not_merged(data_dir: Path) -> None:
    """Keys that expire weeks apart stay in different files, so that whole files can be dropped."""
    for seed, day in enumerate([20_000, 20_001, 20_009, 20_010, 20_002]):
        add(data_dir, seed, day)
    assert 5 == len(runs(data_dir))


def test_expired_runs_are_dropped(data_dir: Path) -> None:
    """After 32 days a file goes at the next checkpoint; until then its keys are known."""
    add(data_dir, 1, 20_000)
    add(data_dir, 2, 20_000 + KEEP_DAYS)
    assert known(data_dir, 1, 20_000 + KEEP_DAYS)
    assert not known(data_dir, 1, 20_001 + KEEP_DAYS)
    add(data_dir, 3, 20_001 + KEEP_DAYS)
    assert [2, 3] == [int(path[5:15]) for path, _ in runs(data_dir)]
    assert ["0000000002", "0000000003"] == sorted(file.name[:10] for file in (data_dir / "seen").iterdir())


def test_one_process_over_many_checkpoints(data_dir: Path) -> None:
    """Without reopening, lookups go on over the runs that were just written and merged."""
    with DataDirectory.open(data_dir, write=True) as directory:
        files = SeenFiles(directory)
        for seed in range(21):
            hi, lo = spread(500, seed)
            files.seen.add(hi, lo, hi, 20_000)
            with directory.begin() as step:
                files.save(step)
                step.commit()
            assert seed * 500 + 500 == len(files.seen)
        assert len(files.seen.runs) <= 3
        for seed in range(21):
            hi, lo = spread(500, seed)
            found, content = files.seen.lookup(hi, lo, 20_000)
            assert found.all()
            assert hi.tolist() == content.tolist()


def test_same_keys_same_files(tmp_path: Path) -> None:
    """In whatever batches keys were added since the last checkpoint, the file is the same."""
    hi, lo = spread(3000, 7)
    for name, size in [("a", 3000), ("b", 171)]:
        with DataDirectory.open(tmp_path / name, write=True) as directory, directory.begin() as step:
            files = SeenFiles(directory)
            for start in range(0, 3000, size):
                part = slice(start, start + size)
                files.seen.add(hi[part], lo[part], hi[part], 20_000)
            files.save(step)
            step.commit()
    one, other = (next((tmp_path / name / "seen").iterdir()).read_bytes() for name in "ab")
    assert one == other


def test_memory_is_about_two_bytes_a_key(data_dir: Path) -> None:
    """What a reopened run holds in memory is under 2.1 bytes a key; everything else is mapped."""
    add(data_dir, 1, 20_000, count=100_000)
    with DataDirectory.open(data_dir, write=False) as directory:
        (run,) = SeenFiles(directory).seen.runs
    assert 100_000 == len(run)
    assert run.memory_bytes / len(run) < 2.1


@pytest.mark.parametrize("size_bytes", [0, 10, 5000])
def test_a_cut_off_file_is_refused(data_dir: Path, size_bytes: int) -> None:
    """A run file that is not whole stops with its path and advice."""
    add(data_dir, 1, 20_000)
    (file,) = (data_dir / "seen").iterdir()
    file.write_bytes(file.read_bytes()[:size_bytes])
    with (
        DataDirectory.open(data_dir, write=False) as directory,
        pytest.raises(StorageError, match=r"000.run: the file has \d+ bytes, the manifest says \d+; restore"),
    ):
        SeenFiles(directory)


def without_digests(data_dir: Path) -> None:
    """Make the manifest that of a version that kept no digests of files."""
    path = data_dir / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["digest"]
    for entries in manifest["files"].values():
        for entry in entries:
            del entry["digest"]
    path.write_text(json.dumps(manifest))


def test_digests_of_a_run_have_a_name(data_dir: Path) -> None:
    """A file without one is from before the name was written; one of another algorithm is refused by name."""
    add(data_dir, 1, 20_000)
    without_digests(data_dir)
    (file,) = (data_dir / "seen").iterdir()
    content = file.read_bytes()
    assert b"xxh3-128" == content[32:40]
    file.write_bytes(content[:32] + bytes(8) + content[40:])
    assert known(data_dir, 1, 20_000)
    file.write_bytes(content[:32] + b"blake3\0\0" + content[40:])
    with (
        DataDirectory.open(data_dir, write=False) as directory,
        pytest.raises(StorageError, match=r"000.run: found digests of the algorithm 'blake3'; .* knows xxh3-128"),
    ):
        SeenFiles(directory)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=40), st.integers(0, 12)),
        max_size=12,
    )
)
def test_reopened_keys_agree_with_a_dict(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[list[tuple[int, int]], int]]
) -> None:
    """With a checkpoint and a reopening after every batch, lookup agrees with a dict of arrival days."""
    path, model, day = tmp_path_factory.mktemp("seen"), {}, 20_000
    for rows, days in history:
        day += days
        keys = list(dict.fromkeys(rows))
        hi = np.array([key[0] for key in keys], np.uint64)
        lo = np.array([key[1] << 58 for key in keys], np.uint64)
        with DataDirectory.open(path, write=True) as directory, directory.begin() as step:
            files = SeenFiles(directory)
            found, _ = files.seen.lookup(hi, lo, day)
            assert [day - model.get(key, -1000) <= KEEP_DAYS for key in keys] == found.tolist()
            files.seen.add(hi[~found], lo[~found], hi[~found], day)
            files.save(step)
            step.commit()
        model |= {key: day for key, was in zip(keys, found.tolist(), strict=True) if not was}
