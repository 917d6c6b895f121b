"""A data directory belongs to Weir and its owner: rotten bits, directories of others, links, rights, far rows."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.warehouse.compact import compact
from pipeline.store import manifest as manifests
from pipeline.store.directory import DataDirectory
from tests.fuzz.rotten_bits import flip, small_directory, unnoticed
from tests.integration.test_cli import AS_OF, BERLIN, CATALOGUE, USAGE, files, loaded
from tests.support.weir_command import Weir

__all__ = ["files", "loaded"]  # fixtures


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data directory."""
    return small_directory(tmp_path_factory.mktemp("made"))


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "data"))


def file_of(data: Path, group: str) -> Path:
    """The largest file of a group."""
    with DataDirectory.open(data, write=False) as directory:
        return directory.locate(max(directory.manifest.group(group), key=lambda entry: entry.size_bytes))


@pytest.mark.parametrize(
    ("group", "command"),
    [
        ("state", ("cards",)),
        ("seen", ("tick",)),
        ("rated", ("sql", "select sum(charge_nanos) from rated")),
        ("rated", ("sql", 'select sum(charge_nanos) from "Cycles"')),
        ("rated", ("report", "--cycle", "2026-10", "--out", "{out}")),
        ("rejected", ("compact",)),
        ("rejected", ("verify",)),
        ("journal", ("verify",)),
    ],
)
def test_a_flipped_bit_ends_the_command_that_reads_it(
    weir: Weir, data: Path, tmp_path: Path, group: str, command: tuple[str, ...]
) -> None:
    """Exit status 3, and the file by name: no figure comes from a file that has changed since it was written."""
    damaged = file_of(data, group)
    flip(damaged, random.Random(5))
    result = weir("--data", data, *(word.format(out=tmp_path / "report") for word in command))
    assert 3 == result.status
    assert damaged.name in result.err + result.out


def test_wherever_a_bit_flips_it_is_found(made: Path) -> None:
    """Every group of files and the manifest, at places that are drawn."""
    found, missed = unnoticed(made, 600, random.Random(7))
    assert [] == missed
    assert {"journal", "manifest", "rated", "rejected", "seen", "state"} <= found.keys()


def test_verify_counts_files_and_names_all_that_are_damaged(weir: Weir, data: Path) -> None:
    """As a document for machines too; an undamaged directory gives status 0."""
    good = weir("--data", data, "verify", "--json").json
    with DataDirectory.open(data, write=False) as directory:
        entries = [entry for entries in directory.manifest.files.values() for entry in entries]
    assert (len(entries), 0, []) == (good["files"], good["without_digest"], good["damaged"])
    assert sum(entry.size_bytes for entry in entries) == good["size_bytes"]
    for group in ("rated", "journal"):
        flip(file_of(data, group), random.Random(1))
    file_of(data, "gaps" if "gaps" in directory.manifest.files else "rejected").unlink()
    result = weir("--data", data, "verify", "--json")
    assert 3 == result.status
    damaged = json.loads(result.out)["damaged"]
    assert 3 == len(damaged)
    assert 1 == sum("gone" in one for one in damaged)


def test_a_directory_without_digests_still_opens(weir: Weir, data: Path) -> None:
    """As an older version wrote it, with rights for all: it is read, rated into, and closed to others."""
    with DataDirectory.open(data, write=False) as directory:
        document = json.loads((data / manifests.NAME).read_bytes())
    document.pop("digest")
    for entries in document["files"].values():
        for entry in entries:
            entry.pop("digest")
    (data / manifests.NAME).write_text(json.dumps(document))
    for path in data.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    data.chmod(0o755)
    assert 0 == weir("--data", data, "cards").status
    verified = weir("--data", data, "verify")
    assert (0, True) == (verified.status, "have no digest" in verified.out)
    before = directory.manifest.checkpoint
    assert 0 == weir("--data", data, "tick", "--as-of", "2026-11-02").status
    with DataDirectory.open(data, write=False) as directory:
        assert before + 1 == directory.manifest.checkpoint
        new = [entry for entry in directory.manifest.group("state") if f"/{before + 1:08}/" in entry.path]
        assert new
        assert all(entry.digest for entry in new)
    assert 0o700 == data.stat().st_mode & 0o777


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A umask that gives everybody everything."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_nobody_else_may_read_what_is_in_it(weir: Weir, loaded: Path) -> None:
    """Folders are 0700 and files 0600 whatever the umask, those of the outbox and of ClickHouse's lock too."""
    data = loaded / "data"
    assert 0 == weir("outbox", "deliver").status
    assert 0 == weir("outbox", "list").status
    compact(data)
    wrong = {
        str(path.relative_to(data)): oct(path.stat().st_mode & 0o777)
        for path in [data, *data.rglob("*")]
        if path.stat().st_mode & 0o777 != (0o700 if path.is_dir() else 0o600)
    }
    assert {} == wrong


def foreign(path: Path, name: str) -> None:
    """Make a directory of something else."""
    path.mkdir()
    (path / "staging").mkdir()
    (path / "staging" / "index.html").write_text("precious")
    contents = {
        "a lock of words": ("lock", "of another tool"),
        "a lock of a process": ("lock", "4711\n"),
        "a manifest of a web page": ("manifest.json", '{"name": "site", "icons": []}'),
        "a manifest with a format": ("manifest.json", '{"format": 1, "name": "site"}'),
        "a file": ("notes.txt", "precious"),
    }
    file, text = contents[name]
    (path / file).write_text(text)


def tree(path: Path) -> dict[str, bytes]:
    """All files below a directory."""
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


@pytest.mark.parametrize(
    "name",
    ["a lock of words", "a lock of a process", "a manifest of a web page", "a manifest with a format", "a file"],
)
def test_a_directory_of_something_else_is_left_alone(weir: Weir, files: Path, name: str) -> None:
    """`apply` refuses it and changes nothing in it."""
    theirs = files / "project"
    foreign(theirs, name)
    before = tree(theirs)
    assert weir("--data", theirs, "apply", files / "catalogue.toml").status in (2, 3)
    assert before == tree(theirs)
    assert {"staging"} == {path.name for path in theirs.iterdir() if path.is_dir()}


@pytest.mark.parametrize("link", ["staging", "journal", "history", "history/rated", "seen", "replay", "outbox", "lock"])
def test_links_in_it_are_not_followed(weir: Weir, loaded: Path, link: str) -> None:
    """What is behind a link stays as it is, and the command that would have followed it says so."""
    data, victim = loaded / "data", loaded / "victim"
    inside = data / link
    if link == "lock":
        victim.write_text("precious")
        inside.unlink()
    elif inside.exists():
        shutil.move(inside, victim)
    else:
        victim.mkdir()
    if victim.is_dir():
        (victim / "file").write_text("precious")
    before = {"": b"precious"} if victim.is_file() else tree(victim)
    inside.symlink_to(victim)
    export = loaded / "export.ndjson"
    export.write_text(json.dumps(REJECTED | {"source_row": 9}))
    command = ("outbox", "deliver") if link == "outbox" else ("rejected", "replay", export, "--as-of", AS_OF)
    result = weir(*command)
    assert (2, True) == (result.status, "found a link" in result.err)
    assert before == ({"": victim.read_bytes()} if victim.is_file() else tree(victim))


@pytest.mark.parametrize("path", ["../victim", "/{victim}", "history/../../victim", "victim", ""])
def test_a_manifest_names_no_file_outside(weir: Weir, loaded: Path, path: str) -> None:
    """A directory that came from elsewhere deletes nothing and reads nothing but its own."""
    victim = loaded / "victim"
    victim.write_text("precious")
    manifest = loaded / "data" / manifests.NAME
    document = json.loads(manifest.read_bytes())
    document.pop("digest")
    document["retired"] = [path.format(victim=victim)]
    manifest.write_text(json.dumps(document))
    for command in (("tick",), ("status",)):
        result = weir(*command)
        assert (3, True) == (result.status, "not below the data directory" in result.err)
    assert "precious" == victim.read_text()


REJECTED = {
    "feed": "plain",
    "source": "usage.csv",
    "source_row": 400_000_000,
    "raw": f"far,data,{BERLIN},100,2026-10-12T12:00:00Z",
    "raw_header": USAGE.splitlines()[0],
}


@pytest.mark.parametrize("row", [400_000_000, (1 << 32) - 1])
def test_a_record_of_a_far_row_is_replayed_in_little_memory(weir: Weir, loaded: Path, row: int) -> None:
    """It keeps its row, as do those of the same export, and the lines before it cost nothing."""
    export = loaded / "export.ndjson"
    wrong = REJECTED | {"source_row": row - 1, "raw": "x9,data"}
    near = REJECTED | {"source_row": 3, "raw": f"near,data,{BERLIN},1,2026-10-12T12:00:00Z"}
    export.write_text("\n".join(json.dumps(one) for one in (REJECTED | {"source_row": row}, wrong, near)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000_000, limits[1]))  # the lines before it would be 400 MB
    try:
        done = weir("rejected", "replay", export, "--as-of", AS_OF, "--json").json
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (3, 2, {"malformed": 1}) == (done["records"], done["rated"], done["rejected"])
    rows = weir("sql", "select source_row from rated where record_key in ('far', 'near') order by 1", "--json").json
    assert [3, row] == [one["source_row"] for one in rows]
    refused = weir("sql", f"select raw from rejected where source_row = {row - 1}", "--json").json
    assert [{"raw": "x9,data"}] == refused
    again = weir("rejected", "replay", export, "--as-of", AS_OF, "--json").json
    assert (0, 2) == (again["rated"], again["duplicate"])


def test_a_catalogue_that_is_wrong_leaves_a_directory_that_can_be_used(weir: Weir, files: Path) -> None:
    """The first manifest lists nothing; readers say that there is nothing yet, and the next `apply` goes on."""
    data = ("--data", files / "data")
    (files / "wrong.toml").write_text(CATALOGUE.replace('plan = "solo"', 'plan = "nowhere"', 1))
    assert 2 == weir(*data, "apply", files / "wrong.toml").status
    assert "no data directory yet" in weir(*data, "status").err
    assert 0 == weir(*data, "apply", files / "catalogue.toml").status
    assert 0 == weir(*data, "status").status
