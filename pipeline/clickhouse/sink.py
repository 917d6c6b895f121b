"""Loading into ClickHouse: each row reaches the table once, and its totals once (docs/decisions/0041).

ClickHouse commits one part at a time: one table, one cycle, one insert. It cannot change `rated` and its two tables of
totals together. So each of the three tables records how far it has taken a journal partition: the highest offset in
its parts, by cycle. This figure is present exactly if the rows are. After an interruption, each table gets the rows
that it lacks, and no row twice.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clickhouse.client import WRITE_SETTINGS, Client, PassingError, Patience
from rating.errors import WorldError
from schemas.tables import TABLES

Reach = dict[str, int]  # by cycle, the offset after the last one in the table; the key is "" if a table has no cycles

# Materialised views, by the table that feeds them: each view with the table of totals that it fills.
VIEWS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "rated": (("daily_feed", "daily_totals"), ("cycles_feed", "cycle_totals"))
}
# The ClickHouse table behind a name, if it differs. Such a table has the columns landed_partition and landed_offset.
_BEHIND: Final[Mapping[str, str]] = {"rejected": "rejected_rows"}
FILL_OFFSETS: Final = 2_000_000  # number of journal offsets that one statement adds to totals that lack them
_POLL_S: Final = 0.2


class Sink:
    """Inserts blocks of rows into one migrated database.

    Use a sink from one thread only, and one sink per journal partition. `patience_s` limits how long a call retries
    while ClickHouse is unavailable; `stop` ends the retries at once.
    """

    def __init__(self, client: Client, *, patience_s: float = 300, stop: threading.Event | None = None) -> None:
        self._client = client
        self._patience_s = patience_s
        self._stop = stop
        self._marks: dict[tuple[str, int], int] | None = None
        self._certain: set[tuple[str, int]] = set()  # (table, partition) known to have no interrupted insert

    def landed(self) -> dict[tuple[str, int], int]:
        """Return the offset up to which (exclusive) all rows are in ClickHouse, by table and journal partition.

        Later rows may be there too, after an interrupted `land`, which takes them into account. Raises WorldError if
        ClickHouse stays unavailable.
        """
        patience = Patience(self._patience_s, self._stop)
        while True:
            try:
                self._marks = self._read_marks()
                return dict(self._marks)
            except PassingError as failure:
                patience.wait(failure)

    def land(
        self,
        name: str,
        table: pa.Table,
        partition: int,
        first_offset: int,
        next_offset: int,
        offsets: npt.NDArray[np.int64] | None = None,
    ) -> int:
        """Insert the rows of a table of schemas.tables.TABLES at offsets [first_offset, next_offset) of a partition.

        `table` must contain all rows of these offsets; no later call may bring a part of them again. Call in journal
        order for each partition; offsets between two calls have no rows. `offsets` (int64[n]) gives the offset of each
        row if the table has no column `journal_offset` (`rejected`).

        After the call the rows are in the table and in its totals exactly once, durably, and `landed` includes them,
        whether all, some or none of them were there before. Returns how many rows were new to the table.

        Raises WorldError if ClickHouse rejects the rows or stays unavailable. Then nothing is acknowledged, and the
        same call can be repeated. Raises ValueError if the rows do not fit the arguments.
        """
        if offsets is None and "journal_offset" in table.schema.names:
            offsets = table.column("journal_offset").to_numpy()
        _check(name, table, partition, first_offset, next_offset, offsets)
        patience = Patience(self._patience_s, self._stop)
        while True:
            try:
                if self._marks is None:
                    self._marks = self._read_marks()
                if next_offset <= self._marks.get((name, partition), -1):
                    return 0
                new = self._land_rows(name, table, partition, (first_offset, next_offset), offsets)
                self._mark(name, partition, next_offset)
                return new
            except WorldError as failure:
                self._certain.discard((name, partition))
                self._marks = None
                if not isinstance(failure, PassingError):
                    raise
                patience.wait(failure)

    def settle(self, name: str, partition: int) -> None:
        """Add to the totals of a table the rows that they lack, after waiting for inserts that may still be running.

        `land` does this itself after an interruption. Call it once for totals that a migration has added.
        """
        self._wait_for_running(name, partition)
        reach = self._reach(name, partition)
        for view, totals in VIEWS.get(name, ()):
            for cycle, end in sorted(reach[name].items()):
                start = reach[totals].get(cycle, 0)
                for low in range(start, end, FILL_OFFSETS):
                    self._fill(name, view, totals, partition, cycle, low, min(low + FILL_OFFSETS, end))
        self._certain.add((name, partition))

    def _land_rows(
        self,
        name: str,
        table: pa.Table,
        partition: int,
        bounds: tuple[int, int],
        offsets: npt.NDArray[np.int64] | None,
    ) -> int:
        if not table.num_rows:
            return 0
        assert offsets is not None
        if (name, partition) not in self._certain:
            self.settle(name, partition)
        reach = self._reach(name, partition)
        cycles = table.column("cycle").cast(pa.string()) if name in VIEWS else None
        names = pc.unique(cycles).to_pylist() if cycles is not None else [""]
        least = _each(cycles, {cycle: reach[name].get(cycle, 0) for cycle in names}, table.num_rows)
        missing = offsets >= least
        if not missing.any():
            return 0
        rows = _with_offsets(name, table, partition, offsets)
        whole = bool(missing.all())
        if not whole:
            rows, offsets = rows.filter(pa.array(missing)), offsets[missing]
            cycles = None if cycles is None else cycles.filter(pa.array(missing))
        wanted = _ends(cycles, offsets)
        held = [reach[totals] for _, totals in VIEWS.get(name, ())]
        ahead = any(one.get(cycle, 0) > reach[name].get(cycle, 0) for one in held for cycle in wanted)
        if not ahead:
            # If two writers insert the same block at the same moment, the engine accepts only one, thanks to the token.
            token = _token(f"{name}:{partition}:{bounds[0]}:{bounds[1]}" if whole else uuid.uuid4().hex)
            self._client.insert(_BEHIND.get(name, name), rows, token, query_id=self._query_id(name, partition))
            reach = self._reach(name, partition)
        if any(reach[name].get(cycle, 0) < end for cycle, end in wanted.items()):
            # The insert was skipped, because the totals are ahead and must not get the rows twice. Or it had no effect,
            # because the engine can know a token without having its rows.
            self._attach(name, rows, partition, {c for c, end in wanted.items() if reach[name].get(c, 0) < end}, cycles)
            self.settle(name, partition)
        elif any(reach[totals].get(c, 0) < end for _, totals in VIEWS.get(name, ()) for c, end in wanted.items()):
            self.settle(name, partition)
        return int(rows.num_rows)

    def _reach(self, name: str, partition: int) -> dict[str, Reach]:
        """Return how far the table and each of its totals have taken a partition, read from the projection `landed`."""
        place = "landed" if name in _BEHIND else "journal"
        cycle = "toString(cycle)" if name in VIEWS else "''"
        asked = [
            f"SELECT '{name}', {cycle} AS of, max({place}_offset) FROM {_BEHIND.get(name, name)} "
            f"WHERE {place}_partition = {partition} GROUP BY of"
        ]
        asked += [
            f"SELECT '{totals}', {cycle} AS of, max(last_offset) FROM {totals} "
            f"WHERE journal_partition = {partition} GROUP BY of"
            for _, totals in VIEWS.get(name, ())
        ]
        reach: dict[str, Reach] = {name: {}, **{totals: {} for _, totals in VIEWS.get(name, ())}}
        for table, of, last in self._client.rows(" UNION ALL ".join(asked)):
            reach[table][of] = int(last) + 1
        return reach

    def _fill(self, name: str, view: str, totals: str, partition: int, cycle: str, start: int, end: int) -> None:
        """Add the rows of a cycle with offsets in [start, end) to totals that lack them, as their view would have."""
        database = self._client.database
        ((select,),) = self._client.rows(
            "SELECT as_select FROM system.tables WHERE database = {of:String} AND name = {view:String}",
            {"of": database, "view": view},
        )
        rows = (
            f"cycle = {_text(cycle)} AND journal_partition = {partition} "
            f"AND journal_offset >= {start} AND journal_offset < {end}"
        )
        self._client.command(
            f"INSERT INTO {totals} {select}",
            {
                **WRITE_SETTINGS,
                **_token(uuid.uuid4().hex),
                "additional_table_filters": f"{{{_text(f'{database}.{name}')}: {_text(rows)}}}",
            },
            query_id=self._query_id(name, partition),
        )

    def _attach(self, name: str, rows: pa.Table, partition: int, cycles: set[str], of: pa.ChunkedArray | None) -> None:
        """Add the rows of these cycles to the table without feeding its totals, one atomic part per cycle."""
        beside, query_id = f"{name}_beside_{partition}", self._query_id(name, partition)
        if of is None:
            # The table has no totals. With a random token the engine cannot mistake this for an earlier insert.
            self._client.insert(_BEHIND.get(name, name), rows, _token(uuid.uuid4().hex), query_id=query_id)
            return
        rows = rows.filter(pc.is_in(of, pa.array(sorted(cycles))))
        self._client.command(f"DROP TABLE IF EXISTS {beside}", query_id=query_id)
        self._client.command(f"CREATE TABLE {beside} AS {name}", query_id=query_id)
        self._client.insert(beside, rows, query_id=query_id)
        for cycle in sorted(cycles):
            self._client.command(f"ALTER TABLE {name} ATTACH PARTITION {_text(cycle)} FROM {beside}", query_id=query_id)
        self._client.command(f"DROP TABLE {beside}", query_id=query_id)

    def _mark(self, name: str, partition: int, next_offset: int) -> None:
        self._client.command(
            f"INSERT INTO landed (table, journal_partition, next_offset) VALUES ('{name}', {partition}, {next_offset})",
            {"async_insert": 0},
        )
        assert self._marks is not None
        self._marks[name, partition] = next_offset

    def _read_marks(self) -> dict[tuple[str, int], int]:
        rows = self._client.rows("SELECT table, journal_partition, max(next_offset) FROM landed GROUP BY ALL")
        return {(str(name), int(partition)): int(end) for name, partition, end in rows}

    def _query_id(self, name: str, partition: int) -> str:
        return f"weir-{self._client.database}-{name}-{partition}"

    def _wait_for_running(self, name: str, partition: int) -> None:
        """Wait until no statement of a sink for this partition runs on the server.

        A statement that lost its client may still change tables. Raises WorldError after `patience_s` seconds.
        """
        if self._client.embedded:
            return
        started = time.monotonic()
        while self._client.rows(
            "SELECT count() FROM system.processes WHERE startsWith(query_id, {of:String})",
            {"of": self._query_id(name, partition) + "-"},
        )[0][0]:
            if time.monotonic() - started > self._patience_s:
                raise WorldError(
                    f"{self._client.where}: an earlier insert into {name} still runs after {self._patience_s:g} s; see "
                    "system.processes, then give the same command again"
                )
            (self._stop or threading.Event()).wait(_POLL_S)


def _check(
    name: str,
    table: pa.Table,
    partition: int,
    first_offset: int,
    next_offset: int,
    offsets: npt.NDArray[np.int64] | None,
) -> None:
    if table.schema.names != TABLES[name].names:
        raise ValueError(f"not the columns of {name}: {table.schema.names}")
    if not 0 <= first_offset <= next_offset:
        raise ValueError(f"offsets [{first_offset}, {next_offset}) are no range")
    if not table.num_rows:
        return
    if offsets is None or len(offsets) != table.num_rows:
        raise ValueError(f"{name}: give the offset of each row")
    if offsets.min() < first_offset or offsets.max() >= next_offset:
        raise ValueError(f"{name}: rows of offsets outside [{first_offset}, {next_offset})")
    if "journal_partition" in table.schema.names:
        found = pc.unique(table.column("journal_partition")).to_pylist()
        if found != [partition]:
            raise ValueError(f"{name}: rows of journal partitions {found}; expected {partition}")


def _with_offsets(name: str, table: pa.Table, partition: int, offsets: npt.NDArray[np.int64]) -> pa.Table:
    if name not in _BEHIND:
        return table
    where = pa.array(np.full(table.num_rows, partition, np.int32))
    return table.append_column("landed_partition", where).append_column("landed_offset", pa.array(offsets))


def _each(cycles: pa.ChunkedArray | None, of: Reach, rows: int) -> npt.NDArray[np.int64]:
    """int64[n]: the value in `of` for the cycle of each row."""
    if cycles is None:
        return np.full(rows, of[""], np.int64)
    at: npt.NDArray[np.int32] = pc.index_in(cycles, pa.array(list(of))).to_numpy()
    values = np.array(list(of.values()), np.int64)
    return values.take(at)


def _ends(cycles: pa.ChunkedArray | None, offsets: npt.NDArray[np.int64]) -> Reach:
    """Return by cycle the offset after its last row."""
    if cycles is None:
        return {"": int(offsets.max()) + 1}
    last = pa.table({"cycle": cycles, "offset": offsets}).group_by("cycle").aggregate([("offset", "max")])
    return {
        cycle: end + 1
        for cycle, end in zip(last.column("cycle").to_pylist(), last.column("offset_max").to_pylist(), strict=True)
    }


def _token(text: str) -> dict[str, str]:
    """Return the setting with the deduplication token of an insert.

    Without a token the engine uses a digest of the rows. If it is killed just after it recorded the digest, it would
    reject the rows for ever.
    """
    return {"insert_deduplication_token": text}


def _text(value: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
