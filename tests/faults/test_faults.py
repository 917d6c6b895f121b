"""Workers and the broker killed under a stream leave every row, action and total as an undisturbed fold does.

A short form of `python -m tests.faults.run`, which takes minutes and knows more faults.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster
from tests.faults.run import PARTITIONS, Faults, Report, disturb
from tests.faults.stream import expected_of, stream_of
from tests.support.broker import need_broker


# kill -9 of a worker and of the broker; a worker paused beyond its session, both workers killed at once.
@pytest.mark.parametrize("disturbances", [("kill_worker", "kill_broker"), ("pause_worker", "kill_both")])
def test_what_is_killed_under_load_loses_and_doubles_nothing(disturbances: tuple[str, ...], tmp_path: Path) -> None:
    """Every row, action and total is as if nothing had been."""
    need_broker()
    stream = stream_of(tmp_path / "fleet", cards=2_000, records=30_000, partitions=PARTITIONS)
    expected = expected_of(stream)
    assert expected.actions
    history = tmp_path / "run" / "history"
    history.parent.mkdir()
    chance = random.Random(11)
    cluster = Cluster(history.parent, PARTITIONS, history, settings="base_records = 5000")
    report = Report()
    faults = Faults(cluster, report, chance, history)
    kinds = [getattr(faults, name) for name in disturbances]
    asyncio.run(disturb(cluster, stream, expected, report, kinds, 24, chance, history))
    assert len(kinds) == len(report.faults)
    assert report.wrong == []
