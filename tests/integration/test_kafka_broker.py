"""The broker that tests and users start: it keeps acknowledged messages, stops on request, and names missing tools."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import UnknownTopicOrPartitionError

from pipeline.broker import Broker, fetch, kafka_jars, pins
from pipeline.broker.server import HOST, free_port
from rating.errors import WorldError
from tests.support.broker import SharedBroker, make_topic, need_broker
from tests.support.progress import communicated, completed, wait_until
from tests.support.weir_command import WEIR


async def produce(address: str, topic: str, values: list[bytes]) -> None:
    """Append `values` to the topic; each is acknowledged when this returns."""
    async with AIOKafkaProducer(bootstrap_servers=address, acks="all", enable_idempotence=True) as producer:
        for acknowledged in [await producer.send(topic, value) for value in values]:
            await acknowledged


async def consume(address: str, topic: str, count: int, group: str | None = None) -> list[bytes]:
    """The first `count` values of the topic; with a group, from where the group stands, and then committed."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=address,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    values: list[bytes] = []
    async with consumer:
        while len(values) < count:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                values += [record.value for record in records]
        if group is not None:
            await consumer.commit()
    return values


def numbered(start: int, stop: int) -> list[bytes]:
    """Values that tell their place."""
    return [b"%d" % number for number in range(start, stop)]


def runs(pid: int) -> bool:
    """Whether a process of this number is there."""
    return Path("/proc", str(pid)).exists()


def test_produce_and_consume(kafka: SharedBroker) -> None:
    """What was produced comes back in order, and a group goes on where it stood."""
    topic = kafka.topic()
    asyncio.run(produce(kafka.address, topic, numbered(0, 500)))
    assert asyncio.run(consume(kafka.address, topic, 500, group=topic)) == numbered(0, 500)
    asyncio.run(produce(kafka.address, topic, numbered(500, 600)))
    assert asyncio.run(consume(kafka.address, topic, 100, group=topic)) == numbered(500, 600)


def test_transactions(kafka: SharedBroker) -> None:
    """The one node serves transactions: what was aborted is not read."""
    topic = kafka.topic()

    async def write() -> None:
        async with AIOKafkaProducer(bootstrap_servers=kafka.address, transactional_id=topic) as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"dropped")
            await producer.abort_transaction()
            async with producer.transaction():
                await producer.send_and_wait(topic, b"kept")

    asyncio.run(write())
    assert asyncio.run(consume(kafka.address, topic, 1)) == [b"kept"]


def test_topics_have_the_partitions_asked_for_and_none_is_made_by_itself(kafka: SharedBroker) -> None:
    """A name that nobody made stays unknown; a made topic has its partitions."""
    topic = kafka.topic(partitions=3)

    async def described(*names: str) -> list[tuple[int, int]]:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.address)
        await admin.start()
        try:
            return [(found["error_code"], len(found["partitions"])) for found in await admin.describe_topics(names)]
        finally:
            await admin.close()

    assert asyncio.run(described(topic)) == [(0, 3)]
    assert asyncio.run(described(f"{topic}-misspelt")) == [(UnknownTopicOrPartitionError.errno, 0)]


def test_kill_and_restart_keep_what_was_acknowledged(own_broker: Broker) -> None:
    """After kill -9 the same address serves the same messages from the same directory, and takes more."""
    own_broker.start()
    address = own_broker.address
    make_topic(address, "journal")
    for round_ in range(2):
        asyncio.run(produce(address, "journal", numbered(round_ * 100, round_ * 100 + 100)))
        killed = own_broker.pid
        os.kill(killed, signal.SIGKILL)
        own_broker.kill()
        own_broker.start()
        assert own_broker.address == address
        assert own_broker.pid != killed
    assert asyncio.run(consume(address, "journal", 200)) == numbered(0, 200)


def test_stop_leaves_no_process_and_keeps_topics(own_broker: Broker) -> None:
    """A broker that was stopped is gone with its port, can be stopped again, and starts with its topics."""
    with own_broker:
        pid = own_broker.pid
        make_topic(own_broker.address, "journal")
        asyncio.run(produce(own_broker.address, "journal", [b"kept"]))
        with pytest.raises(WorldError, match=f"runs already, as process {pid}"):
            own_broker.start()
    assert not runs(pid)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, own_broker.port))
    with pytest.raises(WorldError, match="not running"):
        _ = own_broker.pid
    own_broker.stop()
    with Broker(own_broker.directory) as elsewhere:
        assert asyncio.run(consume(elsewhere.address, "journal", 1)) == [b"kept"]


def test_a_stopped_process_is_killed(own_broker: Broker) -> None:
    """A broker that cannot react to the request to stop is killed when the limit has passed."""
    own_broker.start()
    pid = own_broker.pid
    os.kill(pid, signal.SIGSTOP)
    began_s = time.monotonic()
    own_broker.stop(limit_s=0.5)
    assert time.monotonic() - began_s >= 0.5
    assert not runs(pid)


def test_the_port_is_taken(own_broker: Broker) -> None:
    """A port where somebody listens is refused before anything starts."""
    with socket.create_server((HOST, own_broker.port)), pytest.raises(WorldError) as raised:
        own_broker.start()
    assert str(raised.value) == (
        f"127.0.0.1:{own_broker.port}: another process listens there; stop it, or choose another port"
    )
    assert not own_broker.log.exists()


def test_a_broker_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    """A setting that Kafka refuses, and a directory in use, fail with the end of the log and leave no process."""
    need_broker()
    refused = Broker(tmp_path / "refused", settings={"num.io.threads": "0"})
    with pytest.raises(WorldError, match=r"(?s)could not format.*ends:.*num\.io\.threads"):
        refused.start()
    with (
        Broker(tmp_path / "used") as holder,
        pytest.raises(WorldError, match=r"(?s)another broker runs on .*used: stop it"),
    ):
        Broker(holder.directory).start()


def test_a_broker_that_does_not_answer_in_time(own_broker: Broker) -> None:
    """The limit of a start ends it, with a message, and no process stays."""
    with pytest.raises(WorldError, match="did not answer within 0 s"):
        own_broker.start(limit_s=0)
    with pytest.raises(WorldError, match="not running"):
        _ = own_broker.pid


def test_a_half_formatted_directory_is_formatted_again(own_broker: Broker) -> None:
    """A start that was killed while it formatted does not spoil the directory."""
    data = own_broker.directory / "data"
    data.mkdir(parents=True)
    (data / "bootstrap.checkpoint").touch()
    with own_broker:
        make_topic(own_broker.address, "journal")


def test_no_java(own_broker: Broker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no Java is found the message says which to install and how to name one."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorldError, match=r"no `java` on the PATH.*17 or later.*openjdk-17-jre-headless.*JAVA_HOME"):
        own_broker.start()
    assert "no `java`" in fetch.lacking()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(WorldError, match=rf"JAVA_HOME={tmp_path}: no bin/java in it"):
        own_broker.start()


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own with a copy of all jars; the directory of the jars."""
    need_broker()
    jars = kafka_jars()
    home = tmp_path / "cache" / "kafka" / pins.KAFKA_VERSION
    shutil.copytree(jars[0].parent, home, copy_function=os.link)
    monkeypatch.setenv("WEIR_CACHE", str(tmp_path / "cache"))
    return home


def test_a_full_cache_needs_no_maven(cached: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With every jar in the cache nothing is fetched; with one missing or changed, the message names Maven."""
    java = fetch.find_java()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to(java)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert [jar.parent for jar in kafka_jars()] == [cached] * len(pins.JARS)
    assert fetch.lacking() == ""
    changed = cached / f"kafka-clients-{pins.KAFKA_VERSION}.jar"
    content = changed.read_bytes()
    changed.unlink()
    changed.write_bytes(content[:-1])
    with pytest.raises(WorldError, match=r"no `mvn` on the PATH.*Debian: maven"):
        kafka_jars()
    assert "no `mvn`" in fetch.lacking()


def fake_maven(directory: Path, script: str) -> None:
    """Put an `mvn` of a few shell lines into `directory`."""
    directory.mkdir()
    maven = directory / "mvn"
    maven.write_text(f"#!/bin/sh\n{script}\n")
    maven.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        pytest.param("echo '[ERROR] no such host'; exit 1", "could not fetch.*exit status 1.*no such host", id="fails"),
        pytest.param(
            'for word; do case $word in -Dout*) mkdir "${word#*=}"; echo x >"${word#*=}/lz4.jar";; esac; done',
            "handed out other files.*kafka-clients.*pinned",
            id="other-files",
        ),
    ],
)
def test_a_fetch_that_fails_leaves_nothing(
    script: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If Maven fails, or its files have another digest, an error says so and the cache stays empty."""
    fake_maven(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("WEIR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WorldError, match=f"(?s){says}"):
        kafka_jars()
    assert [path.name for path in (tmp_path / "cache" / "kafka").iterdir()] == ["lock"]


def test_a_killed_fetch_is_taken_up_by_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """kill -9 in mid-fetch leaves a part that is never used, and that the next fetch removes."""
    fake_maven(tmp_path / "bin", "sleep 60")
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "WEIR_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "pipeline.broker.fetch"]
    working = Path(fetch.__file__).parents[2]
    fetching = subprocess.Popen(command, env=environment, cwd=working, start_new_session=True)
    cache = tmp_path / "kafka"
    wait_until(lambda: list(cache.glob("*.part/pom.xml")) != [], "a started fetch", runs=[fetching], pause_s=0.01)
    os.killpg(fetching.pid, signal.SIGKILL)
    fetching.wait()
    assert not (cache / pins.KAFKA_VERSION).exists()
    (tmp_path / "bin" / "mvn").write_text("#!/bin/sh\nexit 1\n")
    done = completed(command, env=environment, cwd=working)
    assert done.returncode == 1
    assert "exit status 1" in done.stderr
    assert [path.name for path in cache.iterdir()] == ["lock"]


@pytest.fixture
def command() -> list[str]:
    """`weir kafka` at a free port; whatever it was started with must have ended by itself."""
    need_broker()
    kafka_jars()
    return [WEIR, "kafka", "--port", str(free_port())]


@contextmanager
def started(command: list[str], **environment: str) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """A running `weir kafka`, the first line that it printed and the process of its broker; both are ended after."""
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it would be inherited as ignored from a nohup
    try:
        weir = subprocess.Popen(
            command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGHUP, hang_up)
    assert weir.stdout is not None
    said = weir.stdout.readline()
    process = re.search(r"\(process (\d+)\)", said)
    broker_pid = int(process[1]) if process else 0
    try:
        assert process, communicated(weir)
        assert weir.stdout.readline() == "Ctrl-C stops it.\n"
        yield weir, said, broker_pid
    finally:
        weir.kill()
        weir.communicate()
        if broker_pid and runs(broker_pid):
            os.kill(broker_pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_weir_kafka_runs_until_it_is_told_to_stop(command: list[str], number: signal.Signals, tmp_path: Path) -> None:
    """It prints the address, serves, and ends its broker on Ctrl-C and the signals of services and terminals."""
    topics, scratch = tmp_path / "topics", tmp_path / "scratch"
    scratch.mkdir()
    ephemeral = number == signal.SIGTERM
    command += ["--ephemeral"] if ephemeral else ["--dir", str(topics)]
    with started(command, TMPDIR=str(scratch)) as (weir, said, broker_pid):
        address = f"127.0.0.1:{command[3]}"
        kept = "removed when it stops" if ephemeral else f"kept in {topics}"
        assert said == f"Kafka answers at {address} (process {broker_pid}); topics are {kept}\n"
        make_topic(address, "journal")
        weir.send_signal(number)
        rest, errors = communicated(weir)
        assert (weir.returncode, rest) == (0, "stopped\n"), errors
        assert not runs(broker_pid)
    assert list(scratch.iterdir()) == []
    assert (topics / "data" / "journal-0").is_dir() != ephemeral


def test_weir_kafka_says_why_it_ended(command: list[str], tmp_path: Path) -> None:
    """A broker that dies under it, a port in use and contradicting options end it with a message and a status."""
    command += ["--dir", str(tmp_path / "topics")]
    with started(command) as (weir, _, broker_pid):
        again = completed(command)
        assert again.returncode == 3
        assert "another process listens there" in again.stderr
        os.kill(broker_pid, signal.SIGKILL)
        _, errors = communicated(weir)
        assert weir.returncode == 3
        assert "ended with status -9; look at the end of its log" in errors
    both = completed([*command, "--ephemeral"])
    assert both.returncode == 2
    assert "expected one of them: topics are kept or removed" in both.stderr
