"""A worker that stands by holds the bases of the other one's partitions, and takes them over when that is killed."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

from benchmarks.ingest import AS_OF, generated
from benchmarks.workers import Cluster, wait_for_journal
from tests.support.broker import need_broker
from tests.support.progress import FOR_EVER_S, wait_until

SETTINGS = "standby = 1\nbase_records = 2000"


def standby_bytes(cluster: Cluster, name: str) -> dict[int, float]:
    """Bytes of bases by partition that a worker holds for others."""
    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.ports[name]}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r'^weir_standby_bytes\{partition="(\d+)"\} (\S+)$', text, re.MULTILINE)
    return {int(partition): float(count) for partition, count in found}


def test_a_standby_holds_bases_and_takes_over(tmp_path: Path) -> None:
    """Both partitions' bases are held twice; after kill -9 of one worker every row of a second file lands."""
    need_broker()
    fleet = generated(tmp_path / "fleet", 300, 12_000, 5, 3)
    folder = tmp_path / "cluster"
    folder.mkdir()
    with Cluster(folder, 3, SETTINGS) as cluster:  # the accounts of a generated fleet are in partitions 0 and 1 of 3
        cluster.start("w0")
        cluster.start("w1")
        cluster.weir("send", "apply", fleet["catalogue"], fleet["cards_file"], "--timeout", FOR_EVER_S)
        lines = Path(fleet["usage"]).read_bytes().splitlines(keepends=True)
        halves = [tmp_path / "first.csv", tmp_path / "second.csv"]
        for half, part in zip(halves, (lines[:6001], [lines[0], *lines[6001:]]), strict=True):
            half.write_bytes(b"".join(part))
        cluster.weir("feed", "plain", str(halves[0]), "--as-of", AS_OF)
        wait_for_journal(cluster)
        wait_until(
            lambda: any(standby_bytes(cluster, name).get(p, 0) for name in ("w0", "w1") for p in (0, 1)),
            "a worker that stands by",
            lambda: [standby_bytes(cluster, name) for name in ("w0", "w1")],
            logs=[folder / "w?.log"],
            runs=list(cluster.workers.values()),
            pause_s=0.5,
        )
        cluster.end("w0", kill=True)
        cluster.weir("feed", "plain", str(halves[1]), "--as-of", AS_OF)
        wait_until(
            lambda: cluster.landed_rows() >= fleet["expected"]["rated"],
            f"{fleet['expected']['rated']} rated rows",
            cluster.landed_rows,
            logs=[folder / "w?.log"],
            runs=list(cluster.workers.values()),
        )
        assert fleet["expected"]["rated"] == cluster.landed_rows()
        assert sum(fleet["expected"]["rejected"].values()) == cluster.landed_rows("rejected")
