"""A broker and workers as processes of their own, for benchmarks; ended with the block."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.ingest import ROOT, WEIR
from pipeline.broker import Broker
from pipeline.broker.server import free_port
from pipeline.config import Config, load_config
from pipeline.history.reader import partition_folder

LIMIT_S: Final = 900


def start_worker(config: Path, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A worker of the configuration, which writes to the end of `log`; its process and the port of its web."""
    port = free_port()
    command = [WEIR, "--config", str(config), "worker", "--web-port", str(port)]
    with log.open("ab") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=ROOT)
    return process, port


class Cluster:
    """A broker in `folder` and workers by name; a context manager."""

    def __init__(self, folder: Path, partitions: int, settings: str = "", raw_partitions: int = 2) -> None:
        self.folder = folder
        self.history = folder / "history"
        self.broker = Broker(folder / "kafka")
        self.file = folder / "weir.toml"
        self.file.write_text(
            f'[kafka]\nservers = "{self.broker.address}"\npartitions = {partitions}\n'
            f"raw_partitions = {raw_partitions}\n"
            f'session_timeout_s = 6\n[worker]\nhistory = "{self.history}"\ntick_s = 0\nland_every_s = 1\n'
            f'log_level = "warning"\n{settings}\n'
        )
        self.config: Config = load_config(self.file)
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.broker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.workers.values():
            process.kill()
            process.wait()
        self.broker.kill()

    def weir(self, *arguments: str) -> dict[str, Any]:
        """Run a command with --json; what it prints."""
        command = [WEIR, "--config", str(self.file), *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}\n{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
        return found

    def start(self, name: str) -> None:
        """Start a worker."""
        self.workers[name], self.ports[name] = start_worker(self.file, self.folder / f"{name}.log")

    def end(self, name: str, *, kill: bool = False) -> None:
        """Ask a worker to end, or kill -9 it, and wait for it."""
        process = self.workers.pop(name)
        process.kill() if kill else process.terminate()
        process.wait(LIMIT_S)

    def landed_rows(self, table: str = "rated") -> int:
        """Rows of a table of the history, as the manifests have them."""
        rows = 0
        for partition in range(self.config.kafka.partitions):
            manifest = partition_folder(self.history, partition) / "manifest.json"
            if manifest.exists():
                files = json.loads(manifest.read_bytes())["files"]
                rows += sum(entry.get("rows", 0) for entry in files.get(table, ()))
        return rows

    def wait_for_rows(self, rows: int) -> float:
        """Wait until so many rated rows have landed; when that was (time.monotonic)."""
        until = time.monotonic() + LIMIT_S
        while self.landed_rows() < rows:
            if time.monotonic() > until:
                raise SystemExit(f"{self.landed_rows():,} of {rows:,} rows after {LIMIT_S} s; see {self.folder}")
            time.sleep(0.02)
        return time.monotonic()


@contextmanager
def cluster_of(
    folder: Path, partitions: int, workers: int, files: Sequence[str], settings: str = ""
) -> Iterator[Cluster]:
    """A cluster whose workers have accepted catalogue files, in a folder of its own."""
    folder.mkdir(parents=True)
    with Cluster(folder, partitions, settings) as cluster:
        for number in range(workers):
            cluster.start(f"w{number}")
        cluster.weir("send", "apply", *files, "--timeout", str(LIMIT_S))
        wait_for_journal(cluster)
        yield cluster


def wait_for_journal(cluster: Cluster) -> None:
    """Wait until every entry of the journal has been folded and sent on."""
    from pipeline.streaming.kafka import Log
    from pipeline.streaming.rate.output_messages import decode

    async def wait() -> None:
        log = Log(cluster.config.kafka)
        for partition, end in enumerate(await log.end_offsets(log.topics.journal)):
            while end:
                last = await log.last_message(log.topics.rated, partition)
                if last is not None and decode(last.value, "usage.rated").journal_offset >= end - 1:
                    break
                await asyncio.sleep(0.1)

    asyncio.run(wait())


def python(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of the benchmarks as a process of its own; the JSON that it prints last."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{module} ended with status {done.returncode}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
