"""Workers as processes on a real broker: live state from any worker, tokens, readiness, metrics, logs, shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.broker import free_port
from pipeline.config import load_config
from pipeline.journal.router import Router
from pipeline.streaming.kafka import ensure_topics
from tests.support.broker import SharedBroker
from tests.support.progress import FOR_EVER_S, ended, wait_until
from tests.support.weir_command import WEIR, succeeded

ROOT = Path(__file__).parents[2]
TOKENS = {"WEIR_TEST_ALL": "all-accounts-1c9", "WEIR_TEST_ONE": "one-account-77a"}
MB = 1 << 20


def accounts() -> tuple[str, str]:
    """Two accounts that live in different partitions of two."""
    names = [f"acme{number}" for number in range(20)]
    partition = Router(2).of_accounts(pl.Series(names)).tolist()
    return names[partition.index(0)], names[partition.index(1)]


def configuration(folder: Path, address: str, **changed: Any) -> Path:
    """A configuration of a cluster that no other test knows."""
    name = f"t{uuid.uuid4().hex[:10]}"
    kafka = {"servers": address, "prefix": f"{name}.", "partitions": 2, "session_timeout_s": 6} | changed
    path = folder / "weir.toml"
    lines = ["[kafka]", *(f"{field} = {json.dumps(value)}" for field, value in kafka.items())]
    lines += ["[worker]", f'app = "{name}"', 'history = "history"', "tick_s = 0", "land_every_s = 1"]
    lines += ['log_format = "json"', "[[worker.tokens]]", 'accounts = "*"', 'token_env = "WEIR_TEST_ALL"']
    lines += ["[[worker.tokens]]", f'accounts = ["{accounts()[1]}"]', 'token_env = "WEIR_TEST_ONE"']
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Process:
    """A worker as a process, with what it logs in a file."""

    def __init__(self, config: Path, port: int, **environment: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = config.with_name(f"{port}.log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [WEIR, "--config", str(config), "worker", "--web-port", str(port)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | TOKENS | environment,
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def ask(self, path: str, token: str | None = None) -> tuple[int, Any]:
        """Status and JSON of an answer; (0, None) where nobody listens."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers)) as answer:
                body = answer.read()
                return answer.status, json.loads(body) if body.startswith(b"{") else body.decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        except OSError:
            return 0, None

    def card(self, iccid: str, token: str = TOKENS["WEIR_TEST_ALL"]) -> tuple[int, Any]:
        """The answer about a card."""
        return self.ask(f"/cards/{iccid}", token)

    def logged(self) -> list[dict[str, Any]]:
        """The lines of its log, each a JSON object."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


def catalogue(folder: Path) -> Path:
    """A plan, two accounts of different partitions, each with a card, and a pool of the first."""
    one, two = accounts()
    path = folder / "catalogue.toml"
    path.write_text(
        f"""
        [[accounts]]
        id = "{one}"
        [[accounts]]
        id = "{two}"
        [[plans]]
        id = "p"
        currency = "EUR"
        type = "dynamic"
        [[plans.versions]]
        version = 1
        effective = 2020-01-01
        [[plans.versions.rates]]
        service = "data"
        allowance = "1 MB"
        price = {{ model = "flat", price = "0.5", per = "1 MB" }}
        [[pools]]
        id = "shared"
        account = "{one}"
        kind = "dynamic"
        [[cards]]
        iccid = "8988000000000000017"
        account = "{one}"
        plan = "p"
        pool = "shared"
        [[cards]]
        iccid = "8988000000000000025"
        account = "{two}"
        plan = "p"
        """,
        encoding="utf-8",
    )
    return path


FIRST, SECOND = "8988000000000000017", "8988000000000000025"


def usage(folder: Path, name: str, megabytes: int) -> Path:
    """A record of each card."""
    path = folder / f"{name}.csv"
    lines = ["record_key,service,direction,iccid,volume_up_bytes,volume_down_bytes,used_at"]
    lines += [f"{name}-{iccid},data,both,{iccid},0,{megabytes * MB},2026-10-05T12:00:00Z" for iccid in (FIRST, SECOND)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def pair(tmp_path: Path, kafka: SharedBroker) -> Iterator[tuple[Path, Process, Process]]:
    """Two workers that have been given partitions, a catalogue and usage; the second lands slowly."""
    config = configuration(tmp_path, kafka.address)
    with ExitStack() as stack:
        slow = {"WEIR_WORKER_LAND_EVERY_S": "60"}
        workers = [stack.enter_context(Process(config, free_port(), **more)) for more in ({}, slow)]
        words = ("--no-check-digits", catalogue(tmp_path), "--as-of", "2026-10-01", "--timeout", FOR_EVER_S)
        succeeded("--config", config, "send", "apply", *words)
        first = usage(tmp_path, "first", 3)
        succeeded("--config", config, "feed", "plain", first, "--as-of", "2026-10-31T12:00:00Z")
        yield config, workers[0], workers[1]


def test_two_workers(pair: tuple[Path, Process, Process], tmp_path: Path) -> None:
    """Whoever is asked answers for the whole group; one that ends hands over; nothing secret is in the logs (Q7)."""
    config, one, two = pair
    logs = [one.log, two.log]

    def folded(worker: Process, iccid: str, used: int) -> Any:
        status, found = worker.card(iccid)
        return found if status == 200 and found["counters"] and found["counters"][0]["used"] == used else None

    for worker in (one, two):
        wait_until(
            lambda worker=worker: worker.ask("/ready")[0] == 200, "a ready worker", logs=logs, runs=[worker.process]
        )
        for iccid in (FIRST, SECOND):
            wait_until(lambda worker=worker, iccid=iccid: folded(worker, iccid, 3 * MB), f"usage of {iccid}", logs=logs)
    assert one.card(FIRST) == two.card(FIRST)
    status, found = one.card(SECOND)
    assert (status, found["counters"][0]["overage"], found["counters"][0]["charge"]) == (200, 2 * MB, "1")
    assert {one.card(iccid)[1]["journal_partition"] for iccid in (FIRST, SECOND)} == {0, 1}
    pools = [worker.ask("/pools/shared", TOKENS["WEIR_TEST_ALL"]) for worker in (one, two)]
    assert [(status, pool["members"], pool["services"][0]["percent"]) for status, pool in pools] == [
        (200, 1, "300.00")
    ] * 2

    for worker in (one, two):
        assert [worker.card(iccid, TOKENS["WEIR_TEST_ONE"])[0] for iccid in (FIRST, SECOND)] == [404, 200]
        assert worker.ask("/pools/shared", TOKENS["WEIR_TEST_ONE"])[0] == 404
        assert [worker.ask(f"/cards/{FIRST}", token)[0] for token in (None, "wrong")] == [401, 401]
        assert worker.ask("/health") == (200, {"status": "alive"})

    values = [metrics_of(worker) for worker in (one, two)]
    assert sum(value["weir_records_total", "rated"] for value in values) == 2
    assert sum(value["weir_partitions", ""] for value in values) == 2
    assert [value["weir_partitions", ""] for value in values] == [1, 1]
    assert all(value["weir_ready", ""] == 1 and value["process_resident_memory_bytes", ""] > 0 for value in values)
    journal = [key for value in values for key in value if key[0] == "weir_recovery_seconds"]
    assert sorted(partition for _, partition in journal) == ["0", "1"]

    one.process.send_signal(signal.SIGTERM)
    assert ended(one.process, logs) == 0
    own = next(key[1] for key in values[0] if key[0] == "weir_recovery_seconds")
    assert (tmp_path / "history" / f"partition-000{own}" / "manifest.json").exists()

    for iccid in (FIRST, SECOND):
        wait_until(lambda iccid=iccid: folded(two, iccid, 3 * MB), f"usage of {iccid} at the other", logs=logs)
    succeeded("--config", config, "feed", "plain", str(usage(tmp_path, "second", 1)), "--as-of", "2026-10-31T13:00:00Z")
    wait_until(lambda: folded(two, SECOND, 4 * MB), "the second usage", logs=logs)
    assert metrics_of(two)["weir_partitions", ""] == 2
    two.process.send_signal(signal.SIGTERM)
    wait_until(lambda: any("stopping" in line["message"] for line in two.logged()), "the word that it stops", logs=logs)
    assert two.ask("/ready") == (503, {"ready": False, "reasons": ["is stopping"]})
    two.process.send_signal(signal.SIGTERM)
    assert ended(two.process, logs) == 128 + signal.SIGTERM

    for worker in (one, two):
        lines = worker.logged()
        assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines))
        assert any(line["message"] == "restored" and "partition" in line for line in lines)
        # Until the group has noticed that the first has left, the second asks it and says so.
        complaints = [line["message"] for line in lines if line["level"] in ("warning", "error", "critical")]
        assert not [said for said in complaints if worker is one or "does not answer" not in said]
        text = worker.log.read_text(encoding="utf-8")
        assert not [token for token in TOKENS.values() if token in text]


def metrics_of(worker: Process) -> dict[tuple[str, str], float]:
    """Values by name and label (of several the last)."""
    status, text = worker.ask("/metrics")
    assert status == 200
    return {
        (sample.name, next(reversed(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_prevents_a_start(tmp_path: Path, kafka: SharedBroker) -> None:
    """An unreachable broker, a taken port, other partitions, a missing token: an error with status 3 or 2."""
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    away, taken, other, token = folders
    nobody = f"127.0.0.1:{free_port()}"
    made = configuration(other, kafka.address)
    asyncio.run(ensure_topics(load_config(made).kafka))
    made.write_text(made.read_text().replace("partitions = 2", "partitions = 3"), encoding="utf-8")
    listening = int(kafka.address.rpartition(":")[2])
    with (
        Process(configuration(away, nobody), free_port()) as first,
        Process(configuration(taken, kafka.address), listening) as second,
        Process(made, free_port()) as third,
        Process(configuration(token, kafka.address), free_port(), WEIR_TEST_ONE="") as fourth,
    ):
        statuses = [ended(worker.process) for worker in (first, second, third, fourth)]
        told = [worker.log.read_text(encoding="utf-8") for worker in (first, second, third, fourth)]
    assert statuses == [3, 3, 2, 2], told
    expected = (nobody, "another process listens", "set raw_partitions = 2", "WEIR_TEST_ONE")
    for text, said in zip(told, expected, strict=True):
        assert said in text
        assert "Traceback" not in text
