"""Poisoned messages in each topic that others may write to, on a real broker: the worker goes on, and a restart too."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.broker import free_port
from pipeline.config import load_config
from pipeline.config.kafka import Kafka
from pipeline.streaming.kafka import Log, publisher_of
from pipeline.streaming.raw.headers import RawMessage
from tests.integration.test_worker_web import MB, Process, catalogue
from tests.support.broker import SharedBroker, make_topic
from tests.support.hostile_messages import RAW, bad_commands, chunk, packed
from tests.support.progress import FOR_EVER_S, wait_until
from tests.support.weir_command import succeeded

PATIENT = ("--timeout", FOR_EVER_S)
CARDS = ("8988000000000000017", "8988000000000000025")


def weir(config: Path, *words: str) -> str:
    """The output of a command with a configuration, which must succeed."""
    return str(succeeded("--config", config, *words))


def usage(key: str, at: int = 0) -> bytes:
    """One MB of a card in the current cycle, because a worker shows this one, as a line of the feed `plain`."""
    return f"{key},data,{CARDS[at]},{MB},0,{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}".encode()


def produced(kafka: Kafka, *messages: tuple[str, int, RawMessage | bytes]) -> None:
    """Send messages to topics of the fleet."""

    async def send() -> None:
        async with publisher_of(kafka) as publisher:
            for topic, partition, one in messages:
                value, headers = (one, ()) if isinstance(one, bytes) else (one.value, one.headers)
                await (await publisher.send(f"{kafka.prefix}{topic}", partition, value, headers=headers))

    asyncio.run(send())


def used(worker: Process, at: int) -> int:
    """The MB that a card has used."""
    status, found = worker.card(CARDS[at])
    return sum(one["used"] for one in found["counters"]) // MB if status == 200 else -1


def metric(worker: Process, name: str) -> float:
    """The sum of a metric over its labels."""
    with urllib.request.urlopen(f"{worker.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(one.rpartition(" ")[2]) for one in lines if one.startswith((f"{name} ", f"{name}{{")))


def _wait(worker: Process, what: str, holds: Callable[[], bool]) -> None:
    wait_until(lambda: holds() or None, what, logs=[worker.log], runs=[worker.process])


def sendable(one: RawMessage) -> bool:
    """Whether the client sends it: it refuses headers that are no text with bytes, and what is too large."""
    return len(one.value) < 900_000 and all(isinstance(key, str) for key, _ in one.headers)


def test_poisoned_messages_do_not_stop_a_worker(kafka: SharedBroker, tmp_path: Path) -> None:
    """Good usage before, between and after them is rated; later commands hold; a restart comes up again."""
    config = _configuration(tmp_path, kafka.address)
    settings = load_config(config).kafka
    with Process(config, free_port()) as worker:
        _wait(worker, "a ready worker", lambda: worker.ask("/ready")[0] == 200)
        weir(config, "send", "apply", str(catalogue(tmp_path)), "--no-check-digits", "--as-of", "2026-11-01", *PATIENT)
        poison = [one for one in RAW.values() if sendable(one)]
        poison.append(RawMessage(b"x", (("feed", b"plain"), ("traceparent", None))))  # type: ignore[arg-type]
        poison += [packed([usage(f"o{n}")], b"%scommands 0" % settings.prefix.encode(), 10**17) for n in range(2)]
        produced(settings, *[("usage.raw", n % 2, one) for n, one in enumerate([*poison, *reversed(poison)])])
        produced(settings, *[("commands", 0, one) for one in bad_commands().values() if len(one) < 900_000])
        produced(
            settings, ("replies", 0, b"\xff"), ("replies", 0, json.dumps({"offset": 10**15, "accepted": True}).encode())
        )
        produced(settings, *[("usage.raw", n, chunk([usage(f"k{n}", n)], digest=b"d%d" % n)) for n in range(2)])
        _wait(worker, "usage of both cards", lambda: (used(worker, 0), used(worker, 1)) == (1, 1))
        assert worker.ask("/ready")[0] == 200
        assert metric(worker, "weir_unread_messages_total") > len(poison)
        assert metric(worker, "weir_quarantined_messages_total") == 0
    with Process(config, free_port()) as worker:
        _wait(worker, "a ready worker", lambda: worker.ask("/ready")[0] == 200)
        weir(config, "send", "tick", *PATIENT)  # accept goes on where it stopped, whatever the replies say
        produced(settings, *[("usage.raw", n, chunk([usage(f"l{n}", n)], digest=b"e%d" % n)) for n in range(2)])
        _wait(worker, "usage of both cards", lambda: (used(worker, 0), used(worker, 1)) == (2, 2))


@pytest.mark.parametrize("name", ["journal", "commands", "usage.raw"])
def test_a_topic_that_was_made_anew_stops_the_worker(kafka: SharedBroker, tmp_path: Path, name: str) -> None:
    """While it was away a topic was made anew and has grown: it exits with status 2 and names the topic."""
    config = _configuration(tmp_path, kafka.address)
    settings = load_config(config).kafka
    with Process(config, free_port()) as worker:
        _wait(worker, "a ready worker", lambda: worker.ask("/ready")[0] == 200)
        weir(config, "send", "apply", str(catalogue(tmp_path)), "--no-check-digits", "--as-of", "2026-11-01", *PATIENT)
        produced(settings, *[("usage.raw", n, chunk([usage(f"k{n}", n)])) for n in range(2)])
        _wait(worker, "usage of both cards", lambda: (used(worker, 0), used(worker, 1)) == (1, 1))
        asyncio.run(_settled(settings))
        worker.process.terminate()
        worker.process.wait()
    _made_anew(settings, name, 1 if name == "commands" else 2)
    with Process(config, free_port()) as worker:
        assert worker.process.wait() == 2
        assert any(
            f"{settings.prefix}{name}[" in one["message"] for one in worker.logged() if one["level"] == "critical"
        )


def test_partitions_that_are_added_stop_the_worker(kafka: SharedBroker, tmp_path: Path) -> None:
    """Their messages would be ignored: it exits with status 2 and says which number to configure."""
    from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

    config = _configuration(tmp_path, kafka.address)
    settings = load_config(config).kafka

    async def add() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.address)
        await admin.start()
        try:
            await admin.create_partitions({f"{settings.prefix}usage.raw": NewPartitions(3)})
        finally:
            await admin.close()

    with Process(config, free_port()) as worker:
        _wait(worker, "a ready worker", lambda: worker.ask("/ready")[0] == 200)
        asyncio.run(add())
        assert worker.process.wait() == 2
        (told,) = [one["message"] for one in worker.logged() if one["level"] == "critical"]
        assert "usage.raw: found 3 partitions" in told
        assert "raw_partitions = 3" in told


async def _settled(kafka: Kafka) -> None:
    """Wait until progress is saved, which happens once a second."""
    await asyncio.sleep(1.2)
    await Log(kafka).end_offset(f"{kafka.prefix}journal", 0)


def _made_anew(kafka: Kafka, name: str, partitions: int) -> None:
    from aiokafka.admin import AIOKafkaAdminClient

    topic = f"{kafka.prefix}{name}"

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.servers)
        await admin.start()
        try:
            await admin.delete_topics([topic])
            while not (await admin.describe_topics([topic]))[0]["error_code"]:
                await asyncio.sleep(0.1)
        finally:
            await admin.close()

    asyncio.run(delete())
    make_topic(str(kafka.servers), topic, partitions)


def _configuration(folder: Path, address: str) -> Path:
    name = f"t{uuid.uuid4().hex[:10]}"
    path = folder / "weir.toml"
    path.write_text(
        f'[kafka]\nservers = "{address}"\nprefix = "{name}."\npartitions = 2\nsession_timeout_s = 6\n'
        f'[worker]\napp = "{name}"\nhistory = "history"\ntick_s = 0\nland_every_s = 1\nlog_format = "json"\n'
        'origins = { "carrier.cdr" = 2 }\n[[worker.tokens]]\naccounts = "*"\ntoken_env = "WEIR_TEST_ALL"\n',
        encoding="utf-8",
    )
    return path
