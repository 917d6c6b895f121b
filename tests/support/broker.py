"""One real Kafka broker for all processes of a test run, and new topics for each test."""

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
    """The broker that tests share. A test that stops or kills a broker must start its own (fixture `own_broker`)."""

    def __init__(self, address: str) -> None:
        self.address = address

    def topic(self, partitions: int = 1, settings: Mapping[str, str] | None = None) -> str:
        """Create a topic with a unique name, and return the name."""
        name = f"test-{uuid.uuid4().hex}"
        make_topic(self.address, name, partitions, settings)
        return name


def make_topic(address: str, name: str, partitions: int = 1, settings: Mapping[str, str] | None = None) -> None:
    """Create the topic `name` with these Kafka topic settings. The broker does not create topics automatically."""
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
    """Skip the test if no broker can be started. In CI, the skip fails the run."""
    missing = lacking()
    if missing:
        pytest.skip(f"NO KAFKA TESTS: {missing}")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedBroker]:
    """Yield the running broker that all tests of this run share."""
    need_broker()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        with Broker(tmp_path_factory.mktemp("kafka")) as broker:
            yield SharedBroker(broker.address)
    else:
        yield SharedBroker(_address_of_the_run(tmp_path_factory.getbasetemp().parent / "kafka"))


_RUNS_ON: list[Broker] = []  # Keeps a broker alive that this process started for all processes of the run.


def _address_of_the_run(folder: Path) -> str:
    """Return the address of the run's broker.

    The first process that needs the broker starts it, and tests/support/guarded.py ends it with the run.
    """
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        address = folder / "address"
        if not address.exists():
            broker = Broker(folder / "broker")
            # The broker must outlive this process, so it gets the mark of the run but not of this process.
            patch.setenv(MARKS, os.environ[MARKS].replace(MINE.mark, ""))
            broker.start()
            _RUNS_ON.append(broker)
            address.write_text(broker.address)
        return address.read_text()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """Yield a broker, not started yet, that the test may start, stop and kill. It is killed after the test."""
    need_broker()
    broker = Broker(tmp_path / "own-kafka")
    try:
        yield broker
    finally:
        broker.kill()
