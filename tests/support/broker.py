"""One real Kafka broker for all tests of a run, whatever process they are in, and a fresh topic for each test."""

from __future__ import annotations

import asyncio
import fcntl
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pipeline.broker import Broker, lacking
from tests.support.processes import MARKS
from tests.support.progress import MINE


class SharedBroker:
    """The broker that tests share. Whoever stops or kills a broker starts one of his own, with `Broker`."""

    def __init__(self, address: str) -> None:
        self.address = address

    def topic(self, partitions: int = 1, settings: Mapping[str, str] | None = None) -> str:
        """Make a topic that no other test knows; its name."""
        name = f"test-{uuid.uuid4().hex}"
        make_topic(self.address, name, partitions, settings)
        return name


def make_topic(address: str, name: str, partitions: int = 1, settings: Mapping[str, str] | None = None) -> None:
    """Make the topic `name`, with Kafka's `settings` of a topic; the broker makes none by itself."""
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    async def make() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=address)
        await admin.start()
        try:
            done = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=dict(settings or {}))])
            assert [error[1] for error in done.topic_errors] == [0], done
        finally:
            await admin.close()

    asyncio.run(make())


def need_broker() -> None:
    """Skip the test where no broker can start; in CI the skip fails the run."""
    missing = lacking()
    if missing:
        pytest.skip(f"NO KAFKA TESTS: {missing}")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedBroker]:
    """A running broker, for all tests of this run."""
    need_broker()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        with Broker(tmp_path_factory.mktemp("kafka")) as broker:
            yield SharedBroker(broker.address)
    else:
        yield SharedBroker(_address_of_the_run(tmp_path_factory.getbasetemp().parent / "kafka"))


_RUNS_ON: list[Broker] = []  # of this process, for all others


def _address_of_the_run(folder: Path) -> str:
    """The broker of the run: the process that needs it first starts it, and tests/support/guarded.py ends it."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        address = folder / "address"
        if not address.exists():
            broker = Broker(folder / "broker")
            # It is a process of the run, not of this part of it.
            patch.setenv(MARKS, os.environ[MARKS].replace(MINE.mark, ""))
            broker.start()
            _RUNS_ON.append(broker)
            address.write_text(broker.address)
        return address.read_text()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, to start, stop and kill; ended after the test."""
    need_broker()
    broker = Broker(tmp_path / "own-kafka")
    try:
        yield broker
    finally:
        broker.kill()
