"""Source of the read commands: state and history of a data directory, or of streaming workers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import polars as pl

from jobs.context import Data, parse_instant
from jobs.output.console import progress_bar
from jobs.show import gauges
from pipeline.extras import require_extra
from pipeline.history.reader import Histories
from pipeline.store.directory import DataDirectory
from rating.errors import StorageError, UsageError, WorldError
from rating.queries.queried import Queried
from rating.queries.schemas import VIEWS, StateViews
from rating.queries.views import cycles_gone, state_views
from schemas.rules import Rule

if TYPE_CHECKING:
    import duckdb

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Reading:
    """A consistent reading: the history, and the state of each journal partition as of the same point.

    `facts` has paths, offsets and sizes as JSON values. `connect` opens the history.
    """

    connect: Callable[[], duckdb.DuckDBPyConnection]
    parts: Sequence[Queried]
    as_of: dt.datetime
    facts: Mapping[str, Any]
    cycle: str | None = None
    asked: bool = False  # whether the user named the time

    def require_counters(self) -> None:
        """Raise UsageError if the state keeps no counters of a cycle that was open at the time that was asked."""
        gone = sorted({name for part in self.parts for name in cycles_gone(part, us_of(self.as_of))})
        if self.asked and gone:
            raise UsageError(
                f"--as-of: found {self.as_of:%Y-%m-%d}, in cycle {', '.join(gone)}, which takes no more usage; "
                f"expected a time in a cycle that is open or in its grace period. `weir report --cycle {gone[0]}` and "
                "`weir card ICCID --as-of TIME` show usage of closed cycles"
            )

    @cached_property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The history in DuckDB, opened when it is first asked for."""
        return self.connect()

    @cached_property
    def views(self) -> StateViews:
        """The state views of all partitions, combined."""
        return joined(self._views)

    @cached_property
    def windows(self) -> pl.DataFrame | None:
        """The first and the last day of the pools' cycles (jobs.show.gauges.windows_of), or None without partitions."""
        found = [gauges.windows_of(part, views) for part, views in zip(self.parts, self._views, strict=True)]
        return pl.concat(found) if found else None

    @cached_property
    def rules(self) -> pl.DataFrame:
        """The rules view. Every partition has the same rules."""
        return self.views.rules

    @cached_property
    def account_ids(self) -> set[str]:
        """The ids of the accounts in the catalogue."""
        return {account.id for part in self.parts for account in part.state.catalogue.accounts}

    @cached_property
    def plan_ids(self) -> set[str]:
        """The ids of the plans in the catalogue."""
        return {plan.id for part in self.parts for plan in part.state.catalogue.plans}

    @cached_property
    def pool_ids(self) -> set[str]:
        """The ids of the pools in the catalogue."""
        return {pool.id for part in self.parts for pool in part.state.catalogue.pools}

    @property
    def rule_documents(self) -> list[Rule]:
        """The definitions of the rules in the catalogue."""
        return [*{rule.id: rule for part in self.parts for rule in part.state.catalogue.rules}.values()]

    @cached_property
    def _views(self) -> list[StateViews]:
        as_of_us = us_of(self.as_of) if self.asked else None
        return [state_views(part, self.cycle, as_of_us) for part in self.parts]


def us_of(moment: dt.datetime) -> int:
    """Return a time in microseconds since 1970 UTC."""
    return (moment - _EPOCH) // dt.timedelta(microseconds=1)


def joined(views: list[StateViews]) -> StateViews:
    """Combine the views of partitions. Accounts and rules, which every partition has, are in the result once."""
    if len(views) == 1:
        return views[0]
    return StateViews(**{name: partial(_joined, views, name) for name in VIEWS})


def _joined(views: list[StateViews], name: str) -> pl.DataFrame:
    parts: list[pl.DataFrame] = [getattr(view, name) for view in (StateViews(), *views)]
    frame = pl.concat(parts, how="vertical_relaxed")  # only some may have charges that do not fit 64 bits (nanos_type)
    match name:
        case "accounts":
            return frame.unique("account_id", keep="first", maintain_order=True)
        case "rules":
            return frame.unique("rule_id", keep="first", maintain_order=True).sort("rule_id")
        case "counters":
            return frame.sort("cycle", "subject_kind", "subject", "counter", "currency")
    return frame


@contextmanager
def reading(
    data: Data, as_of: str | None = None, cycle: str | None = None, *, check: bool = False
) -> Iterator[Reading]:
    """Open state and history to read, as of `as_of` or else of the latest arrival.

    For the history of streaming workers, the state comes from the Kafka topics that [kafka] and [worker] of the
    configuration name. It is the state as of the landed rows. With `check`, the files of the history are compared with
    their digests when the history is opened. Raises WorldError if Kafka cannot be reached, UsageError if `as_of` is not
    a time, and the errors of opening the data directory.
    """
    moment = parse_instant(as_of, "--as-of")
    if data.is_streaming():
        with Histories.open(data.path) as histories, _connecting(histories, check) as connect:
            engines, landed = _restored(data, histories)
            facts: dict[str, Any] = {
                "data": str(data.path),
                "journal_offsets": {str(partition): offset for partition, offset in landed.items()},
                **_sizes(histories),
            }
            yield Reading(connect, engines, _moment(engines, moment), facts, cycle, moment is not None)
        return
    with data.read() as committed, _connecting(committed.directory, check) as connect:
        directory = committed.directory
        facts = {
            "data": str(directory.path),
            "checkpoint": directory.manifest.checkpoint,
            "journal_offset": committed.state.offset,
            **_sizes(Histories.open(directory)),
            "total": committed.facts.total.to_dict(),
            "under_way": [source.name for one in committed.facts.under_way for source in one.sources[one.file :]],
        }
        yield Reading(connect, [committed], _moment([committed], moment), facts, cycle, moment is not None)


@contextmanager
def _connecting(data: DataDirectory | Histories, check: bool) -> Iterator[Callable[[], duckdb.DuckDBPyConnection]]:
    """Yield a function that opens the history in DuckDB, as it is now, until this ends.

    With `check`, it first compares the files of the history with their digests.
    """
    with ExitStack() as opened:

        def connect() -> duckdb.DuckDBPyConnection:
            from jobs.show.sql import connect  # DuckDB loads slowly, and not every command asks it

            return opened.enter_context(connect(data, check=check))

        yield connect


def _sizes(histories: Histories) -> dict[str, int]:
    """Return the number of committed files and their bytes."""
    entries = [one for part in histories.partitions.values() for group in part.manifest.files.values() for one in group]
    return {"files": len(entries), "size_bytes": sum(entry.size_bytes for entry in entries)}


def _moment(parts: Sequence[Queried], asked: dt.datetime | None) -> dt.datetime:
    if asked is not None:
        return asked
    clock_us = max((part.state.clock_us for part in parts), default=0)
    if not clock_us:
        return dt.datetime.now(dt.UTC)
    return _EPOCH + dt.timedelta(microseconds=clock_us)


def _restored(data: Data, histories: Histories) -> tuple[Sequence[Queried], dict[int, int]]:
    """Restore the state of each partition as of its landed rows. Return the engines and the landed offsets."""
    with require_extra("kafka", f"{data.path} is the history of streaming workers; reading their state"):
        from pipeline.config import load_config
        from pipeline.streaming.land.folder import landed_at
        from pipeline.streaming.rate.restore import engines_of
    config = load_config(data.config)
    landed = {partition: landed_at(directory) for partition, directory in histories.partitions.items()}
    with progress_bar() as bar:
        task = bar.add_task("state from Kafka", total=None, note="")
        try:
            engines = engines_of(
                config, data.path, landed, lambda taken, known: bar.update(task, completed=taken, total=known)
            )
        except StorageError:
            raise
        except WorldError as away:
            raise WorldError(
                f"{data.path}: this is the history of streaming workers, whose state (cards, counters, pools, fees, "
                f"rules) is in Kafka: {away}. [kafka] and [worker].app say where: name the workers' configuration with "
                "--config. Without Kafka work `weir sql` over the tables of the history, `weir rules firings`, `weir "
                "rules actions` and `weir rejected`"
            ) from away
    return engines, landed
