"""Fast code against its plain version: CPU seconds on one core, and the factor that the head of each file names.

    python -m benchmarks.plain_versions [--rows 500000]

Both give the same results; the tests named in the heads compare them.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import io
import os
import time
from collections.abc import Callable

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl

from rating.columnar.groups import Groups
from rating.columnar.key_index import Ints, KeyIndex
from rating.mediation.quantity import _judge_one, scale
from rating.mediation.time import _ISO, parse_times

Pair = tuple[Callable[[], object], Callable[[], object]]  # plain, fast
_CARDS = 100_000


def key_index(rows: int, random: np.random.Generator) -> Pair:
    """Look-up of known keys: a dict, and rating/columnar/key_index.py."""
    index = KeyIndex(np.unique(random.integers(0, 2**63, _CARDS, dtype=np.uint64)))
    keys = index.keys[random.integers(0, len(index), rows)]
    rows_of = {key: row for row, key in enumerate(index.keys.tolist())}
    return lambda: np.array([rows_of[key] for key in keys.tolist()]), lambda: index.find(keys)


def groups(rows: int, random: np.random.Generator) -> Pair:
    """Totals before each record: a dict of counters, and rating/columnar/groups.py."""
    keys, amounts = random.integers(0, 20_000, rows), random.integers(0, 1000, rows)

    def plain() -> Ints:
        totals: dict[int, int] = {}
        before = []
        for key, amount in zip(keys.tolist(), amounts.tolist(), strict=True):
            before.append(totals.get(key, 0))
            totals[key] = before[-1] + amount
        return np.array(before, np.int64)

    def fast() -> Ints:
        grouped = Groups.of(keys)
        return grouped.scatter(grouped.before(amounts[grouped.order], np.zeros(len(grouped.keys), np.int64)))

    assert (plain() == fast()).all()
    return plain, fast


def times(rows: int, random: np.random.Generator) -> Pair:
    """ISO 8601 texts of one layout: a pattern and datetime.fromisoformat for each, and rating/mediation/time.py."""
    first = dt.datetime(2026, 10, 1, tzinfo=dt.UTC)
    seconds = random.integers(0, 30 * 86_400, rows).tolist()
    text = pl.Series([f"{first + dt.timedelta(seconds=second):%Y-%m-%dT%H:%M:%SZ}" for second in seconds])

    def plain() -> pl.Series:
        read = [dt.datetime.fromisoformat(one) if _ISO.fullmatch(one) else None for one in text.to_list()]
        return pl.Series(read, dtype=pl.Datetime("us", "UTC"))

    def fast() -> pl.Series:
        return parse_times(text, ("iso",), "UTC")

    assert plain().equals(fast())
    return plain, fast


def quantities(rows: int, random: np.random.Generator) -> Pair:
    """MB with three decimals to bytes: one Decimal a text, and rating/mediation/quantity.py."""
    text = pl.Series([f"{thousandths / 1000:.3f}" for thousandths in random.integers(0, 10**7, rows).tolist()])
    return lambda: [_judge_one(one, 1 << 20, 1, 10**15) for one in text.to_list()], lambda: scale(text, 1 << 20)


def delimited(rows: int, random: np.random.Generator) -> Pair:
    """Lines of five fields to columns: the csv module, and the parser that pipeline/feeds/decode/delimited.py uses."""
    cards = random.integers(0, _CARDS, rows).tolist()
    lines = [f"k{row},data,8988303{card:012d},{row % 5000},2026-10-11T10:00:00Z\n" for row, card in enumerate(cards)]
    data = "".join(lines).encode()
    return (
        lambda: pl.DataFrame([*zip(*csv.reader(io.StringIO(data.decode())), strict=True)]),
        lambda: pl.read_csv(data, has_header=False, infer_schema=False, quote_char=None),
    )


def cpu_s(work: Callable[[], object], rounds: int = 3) -> float:
    """The CPU seconds of the quickest of several rounds."""
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def main() -> None:
    """Print a line for each pair."""
    parser = argparse.ArgumentParser(description="Compare fast code with its plain version.")
    parser.add_argument("--rows", type=int, default=500_000, help="Number of rows.")
    rows = parser.parse_args().rows
    for make in (key_index, groups, times, quantities, delimited):
        plain, fast = make(rows, np.random.default_rng(1))
        plain_s, fast_s = cpu_s(plain), cpu_s(fast)
        print(
            f"{make.__name__}: plain {plain_s / rows * 1e9:,.0f} ns, fast {fast_s / rows * 1e9:,.0f} ns a row, "
            f"factor {plain_s / fast_s:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
