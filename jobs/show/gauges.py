"""Pool gauges: how full a pool is now, and when it runs out (Q6)."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl

from jobs.known import account_tree, unknown
from jobs.output.text import json_rows
from jobs.show.listing import AMOUNT_SQL, json_values
from rating.calendars.calendar import day_date
from rating.catalogue.pools import DEVICE_PREFIX
from rating.errors import InputError
from rating.queries.queried import Queried
from rating.queries.schemas import StateViews
from rating.units.money import format_amount
from rating.units.ratio import percent

if TYPE_CHECKING:
    import duckdb

_DAY_S = 86_400


@dataclass(frozen=True)
class Gauge:
    """One service of one pool in one cycle. Quantities are in whole units.

    `forecast` is the usage so far, divided by the elapsed days (at least one), times the days of the cycle.
    `runs_out_on` is the local day on which usage at that pace reaches the size. It is None if the size suffices for the
    whole cycle, if there is no size, and if all is used already (`used_up`). Both are None if the cycle is not open.
    """

    pool_id: str
    account_id: str
    kind: str
    members: int
    service: str
    cycle: str
    cycle_from: dt.date | None
    cycle_until: dt.date | None
    is_open: bool
    size: int
    used: int
    percent: str | None
    overage: int
    charge: str
    currency: str | None
    forecast: int | None
    used_up: bool
    runs_out_on: dt.date | None

    def as_dict(self) -> dict[str, Any]:
        """Return the gauge as JSON values."""
        return json_values(self.__dict__)


@dataclass(frozen=True)
class PoolDetail:
    """One pool: a gauge for each service and cycle in the state, and its members with the most usage.

    The first gauge's cycle is the cycle of the members' usage: the open cycle, or else the newest one.
    """

    gauges: list[Gauge]
    top: pl.DataFrame

    def as_dict(self) -> dict[str, Any]:
        """Return the pool as JSON values."""
        first = self.gauges[0]
        return {
            "pool_id": first.pool_id,
            "account_id": first.account_id,
            "kind": first.kind,
            "members": first.members,
            "gauges": [gauge.as_dict() for gauge in self.gauges],
            "top": json_rows(self.top),
        }


def windows_of(queried: Queried, views: StateViews) -> pl.DataFrame:
    """Return the first and the last day of the cycles in `views.pools`.

    The columns are pool_id, cycle, cycle_from and cycle_until. Counters have these days too, but a cycle without usage
    has no counter.
    """
    book = queried.compiled.book
    rows = []
    for pool_id, kind, label in views.pools.select("pool_id", "kind", "cycle").unique().iter_rows():
        name = DEVICE_PREFIX + pool_id if kind == "device" else pool_id
        calendar = int(book.pool_cycle[book.vocabulary.pools.rows[name]])
        if calendar >= 0:
            try:
                index = book.cycle_calendars[calendar].index_of_label(label)
            except InputError:
                continue  # Before the first arrival, the state has no open cycle.
            days = book.cycle_calendars[calendar].start_day(index), book.cycle_calendars[calendar].end_day(index)
            rows.append((pool_id, label, *map(day_date, days)))
    schema = {"pool_id": pl.String, "cycle": pl.String, "cycle_from": pl.Date, "cycle_until": pl.Date}
    return pl.DataFrame(rows, schema=schema, orient="row")


def list_pools(
    views: StateViews,
    as_of: dt.datetime,
    *,
    account: str | None = None,
    cycle: str | None = None,
    windows: pl.DataFrame | None = None,
) -> list[Gauge]:
    """Return the gauges of all pools, then of shared devices, each fullest first.

    Gauges are of the open cycles, or of `cycle` if it is given. `account` includes the accounts below it. `windows` is
    the result of `windows_of`; without it, a pool without usage in its open cycle has no gauge for that cycle. Raises
    UsageError if the account does not exist.
    """
    pools = views.pools
    if account is not None:
        pools = pools.filter(pl.col("account_id").is_in(account_tree(views.accounts, account)))
    gauges = _gauges(views, pools if cycle is None else pools.filter(pl.col("cycle") == cycle), as_of, windows)
    shown = [gauge for gauge in gauges if cycle is not None or gauge.is_open]
    return sorted(shown, key=_fullest_first)


def _fullest_first(gauge: Gauge) -> tuple[bool, bool, Decimal, str, str]:
    share = Decimal(gauge.percent or 0)
    return (gauge.kind == "device", gauge.percent is None, -share, gauge.pool_id, gauge.service)


def pool_detail(
    connection: duckdb.DuckDBPyConnection,
    views: StateViews,
    pool_id: str,
    as_of: dt.datetime,
    *,
    top: int = 10,
    windows: pl.DataFrame | None = None,
) -> PoolDetail:
    """Return the pool or shared device `pool_id`, with the open cycle first and its `top` members of each service.

    `windows` is as in `list_pools`. Raises UsageError if the pool does not exist.
    """
    pools = views.pools.filter(pl.col("pool_id") == pool_id)
    if not pools.height:
        raise unknown("a pool", pool_id, views.pools["pool_id"])
    gauges = _gauges(views, pools, as_of, windows)
    gauges.sort(key=lambda gauge: gauge.service)
    gauges.sort(key=lambda gauge: (gauge.is_open, gauge.cycle), reverse=True)
    rows = connection.sql(
        f"""
        SELECT iccid, service::VARCHAR AS service, currency::VARCHAR AS currency,
            sum(billable_quantity)::BIGINT AS used, sum(overage)::BIGINT AS overage, {AMOUNT_SQL} AS charge
        FROM rated WHERE subject = $1 AND subject_kind IN ('pool', 'device') AND cycle = $2
        GROUP BY iccid, rated.service, rated.currency
        QUALIFY row_number() OVER (PARTITION BY rated.service ORDER BY used DESC, iccid, rated.currency) <= $3
        ORDER BY service, used DESC, iccid, currency
        """,
        params=[pool_id, gauges[0].cycle, top],
    )
    members = pl.from_arrow(rows.to_arrow_table())
    assert isinstance(members, pl.DataFrame)
    return PoolDetail(gauges, members)


def _gauges(views: StateViews, pools: pl.DataFrame, as_of: dt.datetime, windows: pl.DataFrame | None) -> list[Gauge]:
    counted = (
        views.counters.filter(pl.col("subject_kind") != "sim")
        .group_by(pl.col("subject").alias("pool_id"), "service", "cycle")
        .agg(pl.col("cycle_from").min(), pl.col("cycle_until").max())
    )
    zones = views.accounts.select("account_id", "time_zone")
    rows = pools.join(counted, on=["pool_id", "service", "cycle"], how="left").join(zones, on="account_id", how="left")
    if windows is not None:
        rows = rows.join(windows, on=["pool_id", "cycle"], how="left", suffix="_of_pool").with_columns(
            pl.coalesce(name, f"{name}_of_pool") for name in ("cycle_from", "cycle_until")
        )
    return [_gauge(row, as_of) for row in rows.sort("pool_id", "cycle", "service").iter_rows(named=True)]


def _gauge(row: dict[str, Any], as_of: dt.datetime) -> Gauge:
    first, last, size, used = row["cycle_from"], row["cycle_until"], row["size"] or 0, row["used"] or 0
    zone = zoneinfo.ZoneInfo(row["time_zone"] or "UTC")
    forecast = runs_out_on = None
    is_open = first is not None and first <= as_of.astimezone(zone).date() <= last
    if is_open:
        start, end = _midnight(first, zone), _midnight(last + dt.timedelta(days=1), zone)
        cycle_s = (end - start) // dt.timedelta(seconds=1)
        elapsed_s = max(_DAY_S, (as_of - start) // dt.timedelta(seconds=1))
        forecast = used * cycle_s // elapsed_s
        if used < size <= forecast:
            # Round up, because usage reaches the size at that second and not before.
            empty_at = start + dt.timedelta(seconds=-(-size * elapsed_s // used))
            runs_out_on = min(empty_at.astimezone(zone).date(), last)
    return Gauge(
        **{name: row[name] for name in ("pool_id", "account_id", "kind", "service", "cycle", "currency")},
        members=row["members"] or 0,
        cycle_from=first,
        cycle_until=last,
        is_open=is_open,
        size=size,
        used=used,
        percent=percent(used, size),
        overage=row["overage"] or 0,
        charge=format_amount(row["charge_nanos"] or 0),
        forecast=forecast,
        used_up=0 < size <= used,
        runs_out_on=runs_out_on,
    )


def _midnight(day: dt.date, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), zone).astimezone(dt.UTC)
