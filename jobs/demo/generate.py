"""`weir generate`: a synthetic fleet and its usage of one month, to try and to measure Weir.

The same arguments give the same bytes. Usage has the columns of the plain feed and is roughly in order of time. It
contains duplicates and lines that must be rejected, so the result of a correct ingest is known beforehand.
"""

from __future__ import annotations

import datetime as dt
import io
import time
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from jobs.demo.fleet import PLMNS, Fleet, Ints, catalogue_text, make_fleet
from jobs.demo.fleet_usage import DIRECTIONS, SERVICES, FleetUsage, make_usage, month_bounds, with_repeats
from rating.catalogue.check_digits import luhn_digit
from rating.errors import StorageError, UsageError

FEED = "plain"
HEADER = "record_key,iccid,service,direction,volume_up_bytes,volume_down_bytes,quantity,used_at,plmn"
_SLICE = 400_000  # Number of lines that are formatted at a time.


@dataclass(frozen=True)
class Generated:
    """The files that `generate` wrote, and the expected counts if they are ingested once as of the month's end."""

    catalogue: Path
    cards_file: Path
    usage: Path
    cards: int
    pools: int
    records: int
    rated: int
    duplicate: int
    rejected: dict[str, int]  # Number of records by reason.
    seed: int
    month: str
    usage_bytes: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object, with paths as text."""
        return {
            "catalogue": str(self.catalogue),
            "cards_file": str(self.cards_file),
            "usage": str(self.usage),
            "feed": FEED,
            "cards": self.cards,
            "pools": self.pools,
            "records": self.records,
            "expected": {"rated": self.rated, "duplicate": self.duplicate, "rejected": self.rejected},
            "seed": self.seed,
            "month": self.month,
            "usage_bytes": self.usage_bytes,
            "seconds": round(self.seconds, 3),
        }


def generate(
    out: Path,
    cards: int,
    records: int,
    seed: int,
    pools: int | None = None,
    month: str = "2026-10",
    duplicates_share: str = "0.01",
    bad_share: str = "0.0005",
) -> Generated:
    """Write `catalogue.toml`, `cards.csv` and `usage.csv` of a fleet into the folder `out`; create it if it is missing.

    `records` is the number of usage lines. The decimal texts `duplicates_share` and `bad_share` are the shares of lines
    that repeat an earlier line and of lines that must be rejected. `pools` defaults to one for every 2,500 cards. The
    time of use of each good line is within `month` both in UTC and in the account's time zone. Existing files with
    these names are replaced.

    Raises UsageError if an argument is out of range, and StorageError if the files cannot be written.
    """
    began = time.perf_counter()
    pools = max(1, cards // 2500) if pools is None else pools
    first = _checked(cards, records, pools, month)
    bad = _part("--bad", bad_share, records)
    duplicates = min(_part("--duplicates", duplicates_share, records), max(0, records - bad - 1))
    rng = np.random.Generator(np.random.PCG64(seed))
    fleet = make_fleet(cards, pools, first, rng)
    usage = make_usage(fleet, records - duplicates - bad, first, rng)
    order = with_repeats(len(usage.at), duplicates, rng)
    lines = _UsageLines(fleet, usage, order, seed)
    bad_lines = _bad_lines(lines, bad, first, rng)
    paths = out / "catalogue.toml", out / "cards.csv", out / "usage.csv"
    try:
        out.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(catalogue_text(fleet), encoding="utf-8")
        fleet.cards.write_csv(paths[1])
        _write_usage(paths[2], lines, bad_lines)
        usage_bytes = paths[2].stat().st_size
    except OSError as error:
        raise StorageError(f"cannot write the generated fleet into {out}: {error.strerror or error}") from error
    return Generated(
        *paths,
        cards=cards,
        pools=len(fleet.pools),
        records=records,
        rated=len(usage.at),
        duplicate=duplicates,
        rejected=dict(sorted(Counter(line.reason for line in bad_lines).items())),
        seed=seed,
        month=month,
        usage_bytes=usage_bytes,
        seconds=time.perf_counter() - began,
    )


def render_generated(made: Generated, console: Console) -> None:
    """Print the written files and the expected counts as a table."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in made.rejected.items()) or "none"
    for name, value in (
        ("catalogue", f"{made.catalogue} ({made.pools:,} pools)"),
        ("cards", f"{made.cards_file} ({made.cards:,} cards)"),
        ("usage", f"{made.usage} ({made.records:,} lines, {made.usage_bytes / 1e6:,.1f} MB, feed {FEED})"),
        ("to be rated", f"{made.rated:,}"),
        ("duplicate", f"{made.duplicate:,}"),
        ("rejected", rejected),
        ("took", f"{made.seconds:.1f} s"),
    ):
        table.add_row(name, value)
    console.print(table)


def _checked(cards: int, records: int, pools: int, month: str) -> dt.date:
    """Return the first day of `month`. Raises UsageError if an argument is out of range or `month` is not a month."""
    if not 10 <= cards <= 50_000_000:
        raise UsageError(f"--cards: found {cards}; expected 10 to 50,000,000")
    if not 1 <= records <= 1_000_000_000:
        raise UsageError(f"--records: found {records}; expected 1 to 1,000,000,000")
    if not 0 <= pools <= cards // 2:
        raise UsageError(f"--pools: found {pools}; expected 0 to {cards // 2}, half the cards")
    try:
        return dt.datetime.strptime(month, "%Y-%m").replace(tzinfo=dt.UTC).date()
    except ValueError as error:
        raise UsageError(f"--month: found {month!r}; expected a month as 2026-10") from error


def _part(option: str, share: str, records: int) -> int:
    try:
        part = Decimal(share)
    except ArithmeticError as error:
        raise UsageError(f"{option}: found {share!r}; expected a share such as 0.01") from error
    if not 0 <= part <= Decimal("0.5"):
        raise UsageError(f"{option}: found {share}; expected 0 to 0.5")
    return int(part * records)


class _UsageLines:
    """The good lines of the usage file. They are formatted one slice at a time."""

    def __init__(self, fleet: Fleet, usage: FleetUsage, order: Ints, seed: int) -> None:
        self.fleet = fleet
        self.usage = usage
        self.order = order
        self._seed = seed
        self._iccids = fleet.cards["iccid"]
        self._words = [pl.Series(words) for words in (SERVICES, DIRECTIONS, PLMNS)]

    def frame(self, start: int, end: int) -> pl.DataFrame:
        """Return the columns of the lines from `start` to before `end`."""
        usage, rows = self.usage, self.order[start:end]
        services, directions, plmns = self._words
        data = pl.col("is_data")
        frame = pl.DataFrame(
            {
                "record_key": _keys(rows, self._seed),
                "iccid": self._iccids.gather(usage.card[rows]),
                "service": services.gather(usage.service[rows].astype(np.uint32)),
                "direction": directions.gather(usage.direction[rows].astype(np.uint32)),
                "volume_up_bytes": usage.up_bytes[rows],
                "volume_down_bytes": usage.down_bytes[rows],
                "quantity": usage.quantity[rows],
                "used_at": pl.Series(usage.at[rows] * 1000).cast(pl.Datetime("ms")),
                "plmn": plmns.gather(usage.plmn[rows].astype(np.uint32)),
                "is_data": usage.service[rows] == 0,
            }
        )
        return frame.with_columns(
            pl.when(data).then("volume_up_bytes").alias("volume_up_bytes"),
            pl.when(data).then("volume_down_bytes").alias("volume_down_bytes"),
            pl.when(~data).then("quantity").alias("quantity"),
        ).drop("is_data")

    def fields(self, line: int) -> dict[str, str]:
        """Return the fields of one line as text, by column name."""
        text = _csv(self.frame(line, line + 1)).decode("ascii").rstrip("\n")
        return dict(zip(HEADER.split(","), text.split(","), strict=True))


_DIGITS = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode("ascii"), dtype=np.uint16)


def _keys(rows: Ints, seed: int) -> pl.Series:
    """Return a key of 16 hexadecimal digits for each row. The mapping is a bijection of 64 bits, so keys are unique."""
    value = rows.astype(np.uint64) + np.uint64(seed % 2**31 << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    value ^= value >> np.uint64(31)
    text = _DIGITS[value.astype(">u8").view(np.uint8)]
    offsets = np.arange(0, 16 * len(rows) + 1, 16, dtype=np.int64)
    array = pa.Array.from_buffers(pa.large_string(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(text)])
    return pl.Series(pl.from_arrow(array))


def _csv(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_csv(buffer, include_header=False, datetime_format="%Y-%m-%dT%H:%M:%SZ", quote_style="never")
    return buffer.getvalue()


@dataclass(frozen=True)
class _BadLine:
    """A line that must be rejected. In the file it precedes the good line with the number `before`."""

    before: int
    reason: str
    raw: bytes


def _bad_lines(lines: _UsageLines, count: int, month: dt.date, rng: np.random.Generator) -> list[_BadLine]:
    """Return `count` lines that must be rejected, spread over the file and in its order. Reasons take turns."""
    usage = lines.usage
    of_service = {name: np.flatnonzero(usage.service[lines.order] == index) for index, name in enumerate(SERVICES)}
    settled = lines.fleet.active_day < (month - dt.date(1970, 1, 1)).days
    silent = np.flatnonzero(settled & ~lines.fleet.voice)
    made = []
    for number, before in enumerate(np.sort(rng.integers(1, len(lines.order) + 1, size=count)).tolist()):
        reason = BAD_REASONS[number % len(BAD_REASONS)]
        if (reason == "no_rate" and not len(silent)) or (reason in _OF_DATA and not len(of_service["data"])):
            reason = "missing"
        earlier = int(rng.integers(0, before))
        if reason in _OF_DATA:  # Spoil the latest data line so far, or else the first one of the file.
            known = int(np.searchsorted(of_service["data"], before))
            if known == 0 and reason == "conflict":
                reason = "missing"
            else:
                earlier = int(of_service["data"][max(0, known - 1)])
        fields = lines.fields(earlier)
        if reason != "conflict":
            fields["record_key"] = f"bad-{number:08d}"
        if reason == "no_rate":
            fields |= {"iccid": lines.fleet.cards["iccid"][int(silent[number % len(silent)])]}
            fields |= {"service": "voice", "direction": "mo", "quantity": "60"}
            fields |= {"volume_up_bytes": "", "volume_down_bytes": ""}
        elif reason == "no_plan":
            fields["iccid"] = lines.fleet.cards["iccid"][-1]
        elif reason == "unknown_card":
            fields["iccid"] = _STRANGER
        elif reason == "conflict":
            fields["volume_up_bytes"] = str(int(fields["volume_up_bytes"]) + 1)
        elif reason == "future":
            later = dt.datetime.fromtimestamp(month_bounds(month)[1], dt.UTC) + dt.timedelta(days=3)
            fields["used_at"] = later.strftime("%Y-%m-%dT%H:%M:%SZ")
        else:
            fields |= _SPOILT.get(reason, {})
        raw = ",".join(fields.values()).encode("ascii")
        if reason == "malformed":
            raw = b"*** end of block %d ***" % number
        elif reason == "encoding":
            raw = raw.replace(b",data,", b",d\xe4ta\xff,")
        made.append(_BadLine(before, reason, raw))
    return made


_STRANGER = "898899000000000000" + luhn_digit("898899000000000000")  # An ICCID that no card has.
BAD_REASONS = (
    "unknown_card",
    "missing",
    "bad_value",
    "bad_time",
    "negative",
    "unknown_service",
    "conflict",
    "future",
    "no_plan",
    "no_rate",
    "malformed",
    "encoding",
)
_OF_DATA = {"bad_value", "negative", "conflict", "encoding"}  # These reasons need a field that only data lines have.
_SPOILT = {
    "missing": {"used_at": ""},
    "bad_value": {"volume_down_bytes": "12;5"},
    "bad_time": {"used_at": "2026-10-32T25:00:00Z"},
    "negative": {"volume_down_bytes": "-1"},
    "unknown_service": {"service": "fax"},
}


def _write_usage(path: Path, lines: _UsageLines, bad_lines: list[_BadLine]) -> None:
    """Write the header and the good lines, with each bad line before its good line."""
    pending = iter([*bad_lines, None])
    bad = next(pending)
    with path.open("wb") as file:
        file.write(HEADER.encode("ascii") + b"\n")
        for start in range(0, len(lines.order), _SLICE):
            end = min(start + _SLICE, len(lines.order))
            frame = lines.frame(start, end)
            done = start
            while bad is not None and bad.before <= end:
                file.write(_csv(frame[done - start : bad.before - start]) + bad.raw + b"\n")
                done = bad.before
                bad = next(pending)
            file.write(_csv(frame[done - start :]))
