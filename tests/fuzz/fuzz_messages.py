"""Sends hostile messages to a lane, a registry and a fold, until one of them stops.

    python -m tests.fuzz.fuzz_messages MESSAGES [SEED]

Prints how many messages it sent and what they left. Ends with status 1, and says with which seed, if a message stops
the partition, is left unmediated, or costs a good record beside it.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import islice
from random import Random

from pipeline.streaming.rate.output_messages import encode
from tests.support.hostile_messages import Folding, chunk, drawn, drawn_commands, line

_BATCH = 100
_ANEW = 20_000  # messages, then another partition begins
_LIMIT_BYTES = 900_000


def fuzz(messages: int, seed: int) -> dict[str, int]:
    """Send at least so many drawn messages; the counts of what they left. Raises AssertionError if one costs more."""
    counts = dict.fromkeys(("messages", "commands", "refused", "records", "rejects", "unread", "rated"), 0)
    while counts["messages"] < messages:
        seed += 1
        random = Random(seed)
        _one_partition(random, min(_ANEW, messages - counts["messages"]), counts)
    return counts


def _one_partition(random: Random, messages: int, counts: dict[str, int]) -> None:
    folding, usage, commands = Folding(), drawn(random), drawn_commands(random)
    for at in range(-(-messages // _BATCH)):
        good = chunk([line(f"good{at}", at % 40)], digest=b"g%d" % at)
        done = folding.mediate(*islice(usage, _BATCH), good)
        assert not done.unmediated, done.unmediated
        for output in folding.take([content for _, content in done.journal]):
            assert max(map(len, encode(output))) <= _LIMIT_BYTES
            counts["rated"] += output.counts.rated
        before = folding.rated
        folding.usage(chunk([line(f"good{at}", at % 40)], digest=b"again"))
        assert folding.rated == before, f"record good{at} was lost"
        counts["messages"] += _BATCH
        counts["commands"] += 1
        counts["refused"] += folding.command(next(commands)) is not None
        for name in ("records", "unread"):
            counts[name] += getattr(done, name)
        counts["rejects"] += done.rejected


def main() -> None:
    """Run the fuzzer with the arguments of the command line."""
    messages, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    quiet = os.open(os.devnull, os.O_WRONLY)
    told = os.dup(2)
    os.dup2(quiet, 2)  # each caught panic of Polars prints a backtrace
    started_s = time.monotonic()
    try:
        counts = fuzz(messages, seed)
    finally:
        os.dup2(told, 2)
    print(counts | {"seconds": round(time.monotonic() - started_s)})


if __name__ == "__main__":
    main()
