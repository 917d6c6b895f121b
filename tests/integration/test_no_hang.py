"""Weir does not hang: many ingests and corrections on both cores, each of which must end while something moves.

Two threads that touch one Polars object can wait for each other for ever (docs/decisions/0050). It happened to one in
three first ingests of the example feed, so a hundred of them that end are no chance. The processes run as users run
them, without the check of tests/support/polars_threads.py, which would end them before they hang.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from pipeline.catalogue import load_catalogue
from pipeline.feeds.mappings import load_mapping
from schemas.cards import Catalogue
from tests.scenarios.cluster import Cluster, OnKafka
from tests.scenarios.drivers import File
from tests.scenarios.stories import csv_of, oct_, sim, used
from tests.scenarios.words import account, card, solo
from tests.support import polars_threads
from tests.support.broker import SharedBroker
from tests.support.progress import communicated, completed
from tests.support.weir_command import WEIR

ROOT: Final = Path(__file__).parents[2]
INGESTS: Final = 100
PARTS: Final = 4  # tests, each with its share of the ingests
AT_ONCE: Final = 2
ROUNDS: Final = 100  # of corrections on workers


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that start without the check of Polars objects."""
    monkeypatch.delenv(polars_threads.VARIABLE)
    watched = str(ROOT / "tests" / "support" / "watched")
    paths = [path for path in os.environ["PYTHONPATH"].split(os.pathsep) if path != watched]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("part", range(PARTS))
def test_first_ingests_with_corrections_end(tmp_path: Path, part: int) -> None:
    """The first ingest of a data directory, from a file with corrections, two at a time."""
    catalogue = sorted((ROOT / "examples" / "catalogue").glob("*.toml"))
    fresh = tmp_path / "fresh"
    words = [*map(str, catalogue), str(ROOT / "examples" / "feeds" / "cards.csv"), "--as-of", "2026-10-01"]
    assert completed([WEIR, "--data", str(fresh), "apply", *words]).returncode == 0
    feed = [
        "ingest",
        "--feed",
        "plain",
        str(ROOT / "examples" / "feeds" / "plain.csv"),
        "--as-of",
        "2026-10-31T20:00:00Z",
    ]
    said = set[str]()
    for start in range(part, INGESTS, PARTS * AT_ONCE):
        running = []
        for number in range(start, min(start + PARTS * AT_ONCE, INGESTS), PARTS):
            data = tmp_path / str(number)
            shutil.copytree(fresh, data)
            command = [WEIR, "--data", str(data), *feed, "--json"]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        for process in running:
            output, errors = communicated(process)
            assert process.returncode == 0, errors
            said.add(output.partition('"seconds"')[0])
        for number in range(start, min(start + PARTS * AT_ONCE, INGESTS), PARTS):
            shutil.rmtree(tmp_path / str(number))
    assert len(said) == 1, said


@pytest.mark.usefixtures("unwatched")
def test_corrections_on_two_workers_end(kafka: SharedBroker, tmp_path: Path) -> None:
    """A hundred messages, each of which takes back a record of the one before, while two workers rate."""
    one, two = sim(16), sim(16, 2)
    toml = tmp_path / "catalogue.toml"
    toml.write_text(
        account("hang") + solo("hang-plan") + card(one, "hang", "hang-plan") + card(two, "hang", "hang-plan")
    )
    mapping, changed = load_mapping("plain"), load_catalogue([toml], Catalogue(), check_digits=False)
    with OnKafka.at(Cluster(tmp_path, kafka.address)) as driver:
        driver.apply(changed, oct_(1))
        for number in range(ROUNDS):
            moment = oct_(2 + number // 60, 12, number % 60)
            rows = [used(f"u-{number}", one, 1000, moment), used(f"v-{number}", two, 1000, moment)]
            if number:
                more = {"record_type": "reverse", "corrects_key": f"u-{number - 1}"}
                rows.append(used(f"r-{number}", one, 0, moment, **more))
            path = tmp_path / f"{number}.csv"
            path.write_bytes(csv_of(rows))
            driver.ingest(File(path, mapping, len(rows)), moment)
        driver.finish()
        kinds = driver.history()["rated"]["kind"].value_counts().sort("kind").rows()
    assert kinds == [("reversal", ROUNDS - 1), ("usage", 2 * ROUNDS)]
