"""The streaming side against a real broker, all in one run: throughput, its peers, latency, recovery, changelog.

    python -m benchmarks.streaming --records 2000000 --cards 100000 --recovery-cards 1000000 --dir /tmp/weir-bench

Everything is a process of its own: the broker, each worker, the senders. Figures share two cores with the broker, so
only their ratios travel to other machines.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import re
import shutil
import statistics
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

from benchmarks.ingest import AS_OF, generated
from benchmarks.workers import Cluster, cluster_of, python, wait_for_journal
from pipeline.streaming.kafka import Log, publisher_of

PARTITIONS: Final = 6  # over which the three accounts of a generated fleet spread
PER_EVENT_RECORDS: Final = 30_000
SECONDS: Final = 40.0  # of the stream whose latency is measured
_USED_AT: Final = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def files_of(fleet: dict[str, Any]) -> list[str]:
    """The catalogue files of a generated fleet."""
    return [fleet["catalogue"], fleet["cards_file"]]


def through(folder: Path, fleet: dict[str, Any], workers: int) -> dict[str, float]:
    """Records a second from files to landed rows, then from a raw topic that holds all of them already.

    Also those of consuming and decoding the journal that the workers made in the first of the two runs: by aiokafka
    alone, and through the agents of a worker.
    """
    rated, records = fleet["expected"]["rated"], fleet["records"]
    with cluster_of(folder / f"files-{workers}", PARTITIONS, workers, files_of(fleet)) as cluster:
        began = time.monotonic()
        cluster.weir("feed", fleet["feed"], fleet["usage"], "--as-of", AS_OF)
        from_files = records / (cluster.wait_for_rows(rated) - began)
        bare, agents = (
            python(f"benchmarks.peers.{name}", "--config", str(cluster.file))
            for name in ("bare_consumer", "faust_batches")
        )
    with cluster_of(folder / f"raw-{workers}", PARTITIONS, workers, files_of(fleet)) as cluster:
        for name in list(cluster.workers):
            cluster.end(name)
        cluster.weir("feed", fleet["feed"], fleet["usage"], "--as-of", AS_OF)
        before = asyncio.run(journal_end(cluster))
        for number in range(workers):
            cluster.start(f"w{number}")
        while asyncio.run(journal_end(cluster)) == before:
            time.sleep(0.02)
        began = time.monotonic()
        from_topic = records / (cluster.wait_for_rows(rated) - began)
    peers = {name: found["records"] / found["seconds"] for name, found in (("bare", bare), ("agents", agents))}
    return {"files": from_files, "topic": from_topic, **peers}


async def journal_end(cluster: Cluster) -> int:
    """How many messages the journal has."""
    log = Log(cluster.config.kafka)
    return sum(await log.end_offsets(log.topics.journal))


def per_event(folder: Path, fleet: dict[str, Any]) -> float:
    """Records a second of plain Faust, one event and one table write each."""
    folder.mkdir(parents=True)
    with Cluster(folder, 1, raw_partitions=1) as cluster:

        async def fill() -> str:
            from pipeline.streaming.kafka import ensure_topics

            await ensure_topics(cluster.config.kafka)
            topic = f"{cluster.config.kafka.prefix}actions"  # any topic of one partition
            with Path(fleet["usage"]).open(errors="replace") as lines:
                next(lines)
                async with publisher_of(cluster.config.kafka, {"linger_ms": 5}) as publisher:
                    for number, line in enumerate(lines):
                        if number == PER_EVENT_RECORDS:
                            break
                        iccid = line.split(",")[1] if line.count(",") > 1 else "none"
                        await publisher.send(topic, 0, json.dumps({"iccid": iccid, "quantity": number}).encode())
            return topic

        topic = asyncio.run(fill())
        found = python(
            "benchmarks.peers.faust_per_event", "--server", cluster.broker.address, "--topic", topic,
            "--records", str(PER_EVENT_RECORDS),
        )  # fmt: skip
    return float(found["records"]) / float(found["seconds"])


def latency(folder: Path, fleet: dict[str, Any], rate: int, messages_s: int) -> dict[str, float]:
    """Seconds from arrival in usage.raw to the action on its topic, at `rate` records a second in so many messages."""
    folder.mkdir(parents=True)
    rules = folder / "rules.toml"
    rules.write_text(
        '[[rules]]\nid = "first"\ntrigger = "data_usage_cycle"\n'
        'threshold = ["80 MB", "160 MB"]\n'
        'actions = [{ sequence = 1, type = "suspend" }]\n'
    )
    with cluster_of(folder / "cluster", PARTITIONS, 1, [*files_of(fleet), str(rules)]) as cluster:
        cluster.weir("send", "activate", "first")
        wait_for_journal(cluster)
        lines = Path(fleet["usage"]).read_bytes().splitlines(keepends=True)
        found = asyncio.run(_latencies(cluster, lines[0].strip(), lines[1:], rate, messages_s))
    found.sort()
    return {
        "actions": len(found),
        "p50": statistics.median(found),
        "p99": found[int(len(found) * 0.99)],
        "max": found[-1],
    }


async def _latencies(cluster: Cluster, header: bytes, lines: list[bytes], rate: int, messages_s: int) -> list[float]:
    log = Log(cluster.config.kafka)
    topics = log.topics
    found: list[float] = []
    over = asyncio.Event()

    async def listen(partition: int) -> None:
        start = await log.end_offset(topics.actions, partition)
        async for message in log.read(topics.actions, partition, start):
            created = json.loads(message.value)["fired_at"]
            found.append(time.time() - _seconds(created))

    async def send() -> None:
        size = rate // messages_s
        headers = (("feed", b"plain"), ("source", b"latency"), ("digest", b"latency"), ("csv-header", header))
        async with publisher_of(cluster.config.kafka) as publisher:
            began = time.monotonic()
            for number in range(int(SECONDS * messages_s)):
                # Used just now: rules look at the cycle that is open.
                now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
                part = [_USED_AT.sub(now, line) for line in lines[number * size : (number + 1) * size]]
                more = (("form", b"lines"), ("row", str(2 + number * size).encode()))
                await publisher.send(topics.raw, number % 2, b"".join(part), headers=(*headers, *more))
                await asyncio.sleep(max(0.0, began + (number + 1) / messages_s - time.monotonic()))
        await asyncio.sleep(3)
        over.set()

    listening = [asyncio.create_task(listen(partition)) for partition in range(PARTITIONS)]
    await asyncio.sleep(1)
    await send()
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    return found


def _seconds(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def recovery(folder: Path, fleet: dict[str, Any]) -> dict[str, float]:
    """Seconds from kill -9 of one of two workers until the other has answered for all partitions; changelog bytes.

    The state has all cards of the fleet. The other worker has answered for a partition once a tick that was sent after
    the kill has gone through it.
    """
    settings = "base_records = 500000"
    with cluster_of(folder / "recovery", PARTITIONS, 2, files_of(fleet), settings) as cluster:
        cluster.weir("feed", fleet["feed"], fleet["usage"], "--as-of", AS_OF)
        cluster.wait_for_rows(fleet["expected"]["rated"])
        time.sleep(20)  # bases under way are written
        base_bytes = sum(_metric(port, "weir_base_bytes_total") for port in cluster.ports.values())
        bases = sum(_metric(port, "weir_bases_total") for port in cluster.ports.values())
        killed = time.monotonic()
        cluster.end("w0", kill=True)
        ticking = threading.Thread(target=lambda: cluster.weir("send", "tick", "--timeout", "120"))
        ticking.start()
        ticking.join()
        wait_for_journal(cluster)
        seconds = time.monotonic() - killed
        restored = [_metric(cluster.ports["w1"], "weir_recovery_seconds", partition) for partition in range(PARTITIONS)]
    return {
        "seconds": seconds,
        "slowest_partition_s": max(restored),
        "changelog_bytes": base_bytes,
        "bases": bases,
        "bytes_a_record": base_bytes / fleet["records"],
    }


def _metric(port: int, name: str, partition: int | None = None) -> float:
    """The sum of a metric of a worker over its labels, or its value of one partition."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    mine = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
    wanted = [line for line in mine if partition is None or f'partition="{partition}"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in wanted)


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(description="Measure the streaming side against a real broker.")
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--cards", type=int, default=100_000)
    parser.add_argument("--recovery-cards", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=20_000, help="records a second whose latency is measured")
    parser.add_argument("--messages", type=int, nargs="*", default=[4, 10], help="messages a second that they come in")
    parser.add_argument("--only", nargs="*", choices=("through", "peers", "latency", "recovery"))
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "weir-bench")
    given = parser.parse_args()
    work = given.dir / "streaming"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    only = given.only or ("through", "peers", "latency", "recovery")
    fleet = generated(given.dir, given.cards, given.records, 200, 1)
    one: dict[str, float] = {}
    if "through" in only:
        one, two = through(work, fleet, 1), through(work, fleet, 2)
        for name, what in (("files", "from files to landed rows"), ("topic", "from the raw topic to landed rows")):
            print(f"{what}: {one[name]:,.0f} records a second with one worker, {two[name]:,.0f} with two", flush=True)
        print(f"bare consumption and decoding of the journal: {one['bare']:,.0f} records a second", flush=True)
        print(f"the same through the agents of a worker: {one['agents']:,.0f}, ratio {one['agents'] / one['bare']:.2f}")
        print(f"ratio to it, one worker from the raw topic to rows: {one['topic'] / one['bare']:.2f}", flush=True)
    if "peers" in only:
        plain = per_event(work / "per-event", fleet)
        print(f"plain Faust, one event and one table write a record: {plain:,.0f} records a second", flush=True)
        if one:
            print(f"ratio to it: {one['topic'] / plain:.0f}", flush=True)
    for messages_s in given.messages if "latency" in only else ():
        found = latency(work / f"latency-{messages_s}", fleet, given.rate, messages_s)
        print(
            f"arrival to action at {given.rate:,} records a second in {messages_s} messages: "
            f"p50 {found['p50'] * 1000:.0f} ms, p99 "
            f"{found['p99'] * 1000:.0f} ms, longest {found['max'] * 1000:.0f} ms, {found['actions']:,.0f} actions",
            flush=True,
        )
    if "recovery" in only:
        large = generated(given.dir, given.recovery_cards, given.records, 200, 1)
        told = recovery(work, large)
        print(
            f"recovery with {given.recovery_cards:,} cards: {told['seconds']:.1f} s from kill -9 to all partitions, "
            f"the slowest partition restored in {told['slowest_partition_s']:.1f} s"
        )
        print(
            f"changelog: {told['bytes_a_record']:.1f} bytes a record ({told['bases']:.0f} bases, "
            f"{told['changelog_bytes']:,.0f} bytes)",
            flush=True,
        )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
