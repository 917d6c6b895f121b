"""Usage in the cycle until the last local midnight, as an alternative to the live state (T7).

The history has the local day of every record, so this usage is the sum of the cycle's rows of earlier days. It includes
a record that arrived today for an earlier day, because the time of use decides.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from jobs.output.printable import printable
from rating.calendars.calendar import day_date, zone_calendar
from rating.queries.schemas import COUNTERS_VIEW, StateViews, nanos_type

if TYPE_CHECKING:
    import duckdb

# A card's own counter also has the billable usage that the card takes from a pool or device. The other measures of that
# usage are in the counter of the pool or device only.
_SUMS_SQL = """
WITH used AS (
    SELECT subject_kind::VARCHAR AS subject_kind, subject, iccid, rate::VARCHAR AS counter, cycle::VARCHAR AS cycle,
        currency::VARCHAR AS currency, sum(billable_quantity - from_test)::BIGINT AS billable,
        sum(from_allowance)::BIGINT AS allowance_used, sum(from_addon)::BIGINT AS addon_used,
        sum(overage)::BIGINT AS overage, sum(charge_nanos)::DECIMAL(38, 0) AS charge_nanos
    FROM rated JOIN account_days ON account_days.account_id = rated.account_id AND rated.day <= account_days.until
    WHERE rated.cycle IN (SELECT cycle FROM held)
        AND (rated.iccid IN (SELECT subject FROM held) OR rated.subject IN (SELECT subject FROM held))
    GROUP BY ALL
)
SELECT 'sim' AS subject_kind, iccid AS subject, counter, cycle, currency, sum(billable)::BIGINT AS billable,
    sum(allowance_used) FILTER (subject_kind = 'sim')::BIGINT AS allowance_used,
    sum(addon_used) FILTER (subject_kind = 'sim')::BIGINT AS addon_used,
    sum(overage) FILTER (subject_kind = 'sim')::BIGINT AS overage,
    sum(charge_nanos) FILTER (subject_kind = 'sim')::DECIMAL(38, 0) AS charge_nanos
FROM used GROUP BY ALL
UNION ALL
SELECT subject_kind, subject, counter, cycle, currency, sum(billable)::BIGINT, sum(allowance_used)::BIGINT,
    sum(addon_used)::BIGINT, sum(overage)::BIGINT, sum(charge_nanos)::DECIMAL(38, 0)
FROM used WHERE subject_kind <> 'sim' GROUP BY ALL
"""
_KEYS = ("subject_kind", "subject", "counter", "cycle")
_UNITS = ("billable", "allowance_used", "addon_used", "overage")


@dataclass(frozen=True)
class ShownUsage:
    """The kind of usage that is shown: live at `as_of`, or until the end of the day in `until` for each time zone."""

    as_of: dt.datetime
    until: dict[str, dt.date] | None = None

    def of_zone(self, zone: str) -> ShownUsage:
        """Return the reading for accounts in one time zone."""
        return self if self.until is None else ShownUsage(self.as_of, {zone: self.until[zone]})

    def as_dict(self) -> dict[str, Any]:
        """Return the reading as JSON values."""
        through = None if self.until is None else {zone: day.isoformat() for zone, day in sorted(self.until.items())}
        return {
            "usage": "live" if through is None else "until_midnight",
            "as_of": self.as_of.astimezone(dt.UTC).isoformat().replace("+00:00", "Z"),
            "usage_until": through,
        }

    def sentence(self) -> str:
        """Return the reading in words."""
        moment = f"{self.as_of.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
        if self.until is None:
            return f"usage of the cycle open at {moment}, live"
        zones: dict[dt.date, list[str]] = {}
        for zone, day in sorted(self.until.items()):
            zones.setdefault(day, []).append(printable(zone))
        days = sorted(zones.items())
        through = " and ".join(f"{day} ({', '.join(names)})" for day, names in days)
        if len(days) == 1:
            through = f"{days[0][0]} local time"
        return f"usage of the cycle open at {moment}, until 24:00 of the previous local day: {through}"


def days_before(views: StateViews, as_of: dt.datetime) -> dict[str, dt.date]:
    """Return the local day before `as_of` for UTC and each time zone of an account."""
    us = (as_of - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
    return {name: _day_before(name, us) for name in {"UTC", *views.accounts["time_zone"].drop_nulls()}}


def _day_before(zone: str, us: int) -> dt.date:
    calendar = zone_calendar(zone)
    midnight_us = calendar.as_of_previous_day_us(us)
    return day_date(int(calendar.local_day(np.array([midnight_us - 1], np.int64))[0]))


def until_midnight(
    connection: duckdb.DuckDBPyConnection, views: StateViews, as_of: dt.datetime, iccid: str | None = None
) -> tuple[StateViews, ShownUsage]:
    """Return `views` with counters until the end of the previous local day of each account, and the matching reading.

    If `iccid` is given, the result has only the counters of the card, its device and its pool.
    """
    days = days_before(views, as_of)
    ends = pl.col("time_zone").fill_null("UTC").replace_strict(list(days), list(days.values()), return_dtype=pl.Date)
    counters = views.counters
    if iccid is not None:
        card = views.cards.filter(pl.col("iccid") == iccid)
        subjects = [value for name in ("iccid", "device_id", "pool_id") for value in card[name].drop_nulls()]
        counters = counters.filter(pl.col("subject").is_in(subjects))
    connection.register("account_days", views.accounts.select("account_id", until=ends).to_arrow())
    connection.register("held", counters.select("subject", "cycle").unique().to_arrow())
    rows = connection.sql(_SUMS_SQL)
    sums = pl.from_arrow(rows.to_arrow_table())
    assert isinstance(sums, pl.DataFrame)
    counted = _recount(counters, sums)
    return views.with_views(counters=counted.select(list(COUNTERS_VIEW))), ShownUsage(as_of, days)


def _recount(counters: pl.DataFrame, sums: pl.DataFrame) -> pl.DataFrame:
    """Return the counters with units and charges from `sums`, which has one row per counter and currency.

    A counter has its units in its first row, and a row for each further currency (rating.queries.counters).
    """
    own = counters.group_by(_KEYS, maintain_order=True).agg(
        pl.col("allowance_size").sum(), pl.all().exclude(*_KEYS, "allowance_size").first()
    )
    units = sums.group_by(_KEYS).agg(pl.col(_UNITS).sum())
    rows = (
        own.drop(*_UNITS, "charge_nanos")
        .join(units, on=_KEYS, how="left", maintain_order="left")
        .join(
            sums.select(*_KEYS, "charge_nanos", charged_in="currency").filter(pl.col("charge_nanos") != 0),
            on=_KEYS,
            how="left",
            maintain_order="left",
        )
        .with_columns(
            pl.col(*_UNITS, "charge_nanos").fill_null(0), currency=pl.coalesce("charged_in", pl.col("currency"))
        )
    )
    further = pl.int_range(pl.len()).over(_KEYS) > 0
    counted = rows.with_columns(
        pl.when(further).then(0).otherwise(pl.col(name)).alias(name) for name in (*_UNITS, "allowance_size")
    )
    return counted.with_columns(pl.col("charge_nanos").cast(nanos_type(counted["charge_nanos"])))
