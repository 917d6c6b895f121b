"""Store of deliveries: a SQLite file beside the history, with a lock of its own.

A delivery is one message for one destination. It is due, queued behind an earlier delivery of its SIM, delivered, or
dead. Of the due and queued deliveries of a SIM to an ordered destination, the earliest is due and all others are
queued.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from pipeline.outbox.appended import Begun
from pipeline.outbox.marks import Marks
from pipeline.outbox.message import Outgoing
from pipeline.outbox.schema import CODES, DEAD, DELIVERED, DUE, NAMES, QUEUED, SCHEMA, VERSION, extend
from pipeline.store.directory import storage_errors
from pipeline.store.folders import FILE_MODE, create_file, lock_directory
from pipeline.store.folders import folder as below
from rating.errors import StorageError, UsageError
from schemas.choices import DeliveryState

FOLDER: Final = "outbox"
NAME: Final = "outbox.sqlite"
_WAIT_S: Final = 30.0  # longest wait for the transaction of another process


class Cursor(msgspec.Struct, frozen=True):
    """How far the actions of a journal partition have been taken in.

    `offset` is the journal offset of the last action, `ids` are the actions taken in at this offset, and `file` is the
    path of the file that contained the last one.
    """

    offset: int
    ids: frozenset[str]
    file: str


@dataclass(frozen=True)
class Due:
    """A delivery that is due now."""

    seq: int
    action_id: str
    iccid: str
    attempts: int
    body: bytes
    account: str


@dataclass(frozen=True)
class Delivery:
    """A delivery as listed to the user. Times are microseconds since 1970 UTC; `next_at_us` 0 means no wait."""

    action_id: str
    destination: str
    iccid: str
    rule: str
    action: str
    state: DeliveryState
    attempts: int
    next_at_us: int
    changed_at_us: int
    error: str | None


class Store:
    """The outbox of a data directory; a context manager. Use it from one thread only."""

    def __init__(self, connection: sqlite3.Connection, path: Path, lock: int | None) -> None:
        self._connection = connection
        self._path = path
        self._lock = lock

    @classmethod
    def open(cls, data: Path, *, deliver: bool) -> Store:
        """Open the outbox of a data directory; create it if it does not exist.

        With `deliver`, lock it, so that only one process delivers. Raises LockedError if another process delivers,
        StorageError if the disk fails, or if the outbox is damaged or has another version.
        """
        folder = data / FOLDER
        with storage_errors(folder, "open the outbox"):
            with below(data, FOLDER, create=True):
                pass
            lock = lock_directory(folder) if deliver else None
        path = folder / NAME
        try:
            with storage_errors(path, "open the outbox"):
                # SQLite gives its other files the mode of this one.
                descriptor = create_file(path)
                os.fchmod(descriptor, FILE_MODE)
                os.close(descriptor)
            with _database_errors(path):
                connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
                connection.execute("PRAGMA journal_mode = WAL")
                # After a power failure the last marks may be missing, which causes repeats. No message is lost.
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA cache_size = -65536")
                connection.execute("PRAGMA wal_autocheckpoint = 16384")
                store = cls(connection, path, lock)
                store._prepare()
                return store
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database and release the lock."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def cursors(self) -> dict[int, Cursor]:
        """Return the cursor of each journal partition."""
        rows = self._rows("SELECT journal_partition, journal_offset, ids, file FROM cursor")
        return {
            partition: Cursor(offset, msgspec.json.decode(ids, type=frozenset[str]), file)
            for partition, offset, ids, file in rows
        }

    def take_in(
        self, messages: Iterable[Outgoing], cursors: dict[int, Cursor], ordered: frozenset[str], now_us: int
    ) -> None:
        """Store messages for delivery and advance the cursors, in one transaction.

        `ordered` are the destinations at which later messages of a SIM wait for its earlier ones. A message that is
        stored already does not change.
        """
        with self._transaction():
            self._connection.executemany(
                "INSERT OR IGNORE INTO delivery (action_id, destination, iccid, rule, action, journal_partition,"
                " journal_offset, ordered, state, changed_at_us, body, account) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,"
                f" CASE WHEN ?8 AND EXISTS (SELECT 1 FROM delivery WHERE destination = ?2 AND iccid = ?3"
                f" AND state < {DELIVERED} AND ordered = 1) THEN {QUEUED} ELSE {DUE} END, ?9, ?10, ?11)",
                (
                    (
                        one.action_id, one.destination, one.iccid, one.rule, one.action, one.partition, one.offset,
                        int(one.destination in ordered), now_us, one.body, one.account,
                    )
                    for one in messages
                ),
            )  # fmt: skip
            self._connection.executemany(
                "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?, ?)",
                (
                    (partition, cursor.offset, msgspec.json.encode(sorted(cursor.ids)).decode(), cursor.file)
                    for partition, cursor in cursors.items()
                ),
            )

    def due(self, destination: str, now_us: int, limit: int) -> list[Due]:
        """Return deliveries that are due now, earliest first; at an ordered destination at most one per SIM."""
        rows = self._rows(
            "SELECT seq, action_id, iccid, attempts, body, account FROM delivery"
            f" WHERE destination = ? AND state = {DUE} AND next_at_us <= ? ORDER BY next_at_us, seq LIMIT ?",
            destination, now_us, limit,
        )  # fmt: skip
        return [Due(*row) for row in rows]

    def due_of_each_account(self, destination: str, now_us: int, limit: int, after: str) -> list[Due]:
        """Return deliveries that are due now, about as many of each account, those of an account earliest first.

        If there are more accounts than `limit`, the accounts after `after` come first.
        """
        names = [
            str(name)
            for (name,) in self._rows(
                "WITH RECURSIVE one (account) AS ("
                f" SELECT min(account) FROM delivery WHERE destination = ?1 AND state = {DUE}"
                " UNION ALL SELECT (SELECT min(account) FROM delivery"
                f" WHERE destination = ?1 AND state = {DUE} AND account > one.account)"
                " FROM one WHERE account IS NOT NULL) SELECT account FROM one WHERE account IS NOT NULL",
                destination,
            )
        ]
        if len(names) > limit:
            names = [*(name for name in names if name > after), *(name for name in names if name <= after)][:limit]
        each = -(-limit // max(1, len(names)))
        found = [
            [
                Due(*row)
                for row in self._rows(
                    f"SELECT seq, action_id, iccid, attempts, body, account FROM delivery WHERE state = {DUE}"
                    " AND destination = ? AND account = ? AND next_at_us <= ? ORDER BY next_at_us, seq LIMIT ?",
                    destination, name, now_us, each,
                )
            ]
            for name in names
        ]  # fmt: skip
        return [one for turn in zip_longest(*found) for one in turn if one is not None]

    def begun(self, destination: str) -> Begun | None:
        """Return what was marked as begun last for a file, or None."""
        rows = self._rows("SELECT device, inode, size_bytes FROM begun WHERE destination = ?", destination)
        return next((Begun(int(device), int(inode), size) for device, inode, size in rows), None)

    def mark_begun(self, destination: str, begun: Begun | None) -> None:
        """Remember that appending to a file has begun, or has ended (None)."""
        with self._transaction():
            if begun is None:
                self._connection.execute("DELETE FROM begun WHERE destination = ?", (destination,))
                return
            self._connection.execute(
                "INSERT OR REPLACE INTO begun VALUES (?, ?, ?, ?)",
                (destination, str(begun.device), str(begun.inode), begun.size_bytes),
            )

    def next_due_us(self, destination: str) -> int | None:
        """Return the time of the next due delivery to a destination, in microseconds since 1970 UTC, or None."""
        rows = self._rows(
            f"SELECT next_at_us FROM delivery WHERE destination = ? AND state = {DUE} ORDER BY next_at_us LIMIT 1",
            destination,
        )
        return next((int(at) for (at,) in rows), None)

    def release(self, destination: str) -> None:
        """Make all pending deliveries to a destination due and unordered. Used for files, which may have been ordered
        destinations in an earlier configuration.
        """
        with self._transaction():
            self._connection.execute(
                f"UPDATE delivery SET state = {DUE}, ordered = 0, next_at_us = 0 WHERE destination = ?"
                f" AND state < {DELIVERED} AND ordered = 1",
                (destination,),
            )

    def mark_delivered(self, destination: str, first: int, last: int, now_us: int) -> None:
        """Mark as delivered all due deliveries to an unordered destination with `seq` from `first` to `last`."""
        with self._transaction():
            self._connection.execute(
                f"UPDATE delivery SET state = {DELIVERED}, attempts = attempts + 1, changed_at_us = ?, error = NULL,"
                f" body = x'' WHERE seq BETWEEN ? AND ? AND destination = ? AND state = {DUE}",
                (now_us, first, last, destination),
            )

    @contextmanager
    def marking(self, now_us: int) -> Iterator[Marks]:
        """Open one transaction for marking deliveries to ordered destinations."""
        with self._transaction():
            yield Marks(self._connection, now_us)

    def counts(self) -> dict[str, dict[DeliveryState, int]]:
        """Return the number of deliveries by destination and state."""
        counts: dict[str, dict[DeliveryState, int]] = {}
        for destination, state, number in self._rows(
            "SELECT destination, state, count(*) FROM delivery GROUP BY destination, state ORDER BY destination"
        ):
            of = counts.setdefault(destination, {"pending": 0, "delivered": 0, "dead": 0})
            of[NAMES[state]] += number
        return counts

    def pending(self, destinations: Sequence[str]) -> int:
        """Return how many deliveries to these destinations are due or queued."""
        marks = ", ".join("?" * len(destinations))
        rows = self._rows(
            f"SELECT count(*) FROM delivery WHERE state IN ({DUE}, {QUEUED}) AND destination IN ({marks})",
            *destinations,
        )
        return int(next(rows)[0])

    def list(self, state: DeliveryState | None, limit: int, offset: int) -> tuple[int, list[Delivery]]:
        """Return the number of deliveries in this state (None: all), and one page of them, newest first."""
        codes = ", ".join(map(str, NAMES if state is None else CODES[state]))
        total = next(self._rows(f"SELECT count(*) FROM delivery WHERE state IN ({codes})"))[0]
        rows = self._rows(
            "SELECT action_id, destination, iccid, rule, action, state, attempts, next_at_us, changed_at_us, error"
            f" FROM delivery WHERE state IN ({codes}) ORDER BY seq DESC LIMIT ? OFFSET ?",
            limit, offset,
        )  # fmt: skip
        return int(total), [
            Delivery(action_id, destination, iccid, rule, action, NAMES[code], attempts, next_us, changed_us, error)
            for action_id, destination, iccid, rule, action, code, attempts, next_us, changed_us, error in rows
        ]

    def retry(self, action_ids: Sequence[str] | None, now_us: int) -> int:
        """Make dead deliveries pending again, of these actions or of all (None); return their number.

        Raises UsageError and changes nothing if an action has no dead delivery.
        """
        with self._transaction():
            rows = list(self._connection.execute(f"SELECT seq, action_id FROM delivery WHERE state = {DEAD}"))
            if action_ids is not None:
                unknown = sorted(set(action_ids) - {action_id for _, action_id in rows})
                if unknown:
                    raise UsageError(
                        f"found {', '.join(unknown)}, no dead letter; `weir outbox list --state dead` lists those"
                    )
            wanted = [seq for seq, action_id in rows if action_ids is None or action_id in set(action_ids)]
            self._connection.executemany(
                f"UPDATE delivery SET attempts = 0, next_at_us = 0, changed_at_us = ?2, state = CASE WHEN EXISTS"
                f" (SELECT 1 FROM delivery AS other WHERE other.destination = delivery.destination"
                f" AND other.iccid = delivery.iccid AND other.state < {DELIVERED} AND other.ordered = 1)"
                f" THEN {QUEUED} ELSE {DUE} END WHERE seq = ?1",
                ((seq, now_us) for seq in wanted),
            )
            return len(wanted)

    def prune(self, before_us: int) -> int:
        """Delete deliveries delivered before `before_us` (microseconds since 1970 UTC); return their number."""
        with self._transaction():
            done = self._connection.execute(
                f"DELETE FROM delivery WHERE state = {DELIVERED} AND changed_at_us < ?", (before_us,)
            )
            return done.rowcount

    def _prepare(self) -> None:
        with self._transaction():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in SCHEMA.split(";\n"):
                    self._connection.execute(statement)
            elif version != VERSION:
                raise StorageError(
                    f"{self._path}: the outbox has version {version}, this version of weir reads {VERSION}; "
                    "use the version of weir that wrote it"
                )
            extend(self._connection)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _database_errors(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _rows(self, statement: str, *parameters: object) -> Iterator[Any]:
        with _database_errors(self._path):
            return iter(self._connection.execute(statement, parameters).fetchall())


@contextmanager
def _database_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as failure:
        raise StorageError(f"{path}: {failure}; check the disk and its permissions, then give the command again") from (
            failure
        )
