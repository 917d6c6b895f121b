"""Schema migrations: numbered SQL files, each applied once, in order, and recorded in the database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from pipeline.clickhouse.client import WRITE_SETTINGS, Client
from rating.errors import WorldError

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_RECORD: Final = """
CREATE TABLE IF NOT EXISTS schema_versions
(
    version UInt32,
    name String,
    applied_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
"""


@dataclass(frozen=True)
class Migration:
    """One migration file: its number, name and statements in order.

    Each statement must be safe to repeat after a crash.
    """

    version: int
    name: str
    statements: tuple[str, ...]


def migrations(folder: Traversable | None = None) -> tuple[Migration, ...]:
    """Return the migrations in order, numbered from 1 without gaps, from `folder` (None: those of Weir).

    Raises ValueError if a name or number is wrong.
    """
    folder = folder or resources.files("pipeline.clickhouse").joinpath("migrations")
    found = []
    for file in folder.iterdir():
        if file.name.endswith(".sql"):
            name = _NAME.fullmatch(file.name)
            if name is None:
                raise ValueError(f"{file.name}: a migration is named such as 0003_more_columns.sql")
            found.append(Migration(int(name[1]), name[2], _statements(file.read_text(encoding="utf-8"))))
    found.sort(key=lambda one: one.version)
    if [one.version for one in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are numbered {[one.version for one in found]}; expected 1, 2, 3 and so on")
    return tuple(found)


def _statements(text: str) -> tuple[str, ...]:
    """Return the statements of a file. Each ends with a semicolon at the end of a line; comments have own lines."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("--"))
    parts = re.split(r";\s*$", "\n".join(lines), flags=re.MULTILINE)
    return tuple(part.strip() for part in parts if part.strip())


def migrate(client: Client, known: Sequence[Migration] | None = None) -> list[Migration]:
    """Bring the database to the current version; return the migrations applied.

    If the call is killed at any moment, the next call continues. Raises WorldError and changes nothing if the database
    has a newer version.
    """
    known = migrations() if known is None else known
    version = _version(client)
    _refuse_newer(client, version, known)
    applied = list(known[version:])
    if applied and version == 0:
        client.command(_RECORD)
    for migration in applied:
        for statement in migration.statements:
            client.command(statement)
        client.command(
            f"INSERT INTO schema_versions (version, name) VALUES ({migration.version}, '{migration.name}')",
            {"async_insert": WRITE_SETTINGS["async_insert"]},
        )
    return applied


def require_schema(client: Client) -> None:
    """Check the version of the database. Raises WorldError if it is not exactly the current version."""
    known = migrations()
    version = _version(client)
    _refuse_newer(client, version, known)
    if version < len(known):
        raise WorldError(
            f"{client.where}: the database {client.database} has schema version {version}, this version of weir reads "
            f"{len(known)}; `weir clickhouse load` brings it there"
        )


def _refuse_newer(client: Client, version: int, known: Sequence[Migration]) -> None:
    if version > len(known):
        raise WorldError(
            f"{client.where}: the database {client.database} has schema version {version}, this version of weir knows "
            f"{len(known)}; use a newer weir, or another database"
        )


def _version(client: Client) -> int:
    """Return the version of the database; 0 if it is empty."""
    here = "SELECT count() FROM system.tables WHERE database = {of:String} AND name = 'schema_versions'"
    if not client.rows(here, {"of": client.database})[0][0]:
        return 0
    return int(client.rows("SELECT max(version) FROM schema_versions")[0][0])
