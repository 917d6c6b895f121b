"""One set of scenarios, three drivers: the same history, actions and state from each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest

from schemas.mapping import Mapping
from schemas.tables import TABLES
from tests.scenarios.cluster import PARTITIONS, Cluster, OnKafka
from tests.scenarios.drivers import InDirectory, InProcess, mappings_of, play
from tests.scenarios.history import History, summary
from tests.scenarios.scenarios import OWN_FEEDS, READY_FEEDS, SCENARIOS
from tests.scenarios.stories import Scenario, nov, oct_
from tests.support.broker import SharedBroker

LOOKS: Final = (oct_(13), oct_(22), oct_(31, 22, 30), nov(3))
_OWN: Final = {"add_tag", "set_attribute"}  # what Weir carries out itself


class Played:
    """A driver after all scenarios."""

    def __init__(self, driver: InProcess | InDirectory | OnKafka, records: Counter[str]) -> None:
        self.driver = driver
        self.records = records
        self.tables = driver.history()
        self.history = History(self.tables)
        self.states = driver.states


@pytest.fixture(scope="module")
def own_feeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of the mappings that scenarios bring."""
    folder = tmp_path_factory.mktemp("feeds")
    for name, text in OWN_FEEDS.items():
        (folder / f"{name}.toml").write_text(text)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def mappings(own_feeds: list[Path]) -> dict[str, Mapping]:
    """All mappings by name."""
    return mappings_of(READY_FEEDS, own_feeds)


@pytest.fixture(scope="module")
def fold(tmp_path_factory: pytest.TempPathFactory, mappings: dict[str, Mapping]) -> Played:
    """The engine alone."""
    driver = InProcess()
    return Played(driver, play(driver, SCENARIOS, tmp_path_factory.mktemp("fold") / "files", mappings, LOOKS))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, mappings: dict[str, Mapping]) -> Played:
    """The embedded driver."""
    folder = tmp_path_factory.mktemp("embedded")
    with InDirectory.at(folder / "data") as driver:
        return Played(driver, play(driver, SCENARIOS, folder / "files", mappings, LOOKS))


@pytest.fixture(scope="module")
def workers(
    kafka: SharedBroker,
    tmp_path_factory: pytest.TempPathFactory,
    own_feeds: list[Path],
    mappings: dict[str, Mapping],
) -> Iterator[Played]:
    """Two workers."""
    folder = tmp_path_factory.mktemp("workers")
    with OnKafka.at(Cluster(folder, kafka.address, own_feeds)) as driver:
        records = play(driver, SCENARIOS, folder / "files", mappings, LOOKS)
        driver.finish()
        yield Played(driver, records)


@pytest.fixture(params=["embedded", "workers"])
def other(request: pytest.FixtureRequest) -> Played:
    """A driver that must give what the fold gives."""
    played: Played = request.getfixturevalue(request.param)
    return played


def _name(scenario: Scenario) -> str:
    return scenario.name


@pytest.mark.parametrize("scenario", SCENARIOS, ids=_name)
def test_the_fold_gives_what_the_scenario_says(scenario: Scenario, fold: Played) -> None:
    """The figures of each scenario, worked out by hand."""
    found = summary(fold.history, scenario, fold.records[scenario.name])
    assert scenario.expects == {name: found[name] for name in scenario.expects}


# Cycles close with ticks, and drivers tick at different moments; test_histories.py compares the table charges.
@pytest.mark.parametrize("name", [name for name in TABLES if name != "charges"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=_name)
def test_the_history_is_that_of_the_fold(scenario: Scenario, name: str, fold: Played, other: Played) -> None:
    """Rows of each SIM in their order; rejects with bytes and ids (F5); firings, actions, results as linked (L10)."""
    assert fold.history.of(scenario, name) == other.history.of(scenario, name)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_of_a_scenario(name: str, fold: Played, other: Played) -> None:
    """What is compared is all that there is."""
    for played in (fold, other):
        assert sum(len(played.history.of(one, name)) for one in SCENARIOS) == len(played.tables[name])


@pytest.mark.parametrize("look", range(len(LOOKS) + 1))
def test_the_state_is_that_of_the_fold(look: int, fold: Played, other: Played) -> None:
    """Cards, counters, pools and add-ons, in the middle of it and at the end."""
    for name, expected in fold.states[look].items():
        assert _rows(expected) == _rows(other.states[look][name]), name


def test_states_began_with_bases(workers: Played) -> None:
    """States of workers were read from bases, too."""
    assert isinstance(workers.driver, OnKafka)
    assert len(workers.driver.bases) == PARTITIONS * (len(LOOKS) + 1)
    assert sum(applied >= 0 for applied in workers.driver.bases) > len(LOOKS)


def test_all_partitions_had_something_to_do(workers: Played) -> None:
    """Each partition has rows, and the workers stopped gracefully."""
    assert isinstance(workers.driver, OnKafka)
    assert set(workers.tables["rated"]["journal_partition"]) == set(range(PARTITIONS))
    assert workers.driver.ended == [0, 0]


def test_actions_are_told_once_by_sim(workers: Played) -> None:
    """The topic of actions has each action of the history once, under its SIM, in the order of each SIM (L10)."""
    assert isinstance(workers.driver, OnKafka)
    told = [(message["id"], message["firing_id"], message["action"]) for _, message in workers.driver.messages]
    rows = workers.tables["actions"].select("action_id", "firing_id", "action").rows()
    assert sorted(rows) == sorted(told)
    assert {row[2] for row in rows} > _OWN
    assert all(key == message["iccid"].encode() for key, message in workers.driver.messages)


def test_the_newest_status_is_that_of_the_card(workers: Played) -> None:
    """The topic of statuses says what the card says (C9)."""
    assert isinstance(workers.driver, OnKafka)
    cards = {row["iccid"]: row for row in workers.states[-1]["cards"].iter_rows(named=True)}
    statuses = workers.driver.statuses
    assert statuses
    for iccid, told in statuses.items():
        assert (told["status"], told["status_reason"]) == tuple(
            cards[iccid.decode()][name] for name in ("status", "status_reason")
        )


def test_refused_records_are_told_once(workers: Played) -> None:
    """The topic of rejects has as many as the history (F5)."""
    assert isinstance(workers.driver, OnKafka)
    assert len(workers.driver.refused) == len(workers.tables["rejected"])


def _rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return sorted(frame.to_dicts(), key=repr)
