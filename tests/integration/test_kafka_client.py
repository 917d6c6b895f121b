"""Weir's Kafka client against a real broker: topics, reading, sending, and every way to be let in or refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from pipeline.broker import Broker, free_port, kafka_jars
from pipeline.broker.fetch import find_java
from pipeline.config import Kafka
from pipeline.streaming.kafka import Log, LogMessage, ensure_topics, publisher_of, publishing, reach
from pipeline.streaming.topics import Topics, layouts
from rating.errors import ConfigError, StorageError, WorldError
from tests.support.broker import SharedBroker, make_topic, need_broker
from tests.support.progress import completed

ROOT = Path(__file__).parents[2]

T = TypeVar("T")
HOST = "127.0.0.1"
LOGINS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine."""
    return asyncio.run(coroutine)


def config(address: str, **fields: Any) -> Kafka:
    """[kafka] with topics that no other test knows."""
    return Kafka(servers=address, prefix=f"t{uuid.uuid4().hex[:12]}.", **fields)


async def publish(kafka: Kafka, topic: str, values: list[bytes], partition: int = 0) -> list[int]:
    """Send values; their offsets."""
    async with publisher_of(kafka) as publisher:
        sent = [await publisher.send(topic, partition, value, headers=[("n", b"1")]) for value in values]
        return [await publisher.acknowledged(one) for one in sent]


async def read(kafka: Kafka, topic: str, start: int, end: int, partition: int = 0) -> list[LogMessage]:
    """A part of a partition."""
    return [message async for message in Log(kafka).read(topic, partition, start, end)]


def test_topics_are_made_once_with_what_they_keep(kafka: SharedBroker) -> None:
    """Missing topics are made with their partitions and settings; a second time there is nothing to do."""
    asked = config(kafka.address, partitions=3, raw_partitions=2)
    names = [layout.name for layout in layouts(asked)]
    assert run(ensure_topics(asked)) == names
    assert run(ensure_topics(asked)) == []
    topics = Topics(asked.prefix)

    async def settings() -> dict[str, dict[str, str]]:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.address)
        await admin.start()
        try:
            (found,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, one) for one in names])
            return {one[3]: {entry[0]: entry[1] for entry in one[4]} for one in found.resources}
        finally:
            await admin.close()

    kept = run(settings())
    assert [kept[name]["retention.ms"] for name in (topics.commands, topics.journal)] == ["-1", "-1"]
    assert {kept[name]["cleanup.policy"] for name in names if name != topics.status} == {"delete"}
    assert kept[topics.status]["cleanup.policy"] == "compact"
    assert {kept[name]["max.message.bytes"] for name in names} == {"1048588"}
    log = Log(asked)
    assert [len(run(log.end_offsets(name))) for name in names] == [2, 1, 3, 3, 3, 3, 3, 1, 1]


def test_workers_that_start_together_make_the_topics_together(kafka: SharedBroker) -> None:
    """Whoever comes second finds the topics of the first."""
    asked = config(kafka.address, partitions=2)

    async def both() -> list[list[str]]:
        return list(await asyncio.gather(ensure_topics(asked), ensure_topics(asked), ensure_topics(asked)))

    assert set().union(*run(both())) == {layout.name for layout in layouts(asked)}


def test_another_number_of_partitions_is_refused(kafka: SharedBroker) -> None:
    """The number never changes: the message says which field to set."""
    asked = config(kafka.address, partitions=4)
    make_topic(kafka.address, f"{asked.prefix}journal", partitions=3)
    said = rf"topic {asked.prefix}journal: found 3 partitions; \[kafka\] says 4: set partitions = 3"
    with pytest.raises(ConfigError, match=said):
        run(ensure_topics(asked))


def test_too_many_replicas_are_a_matter_of_configuration(kafka: SharedBroker) -> None:
    """The error for a request that the cluster cannot fulfil has the cluster's own message."""
    with pytest.raises(ConfigError, match=r"did not make topic .*replication is 3"):
        run(ensure_topics(config(kafka.address, replication=3)))


def test_what_was_sent_is_read_back(kafka: SharedBroker) -> None:
    """Offset, time, key, value and headers come back; a part of the partition; its ends and newest message."""
    asked = config(kafka.address)
    topic = kafka.topic(partitions=2)
    began_us = time.time_ns() // 1000
    assert run(publish(asked, topic, [b"%d" % n for n in range(20)], 1)) == list(range(20))
    messages = run(read(asked, topic, 5, 12, 1))
    assert [(one.offset, one.value) for one in messages] == [(n, b"%d" % n) for n in range(5, 12)]
    assert all(began_us - 1000 <= one.timestamp_us < began_us + 60_000_000 for one in messages)
    assert {(one.key, tuple(one.headers)) for one in messages} == {(None, (("n", b"1"),))}
    log = Log(asked)
    assert run(log.end_offsets(topic)) == [0, 20]
    assert run(read(asked, topic, 12, 12, 1)) == []
    last = run(log.last_message(topic, 1))
    assert last is not None
    assert (last.offset, last.value) == (19, b"19")
    assert run(log.last_message(topic, 0)) is None
    assert run(log.begin_since(topic, 1, began_us // 1000 + 3_600_000)) == (0, 20)
    assert run(log.begin_since(topic, 1, began_us // 1000 - 3_600_000)) == (0, 0)


def test_reading_without_an_end_goes_on(kafka: SharedBroker) -> None:
    """A message that comes while the reader waits is given to it."""
    asked = config(kafka.address)
    topic = kafka.topic()

    async def follow() -> bytes:
        reading = Log(asked).read(topic, 0, 0)
        coming = asyncio.ensure_future(anext(reading))
        await asyncio.sleep(0.3)
        await publish(asked, topic, [b"late"])
        value = (await coming).value
        await reading.aclose()
        return value

    assert run(follow()) == b"late"


def test_what_a_partition_no_longer_has_is_an_error(kafka: SharedBroker) -> None:
    """A reader that starts after the end gets an error, and never other messages."""
    topic = kafka.topic()
    asked = config(kafka.address)
    run(publish(asked, topic, [b"0"]))
    with pytest.raises(StorageError, match=rf"{topic}\[0\]: does not hold offset 7; expected everything"):
        run(read(asked, topic, 7, 9))


def test_a_topic_that_is_not_there(kafka: SharedBroker) -> None:
    """The error says that the topic is missing and which command creates it."""
    with pytest.raises(WorldError, match="a topic or partition is missing; start a worker"):
        run(Log(config(kafka.address)).end_offsets("never-made"))


def test_a_message_that_the_topic_does_not_take(kafka: SharedBroker) -> None:
    """If the topic's limit is below [kafka].limit_bytes, the error names the setting to change."""
    topic = kafka.topic(settings={"max.message.bytes": "1000"})
    with pytest.raises(ConfigError, match=r"set max\.message\.bytes of the topics to at least 1048588"):
        run(publish(config(kafka.address), topic, [os.urandom(5000)]))


def test_a_broker_that_is_away_is_told_in_time() -> None:
    """Nobody listens: after the patience the message names the address and what to do."""
    asked = config(f"{HOST}:{free_port()}")
    began_s = time.monotonic()
    with pytest.raises(WorldError, match=rf"Kafka at {asked.servers} does not answer.*`weir kafka`.*give the command"):
        run(reach(asked, patience_s=0.6))
    assert 0.6 <= time.monotonic() - began_s < 10


def test_a_broker_that_comes_later_is_waited_for(own_broker: Broker) -> None:
    """A client that starts before the broker gets in once it is there."""

    async def wait() -> None:
        waiting = asyncio.ensure_future(reach(config(own_broker.address), patience_s=3600))
        await asyncio.to_thread(own_broker.start)
        await waiting

    run(wait())


def test_a_broker_that_stops_answering(own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that hangs in mid-work ends reading and sending with an error, not for ever."""
    monkeypatch.setattr(publishing, "REQUEST_S", 2.0)
    own_broker.start()
    asked = config(own_broker.address)
    make_topic(own_broker.address, "journal")
    run(publish(asked, "journal", [b"0"]))

    async def hang() -> None:
        async with publisher_of(asked) as publisher:
            await publisher.acknowledged(await publisher.send("journal", 0, b"1"))
            os.kill(own_broker.pid, signal.SIGSTOP)
            await publisher.acknowledged(await publisher.send("journal", 0, b"2"))

    with pytest.raises(WorldError, match="does not answer"):
        run(hang())
    with pytest.raises(WorldError, match="does not answer"):
        run(reach(asked, patience_s=0))


@dataclass(frozen=True)
class Secure:
    """A broker with a listener for each way in, and the files of its certificates."""

    ports: dict[str, int]
    folder: Path

    def kafka(self, security: str, **fields: Any) -> Kafka:
        """[kafka] for one of the listeners."""
        listener = fields.pop("listener", security)
        return config(f"{HOST}:{self.ports[listener]}", security=security, **fields)


def openssl(folder: Path, *words: str) -> None:
    """Run openssl in a folder."""
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def certificates(folder: Path) -> None:
    """An authority, a certificate of the broker for 127.0.0.1, and one of a client with an encrypted key."""
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"]
    openssl(folder, *new, "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Authority")
    openssl(folder, *new, "-nodes", "-keyout", "other.key", "-out", "other.pem", "-subj", "/CN=Other")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", f"subjectAltName=IP:{HOST}"]
    openssl(folder, *new, *signed, "-nodes", "-keyout", "broker.key", "-out", "broker.crt", "-subj", "/CN=broker")
    key = ["-passout", "pass:hush", "-keyout", "client.key"]
    openssl(folder, *new, *signed, *key, "-out", "client.pem", "-subj", "/CN=weir")
    (folder / "broker.pem").write_text((folder / "broker.key").read_text() + (folder / "broker.crt").read_text())


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """A running broker that takes passwords, plain and SCRAM, and TLS with and without a client's certificate."""
    need_broker()
    if shutil.which("openssl") is None:
        pytest.skip("NO TESTS OF TLS: no `openssl` on the PATH, to make certificates with")
    folder = tmp_path_factory.mktemp("secure")
    certificates(folder)
    broker = Broker(folder / "kafka")
    kinds = {"sasl": "SASL_PLAINTEXT", "tls": "SSL", "mutual": "SSL", "sasl_tls": "SASL_SSL"}
    ports = {name: free_port(broker.port) for name in kinds}
    plain = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_weir="pass word";'
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    inner = f"PLAINTEXT://{broker.address},CONTROLLER://{HOST}:{free_port(broker.port)}"
    outer = ",".join(f"{name.upper()}://{HOST}:{port}" for name, port in ports.items())
    settings = {
        "listeners": f"{inner},{outer}",
        "controller.quorum.voters": f"1@{inner.rpartition('//')[2]}",
        "advertised.listeners": f"PLAINTEXT://{broker.address},{outer}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,"
        + ",".join(f"{name.upper()}:{kind}" for name, kind in kinds.items()),
        "sasl.enabled.mechanisms": ",".join(LOGINS),
        "listener.name.mutual.ssl.client.auth": "required",
    }
    for listener in ("sasl", "sasl_tls"):
        settings[f"listener.name.{listener}.plain.sasl.jaas.config"] = plain
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            settings[f"listener.name.{listener}.{mechanism}.sasl.jaas.config"] = scram
    for listener in ("tls", "mutual", "sasl_tls"):
        settings |= {
            f"listener.name.{listener}.ssl.keystore.type": "PEM",
            f"listener.name.{listener}.ssl.keystore.location": str(folder / "broker.pem"),
            f"listener.name.{listener}.ssl.truststore.type": "PEM",
            f"listener.name.{listener}.ssl.truststore.location": str(folder / "ca.pem"),
        }
    with Broker(broker.directory, broker.port, settings) as running:
        for mechanism in LOGINS[1:]:  # the tool changes one at a time
            add_scram_user(running, mechanism)
        yield Secure(ports, folder)


def add_scram_user(broker: Broker, mechanism: str) -> None:
    """Let the broker know user `weir` by SCRAM, as an operator does with Kafka's own tool."""
    done = completed(
        [
            find_java(), "-cp", os.pathsep.join(map(str, kafka_jars())), "kafka.admin.ConfigCommand",
            "--bootstrap-server", broker.address, "--alter", "--entity-type", "users", "--entity-name", "weir",
            "--add-config", f"{mechanism}=[password=pass word]",
        ]
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of user weir in an environment variable, and another in a second one."""
    monkeypatch.setenv("RIGHT", "pass word")
    monkeypatch.setenv("WRONG", "guessed")


def goes_round(kafka: Kafka) -> None:
    """Topics are made, a message is sent and read: by administration, producer and consumer."""

    async def there_and_back() -> None:
        await ensure_topics(kafka)
        topic = Topics(kafka.prefix).commands
        await publish(kafka, topic, [b"x"])
        assert [one.value for one in await read(kafka, topic, 0, 1)] == [b"x"]

    run(there_and_back())


@pytest.mark.parametrize("mechanism", LOGINS)
@pytest.mark.parametrize("security", ["sasl", "sasl_tls"])
def test_user_and_password(secure: Secure, password: None, security: str, mechanism: str) -> None:
    """Each mechanism works, in the clear on this machine and encrypted."""
    ca_file = str(secure.folder / "ca.pem") if security == "sasl_tls" else None
    fields = {"user": "weir", "mechanism": mechanism, "ca_file": ca_file}
    goes_round(secure.kafka(security, password_env="RIGHT", **fields))
    with pytest.raises(ConfigError, match=rf"refused user 'weir'.*check user, password and mechanism \({mechanism}"):
        run(reach(secure.kafka(security, password_env="WRONG", **fields)))


@pytest.mark.parametrize("mechanism", LOGINS)
def test_a_debug_log_shows_no_password(secure: Secure, password: None, mechanism: str) -> None:
    """It shows what the client does, but neither the password nor the request that carries it or its proof."""
    code = (
        "import asyncio, sys\n"
        "from pipeline.config import Kafka\n"
        "from pipeline.streaming.kafka import ensure_topics\n"
        "from pipeline.streaming.worker.logs import configure\n"
        "configure('debug', 'text')\n"
        "kafka = Kafka(servers=sys.argv[1], security='sasl', mechanism=sys.argv[2], "
        "user='weir', password_env='RIGHT')\n"
        "asyncio.run(ensure_topics(kafka))\n"
    )
    kafka = secure.kafka("sasl", password_env="RIGHT", user="weir", mechanism=mechanism)
    done = completed([sys.executable, "-c", code, kafka.addresses[0], mechanism], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert " debug " in done.stderr
    for secret in ("pass word", "SaslAuthenticate", "n,,n=weir"):
        assert secret not in done.stderr


def test_tls_with_and_without_a_certificate_of_the_client(secure: Secure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker's certificate is checked; where it wants one of the client, the encrypted key is opened."""
    monkeypatch.setenv("KEY", "hush")
    ca_file = str(secure.folder / "ca.pem")
    goes_round(secure.kafka("tls", ca_file=ca_file))
    own = {"cert_file": str(secure.folder / "client.pem"), "key_file": str(secure.folder / "client.key")}
    goes_round(secure.kafka("tls", listener="mutual", ca_file=ca_file, key_password_env="KEY", **own))
    with pytest.raises((WorldError, ConfigError), match=r"cert_file|security"):
        run(reach(secure.kafka("tls", listener="mutual", ca_file=ca_file), patience_s=0))
    monkeypatch.setenv("KEY", "wrong")
    with pytest.raises(ConfigError, match=r"cert_file: .*client\.pem with .*client\.key: cannot be used"):
        run(reach(secure.kafka("tls", listener="mutual", ca_file=ca_file, key_password_env="KEY", **own)))
    with pytest.raises(ConfigError, match=r"cert_file: .*cannot be used"):  # no password: asks nobody
        run(reach(secure.kafka("tls", listener="mutual", ca_file=ca_file, **own)))


def test_a_certificate_of_an_unknown_authority_is_refused(secure: Secure) -> None:
    """Neither the system's authorities nor an unrelated one verify the broker's certificate."""
    for ca_file in (None, str(secure.folder / "other.pem")):
        with pytest.raises(ConfigError, match=r"shows a certificate that does not hold.*check ca_file"):
            run(reach(secure.kafka("tls", ca_file=ca_file)))
    with pytest.raises(ConfigError, match=r"ca_file: .*none\.pem: cannot be used"):
        run(reach(secure.kafka("tls", ca_file=str(secure.folder / "none.pem"))))


def test_the_wrong_kind_of_port(secure: Secure, kafka: SharedBroker, password: None) -> None:
    """TLS to a port without, and no TLS to one with it, point at `security`."""
    with pytest.raises((ConfigError, WorldError), match="security"):
        run(reach(config(kafka.address, security="tls"), patience_s=0))
    with pytest.raises(WorldError, match="security"):
        run(reach(secure.kafka("plain", listener="tls"), patience_s=0))
    with pytest.raises((ConfigError, WorldError), match=r"mechanism|security"):
        run(reach(config(kafka.address, security="sasl", user="weir", password_env="RIGHT"), patience_s=0))
