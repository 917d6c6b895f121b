"""A broker, a ClickHouse server and workers as processes of their own, to disturb; all are ended with the cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workers import start_worker
from pipeline.broker import Broker
from pipeline.broker.server import free_port
from pipeline.config import Config, load_config
from tests.support.clickhouse_case import PASSWORD, USER
from tests.support.progress import Movement

ROOT = Path(__file__).resolve().parents[2]
RESTART_S = 1.0


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    wanted: bool = True  # to be started again where it ends


class Cluster:
    """Workers are started again whenever they end, as a supervisor does; `starts` counts them."""

    def __init__(
        self, folder: Path, partitions: int, history: Path, *, clickhouse: bool = False, settings: str = ""
    ) -> None:
        self.folder = folder
        self.broker = Broker(folder / "kafka")
        self.starts = 0
        self.ends: list[int] = []  # exit statuses of workers that nobody asked to end
        self._workers: dict[str, _Worker] = {}
        self._clickhouse_port = free_port() if clickhouse else None
        self._clickhouse: subprocess.Popen[bytes] | None = None
        server = ""
        if clickhouse:
            os.environ["WEIR_TEST_CLICKHOUSE"] = PASSWORD
            server = (
                f'[clickhouse]\nurl = "http://127.0.0.1:{self._clickhouse_port}"\nuser = "{USER}"\n'
                'password_env = "WEIR_TEST_CLICKHOUSE"\n'
            )
        self.file = folder / "weir.toml"
        self.file.write_text(
            f'[kafka]\nservers = "{self.broker.address}"\npartitions = {partitions}\nraw_partitions = 2\n'
            f'session_timeout_s = 6\n[worker]\nhistory = "{history}"\nclickhouse = {str(clickhouse).lower()}\n'
            f'tick_s = 0\nland_every_s = 2\nlog_level = "info"\n{settings}\n{server}'
        )
        self.config: Config = load_config(self.file)

    def start_clickhouse(self) -> None:
        """Start the server, or start it again over the same rows."""
        arguments = [str(self.folder / "clickhouse"), str(self._clickhouse_port), USER, PASSWORD]
        self._clickhouse = subprocess.Popen(
            [sys.executable, "-m", "tests.support.clickhouse_server", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._clickhouse.stdout is not None
        assert int(self._clickhouse.stdout.readline()) == self._clickhouse_port

    def kill_clickhouse(self) -> None:
        """kill -9 the server."""
        if self._clickhouse is not None:
            self._clickhouse.kill()
            self._clickhouse.wait()
            self._clickhouse = None

    def start(self, name: str) -> None:
        """Start a worker of this name."""
        process, _ = start_worker(self.file, self.folder / f"{name}.log")
        self._workers[name] = _Worker(process)
        self.starts += 1

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a worker."""
        if self._workers[name].process.poll() is None:
            self._workers[name].process.send_signal(number)

    async def end(self, name: str) -> int:
        """Ask a worker to end, and wait for it; its exit status."""
        one = self._workers[name]
        one.wanted = False
        one.process.terminate()
        movement = Movement(f"the end of worker {name}", logs=[self.folder / f"{name}.log"])
        while one.process.poll() is None:
            movement.check()
            await asyncio.sleep(0.1)
        del self._workers[name]
        return one.process.returncode

    @property
    def names(self) -> list[str]:
        """The workers that are to run."""
        return sorted(self._workers)

    async def supervise(self) -> None:
        """Start workers again that end, for ever."""
        while True:
            for name, one in list(self._workers.items()):
                status = one.process.poll()
                if status is not None and one.wanted:
                    self.ends.append(status)
                    await asyncio.sleep(RESTART_S)
                    if self._workers.get(name) is one and one.wanted:
                        self.start(name)
            await asyncio.sleep(0.1)

    def close(self) -> None:
        """End every process."""
        for one in self._workers.values():
            one.wanted = False
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()
        self.kill_clickhouse()
        self.broker.kill()


@asynccontextmanager
async def running(cluster: Cluster, workers: int) -> AsyncIterator[Cluster]:
    """The cluster with a broker and so many workers, w0 and on; each of them supervised."""
    supervisor = None
    try:
        cluster.broker.start()
        if cluster._clickhouse_port is not None:
            cluster.start_clickhouse()
        for number in range(workers):
            cluster.start(f"w{number}")
        supervisor = asyncio.create_task(cluster.supervise())
        yield cluster
    finally:
        if supervisor is not None:
            supervisor.cancel()
        cluster.close()
