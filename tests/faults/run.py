"""Disturb two workers under a stream of records, and compare all that is left behind with an undisturbed fold.

    python -m tests.faults.run --records 2000000 --faults 24 --seconds 420 --dir /tmp/weir-faults

Prints a table of the faults and what differs, and ends with status 1 where anything does.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from pipeline.journal.messages import messages_of
from pipeline.streaming.kafka import ensure_topics, publisher_of
from pipeline.streaming.topics import Topics
from tests.faults.check import (
    action_differences,
    history_differences,
    holds_all,
    landed,
    rows_in,
    state_differences,
)
from tests.faults.cluster import Cluster, running
from tests.faults.stream import Expected, Stream, expected_of, stream_of
from tests.support.progress import Movement, Standstill

PAUSE_S = 12.0  # longer than the session of a worker
PARTITIONS = 4


@dataclass
class Report:
    """What was done when, and what was wrong in the end."""

    began: float = field(default_factory=time.monotonic)
    faults: list[tuple[float, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    repeated_actions: int = 0
    starts: int = 0
    seconds: float = 0.0

    def note(self, what: str) -> None:
        """Note a fault as it happens."""
        at = time.monotonic() - self.began
        self.faults.append((at, what))
        print(f"{at:7.1f} s  {what}", flush=True)


class Faults:
    """Each of these disturbs the cluster, and leaves it whole again."""

    def __init__(self, cluster: Cluster, report: Report, chance: random.Random, history: Path) -> None:
        self.cluster = cluster
        self.report = report
        self.chance = chance
        self.history = history

    def _one(self) -> str:
        return self.chance.choice(self.cluster.names)

    async def kill_worker(self) -> None:
        """kill -9."""
        name = self._one()
        self.report.note(f"kill -9 of worker {name}")
        self.cluster.send(name, signal.SIGKILL)

    async def kill_both(self) -> None:
        """kill -9 of all workers at once."""
        self.report.note("kill -9 of all workers at once")
        for name in self.cluster.names:
            self.cluster.send(name, signal.SIGKILL)

    async def kill_broker(self) -> None:
        """kill -9, and a start a moment later."""
        self.report.note("kill -9 of the broker, started again after 2 s")
        await asyncio.to_thread(self.cluster.broker.kill)
        await asyncio.sleep(2)
        await asyncio.to_thread(self.cluster.broker.start)

    async def pause_worker(self) -> None:
        """Stopped for longer than its session, then woken."""
        name = self._one()
        self.report.note(f"worker {name} paused for {PAUSE_S:.0f} s, its session is 6 s")
        self.cluster.send(name, signal.SIGSTOP)
        await asyncio.sleep(PAUSE_S)
        self.cluster.send(name, signal.SIGCONT)

    async def third_worker(self) -> None:
        """A rebalance as a worker joins, and another as it leaves."""
        self.report.note("a third worker joins (rebalance), and leaves after 15 s (rebalance)")
        self.cluster.start("w2")
        await asyncio.sleep(15)
        await self.cluster.end("w2")

    async def restart_worker(self) -> None:
        """SIGTERM and a new start."""
        name = self._one()
        status = await self.cluster.end(name)
        self.report.note(f"worker {name} asked to end (status {status}), started again")
        self.cluster.start(name)

    async def no_clickhouse(self) -> None:
        """Away for a minute."""
        self.report.note("ClickHouse killed, away for 60 s")
        self.cluster.kill_clickhouse()
        await asyncio.sleep(60)
        await asyncio.to_thread(self.cluster.start_clickhouse)

    async def full_disk(self) -> None:
        """No room where the history is."""
        self.report.note("disk of the history full for 20 s")
        ballast = self.history.parent / "ballast"
        with suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        await asyncio.sleep(20)
        ballast.unlink()


def plan(faults: Faults, count: int, *, clickhouse: bool, disk: bool) -> list[Callable[[], Awaitable[None]]]:
    """Every kind of fault at least once, most often the death of a worker, in an order of chance."""
    kinds = [faults.kill_broker, faults.pause_worker, faults.third_worker, faults.kill_both, faults.restart_worker]
    kinds += [faults.no_clickhouse] if clickhouse else []
    kinds += [faults.full_disk] if disk else []
    more = [faults.kill_worker, faults.kill_worker, faults.kill_broker, faults.pause_worker, faults.third_worker]
    while len(kinds) < count:
        kinds.append(more[len(kinds) % len(more)])
    kinds = kinds[:count]
    faults.chance.shuffle(kinds)
    return kinds


async def disturb(
    cluster: Cluster, stream: Stream, expected: Expected, report: Report, kinds: list[Callable[[], Awaitable[None]]],
    seconds: float, chance: random.Random, history: Path, workers: int = 2,
) -> None:  # fmt: skip
    """Feed the stream for so long, with the faults spread over that time; wait for the end, and compare."""
    topics = Topics(cluster.config.kafka.prefix)
    async with running(cluster, workers):
        await ensure_topics(cluster.config.kafka)
        in_force = asyncio.Event()
        feeding = asyncio.create_task(_feed(cluster, stream, topics, seconds, in_force))
        # The workers are there once one has taken the commands.
        await asyncio.wait([feeding, asyncio.ensure_future(in_force.wait())], return_when=asyncio.FIRST_COMPLETED)
        gap = seconds / max(1, len(kinds))
        for fault in kinds:
            until = time.monotonic() + gap
            await asyncio.sleep(chance.uniform(0, gap / 2))
            await fault()
            await asyncio.sleep(max(0.0, until - time.monotonic()))
        await feeding
        await _wait(cluster, history, expected, report)
        for name in cluster.names:
            status = await cluster.end(name)
            if status != 0:
                report.wrong.append(f"worker {name} ended with status {status} when asked to end")
        report.seconds = time.monotonic() - report.began
        report.starts = cluster.starts
        report.wrong += await asyncio.to_thread(history_differences, history, expected)
        wrong, report.repeated_actions = await action_differences(cluster.config, expected)
        report.wrong += wrong
        report.wrong += await state_differences(cluster.config, expected)
        if cluster.config.worker.clickhouse:
            report.wrong += await asyncio.to_thread(_clickhouse_differences, cluster, history)


async def _feed(cluster: Cluster, stream: Stream, topics: Topics, seconds: float, in_force: asyncio.Event) -> None:
    """Commands first, and once they are in force usage, evenly over the time."""
    async with publisher_of(cluster.config.kafka, {"request_timeout_ms": 120_000}) as publisher:
        for entry in stream.entries:
            for content in messages_of(entry):
                await (await publisher.send(topics.commands, 0, content))
        from pipeline.streaming.kafka import Log

        log = Log(cluster.config.kafka)
        end = await log.end_offset(topics.commands, 0)
        async for reply in log.read(topics.replies, 0, 0):
            assert b'"accepted":true' in reply.value, reply.value
            if reply.offset + 1 == end:
                break
        in_force.set()
        rounds = list(zip_longest(*stream.raw))
        began = time.monotonic()
        for number, messages in enumerate(rounds):
            for lane, message in enumerate(messages):
                if message is not None:
                    await (await publisher.send(topics.raw, lane, message.value, headers=message.headers))
            await asyncio.sleep(max(0.0, began + number * seconds / len(rounds) - time.monotonic()))


async def _wait(cluster: Cluster, history: Path, expected: Expected, report: Report) -> None:
    """Until all that is expected has landed, and everything that is in the journal, which may hold repeats."""
    movement = Movement("the last rows", lambda: rows_in(history, expected), [cluster.folder / "w?.log"])
    while not (holds_all(history, expected) and await landed(cluster.config, history)):
        try:
            movement.check()
        except Standstill as error:
            report.wrong.append(f"not all has landed: {error}")
            return
        await asyncio.sleep(1)


def _clickhouse_differences(cluster: Cluster, history: Path) -> list[str]:
    """What `weir clickhouse check` says of the rows in ClickHouse."""
    command = [sys.executable, "-c", "from jobs.start import main; main()", "--config", str(cluster.file)]
    command += ["--data", str(history), "clickhouse"]
    for step in ("load", "check"):
        done = subprocess.run([*command, step, "--json"], capture_output=True, text=True, cwd=Path.cwd())
        print(f"clickhouse {step}: {done.stdout.strip()[-400:]}")
        if done.returncode:
            return [f"clickhouse {step}: {done.stderr.strip()[-600:]}"]
    return []


def main() -> int:
    """Run, print the table, and say whether all is as it should be."""
    parser = argparse.ArgumentParser(description="Disturb workers under load and compare what is left behind.")
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--cards", type=int, default=50_000)
    parser.add_argument("--faults", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "weir-faults")
    parser.add_argument("--disk", type=Path, help="a file system of its own for the history, small enough to fill up")
    given = parser.parse_args()
    given.dir.mkdir(parents=True, exist_ok=True)
    stream = stream_of(given.dir, given.cards, given.records, PARTITIONS)
    expected = expected_of(stream)
    rows = sum(tables["rated"].num_rows for tables in expected.tables.values())
    print(f"{given.records:,} records, {rows:,} rated rows, {len(expected.actions):,} actions expected", flush=True)
    work = given.dir / "run"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    history = (given.disk or work) / "history"
    shutil.rmtree(history, ignore_errors=True)
    chance = random.Random(given.seed)
    settings = f"base_records = {max(20_000, given.records // 40)}"
    cluster = Cluster(work, PARTITIONS, history, clickhouse=True, settings=settings)
    report = Report()
    faults = Faults(cluster, report, chance, history)
    kinds = plan(faults, given.faults, clickhouse=True, disk=given.disk is not None)
    asyncio.run(disturb(cluster, stream, expected, report, kinds, given.seconds, chance, history))
    print(f"{len(report.faults)} faults, {report.starts} starts of workers, {report.seconds:.0f} s")
    print(f"unexpected ends of workers by status: {sorted(cluster.ends)}")
    print(f"actions that came more than once, by id: {report.repeated_actions}")
    print("\n".join(report.wrong) or "no row, action or total differs")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
