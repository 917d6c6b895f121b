"""Tables of the outbox in SQLite, and the codes of its states."""

from __future__ import annotations

import sqlite3
from typing import Final

from schemas.choices import DeliveryState

VERSION: Final = 1

DUE, QUEUED, DELIVERED, DEAD = range(4)
CODES: Final[dict[DeliveryState, tuple[int, ...]]] = {
    "pending": (DUE, QUEUED),
    "delivered": (DELIVERED,),
    "dead": (DEAD,),
}
NAMES: Final[dict[int, DeliveryState]] = {code: name for name, codes in CODES.items() for code in codes}

SCHEMA: Final = f"""
CREATE TABLE cursor (
    journal_partition INTEGER PRIMARY KEY,
    journal_offset INTEGER NOT NULL,  -- of the last action taken in
    ids TEXT NOT NULL,                -- the actions at that offset: others may come at it
    file TEXT NOT NULL                -- where it was found; a compaction may have merged it since
) STRICT;
CREATE TABLE delivery (
    seq INTEGER PRIMARY KEY,
    action_id TEXT NOT NULL,
    destination TEXT NOT NULL,
    iccid TEXT NOT NULL,
    rule TEXT NOT NULL,
    action TEXT NOT NULL,
    journal_partition INTEGER NOT NULL,
    journal_offset INTEGER NOT NULL,
    ordered INTEGER NOT NULL,
    state INTEGER NOT NULL,           -- {DUE} due, {QUEUED} queued, {DELIVERED} delivered, {DEAD} dead
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at_us INTEGER NOT NULL DEFAULT 0,
    changed_at_us INTEGER NOT NULL,
    error TEXT,
    body BLOB NOT NULL,               -- empty once it is delivered
    UNIQUE (action_id, destination)
) STRICT;
CREATE INDEX due ON delivery (destination, next_at_us, seq) WHERE state = {DUE};
CREATE INDEX line ON delivery (destination, iccid, seq) WHERE state < {DELIVERED} AND ordered = 1;
CREATE INDEX dead ON delivery (seq) WHERE state = {DEAD};
PRAGMA user_version = {VERSION};
"""

# What versions before these columns and tables lack. They go on working beside them, so VERSION stays.
_ADDED: Final = f"""
CREATE TABLE IF NOT EXISTS begun (     -- the file that a destination began to append to last, and its size before
    destination TEXT PRIMARY KEY,
    device TEXT NOT NULL,
    inode TEXT NOT NULL,
    size_bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS due_of_account ON delivery (destination, account, next_at_us, seq) WHERE state = {DUE}
"""


def extend(connection: sqlite3.Connection) -> None:
    """Add what a database of an older version lacks: the account of each delivery, and the table `begun`."""
    columns = {str(row[1]) for row in connection.execute("PRAGMA table_info(delivery)")}
    if "account" not in columns:
        connection.execute("ALTER TABLE delivery ADD COLUMN account TEXT NOT NULL DEFAULT ''")
        connection.execute(
            "UPDATE delivery SET account = coalesce(json_extract(CAST(body AS TEXT), '$.account'), '')"
            " WHERE length(body) > 0"
        )
    for statement in _ADDED.split(";\n"):
        connection.execute(statement)
