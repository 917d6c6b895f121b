"""What a disturbed run has left behind, against what an undisturbed one would have."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.store import manifest as manifests
from pipeline.store.directory import DataDirectory
from pipeline.streaming.kafka import Log
from pipeline.streaming.land.folder import folder_of, landed_of
from pipeline.streaming.rate.restore import restored
from schemas.tables import TABLES
from tests.faults.stream import Expected, comparable


def holds_all(history: Path, expected: Expected) -> bool:
    """Whether the history has as many rows of each table as are expected, or more."""
    for partition, tables in expected.tables.items():
        manifest = manifests.read(folder_of(history, partition))
        for name, table in tables.items():
            if table.num_rows and (manifest is None or sum(e.rows for e in manifest.group(name)) < table.num_rows):
                return False
    return True


def rows_in(history: Path, expected: Expected) -> dict[int, int]:
    """How many rows of all tables each partition of the history has."""
    found = {partition: manifests.read(folder_of(history, partition)) for partition in expected.tables}
    return {
        partition: 0 if manifest is None else sum(entry.rows for name in TABLES for entry in manifest.group(name))
        for partition, manifest in found.items()
    }


async def landed(config: Config, history: Path) -> bool:
    """Whether every message of the journal is in the history."""
    log = Log(config.kafka)
    for partition, end in enumerate(await log.end_offsets(log.topics.journal)):
        folder = folder_of(history, partition)
        if end and (not (folder / "manifest.json").exists() or landed_of(folder) < end - 1):
            return False
    return True


def history_differences(history: Path, expected: Expected) -> list[str]:
    """Every table of every partition that is not row for row as expected."""
    found = []
    for partition, tables in expected.tables.items():
        directory = DataDirectory.open(folder_of(history, partition), write=False)
        for name, schema in TABLES.items():
            files = [directory.locate(entry) for entry in directory.manifest.group(name)]
            rows = pa.concat_tables([schema.empty_table(), *(pq.read_table(file).cast(schema) for file in files)])
            have, want = comparable(rows), comparable(tables[name])
            if not have.equals(want, null_equal=True):
                found.append(f"partition {partition}: {name}: {len(have)} rows, expected {len(want)}, or other values")
        directory.close()
    return found


async def action_differences(config: Config, expected: Expected) -> tuple[list[str], int]:
    """Actions that are missing on their topic, are not known, or differ; and how many came more than once."""
    log = Log(config.kafka)
    found: dict[str, bytes] = {}
    wrong, repeated = [], 0
    for partition, end in enumerate(await log.end_offsets(log.topics.actions)):
        if not end:
            continue
        async for message in log.read(log.topics.actions, partition, 0, end):
            body = json.loads(message.value)
            if body["id"] in found:
                repeated += 1
            if found.setdefault(body["id"], message.value) != message.value or message.key != body["iccid"].encode():
                wrong.append(f"action {body['id']} came with other content, or under another key")
    for name, one, other in (("missing", expected.actions, found), ("unknown", found, expected.actions)):
        left = one.keys() - other.keys()
        if left:
            wrong.append(f"{len(left)} actions {name}, such as {min(left)}")
    wrong += [f"action {name} differs" for name in found if found[name] != expected.actions.get(name, found[name])]
    return wrong, repeated


async def state_differences(config: Config, expected: Expected) -> list[str]:
    """Partitions whose newest base with the journal after it is not the expected state, byte for byte."""
    log = Log(config.kafka)
    wrong = []
    for partition, fold in expected.folds.items():
        fold.expire()
        until = await log.end_offset(log.topics.journal, partition) - 1
        folder = folder_of(Path(config.worker.history), partition)
        have = await restored(log, config.worker.app, folder, partition, until)
        have.expire()
        mine, theirs = fold.engine.snapshot(), have.engine.snapshot()
        if msgspec.json.decode(mine[0]) != msgspec.json.decode(theirs[0]):
            wrong.append(f"partition {partition}: facts of the state differ")
        for name, table in mine[1].items():
            if not comparable(table).equals(comparable(theirs[1][name]), null_equal=True):
                wrong.append(f"partition {partition}: {name} of the state differs")
        if len(fold.engine.state.seen) != len(have.engine.state.seen):
            wrong.append(f"partition {partition}: seen keys differ")
    return wrong
