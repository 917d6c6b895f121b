"""compose.yaml: its configuration holds, its parts name each other rightly, and a real broker takes its settings."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from jobs.cli.worker import require_address
from pipeline.broker import Broker, free_port
from pipeline.broker.pins import KAFKA_VERSION
from pipeline.config import Config, load_config
from pipeline.config.table import host_and_port
from pipeline.streaming.worker.http import bearers, own_url
from tests.support.broker import need_broker

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = COMPOSE["services"]
WORKERS = [name for name, service in SERVICES.items() if service.get("command") == ["worker"]]
TOKEN = "0123456789abcdef0123456789abcdef"


def configuration(worker: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    """What a worker reads: its file, and its environment over it."""
    environment = SERVICES[worker]["environment"]
    for name, value in environment.items():
        asked = re.fullmatch(r"\$\{(\w+):\?[^}]+\}", value)
        assert asked is None or asked[1] == name
        monkeypatch.setenv(name, TOKEN if asked else value)
    sources = dict(reversed(volume.split(":")[:2]) for volume in SERVICES[worker]["volumes"])
    return load_config(ROOT / sources[environment["WEIR_CONFIG"]])


def test_images_have_tags_and_no_registry() -> None:
    """Each image is of a version, and named without an address; the broker is of the version that tests run."""
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert all(re.fullmatch(r"[a-z0-9-]+(/[a-z0-9-]+)?:[0-9][0-9.]*", image) for image in images.values()), images
    assert images["kafka"] == f"apache/kafka:{KAFKA_VERSION}"
    full, slim = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.[0-9]+", full)
    assert slim == f"{full}-slim"  # the same Python at the same path


def test_the_workers_configuration_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their file is one that weir takes, and it names the services, ports and volumes of this compose.yaml."""
    assert len(WORKERS) == 2
    published = set()
    for worker in WORKERS:
        service, config = SERVICES[worker], configuration(worker, monkeypatch)
        require_address(config)
        assert bearers(config.worker.tokens)[0].token == TOKEN.encode()
        assert (service["restart"], config.worker.log_format) == ("always", "json")
        (broker,) = config.kafka.addresses
        assert broker == SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].removeprefix("PLAINTEXT://")
        assert host_and_port(broker) == ("kafka", 9092)
        assert config.clickhouse.url == "http://clickhouse:8123"
        assert config.worker.clickhouse
        port = config.worker.web_port
        assert own_url(config.worker) == f"http://{worker}:{port}"
        assert f"127.0.0.1:{port}/health" in service["healthcheck"]["test"][-1]
        ((address, outer, inner),) = (one.split(":") for one in service["ports"])
        assert (address, int(inner)) == ("127.0.0.1", port)
        published.add(outer)
        assert f"history:{config.worker.history}" in service["volumes"]
        assert set(service["networks"]) > set(SERVICES["kafka"]["networks"])
        assert config.kafka.replication == 1
        monkeypatch.undo()
    assert len(published) == len(WORKERS)


def test_every_variable_of_the_workers_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable for [worker] or [kafka] is a field of it, and its value arrives."""
    for worker in WORKERS:
        config = configuration(worker, monkeypatch)
        for name, value in SERVICES[worker]["environment"].items():
            for part in ("worker", "kafka"):
                if name.startswith(f"WEIR_{part.upper()}_"):
                    field = name.removeprefix(f"WEIR_{part.upper()}_").lower()
                    assert str(msgspec.structs.asdict(getattr(config, part))[field]) == value


def test_volumes_and_files_are_there() -> None:
    """Each volume is declared, each file that is mounted is in the repository."""
    used = set()
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
            else:
                used.add(source)
        assert set(service["networks"]) <= set(COMPOSE["networks"])
    assert used == set(COMPOSE["volumes"])
    for service in ("kafka", "clickhouse"):
        assert "ports" not in SERVICES[service]


def test_the_image_copies_what_is_there() -> None:
    """What the Dockerfile copies is in the repository, and .dockerignore lets it through and nothing else."""
    copied = re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {one for line in copied for one in line.split()}
    assert {"setup.py", "schemas", "rating", "pipeline", "jobs", "examples"} < sources
    assert [] == [one for one in sources if not (ROOT / one).exists()]
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    assert sources == {line.removeprefix("!") for line in lines if line.startswith("!")}


def test_the_image_has_pinned_packages_without_test_tools() -> None:
    """Every install is by hashes, or offline and of Weir alone; the sets are those of the tools and of a worker."""
    steps = re.sub(r"\\\n\s*", "", DOCKERFILE)
    installs = re.findall(r"pip install ([^&\n]*)", steps)
    assert len(installs) == 3
    assert all("--require-hashes" in one or {"--offline", "--no-deps"} <= set(one.split()) for one in installs)
    assert ["requirements-setup.txt", "requirements-streaming.txt"] == re.findall(r"--requirement (\S+)", steps)
    assert re.search(r"^USER weir$", steps, re.MULTILINE)


def test_a_broker_takes_the_settings(tmp_path: Path) -> None:
    """The pinned broker starts with them, on this machine's addresses, and says that they are in force."""
    need_broker()
    given = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in SERVICES["kafka"]["environment"].items()
        if name.startswith("KAFKA_")
    }
    port, controller = free_port(), free_port()
    here = {
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "log.dirs": str(tmp_path / "kafka" / "data"),
    }
    assert [re.sub(r"//[^:,]*:\d+|@\w+:\d+", "", given[name]) for name in list(here)[:3]] == [
        re.sub(r"//[^:,]*:\d+|@[\d.]+:\d+", "", here[name]) for name in list(here)[:3]
    ]
    with Broker(tmp_path / "kafka", port, given | here) as broker:

        async def in_force() -> dict[str, str]:
            admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
            await admin.start()
            try:
                (found,) = await admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")])
                return {entry[0]: entry[1] for entry in found.resources[0][4]}
            finally:
                await admin.close()

        found = asyncio.run(in_force())
    assert {name: found.get(name) for name in given} == given | here
