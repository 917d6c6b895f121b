"""Shared parts of ClickHouse tests: a server in its own process, and a history with rows in every table."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.history.writer import Landing
from pipeline.store.background import Background
from pipeline.store.directory import DataDirectory
from schemas.tables import TABLES
from tests.support.progress import ended
from tests.support.rated_rows import Event, rated_table, reject_table, rule_tables, small_events

__all__ = ["PASSWORD", "USER", "TestServer", "commit", "events", "everything", "server"]

USER, PASSWORD = "weir", "pass wörd"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class TestServer:
    """Client side of a running test server: its URL, and injection of faults."""

    __test__ = False

    url: str

    def fault(self, kind: str) -> None:
        """Inject a fault into the next change: `lost`, `late` or `busy` (tests/support/clickhouse_server.py)."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/fault/{kind}", method="POST")).close()


@contextmanager
def server(path: Path, port: int = 0, tls: Sequence[Path] = ()) -> Iterator[TestServer]:
    """Run a server with the engine's data at `path` until the end of the block."""
    arguments = [
        sys.executable,
        "-m",
        "tests.support.clickhouse_server",
        str(path),
        str(port),
        USER,
        PASSWORD,
        *map(str, tls),
    ]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        number = int(process.stdout.readline())
        yield TestServer(f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{number}")
    finally:
        process.stdin.close()
        process.stdout.close()
        ended(process)


def events() -> list[Event]:
    """Return usage that alternates between two cycles, with corrections and late usage."""
    events = small_events()
    return [replace(one, month=dt.date(2026, 10 + at % 2, 1)) for at, one in enumerate([*events, *events])]


def everything() -> dict[str, pa.Table]:
    """Return a few rows of every table."""
    gap = {"feed": "f", "session_id": "s", "iccid": "8949", "service": "data", "missing": 2}
    gap |= {"journal_partition": 0, "journal_offset": 3}
    charge = {"charge_id": "0.4.0", "kind": "fee", "account_id": "a", "subject_kind": "pool", "subject": "fleet"}
    charge |= {"cycle": "2026-10", "name": "line", "days": 3, "of_days": 31, "amount_nanos": 7, "currency": "EUR"}
    charge |= {"closed_at": dt.datetime(2026, 11, 4, tzinfo=dt.UTC), "journal_partition": 0, "journal_offset": 4}
    tables = {
        "rated": rated_table(events()),
        "rejected": reject_table([{"message": "it's \\ odd"}, {"raw": b"\xff\x00\n"}]),
        "gaps": pa.Table.from_pylist([gap], schema=TABLES["gaps"]),
        "charges": pa.Table.from_pylist([charge], schema=TABLES["charges"]),
    }
    for name, table in rule_tables().items():
        rows: list[dict[str, Any]] = table.to_pylist()
        for at, row in enumerate(rows):
            row |= {"journal_partition": 0, "journal_offset": at}
        tables[name] = pa.Table.from_pylist(rows, schema=TABLES[name])
    return tables


def commit(data: Path, tables: dict[str, pa.Table]) -> None:
    """Commit the rows as one checkpoint of a data directory whose journal ends after all their offsets."""
    with DataDirectory.open(data, write=True) as directory, directory.begin() as step, Background() as background:
        landing = Landing(step, background)
        for name, table in tables.items():
            landing.add(name, table)
        landing.finish()
        step.stage_bytes(
            "journal", f"journal/{step.number:010}-000.journal", b"", facts={"first_offset": 0, "next_offset": 1000}
        )
        step.commit()
