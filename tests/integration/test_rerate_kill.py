"""Corrections and `weir rerate` are killed and given again; they end with the bytes of an undisturbed run (F6, P10)."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.integration.test_kill import Moment, commits, finish, is_open, staged, start, tree
from tests.integration.test_rerate_cli import ACCOUNT, HEAD, basic

CARDS, RECORDS, KILLS = 40, 30, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose records came in the opposite order of use, and a file of corrections beside it."""
    folder = tmp_path_factory.mktemp("rerated")
    iccids = [f"8988303000000{number:06}" for number in range(CARDS)]
    (folder / "catalogue.toml").write_text(ACCOUNT + basic(("2026-01-01", "1"), ("2026-10-15", "3")))
    (folder / "cards.csv").write_text("\n".join(["iccid,account,plan", *(f"{one},acme,basic" for one in iccids), ""]))
    usage = [
        f"k{card}-{number},data,,,,{iccid},{3 + number % 5},2026-10-{1 + number % 28:02}T{number % 24:02}:00:00Z,,,,,"
        for number in reversed(range(RECORDS))
        for card, iccid in enumerate(iccids)
    ]
    backs = [
        f"r{card}-{number},data,,reverse,k{card}-{number},{iccid},,2026-10-07T00:00:00Z,,,,,"
        for number in range(0, RECORDS, 7)
        for card, iccid in enumerate(iccids)
    ]
    (folder / "usage.csv").write_text("\n".join([HEAD, *usage, ""]))
    (folder / "corrections.csv").write_text("\n".join([HEAD, *backs, ""]))
    data = folder / "data"
    files = [str(folder / name) for name in ("catalogue.toml", "cards.csv")]
    finish(start(data, "apply", *files, "--no-check-digits", "--as-of", "2026-10-01"))
    finish(start(data, "ingest", "--feed", "plain", str(folder / "usage.csv"), "--as-of", "2026-11-01", "--json"))
    return folder


@pytest.mark.parametrize("command", ["ingest", "rerate"])
def test_a_killed_command_is_given_again_and_loses_and_doubles_nothing(
    command: str, folder: Path, tmp_path: Path
) -> None:
    """Whatever the moment, every byte is that of an undisturbed run, and a further re-rating changes nothing."""
    words = {
        "ingest": ["ingest", "--feed", "plain", str(folder / "corrections.csv"), "--as-of", "2026-11-02", "--json"],
        "rerate": ["rerate", "--cycle", "2026-10", "--json"],
    }[command]
    whole = tmp_path / "whole"
    shutil.copytree(folder / "data", whole)
    done = json.loads(finish(start(whole, *words)))
    assert done["adjustments" if command == "rerate" else "rerated_records"] > 100
    expected, chance = tree(whole), random.Random(command)
    killed = 0
    for number in range(KILLS):
        data = tmp_path / f"data-{number}"
        shutil.copytree(folder / "data", data)
        before = commits(data)
        moment = chance.choice(
            [
                Moment("at work", is_open, chance.uniform(0, 0.4)),
                Moment("while staging", lambda data, _: bool(staged(data)), chance.uniform(0, 0.05)),
                Moment("at the commit", lambda data, _, before=before: commits(data) > before, 0.0),  # type: ignore[misc]
            ]
        )
        process = start(data, *words)
        if moment.wait(process, data):
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
        # An ingest commits once more when its tally has been printed.
        if commits(data) < before + (2 if command == "ingest" else 1):
            finish(start(data, *words))
        assert expected == tree(data)
    assert killed
    again = json.loads(finish(start(whole, "rerate", "--cycle", "2026-10", "--json")))
    assert 0 == again["adjustments"]
