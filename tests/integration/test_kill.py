"""`weir ingest` is killed at random moments and given again; it ends with the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.demo.generate import Generated, generate
from pipeline.store.directory import DataDirectory
from tests.support.progress import communicated, wait_until
from tests.support.weir_command import WEIR

AS_OF = "2026-11-01T00:00:00Z"
KILLS = 32
PARTS = 4  # tests, each with its share of the kills
RULES = """
[[rules]]
id = "much"
trigger = "data_usage_cycle"
threshold = ["1 MB", "20 MB"]
actions = [{ sequence = 1, type = "suspend", reason = "over_quota", until = "window_end" }]
[[rules]]
id = "silent"
trigger = "no_voice_24h"
actions = [{ sequence = 1, type = "add_tag", tag = "silent" }]
"""  # one fires on usage in every checkpoint, the other on the tick that ends the ingest
CHECKPOINT_RECORDS = 1000  # many checkpoints, so that a kill finds every stage of one


def start(data: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start `weir` on `data` with frequent checkpoints."""
    environment = {**os.environ, "WEIR_CHECKPOINT_RECORDS": str(CHECKPOINT_RECORDS), "NO_COLOR": "1"}
    command = [WEIR, "--data", str(data), *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> bytes:
    """Wait for a process that must end well; return what it printed."""
    output, errors = communicated(process)
    assert process.returncode == 0, errors.decode()
    return output


def ingest_words(fleet: Generated) -> list[str]:
    """The command under test."""
    return ["ingest", "--feed", "plain", str(fleet.usage), "--as-of", AS_OF, "--json"]


def tree(data: Path) -> dict[str, bytes]:
    """Every file of a data directory but the lock, by its path."""
    files = (path for path in data.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted(files)}


class Moment:
    """When to kill: as soon as `came` says so, and then `delay_s` later."""

    def __init__(self, name: str, came: Callable[[Path, int], bool], delay_s: float) -> None:
        self.name = name
        self.delay_s = delay_s
        self._came = came

    def wait(self, process: subprocess.Popen[bytes], data: Path) -> bool:
        """Wait for the moment; False where the process ended before it."""
        wait_until(lambda: process.poll() is not None or self._came(data, process.pid), self.name, pause_s=0.001)
        if process.poll() is not None:
            return False
        time.sleep(self.delay_s)
        return process.poll() is None


def commits(data: Path) -> int:
    """The number of the last checkpoint, from the head of the manifest: it is asked a thousand times a second."""
    with (data / "manifest.json").open("rb") as manifest:
        found = re.search(rb'"checkpoint": *([0-9]+)', manifest.read(100))
    assert found is not None
    return int(found[1])


def is_open(data: Path, pid: int) -> bool:
    """Whether the process holds the data directory."""
    return (data / "lock").read_text().strip() == str(pid)


def staged(data: Path) -> list[str]:
    """The files of an unfinished checkpoint."""
    return os.listdir(data / "staging") if (data / "staging").is_dir() else []


def moment(chance: random.Random, data: Path, length_s: float) -> Moment:
    """Draw a moment of the coming run, which takes about `length_s` if nothing disturbs it.

    The moment depends on the content of the data directory, so that kills hit the same stages on a slow machine. Most
    moments are before the next checkpoint or just after it, so that a directory survives many kills.
    """
    target = commits(data) + chance.choice([0, 1, 1, 1, 2])
    return chance.choice(
        [
            Moment("opening", is_open, chance.uniform(0, 0.02)),
            Moment("at work", is_open, chance.uniform(0, length_s / 4)),
            Moment("at a commit", lambda data, pid: is_open(data, pid) and commits(data) >= target, 0.0),
            Moment(
                "after a commit",
                lambda data, pid: is_open(data, pid) and commits(data) >= target,
                chance.uniform(0, 0.02),
            ),
            Moment("while staging", lambda data, _: commits(data) >= target and bool(staged(data)), 0.0),
            Moment(
                "late in staging",
                lambda data, _: commits(data) >= target and len(staged(data)) > 2,
                chance.uniform(0, 0.01),
            ),
        ]
    )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """A small fleet with repeats near and far and bad lines of every kind."""
    return generate(tmp_path_factory.mktemp("fleet"), 2000, 20_000, seed=11, pools=12, bad_share="0.002")


@pytest.fixture(scope="module")
def applied(fleet: Generated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the catalogue, rules that are active, and no usage."""
    data = tmp_path_factory.mktemp("applied") / "data"
    rules = data.parent / "rules.toml"
    rules.write_text(RULES)
    finish(start(data, "apply", str(fleet.catalogue), str(fleet.cards_file), str(rules)))
    finish(start(data, "rules", "activate", "--all", "--as-of", "2026-10-01T00:00:00Z"))
    return data


@pytest.fixture(scope="module")
def undisturbed(fleet: Generated, applied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory after a run that nothing disturbed, whose counts are those that the generator foretold."""
    data = tmp_path_factory.mktemp("undisturbed") / "data"
    shutil.copytree(applied, data)
    before = commits(data)
    told = json.loads(finish(start(data, *ingest_words(fleet))))
    assert (fleet.records, fleet.rated, fleet.duplicate) == (told["records"], told["rated"], told["duplicate"])
    assert fleet.rejected == told["rejected"]
    assert commits(data) - before >= fleet.records // CHECKPOINT_RECORDS // 2
    assert told["firings"] > fleet.rated // 20
    assert len(list((data / "history" / "firings").iterdir())) > 6
    return data


def recover(data: Path) -> None:
    """Open the directory to write, as any next command does: it finishes the moves of a committed checkpoint."""
    DataDirectory.open(data, write=True).close()


@pytest.fixture(scope="module")
def length_s(fleet: Generated, applied: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds for which an undisturbed run holds the data directory."""
    data = tmp_path_factory.mktemp("timed") / "data"
    shutil.copytree(applied, data)
    process = start(data, *ingest_words(fleet))
    assert Moment("opening", is_open, 0.0).wait(process, data)
    began_s = time.monotonic()
    finish(process)
    return time.monotonic() - began_s


Kill = tuple[str, int, bool]  # moment, checkpoint, whether a checkpoint was in the making


@pytest.fixture(scope="module")
def kills() -> Iterator[list[Kill]]:
    """The kills of all parts. They were where it matters: within checkpoints and between them, early and late."""
    found: list[Kill] = []
    yield found
    if len(found) >= KILLS:  # fewer if only some of the parts were asked for
        assert {True, False} == {in_the_making for _, _, in_the_making in found}
        assert len({checkpoint for _, checkpoint, _ in found}) >= 6


@pytest.mark.parametrize("part", range(PARTS))
def test_killed_and_given_again(
    part: int, fleet: Generated, applied: Path, undisturbed: Path, length_s: float, kills: list[Kill], tmp_path: Path
) -> None:
    """However often it is killed, the command given until it ends leaves the files of an undisturbed run."""
    chance = random.Random(2026 + part)
    expected, last = tree(undisturbed), commits(undisturbed)
    killed_at: list[Kill] = []
    lives = 0
    while len(killed_at) < KILLS // PARTS:
        lives += 1
        data = tmp_path / f"life-{lives}"
        shutil.copytree(applied, data)
        while True:
            when = moment(chance, data, length_s)
            process = start(data, *ingest_words(fleet))
            if not when.wait(process, data):
                finish(process)
                break
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode in (0, -signal.SIGKILL)
            killed_at.append((when.name, commits(data), bool(staged(data))))
            if commits(data) == last:  # all was done; only the process had not ended yet
                recover(data)
                break
        found = tree(data)
        assert sorted(expected) == sorted(found), killed_at
        assert [] == [path for path in expected if expected[path] != found[path]], killed_at
        shutil.rmtree(data)
    kills += killed_at


def test_given_again_after_the_end(fleet: Generated, undisturbed: Path, tmp_path: Path) -> None:
    """The same command on a finished directory rates nothing twice and leaves the history as it is."""
    data = tmp_path / "data"
    shutil.copytree(undisturbed, data)
    finish(start(data, *ingest_words(fleet)))
    before, after = tree(undisturbed), tree(data)
    history = {path for path in before if path.startswith("history/rated/")}
    assert history == {path for path in after if path.startswith("history/rated/")}
    assert [] == [path for path in history if before[path] != after[path]]
