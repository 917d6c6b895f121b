"""`weir send` against a real broker and a worker's registry: what is sent, accepted and refused."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from pipeline.config import Kafka
from pipeline.journal.entries import Apply, Commands, Tick
from pipeline.journal.messages import read_message
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.kafka import Log, ensure_topics, publisher_of
from pipeline.streaming.topics import Topics
from tests.support.broker import SharedBroker
from tests.support.progress import FOR_EVER_S, completed
from tests.support.weir_command import WEIR

AT = "2026-10-02T00:00:00Z"
AT_US = 1_790_899_200_000_000
ACCOUNTS = """
[[accounts]]
id = "root"
time_zone = "UTC"
"""


class Scene:
    """A folder to run `weir send` in, with topics of its own."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.kafka = Kafka(servers=address, prefix=f"s{uuid.uuid4().hex[:12]}.", partitions=2)
        self.topics = Topics(self.kafka.prefix)
        self.environment = os.environ | {
            "WEIR_KAFKA_SERVERS": address,
            "WEIR_KAFKA_PREFIX": self.kafka.prefix,
            "WEIR_KAFKA_PARTITIONS": "2",
        }

    def send(self, *words: str, timeout_s: str = FOR_EVER_S, status: int = 0) -> str:
        """Run `weir send`; what it said, on standard error if it fails."""
        command = [WEIR, "send", *words, "--timeout", timeout_s]
        done = completed(command, cwd=self.folder, env=self.environment)
        assert done.returncode == status, done.stdout + done.stderr
        return str(done.stderr if status else done.stdout)

    def entries(self) -> list[Apply | Commands | Tick]:
        """What the topic of commands holds."""

        async def read() -> list[Apply | Commands | Tick]:
            log = Log(self.kafka)
            end = await log.end_offset(self.topics.commands, 0)
            held = log.read(self.topics.commands, 0, 0, end)
            return [read_message(one.value, str(one.offset)).entry() async for one in held]  # type: ignore[misc]

        return asyncio.run(read())

    @contextmanager
    def worker(self) -> Iterator[None]:
        """A registry that takes what comes and replies, as `accept` does."""
        stop = threading.Event()

        async def follow() -> None:
            await ensure_topics(self.kafka)
            log, registry = Log(self.kafka), Registry(self.kafka.partitions)
            async with publisher_of(self.kafka) as publisher:
                while not stop.is_set():
                    end = await log.end_offset(self.topics.commands, 0)
                    async for one in log.read(self.topics.commands, 0, registry.next_offset, end):
                        refused = registry.take(one.offset, one.value)
                        reply = {"offset": one.offset, "accepted": refused is None, "message": refused or ""}
                        for _ in range(2):  # a reply may come twice
                            sent = await publisher.send(self.topics.replies, 0, msgspec.json.encode(reply))
                            await publisher.acknowledged(sent)

        thread = threading.Thread(target=lambda: asyncio.run(follow()))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def scene(kafka: SharedBroker, tmp_path: Path) -> Scene:
    """A folder and topics."""
    return Scene(tmp_path, kafka.address)


def test_a_tick_without_waiting(scene: Scene) -> None:
    """--no-wait writes the tick to the topic with its time, and prints its offset."""
    assert scene.send("tick", "--no-wait", "--as-of", AT) == "sent: a tick, offset 0\n"
    told = json.loads(scene.send("tick", "--no-wait", "--json"))
    assert told == {"accepted": None, "offsets": [1]}
    first, second = scene.entries()
    assert first == Tick(AT_US)
    assert isinstance(second, Tick)
    assert second.now_us > AT_US


def test_no_worker_replies(scene: Scene) -> None:
    """After the timeout it says that the message stays and must not be sent again; status 3."""
    said = scene.send("tick", timeout_s="1", status=3)
    assert "commands[0]@0 within 1 s; look whether a worker runs: the message stays" in " ".join(said.split())
    assert len(scene.entries()) == 1


def test_catalogues_rules_and_commands(scene: Scene) -> None:
    """The output says what a worker accepts. A rejection has a reason and status 2. Files see earlier files."""
    (scene.folder / "accounts.toml").write_text(ACCOUNTS)
    (scene.folder / "acme.toml").write_text('[[accounts]]\nid = "acme"\nparent = "root"\n')
    (scene.folder / "commands.ndjson").write_text('{"type": "activate", "rule": "none"}\n')
    with scene.worker():
        said = scene.send("apply", "acme.toml", status=2)
        assert 'acme.toml:3: accounts.acme.parent: found "root"' in said
        assert scene.entries() == []  # found here, and not sent
        assert scene.send("apply", "accounts.toml", "--as-of", AT) == "accepted: a catalogue, offset 0\n"
        assert json.loads(scene.send("apply", "acme.toml", "--json")) == {"accepted": True, "offsets": [1]}
        assert "none" in scene.send("activate", "none", status=2)
        assert "none" in scene.send("command", "commands.ndjson", status=2)
        assert scene.send("tick").startswith("accepted: a tick, offset ")
    first, second, *others = scene.entries()
    assert isinstance(first, Apply)
    assert isinstance(second, Apply)
    assert (first.at_us, [one.id for one in first.catalogue.accounts]) == (AT_US, ["root"])
    assert [one.id for one in second.catalogue.accounts] == ["acme"]
    assert {type(one) for one in others} == {Commands, Tick}


def test_a_large_catalogue_goes_in_several_messages_in_order(scene: Scene) -> None:
    """Each part is accepted before the next is sent, and together they are the catalogue."""
    accounts = "".join(f'[[accounts]]\nid = "{uuid.UUID(int=n**9)}"\nparent = "root"\n' for n in range(1, 2_500))
    (scene.folder / "many.toml").write_text(ACCOUNTS + accounts)
    scene.environment["WEIR_KAFKA_LIMIT_BYTES"] = "50000"
    with scene.worker():
        offsets = json.loads(scene.send("apply", "many.toml", "--json"))["offsets"]
    entries = scene.entries()
    assert offsets == list(range(len(entries)))
    assert len(entries) > 1
    sent = [account.id for entry in entries if isinstance(entry, Apply) for account in entry.catalogue.accounts]
    assert sent == ["root", *(str(uuid.UUID(int=n**9)) for n in range(1, 2_500))]
