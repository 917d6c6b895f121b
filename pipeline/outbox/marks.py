"""Results of deliveries to ordered destinations, written within one transaction."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from pipeline.outbox.schema import DEAD, DELIVERED, DUE

if TYPE_CHECKING:
    from pipeline.outbox.store import Due

_IN_LINE: Final = f"destination = ? AND iccid = ? AND state < {DELIVERED} AND ordered = 1"


class Marks:
    """Marks deliveries to ordered destinations. When one is delivered or dead, the next one of its SIM becomes due."""

    def __init__(self, connection: sqlite3.Connection, now_us: int) -> None:
        self._connection = connection
        self._now_us = now_us

    def delivered(self, destination: str, due: Due, note: str | None) -> None:
        """Mark a delivery as delivered and delete its body. `note` is stored as a remark."""
        self._set(due.seq, DELIVERED, 0, note)
        self._connection.execute("UPDATE delivery SET body = x'' WHERE seq = ?", (due.seq,))
        self._advance(destination, due.iccid)

    def dead(self, destination: str, due: Due, error: str) -> None:
        """Mark a delivery as dead: it will not be retried automatically."""
        self._set(due.seq, DEAD, 0, error)
        self._advance(destination, due.iccid)

    def again(self, due: Due, error: str, next_at_us: int) -> None:
        """Schedule another attempt at `next_at_us`. Later deliveries of the SIM go on waiting."""
        self._set(due.seq, DUE, next_at_us, error)

    def _set(self, seq: int, state: int, next_at_us: int, error: str | None) -> None:
        self._connection.execute(
            "UPDATE delivery SET state = ?, attempts = attempts + 1, next_at_us = ?, changed_at_us = ?, error = ?"
            " WHERE seq = ?",
            (state, next_at_us, self._now_us, error, seq),
        )

    def _advance(self, destination: str, iccid: str) -> None:
        self._connection.execute(
            f"UPDATE delivery SET state = {DUE} WHERE seq = (SELECT min(seq) FROM delivery WHERE {_IN_LINE})",
            (destination, iccid),
        )
