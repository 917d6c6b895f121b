"""Bits that rot in a data directory: a flipped bit anywhere is found before anything is computed from it.

By hand, with a number of flips and a seed: `python -m tests.fuzz.rotten_bits 100000 1`.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from jobs.demo.generate import generate
from jobs.warehouse.verify import verify
from pipeline.catalogue import load_catalogue
from pipeline.embedded.driver import Embedded
from pipeline.feeds.mappings import load_mapping
from pipeline.store import manifest as manifests
from pipeline.store.directory import DataDirectory
from rating.errors import WeirError

AS_OF_US = 1_793_534_400_000_000  # 2026-11-01T12:00:00Z


def flip(path: Path, draw: random.Random) -> int:
    """Flip one bit of a file; return its place in bits."""
    content = bytearray(path.read_bytes())
    place = draw.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    return place


def unnoticed(data: Path, flips: int, draw: random.Random) -> tuple[Counter[str], list[str]]:
    """Flip bits of files that are drawn, one at a time, each put back; return how many by group, and what none noticed.

    The check of a file must refuse it. A manifest must be refused when it is read, or say the same as before.
    """
    with DataDirectory.open(data, write=False) as directory:
        truth = directory.manifest
        groups = {name: list(entries) for name, entries in truth.files.items() if entries}
        found: Counter[str] = Counter()
        missed: list[str] = []
        for _ in range(flips):
            group = draw.choice([*groups, "manifest"])
            path = (
                data / manifests.NAME if group == "manifest" else directory.locate(entry := draw.choice(groups[group]))
            )
            before = path.read_bytes()
            place = flip(path, draw)
            try:
                if group == "manifest":
                    noticed = manifests.read(data) == truth  # a bit of the words around the digest says nothing else
                else:
                    directory.check(entry)
                    noticed = False
            except WeirError:
                noticed = True
            finally:
                path.write_bytes(before)
            found[group] += 1
            if not noticed:
                missed.append(f"{path}: bit {place}")
    return found, missed


def small_directory(folder: Path) -> Path:
    """Make a data directory of a made-up fleet with two ingests, and return its path."""
    made = generate(folder / "fleet", 60, 2_000, seed=1, bad_share="0.01")
    data = folder / "data"
    with Embedded.open(data, write=True) as driver:
        driver.apply(load_catalogue([made.catalogue, made.cards_file]))
        for arrival_us in (AS_OF_US, AS_OF_US + 1):
            driver.ingest(load_mapping("plain"), [made.usage], arrival_us, fixed_as_of=True)
            driver.acknowledge()
    return data


def main(flips: int, seed: int) -> int:
    """Flip bits in a small data directory. Return 1 if one was not noticed."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        data = small_directory(Path(folder))
        found, missed = unnoticed(data, flips, draw)
        print(f"{sum(found.values()):,} flips: {dict(sorted(found.items()))}; not noticed: {len(missed)}")
        print("\n".join(missed[:10]))
        assert not verify(data).damaged
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
