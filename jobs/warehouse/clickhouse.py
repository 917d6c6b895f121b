"""Loading of the history into ClickHouse, and comparison of the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.show.sql import connect as connect_history
from pipeline.clickhouse import Client, History, Sink, migrate
from pipeline.history.reader import Histories
from pipeline.store.directory import DataDirectory
from pipeline.streaming.land.folder import PartitionLanding
from rating.errors import LockedError, WorldError
from schemas.tables import TABLES

_SUMS: Final = tuple(
    one.name for one in TABLES["rated"] if one.type == pa.int64() and one.name not in ("source_row", "journal_offset")
)

Watch = Callable[[str, int, int], None]  # Called with a table, its rows in ClickHouse so far, and its rows in total.


@dataclass
class Loaded:
    """Result of a load: applied migrations, new rows by table, and by table the offset after the last landed one."""

    migrated: list[int] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    next_offsets: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {"migrated": self.migrated, "rows": self.rows, "next_offsets": self.next_offsets}


class _Watched(Sink):
    """A sink that counts new rows and reports progress to a Watch."""

    def __init__(self, client: Client, patience_s: float, done: Loaded, watch: Watch, rows: dict[str, int]) -> None:
        super().__init__(client, patience_s=patience_s)
        self._done = done
        self._watch = watch
        self._every = rows
        self._passed = {name: _rows_in(client, name) for name in TABLES}

    def land(
        self,
        name: str,
        table: pa.Table,
        partition: int,
        first_offset: int,
        next_offset: int,
        offsets: npt.NDArray[np.int64] | None = None,
    ) -> int:
        new = super().land(name, table, partition, first_offset, next_offset, offsets)
        self._done.rows[name] += new
        self._passed[name] += new
        self._watch(name, min(self._passed[name], self._every[name]), self._every[name])
        return new


def load(data: Path, client: Client, patience_s: float, watch: Watch = lambda name, done, rows: None) -> Loaded:
    """Migrate the schema to this version, and load all committed rows that are not yet in ClickHouse.

    If a load is killed, the next one resumes. A repeated load changes nothing. Raises WorldError if ClickHouse has rows
    of another data directory, rejects a request, or cannot be reached. Raises LockedError if a streaming worker is
    landing one of the partitions.
    """
    with Histories.open(data) as histories:
        done = Loaded(migrated=[one.version for one in migrate(client)], rows=dict.fromkeys(TABLES, 0))
        landed = Sink(client, patience_s=patience_s).landed()
        _refuse_another(histories, client, landed)
        sink = _Watched(client, patience_s, done, watch, {name: histories.rows(name) for name in TABLES})
        if histories.streaming:
            for partition, directory in histories.partitions.items():
                with _own(), PartitionLanding(directory.path, partition, sink) as landing:
                    landing.land([])
            for name in TABLES:
                ends = [end for (table, _), end in sink.landed().items() if table == name]
                done.next_offsets[name] = max(ends, default=0)
            return done
        for name in TABLES:
            history = History(histories.partitions[0], name)
            at = landed.get((name, 0), 0)
            done.next_offsets[name] = max(at, history.next_offset)
            if at == 0 and name == "rated":
                sink.settle(name, 0)
            for block in history.blocks(at):
                sink.land(name, block.rows, 0, block.first_offset, block.next_offset, block.offsets)
        return done


@contextmanager
def _own() -> Iterator[None]:
    """Add advice to the LockedError that the block raises if a worker has locked the partition."""
    try:
        yield
    except LockedError as locked:
        raise LockedError(
            f"{locked}: streaming workers load ClickHouse themselves, if they are configured to; "
            "stop them before you load or check by hand"
        ) from locked


def _rows_in(client: Client, name: str) -> int:
    return int(client.rows(f"SELECT count() FROM {name}")[0][0])


def _before(landed: dict[tuple[str, int], int], name: str) -> str:
    """Return the SQL condition for the rows of a table that have landed according to ClickHouse."""
    ends = sorted((partition, end) for (table, partition), end in landed.items() if table == name)
    return " OR ".join(f"(journal_partition = {at} AND journal_offset < {end})" for at, end in ends) or "false"


def _refuse_another(histories: Histories, client: Client, landed: dict[tuple[str, int], int]) -> None:
    """Raise WorldError if the rated rows in ClickHouse are not the landed rows of this history.

    The check compares the journal partitions, and the number and the charge of rows.
    """
    strange = {partition for _, partition in landed} - histories.partitions.keys()
    if strange:
        raise _another(histories, client, f"journal partitions {sorted(strange)}")
    asked = f"SELECT count(*), coalesce(sum({{charge}}), 0) FROM rated WHERE {_before(landed, 'rated')}"
    with connect_history(histories) as connection:
        ours = connection.execute(asked.format(charge="charge_nanos")).fetchall()[0]
    theirs = client.rows(asked.format(charge="toInt128(charge_nanos)"))[0]
    if tuple(map(int, ours)) != tuple(map(int, theirs)):
        raise _another(
            histories,
            client,
            f"{theirs[0]:,} rated rows with {theirs[1]:,} nanos; this history has {ours[0]:,} with {ours[1]:,}",
        )


def _another(histories: Histories, client: Client, found: str) -> WorldError:
    return WorldError(
        f"{client.where}: the database {client.database} has another history than {histories.path}: "
        f"found {found}; name another database in [clickhouse]"
    )


@dataclass(frozen=True)
class Difference:
    """A figure that differs. `of` is its table or view, and `cycle` its cycle if the table has cycles."""

    of: str
    cycle: str | None
    figure: str
    history: int | Decimal
    clickhouse: int | Decimal

    def as_dict(self) -> dict[str, Any]:
        """Return the difference as JSON values. Figures are text, because they may need more than 64 bits."""
        found = {"of": self.of, "cycle": self.cycle, "figure": self.figure}
        return found | {"history": str(self.history), "clickhouse": str(self.clickhouse)}


@dataclass
class Checked:
    """Result of a check: number of compared figures, rows by table that have not landed yet, and differences."""

    figures: int = 0
    waiting: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        found = [one.as_dict() for one in self.differences]
        return {"equal": not found, "figures": self.figures, "waiting_rows": self.waiting, "differences": found}


def check(data: Path, client: Client) -> Checked:
    """Compare the landed rows in ClickHouse with the history.

    The check compares the number of rows of every table, and by cycle the number of rows and every sum of `rated` and
    of the totals. Rows that the history got since the last load count as waiting. Raises WorldError if ClickHouse
    rejects a request or cannot be reached, and LockedError if a streaming worker is landing one of the partitions.
    """
    done = Checked()
    with Histories.open(data) as histories, ExitStack() as stack:
        if histories.streaming:
            for directory in histories.partitions.values():
                with _own():
                    stack.enter_context(DataDirectory.open(directory.path, write=True))
                directory.refresh()
        landed = Sink(client, patience_s=0).landed()
        connection = stack.enter_context(connect_history(histories))
        for name in TABLES:
            if name == "rejected":
                # Rejected records have no journal offset. ClickHouse has their row number in the history instead.
                here = sum(
                    min(landed.get((name, partition), 0), sum(entry.rows for entry in directory.manifest.group(name)))
                    for partition, directory in histories.partitions.items()
                )
            else:
                here = int(_one(connection, f"SELECT count(*) FROM {name} WHERE {_before(landed, name)}"))
            done.waiting[name] = int(_one(connection, f"SELECT count(*) FROM {name}")) - here
            _compare(done, name, None, {"rows": here}, {"rows": _rows_in(client, name)})
        condition = _before(landed, "rated")
        asked = ", ".join(f"coalesce(sum({name}), 0)" for name in _SUMS)
        ours = connection.execute(
            f"SELECT cycle, count(*), {asked} FROM rated WHERE {condition} GROUP BY cycle"
        ).fetchall()
        by_cycle = {str(row[0]): dict(zip(("rows", *_SUMS), map(int, row[1:]), strict=True)) for row in ours}
        records = dict(
            connection.execute(
                "SELECT cycle, count(*) FILTER (kind = 'usage' AND part = 0) FROM rated "
                f"WHERE {condition} GROUP BY cycle"
            ).fetchall()
        )
    _check_rated(done, client, by_cycle)
    for view, totals in (("daily", "daily_totals"), ("cycles", "cycle_totals")):
        _check_totals(done, client, view, totals, by_cycle, records)
    return done


def _one(connection: Any, sql: str) -> Any:
    return connection.execute(sql).fetchall()[0][0]


def _check_rated(done: Checked, client: Client, by_cycle: dict[str, dict[str, int]]) -> None:
    asked = ", ".join(f"sum(toInt128(coalesce({name}, 0)))" for name in _SUMS)
    found = client.rows(
        f"SELECT toString(cycle), count(), {asked} FROM rated GROUP BY cycle SETTINGS optimize_use_projections = 0"
    )
    theirs = {str(row[0]): dict(zip(("rows", *_SUMS), map(int, row[1:]), strict=True)) for row in found}
    for cycle in sorted(by_cycle.keys() | theirs.keys()):
        nothing = dict.fromkeys(("rows", *_SUMS), 0)
        _compare(done, "rated", cycle, by_cycle.get(cycle, nothing), theirs.get(cycle, nothing))


def _check_totals(
    done: Checked,
    client: Client,
    view: str,
    totals: str,
    by_cycle: dict[str, dict[str, int]],
    records: dict[str, int],
) -> None:
    sums = ("quantity_raw", "billable_quantity", "from_test", "from_allowance", "from_addon", "overage", "charge_nanos")
    asked = ", ".join(f"sum({name})" for name in sums)
    found = client.rows(f"SELECT toString(cycle), sum(records), {asked} FROM {totals} GROUP BY cycle")
    theirs = {str(row[0]): dict(zip(("records", *sums), map(int, row[1:]), strict=True)) for row in found}
    ours = {
        cycle: {"records": records[cycle], **{name: figures[name] for name in sums}}
        for cycle, figures in by_cycle.items()
    }
    for cycle in sorted(ours.keys() | theirs.keys()):
        nothing = dict.fromkeys(("records", *sums), 0)
        _compare(done, view, cycle, ours.get(cycle, nothing), theirs.get(cycle, nothing))


def _compare(done: Checked, of: str, cycle: str | None, ours: dict[str, int], theirs: dict[str, int]) -> None:
    for figure, here in ours.items():
        done.figures += 1
        if here != theirs[figure]:
            done.differences.append(Difference(of, cycle, figure, here, theirs[figure]))
