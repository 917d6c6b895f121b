"""`weir ingest` against the floor (benchmarks/floor.py), whole processes in alternation, on a generated fleet.

    python -m benchmarks.ingest --cards 500000 --records 5000000 --pools 200 --rounds 3 --dir /tmp/weir-bench

Every round of Weir gets a data directory of its own, with the catalogue applied before the clock starts. Times are of
the process from start to end, memory is its peak of resident pages. The processes inherit this one's memory before
they start theirs, so it imports little.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WEIR = str(Path(sys.executable).with_name("weir"))
AS_OF = "2026-11-01T00:00:00Z"


@dataclass(frozen=True)
class Run:
    """One process: its wall time, peak memory and what it printed."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    printed: dict[str, Any]


def run(command: list[str]) -> Run:
    """Run `command` from the root of the project; its last line must be a JSON object, its status 0."""
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stdin=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}\n{text}")
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, json.loads(text[text.index("{") :]))


def generated(folder: Path, cards: int, records: int, pools: int, seed: int) -> dict[str, Any]:
    """Return what `weir generate --json` says of the fleet in `folder`; made there unless it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    key = f"{cards}-{records}-{pools}-{seed}"
    made = folder / f"fleet-{key}.json"
    if not made.exists():
        options = {"--cards": cards, "--records": records, "--pools": pools, "--seed": seed}
        words = [word for option, value in options.items() for word in (option, str(value))]
        made.write_text(json.dumps(run([WEIR, "generate", *words, "--out", str(folder / key), "--json"]).printed))
    fleet: dict[str, Any] = json.loads(made.read_text())
    return fleet


def folder_bytes(folder: Path) -> int:
    """Return the size of all files in `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(folder: Path, fleet: dict[str, Any], rounds: int) -> dict[str, list[Run]]:
    """Run floor and Weir in turn; check each time that Weir's counts are those that the generator foretold."""
    runs: dict[str, list[Run]] = {"floor": [], "weir": []}
    for number in range(1, rounds + 1):
        floor = run([sys.executable, "-m", "benchmarks.floor", fleet["usage"], str(folder / "floor.parquet")])
        runs["floor"].append(floor)
        (folder / "floor.parquet").unlink()
        data = folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        run([WEIR, "--data", str(data), "apply", fleet["catalogue"], fleet["cards_file"], "--json"])
        ingest = [
            WEIR,
            "--data",
            str(data),
            "ingest",
            "--feed",
            fleet["feed"],
            fleet["usage"],
            "--as-of",
            AS_OF,
            "--json",
        ]
        weir = run(ingest)
        runs["weir"].append(weir)
        found = {name: weir.printed[name] for name in ("rated", "duplicate", "rejected")}
        if found != fleet["expected"]:
            raise SystemExit(f"weir ingest counted {found}; the generator foretold {fleet['expected']}")
        print(f"round {number}: floor {floor.seconds:.2f} s, weir {weir.seconds:.2f} s", file=sys.stderr)
    return runs


def summary(runs: dict[str, list[Run]], records: int, data_bytes: int) -> dict[str, Any]:
    """Return medians by name, and the median of the ratios of the rounds."""
    facts: dict[str, Any] = {"records": records, "rounds": len(runs["weir"]), "data_bytes": data_bytes}
    for name, of_name in runs.items():
        seconds = statistics.median(one.seconds for one in of_name)
        facts[name] = {
            "seconds": round(seconds, 2),
            "all_seconds": [round(one.seconds, 2) for one in of_name],
            "cpu_seconds": round(statistics.median(one.cpu_seconds for one in of_name), 2),
            "records_per_second": round(records / seconds),
            "peak_mib": round(max(one.peak_mib for one in of_name)),
        }
    ratios = [weir.seconds / floor.seconds for weir, floor in zip(runs["weir"], runs["floor"], strict=True)]
    facts["ratio"] = round(statistics.median(ratios), 2)
    return facts


def main() -> None:
    """Generate (or take up) the fleet, measure, print a table and, with --json, the facts."""
    parser = argparse.ArgumentParser(description="Time weir ingest against the floor.")
    parser.add_argument("--cards", type=int, default=500_000)
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--pools", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="where to work; its fleet is used again (default: a temporary folder)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as temporary:
        folder = (given.dir or Path(temporary)).resolve()
        fleet = generated(folder, given.cards, given.records, given.pools, given.seed)
        facts = summary(measure(folder, fleet, given.rounds), given.records, folder_bytes(folder / "data"))
        shutil.rmtree(folder / "data")
    if given.json:
        print(json.dumps(facts, indent=2))
        return
    print(f"{'':8}{'seconds':>9}{'cpu s':>9}{'records/s':>12}{'peak MiB':>10}")
    for name in ("floor", "weir"):
        one = facts[name]
        rate = f"{one['records_per_second']:,}"
        print(f"{name:8}{one['seconds']:>9.2f}{one['cpu_seconds']:>9.2f}{rate:>12}{one['peak_mib']:>10,}")
    print(f"ratio {facts['ratio']}, median of {facts['rounds']} rounds; data directory {data_mb(facts):,.0f} MB")


def data_mb(facts: dict[str, Any]) -> float:
    """Return the size of the data directory in MB."""
    return float(facts["data_bytes"]) / 1e6


if __name__ == "__main__":
    main()
