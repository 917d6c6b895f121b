"""Traffic: what the rules see of the accepted records of a batch, one row a record however it was split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from rating.columnar.key_index import Ints

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Traffic:
    """Accepted records in journal order; int64[n] unless noted.

    `units` is what counts: the billable quantity less what the test allowance gave (C2). `home_units` is the part of
    it on the counter of the plan's home zone, or all where the plan has no zones. `zone` is a place in the list of
    zone names of all plans, -1 for none; `country` likewise of the batch's `countries`. `today` is the local day of
    arrival. `started` and `stopped` are data sessions that began and ended with the record.
    """

    received_us: int
    clock_us: int  # the latest arrival so far, this one included
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
    home: Flags  # bool[n]: used in the home zone, or the plan has no zones
    started: Flags
    stopped: Flags
    rows: pl.DataFrame  # the usage of these records: USAGE_SCHEMA

    def __len__(self) -> int:
        return len(self.card)
