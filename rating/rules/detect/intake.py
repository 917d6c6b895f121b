"""Conversion of the rated records of a batch into the traffic that rules evaluate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from rating.columnar.key_index import Flags, Ints
from rating.rules.detect.traffic import Traffic
from rating.usage.batch import RatedBatch
from rating.usage.rated_rows import Names
from schemas.usage import RecordType, Service


@dataclass(frozen=True)
class Home:
    """What counts, bool[versions, meters]: the counters of data at home, and those that the size of a pool is for."""

    data: Flags
    pools: Flags


def traffic_of(home: Home, names: Names, meters: Ints, result: RatedBatch, clock_us: int) -> Traffic:
    """Return the traffic of the accepted records of a batch. `meters[rate]` is the counter of each rate."""
    usage, entries, rating = result.usage, result.entries, result.rating
    accepted, cycles = usage.accepted, usage.cycles
    counted = entries.billable - rating.from_test
    version, meter = accepted.version[entries.record], meters[entries.rate]
    at_home = home.data[version, meter] & (accepted.service[entries.record] == Service.DATA)
    units, home_units, overage = counted, np.where(at_home, counted, 0), rating.overage
    pool_units = np.where(home.pools[version, meter], counted, 0)
    if entries.split:
        starts = np.flatnonzero(np.diff(entries.record, prepend=-1))
        units, home_units, pool_units, overage = (
            np.add.reduceat(column, starts) for column in (units, home_units, pool_units, overage)
        )
    countries = sorted({country for _, country, _ in accepted.spots if country})
    numbers = {country: number for number, country in enumerate(countries)}
    country_of_spot = np.array([numbers.get(country, -1) for _, country, _ in accepted.spots] or [-1], np.int64)
    data = accepted.service == Service.DATA
    return Traffic(
        received_us=usage.batch.received_at_us,
        clock_us=clock_us,
        offset=usage.position.offset + accepted.place,
        place=accepted.place,
        card=accepted.card,
        account=accepted.account,
        version=accepted.version,
        service=accepted.service,
        direction=accepted.direction,
        zone=names.zone_of[accepted.version, accepted.zone],
        country=country_of_spot[accepted.spot],
        countries=countries,
        used_us=accepted.used_us,
        day=accepted.day,
        today=usage.today,
        pool=usage.pool,
        cycle=cycles.code,
        cycle_start=cycles.start_day,
        cycle_end=cycles.end_day,
        units=units,
        home_units=home_units,
        pool_units=pool_units,
        overage=overage,
        started=data & usage.begins,
        stopped=data & _stops(usage.rows),
        rows=usage.rows,
    )


def _stops(rows: pl.DataFrame) -> Flags:
    """bool[n]: whether a record ends its session: it is the last partial record, or a whole session by itself."""
    count = len(rows)
    kind = rows["record_type"].fill_null(0).to_numpy() if "record_type" in rows.columns else np.zeros(count, np.int64)
    alone = rows["session_id"].is_null().to_numpy() if "session_id" in rows.columns else np.ones(count, bool)
    stops: Flags = (kind == RecordType.STOP) | ((kind == RecordType.EVENT) & alone)
    return stops
