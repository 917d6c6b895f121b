"""Checkpoints are atomic, the lock names its holder, and a disk that refuses leaves nothing half done."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.store import manifest as manifests
from pipeline.store.directory import DataDirectory
from pipeline.store.settling import STAGING, staged_path
from rating.errors import LockedError, StorageError, UsageError


def checkpoint(path: Path, *contents: bytes, meta: dict[str, object] | None = None) -> None:
    """Commit one checkpoint with a file for each content."""
    with DataDirectory.open(path, write=True) as directory, directory.begin() as step:
        for number, content in enumerate(contents):
            step.stage_bytes("journal", f"journal/{step.number:04}-{number}", content, rows=1)
        step.commit(meta)


def tree(path: Path) -> dict[str, bytes]:
    """All files below a directory, but for the lock, which holds a process id."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "lock"
    }


def test_committed_files_are_in_the_manifest_and_in_place(data_dir: Path) -> None:
    """After a commit a reader finds files, rows and meta, and staging is empty."""
    checkpoint(data_dir, b"one", b"two", meta={"offset": 7})
    with DataDirectory.open(data_dir, write=False) as directory:
        assert 1 == directory.manifest.checkpoint
        assert {"offset": 7} == directory.manifest.meta
        assert ["journal/0001-0", "journal/0001-1"] == [entry.path for entry in directory.manifest.group("journal")]
        assert [b"one", b"two"] == [directory.locate(e).read_bytes() for e in directory.manifest.group("journal")]
    assert [] == list((data_dir / STAGING).iterdir())


def test_an_abandoned_checkpoint_leaves_nothing(data_dir: Path) -> None:
    """An exception inside a checkpoint leaves the directory as it was."""
    checkpoint(data_dir, b"one")
    before = tree(data_dir)

    def fail() -> None:
        with DataDirectory.open(data_dir, write=True) as directory, directory.begin() as step:
            step.stage_bytes("journal", "journal/x", b"two")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert before == tree(data_dir)


def test_retired_files_go_with_the_commit(data_dir: Path) -> None:
    """A retired file is neither in the manifest nor on disk afterwards, and an emptied directory goes too."""
    checkpoint(data_dir, b"one")
    with DataDirectory.open(data_dir, write=True) as directory, directory.begin() as step:
        step.retire(*directory.manifest.group("journal"))
        step.stage_bytes("state", "state/2", b"s")
        step.commit()
    assert ["manifest.json", "state/2"] == list(tree(data_dir))


def test_a_file_is_never_written_twice(data_dir: Path) -> None:
    """Files are immutable: staging one that exists is refused."""
    checkpoint(data_dir, b"one")
    with (
        DataDirectory.open(data_dir, write=True) as directory,
        directory.begin() as step,
        pytest.raises(ValueError, match="exists"),
    ):
        step.stage_bytes("journal", "journal/0001-0", b"two")


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """The system cuts off larger files, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def kill_at(data_dir: Path, call: str) -> None:
    """Run one checkpoint in another process, killed by -9 at the nth call of a system function, e.g. rename:2."""
    name, count = call.split(":")
    program = f"""
        import os, signal, sys
        from pathlib import Path
        from pipeline.store.directory import DataDirectory
        left = [{count}]
        def killer(event, args):
            if event == "os.{name}":
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        with DataDirectory.open(Path(sys.argv[1]), write=True) as directory, directory.begin() as step:
            step.retire(*directory.manifest.group("journal"))
            sys.addaudithook(killer)
            for number in range(3):
                step.stage_bytes("journal", f"journal/{{step.number:04}}-{{number}}", b"second")
            step.commit({{"offset": 2}})
        """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(data_dir)], check=False)
    assert -signal.SIGKILL == result.returncode


@pytest.mark.parametrize("call", ["rename:1", "rename:2", "rename:4", "remove:1", "remove:2"])
def test_killed_and_repeated_equals_undisturbed(tmp_path: Path, call: str) -> None:
    """Killed before the commit nothing has happened; killed after it, the next writer finishes the moves."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for path in (undisturbed, killed):
        checkpoint(path, b"first", b"first too", meta={"offset": 1})
    before = tree(killed)
    kill_at(killed, call)
    with DataDirectory.open(killed, write=False) as reader:
        committed = call != "rename:1"
        assert {"offset": 2 if committed else 1} == reader.manifest.meta
        contents = [reader.locate(entry).read_bytes() for entry in reader.manifest.group("journal")]
        assert ([b"second"] * 3 if committed else [b"first", b"first too"]) == contents
    DataDirectory.open(killed, write=True).close()
    if not committed:
        assert before == tree(killed)
        return
    with DataDirectory.open(undisturbed, write=True) as directory, directory.begin() as step:
        step.retire(*directory.manifest.group("journal"))
        for number in range(3):
            step.stage_bytes("journal", f"journal/{step.number:04}-{number}", b"second")
        step.commit({"offset": 2})
    assert tree(undisturbed) == tree(killed)


def test_second_writer_is_refused_and_readers_are_not(data_dir: Path) -> None:
    """The error of a second writer names the process that has the lock. Readers are not blocked."""
    with DataDirectory.open(data_dir, write=True) as directory, directory.begin() as step:
        step.stage_bytes("state", "state/1", b"s")
        step.commit()
        program = "import sys; from pipeline.store.directory import DataDirectory as D; D.open(sys.argv[1], write=True)"
        other = subprocess.run([sys.executable, "-c", program, data_dir], capture_output=True, text=True, check=False)
        assert f"LockedError: {data_dir}: in use by process {os.getpid()}" in other.stderr
        with pytest.raises(LockedError, match=f"process {os.getpid()}; wait"):
            DataDirectory.open(data_dir, write=True)
        with DataDirectory.open(data_dir, write=False) as reader:
            assert 1 == reader.manifest.checkpoint
    DataDirectory.open(data_dir, write=True).close()


def test_staging_from_threads_gives_one_order(tmp_path: Path) -> None:
    """The order in which threads finish does not show in the manifest."""
    for name in ("a", "b"):
        with DataDirectory.open(tmp_path / name, write=True) as directory, directory.begin() as step:
            order = range(8) if name == "a" else reversed(range(8))
            threads = [threading.Thread(target=step.stage_bytes, args=("state", f"state/{n}", b"s")) for n in order]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            step.commit()
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_unknown_format_is_refused_with_advice(data_dir: Path) -> None:
    """A directory of a newer version is left alone."""
    checkpoint(data_dir, b"one")
    manifest = json.loads((data_dir / manifests.NAME).read_text()) | {"format": 99}
    (data_dir / manifests.NAME).write_text(json.dumps(manifest))
    for write in (True, False):
        with pytest.raises(StorageError, match=r"format 99.*reads format 1; use the version"):
            DataDirectory.open(data_dir, write=write)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format": "x"}', b'{"format": 1, "files": 3}', b"\xff"])
def test_damaged_manifest_is_refused_with_advice(data_dir: Path, text: bytes) -> None:
    """A manifest that is none stops with a message, not with a traceback."""
    checkpoint(data_dir, b"one")
    (data_dir / manifests.NAME).write_bytes(text)
    with pytest.raises(StorageError, match=r"manifest is damaged.*backup"):
        DataDirectory.open(data_dir, write=True)


def test_lost_manifest_is_refused(data_dir: Path) -> None:
    """Without its manifest a used directory is not taken for a new one."""
    with DataDirectory.open(data_dir, write=True) as directory, directory.begin() as step:
        step.stage_bytes("rated", "history/rated/day=1/1", b"x")
        step.commit()
    (data_dir / manifests.NAME).unlink()
    with pytest.raises(StorageError, match="manifest is gone"):
        DataDirectory.open(data_dir, write=True)


def test_lost_and_truncated_files_are_found(data_dir: Path) -> None:
    """Opening to write finds a committed file that is gone or has another size."""
    checkpoint(data_dir, b"one", b"two")
    (data_dir / "journal/0001-0").write_bytes(b"o")
    with pytest.raises(StorageError, match="has 1 bytes, the manifest says 3"):
        DataDirectory.open(data_dir, write=True)
    (data_dir / "journal/0001-0").unlink()
    with pytest.raises(StorageError, match="the file is gone although"):
        DataDirectory.open(data_dir, write=True)
    with (
        DataDirectory.open(data_dir, write=False) as reader,
        pytest.raises(StorageError, match="the file is gone although"),
    ):
        reader.read(lambda manifest: [reader.locate(entry) for entry in manifest.group("journal")])


def test_reader_goes_on_when_a_file_is_replaced(data_dir: Path) -> None:
    """A reader with an old manifest starts over with the new one."""
    checkpoint(data_dir, b"one")
    with DataDirectory.open(data_dir, write=False) as reader:
        with DataDirectory.open(data_dir, write=True) as directory, directory.begin() as step:
            step.retire(*directory.manifest.group("journal"))
            step.stage_bytes("journal", "journal/0002", b"merged")
            step.commit()
        contents = reader.read(lambda manifest: [reader.locate(e).read_bytes() for e in manifest.group("journal")])
        assert [b"merged"] == contents


def test_reader_needs_a_data_directory(data_dir: Path) -> None:
    """Reading where nothing is says how to make one, and makes none."""
    with pytest.raises(UsageError, match="there is no data directory yet; `weir apply`"):
        DataDirectory.open(data_dir, write=False)
    assert not data_dir.exists()


def test_foreign_directory_is_not_taken_over(tmp_path: Path) -> None:
    """A directory with other things in it is refused and left as it is."""
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="not empty and is not a Weir data directory"):
        DataDirectory.open(tmp_path, write=True)
    assert ["letter.txt"] == [path.name for path in tmp_path.iterdir()]


def test_path_through_a_file_is_refused(tmp_path: Path) -> None:
    """A data directory below a file cannot be made, and the message says so."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="Not a directory: a part of the path is a file"):
        DataDirectory.open(tmp_path / "file" / "data", write=True)


def test_a_write_that_the_system_cuts_off_leaves_nothing(data_dir: Path) -> None:
    """A file that cannot be written in full stops the checkpoint; the directory stays as it was, and works again."""
    checkpoint(data_dir, b"one")
    before = tree(data_dir)
    with DataDirectory.open(data_dir, write=True) as directory:
        with (
            directory.begin() as step,
            files_of_at_most(10_000),
            pytest.raises(StorageError, match="journal/2: cannot write: File too large"),
        ):
            step.stage_bytes("journal", "journal/2", b"x" * 100_000)
        assert before == tree(data_dir)
        with directory.begin() as step:
            step.stage_bytes("journal", "journal/2", b"x" * 100_000)
            step.commit()
    assert 100_000 == (data_dir / "journal/2").stat().st_size


def test_a_manifest_that_cannot_be_written_commits_nothing(data_dir: Path) -> None:
    """Where the manifest itself does not fit, the old one stays in force."""
    checkpoint(data_dir, b"one")
    before = tree(data_dir)
    with DataDirectory.open(data_dir, write=True) as directory, directory.begin() as step:
        step.stage_bytes("journal", "journal/2", b"x")
        with (
            files_of_at_most(10_000),
            pytest.raises(StorageError, match="cannot commit a checkpoint: File too large"),
        ):
            step.commit({"big": "x" * 20_000})
    assert before == tree(data_dir)


def test_staged_names_are_flat_and_distinct(tmp_path: Path) -> None:
    """Paths that differ only in their separators stay apart in staging."""
    assert staged_path(tmp_path, "a/b") != staged_path(tmp_path, "a%2Fb")
    assert tmp_path / STAGING == staged_path(tmp_path, "history/rated/cycle=2026-10/1").parent


def test_an_interrupt_right_after_the_commit_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the manifest on the disk names is kept, although the process never learnt that it was written."""
    replace = manifests.replace

    def interrupted(directory: Path, manifest: manifests.Manifest) -> None:
        replace(directory, manifest)
        raise KeyboardInterrupt

    monkeypatch.setattr(manifests, "replace", interrupted)
    directory = DataDirectory.open(tmp_path / "data", write=True)
    checkpoint = directory.begin()
    checkpoint.stage_bytes("group", "some/file", b"content")
    with pytest.raises(KeyboardInterrupt):
        checkpoint.commit()
    checkpoint.__exit__(KeyboardInterrupt, None, None)
    directory.close()
    monkeypatch.undo()
    with DataDirectory.open(tmp_path / "data", write=True) as directory:
        (entry,) = directory.manifest.group("group")
        assert directory.locate(entry).read_bytes() == b"content"
