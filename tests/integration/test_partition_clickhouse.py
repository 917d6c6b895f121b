"""Partitions landed in ClickHouse: each row once and with everything before it, whatever fails between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.show.sql import run_sql
from jobs.warehouse.clickhouse import check, load
from pipeline.clickhouse import Client, Sink, connect, migrate
from pipeline.config import ClickHouse
from pipeline.streaming.land.folder import PartitionLanding, folder_of
from pipeline.streaming.rate.output import Output
from rating.errors import LockedError, WorldError
from schemas.tables import TABLES
from tests.support.clickhouse_case import everything
from tests.support.landing_case import output, some

LATER = 998  # so that the second message begins at offset 1000 of the fold


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The engine, kept open for the module: opening it takes a second."""
    path = tmp_path_factory.mktemp("clickhouse")
    with connect(ClickHouse(path=str(path))):
        yield path


@pytest.fixture
def client(engine: Path, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A migrated database of the test's own."""
    name = "".join(one if one.isalnum() else "_" for one in request.node.name)
    with connect(ClickHouse(path=str(engine), database=name)) as client:
        migrate(client)
        yield client


def outputs() -> list[Output]:
    """A message with rows of every table, then others."""
    return [output(0, 0, 0, 1000, everything()), *some(1, 5, since=LATER)]


def assert_same(history: Path, client: Client) -> None:
    """Rows, sums and ids are the same in both, and nothing waits."""
    found = check(history, client)
    assert [] == found.differences
    assert dict.fromkeys(TABLES, 0) == found.waiting
    for asked in (
        "SELECT reject_id FROM rejected ORDER BY 1",
        "SELECT journal_partition, journal_offset, part, quantity_raw FROM rated ORDER BY ALL",
        "SELECT firing_id FROM firings ORDER BY 1",
        "SELECT action_id, outcome FROM results ORDER BY 1, 2",
    ):
        ours = [tuple(row.values()) for row in run_sql(history, asked).to_pylist()]
        assert ours == client.rows(asked)
        assert ours


class Failing(Sink):
    """A sink to which ClickHouse refuses one of its calls."""

    def __init__(self, client: Client, calls: int) -> None:
        super().__init__(client, patience_s=0)
        self._calls = calls

    def land(self, name: str, table: pa.Table, *arguments: Any) -> int:  # type: ignore[override]
        """As `Sink.land`, but for one call."""
        self._calls -= 1
        if self._calls == 0:
            raise WorldError("ClickHouse is away")
        return super().land(name, table, *arguments)


def test_rows_go_on_as_they_land(client: Client, tmp_path: Path) -> None:
    """Several landings of two partitions, with repeats: ClickHouse has what the history has, each time."""
    sinks = [Sink(client, patience_s=0) for _ in range(2)]
    with (
        PartitionLanding(folder_of(tmp_path, 0), 0, sinks[0]) as landing,
        PartitionLanding(folder_of(tmp_path, 1), 1, sinks[1]) as other,
    ):
        for start in range(0, 6, 2):
            landing.land(outputs()[max(0, start - 1) : start + 2])
            other.land(some(0, start + 1, 1))
            landing.land(outputs()[:1])
    assert_same(tmp_path, client)


@pytest.mark.parametrize("calls", range(1, 8))
def test_refused_at_any_call(client: Client, tmp_path: Path, calls: int) -> None:
    """Where ClickHouse refuses, the folder has the rows, goes on with later ones, and gives ClickHouse all of them."""
    with PartitionLanding(folder_of(tmp_path, 0), 0, Failing(client, calls)) as landing:
        refused = 0
        for at, one in enumerate(outputs()[:4]):
            try:
                landing.land([one])
            except WorldError:
                refused += 1
            assert at == landing.landed
        assert 1 == refused
    assert_same(tmp_path, client)


def test_killed_between_folder_and_clickhouse(client: Client, tmp_path: Path) -> None:
    """What only the folder has comes from there: after a restart, and where a sink is given later."""
    folder = folder_of(tmp_path, 0)
    with PartitionLanding(folder, 0, None) as landing:
        landing.land(outputs()[:2])
    with PartitionLanding(folder, 0, Sink(client, patience_s=0)) as landing:
        landing.land(outputs()[:2])
    assert_same(tmp_path, client)
    with PartitionLanding(folder, 0, None) as landing:
        landing.land(outputs()[:4])
        landing.sink = Sink(client, patience_s=0)
        landing.land(outputs())
    assert_same(tmp_path, client)


def test_a_database_of_another_history_is_refused(client: Client, tmp_path: Path) -> None:
    """Rows beyond the folder's are of another history: nothing is mixed."""
    with PartitionLanding(folder_of(tmp_path / "one", 0), 0, Sink(client, patience_s=0)) as landing:
        landing.land(outputs())
    with PartitionLanding(folder_of(tmp_path / "other", 0), 0, Sink(client, patience_s=0)) as landing:
        with pytest.raises(WorldError, match="it holds another history"):
            landing.land(outputs()[:2])
        assert 1 == landing.landed


def test_load_and_check_by_hand(client: Client, tmp_path: Path) -> None:
    """`weir clickhouse load` brings all partitions, goes on where it was, and is refused while a worker lands one."""
    for partition, given in enumerate((outputs(), some(0, 3, 1))):
        with PartitionLanding(folder_of(tmp_path, partition), partition, None) as landing:
            landing.land(given)
    told: dict[str, tuple[int, int]] = {}
    done = load(tmp_path, client, 0, lambda name, passed, rows: told.update({name: (passed, rows)}))
    assert run_sql(tmp_path, "from rated").num_rows == done.rows["rated"] == told["rated"][0] == told["rated"][1]
    assert 1010 == done.next_offsets["rated"]
    assert_same(tmp_path, client)
    assert dict.fromkeys(TABLES, 0) == load(tmp_path, client, 0).rows
    with PartitionLanding(folder_of(tmp_path, 1), 1, None) as landing:
        landing.land(some(0, 5, 1))
        for command in (lambda: load(tmp_path, client, 0), lambda: check(tmp_path, client)):
            with pytest.raises(LockedError, match="streaming workers load ClickHouse themselves"):
                command()
    assert {"rated": 4, "rejected": 2} == {name: rows for name, rows in check(tmp_path, client).waiting.items() if rows}
    assert {"rated": 4, "rejected": 2} == {name: rows for name, rows in load(tmp_path, client, 0).rows.items() if rows}
    assert_same(tmp_path, client)
    assert json.dumps(done.as_dict())
