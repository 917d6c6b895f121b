"""Traffic: the accepted records of a batch as the rules see them. A record that rating split is one row."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from rating.columnar.key_index import Flags, Ints


@dataclass(frozen=True)
class Traffic:
    """Accepted records in journal order. Columns are int64[n] unless noted.

    `units` is the billable quantity less the part that the test allowance covered (C2). `home_units` is the part of
    `units` on the home-zone data counter of the plan, or all of it if the plan has no zones. `pool_units` is the part
    on the counters that the size of a pool is for. `overage` is the part that was priced. `zone` is an index into the
    zone names of all plans, `country` an index into `countries`; -1 is none. `day` is the local day of use, `today` the
    local day of arrival. `started` and `stopped` (bool[n]) mark records with which a data session began or ended.
    """

    received_us: int
    clock_us: int  # the latest arrival so far, including this batch
    offset: Ints
    place: Ints  # row of the batch
    card: Ints
    account: Ints
    version: Ints
    service: Ints
    direction: Ints
    zone: Ints
    country: Ints
    countries: list[str]
    used_us: Ints
    day: Ints
    today: Ints
    pool: Ints  # -1: none
    cycle: Ints
    cycle_start: Ints
    cycle_end: Ints
    units: Ints
    home_units: Ints
    pool_units: Ints
    overage: Ints
    started: Flags
    stopped: Flags
    rows: pl.DataFrame  # the usage of these records: USAGE_SCHEMA

    def __len__(self) -> int:
        return len(self.card)
