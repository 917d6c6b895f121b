"""The state of the fold as files of the data directory, replaced at each checkpoint.

Cards and their histories change only with the catalogue, and are rewritten only then. Counters and sessions are written
at every checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import pyarrow as pa
import pyarrow.feather as feather

from pipeline.store.directory import Checkpoint, DataDirectory
from rating.dedupe.seen import Seen
from rating.errors import StorageError
from rating.queried_state import QUERIED_TABLES, STEADY, QueriedState, queried_state

if TYPE_CHECKING:
    from rating.engine import Engine
    from rating.state import State

T = TypeVar("T")

GROUP: Final = "state"


def restore_state(directory: DataDirectory) -> State:
    """Return the state of the last checkpoint without its seen keys; an empty state if there is no checkpoint.

    Raises StorageError if a file is damaged or has changed since it was written.
    """
    from rating.state import State  # here, because it loads the fold, which questions do not need

    found = _restored(directory, None, lambda facts, tables: State.restore(facts, tables, Seen()))
    return State() if found is None else found


def restore_queried(directory: DataDirectory) -> QueriedState:
    """Return what questions need of the state of the last checkpoint; an empty state if there is no checkpoint.

    Raises StorageError if a file that it reads is damaged or has changed since it was written.
    """
    found = _restored(directory, QUERIED_TABLES, queried_state)
    return QueriedState() if found is None else found


def _restored(
    directory: DataDirectory, names: tuple[str, ...] | None, restore: Callable[[bytes, dict[str, pa.Table]], T]
) -> T | None:
    """Return what `restore` makes of the facts and the tables of these names (None: all); None without checkpoint."""
    files = {str(entry.facts["name"]): entry for entry in directory.manifest.group(GROUP)}
    if not files:
        return None
    try:
        facts = files.pop("facts")
        tables = {
            name: feather.read_table(directory.check(entry), memory_map=False)
            for name, entry in files.items()
            if names is None or name in names
        }
        found = restore(directory.locate(facts).read_bytes(), tables)
        directory.check(facts)  # last: a state of another version has words of its own
        return found
    except (ValueError, KeyError, pa.ArrowException) as damage:
        raise StorageError(
            f"{directory.path}: the state cannot be read ({damage}); use the version of weir that wrote it, or restore "
            "the directory from a backup"
        ) from damage


def stage_state(directory: DataDirectory, checkpoint: Checkpoint, engine: Engine, written: int) -> int:
    """Stage the state of the engine, replacing the last one.

    `written` is the generation of the catalogue tables on disk. Returns the generation on disk after the commit.
    """
    facts, tables = engine.snapshot()
    generation = engine.state.generation
    former = {str(entry.facts["name"]): entry for entry in directory.manifest.group(GROUP)}
    kept = set(STEADY) if generation == written else set()
    checkpoint.retire(*(entry for name, entry in former.items() if name not in kept))
    folder = f"state/{checkpoint.number:08d}"
    checkpoint.stage_bytes(GROUP, f"{folder}/facts.json", facts, facts={"name": "facts"})
    for name, table in tables.items():
        if name in kept:
            continue

        def write(target: Path, table: pa.Table = table) -> None:
            feather.write_feather(table, str(target), compression="lz4")

        checkpoint.stage(GROUP, f"{folder}/{name}.arrow", write, rows=table.num_rows, facts={"name": name})
    return generation
