"""`weir ingest` is killed at random moments and given again; it ends with the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.generate import Generated, generate

WEIR = str(Path(sys.executable).with_name("weir"))
AS_OF = "2026-11-01T00:00:00Z"
KILLS = 32
CHECKPOINT_RECORDS = 2000  # many checkpoints, so that a kill finds every stage of one
LONGEST_S = 60.0  # for one run of the command


def start(data: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start `weir` on `data` with frequent checkpoints."""
    environment = {**os.environ, "WEIR_CHECKPOINT_RECORDS": str(CHECKPOINT_RECORDS), "NO_COLOR": "1"}
    command = [WEIR, "--data", str(data), *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> bytes:
    """Wait for a process that must end well; return what it printed."""
    output, errors = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0, errors.decode()
    return output


def ingest_words(fleet: Generated) -> list[str]:
    """The command under test."""
    return ["ingest", "--feed", "plain", str(fleet.usage), "--as-of", AS_OF, "--json"]


def tree(data: Path) -> dict[str, bytes]:
    """Every file of a data directory but the lock, by its path."""
    files = (path for path in data.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted(files)}


def status(data: Path) -> Any:
    """What `weir status --json` says of a data directory, but for where it is."""
    told = json.loads(finish(start(data, "status", "--json")))
    return {name: value for name, value in told.items() if str(data) not in json.dumps(value)}


class Moment:
    """When to kill: as soon as `came` says so, and then `delay_s` later."""

    def __init__(self, name: str, came: Callable[[Path, int], bool], delay_s: float) -> None:
        self.name = name
        self.delay_s = delay_s
        self._came = came

    def wait(self, process: subprocess.Popen[bytes], data: Path) -> bool:
        """Wait for the moment; False where the process ended before it."""
        deadline = time.monotonic() + LONGEST_S
        while not self._came(data, process.pid):
            if process.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"{self.name}: did not come in {LONGEST_S} s"
            time.sleep(0.0002)
        time.sleep(self.delay_s)
        return process.poll() is None


def commits(data: Path) -> int:
    """The number of the last checkpoint."""
    return int(json.loads((data / "manifest.json").read_bytes())["checkpoint"])


def staged(data: Path) -> list[str]:
    """The files of an unfinished checkpoint."""
    return os.listdir(data / "staging") if (data / "staging").is_dir() else []


def moment(chance: random.Random, data: Path) -> Moment:
    """Draw a moment of the coming run: by the clock, or by what is seen in the data directory."""
    begun = time.monotonic()
    after_s = chance.uniform(0.2, 3.0)
    target = commits(data) + chance.randint(1, 4)
    return chance.choice(
        [
            Moment("by the clock", lambda _, __: time.monotonic() - begun >= after_s, 0.0),
            Moment(
                "opening", lambda data, pid: (data / "lock").read_text().strip() == str(pid), chance.uniform(0, 0.1)
            ),
            Moment("at a commit", lambda data, _: commits(data) >= target, 0.0),
            Moment("after a commit", lambda data, _: commits(data) >= target, chance.uniform(0, 0.02)),
            Moment("while staging", lambda data, _: commits(data) >= target - 1 and bool(staged(data)), 0.0),
            Moment(
                "late in staging",
                lambda data, _: commits(data) >= target - 1 and len(staged(data)) > 2,
                chance.uniform(0, 0.01),
            ),
        ]
    )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """A small fleet with repeats near and far and bad lines of every kind."""
    return generate(tmp_path_factory.mktemp("fleet"), 3000, 30_000, seed=11, pools=12, bad_share="0.002")


@pytest.fixture(scope="module")
def applied(fleet: Generated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the catalogue and no usage."""
    data = tmp_path_factory.mktemp("applied") / "data"
    finish(start(data, "apply", str(fleet.catalogue), str(fleet.cards_file)))
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
    return data


@pytest.mark.timeout(600)
def test_killed_and_given_again(fleet: Generated, applied: Path, undisturbed: Path, tmp_path: Path) -> None:
    """However often it is killed, the command given until it ends leaves the files of an undisturbed run."""
    chance = random.Random(2026)
    expected, expected_status = tree(undisturbed), status(undisturbed)
    killed_at: list[tuple[str, int, bool]] = []  # moment, checkpoint, whether a checkpoint was in the making
    lives = 0
    while len(killed_at) < KILLS:
        lives += 1
        data = tmp_path / f"life-{lives}"
        shutil.copytree(applied, data)
        while True:
            when = moment(chance, data)
            process = start(data, *ingest_words(fleet))
            if not when.wait(process, data):
                finish(process)
                break
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if process.returncode == 0:  # it ended in the very moment
                break
            assert -signal.SIGKILL == process.returncode
            killed_at.append((when.name, commits(data), bool(staged(data))))
        found = tree(data)
        assert sorted(expected) == sorted(found), killed_at
        assert [] == [path for path in expected if expected[path] != found[path]], killed_at
        assert expected_status == status(data)
        shutil.rmtree(data)
    # The kills were where it matters: within checkpoints and between them, early and late.
    assert {True, False} == {in_the_making for _, _, in_the_making in killed_at}
    assert len({checkpoint for _, checkpoint, _ in killed_at}) >= 6


def test_given_again_after_the_end(fleet: Generated, undisturbed: Path, tmp_path: Path) -> None:
    """The same command on a finished directory rates nothing twice and leaves the history as it is."""
    data = tmp_path / "data"
    shutil.copytree(undisturbed, data)
    finish(start(data, *ingest_words(fleet)))
    before, after = tree(undisturbed), tree(data)
    history = {path for path in before if path.startswith("history/rated/")}
    assert history == {path for path in after if path.startswith("history/rated/")}
    assert [] == [path for path in history if before[path] != after[path]]
