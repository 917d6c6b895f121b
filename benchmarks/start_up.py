"""Processor seconds of commands that should answer at once, beside what their libraries alone take to import."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
LIBRARIES: Final = "import numpy, polars, pyarrow, duckdb"
START: Final = "from jobs.start import main; import sys; sys.argv[0] = 'weir'; main()"


def processor_s(command: Sequence[str], environment: dict[str, str]) -> float:
    """User and system seconds of a process, which must end well."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {done.returncode}: {done.stderr[-2000:]}")
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def _fleet(folder: Path, run: Sequence[str], environment: dict[str, str]) -> Path:
    """A data directory with a month of a small made-up fleet."""
    fleet, data = folder / "fleet", folder / "data"
    processor_s([*run, "generate", "--cards", "20000", "--records", "100000", "--out", str(fleet)], environment)
    processor_s([*run, "--data", str(data), "apply", *map(str, sorted(fleet.glob("c*.*")))], environment)
    processor_s([*run, "--data", str(data), "ingest", "--feed", "plain", str(fleet / "usage.csv")], environment)
    return data


def _cases(run: Sequence[str], data: Path, environment: dict[str, str]) -> dict[str, list[str]]:
    listed = [*run, "--data", str(data), "cards", "--limit", "1", "--json"]
    found = subprocess.run(listed, env=environment, capture_output=True, text=True, check=True)
    iccid = json.loads(found.stdout)["rows"][0]["iccid"]
    of_data = {
        "weir status": ["status"],
        "weir cards --limit 20": ["cards", "--limit", "20"],
        "weir card ICCID": ["card", iccid],
        "weir pools": ["pools"],
    }
    return {
        "python: nothing": [sys.executable, "-c", "pass"],
        "python: import typer": [sys.executable, "-c", "import typer"],
        "python: import numpy, polars, pyarrow, duckdb": [
            sys.executable,
            "-c",
            "import numpy, polars, pyarrow, duckdb",
        ],
        "weir --version": [*run, "--version"],
        "weir --help": [*run, "--help"],
        "weir cards --help": [*run, "cards", "--help"],
        "complete `weir `": ["weir "],
        "complete `weir cards --`": ["weir cards --"],
        "complete `weir ingest --feed `": ["weir ingest --feed "],
        **{name: [*run, "--data", str(data), *words] for name, words in of_data.items()},
    }


def main() -> None:
    """Run each command in turn, `--rounds` times, and print the least and the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", type=Path, help="a data directory; a small one is made without it")
    parser.add_argument("--source", type=Path, default=ROOT, help="the source tree of Weir to measure")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    run = [sys.executable, "-P", "-c", START]  # -P: not the tree that this is started from
    with tempfile.TemporaryDirectory(prefix="weir-start-") as folder:
        # Compiled modules are those of an installation, whatever the environment says of writing them.
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            "PYTHONPYCACHEPREFIX": f"{folder}/compiled",
            "PYTHONPATH": str(given.source),
        }
        data = given.data or _fleet(Path(folder), run, environment)
        cases = _cases(run, data, environment)
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(given.rounds + 1):
            for name, command in cases.items():
                asked = dict(environment)
                if name.startswith("complete"):
                    words = command[0]
                    asked |= {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
                    asked["_WEIR_COMPLETE"] = "complete_bash"
                    command = run
                taken = processor_s(command, asked)
                if number:  # the first round compiles
                    seconds[name].append(taken)
    figures = {name: (min(taken), statistics.median(taken)) for name, taken in seconds.items()}
    if given.json:
        print(json.dumps({name: {"least_s": least, "median_s": median} for name, (least, median) in figures.items()}))
        return
    print(f"{'processor seconds':50}{'least':>8}{'median':>8}")
    for name, (least, median) in figures.items():
        print(f"{name:50}{least:8.2f}{median:8.2f}")


if __name__ == "__main__":
    main()
