"""Data sessions that the network tells of by an event, as traffic: they count as those of usage records do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from rating.columnar.key_index import Ints
from rating.rules.detect.last_seen import UNKNOWN, Sightings
from rating.rules.detect.traffic import Traffic
from rating.usage.accept import local_days
from schemas.commands import NetworkEvent, SessionStarted
from schemas.usage import Service

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet


def begun(
    ruleset: RuleSet, sightings: Sightings, events: Sequence[NetworkEvent], at: tuple[Ints, Ints, Ints], now_us: int
) -> Traffic:
    """Return a row for each event that says that a data session began, with no units.

    `at` has the card, the journal offset and the time of each event (int64[n] each). Zone and RAT are the last that
    were seen of the SIM.
    """
    rows = np.flatnonzero([isinstance(one, SessionStarted) for one in events])
    card, offset, used_us = (column[rows] for column in at)
    account = ruleset.directory.account[card]
    today = local_days(ruleset.book, account, np.full(len(rows), now_us, np.int64))
    day = local_days(ruleset.book, account, used_us)
    seen = {
        name: sightings.texts[name].named(sightings[name][card] if name in sightings else np.full(len(rows), UNKNOWN))
        for name in ("zone", "rat")
    }
    zones = {name: row for row, name in reversed(list(enumerate(ruleset.zones))) if name is not None}
    zone = seen["zone"].replace_strict(zones, default=-1, return_dtype=pl.Int64).fill_null(-1).to_numpy()
    none = np.zeros(len(rows), np.int64)
    yes = np.ones(len(rows), bool)
    return Traffic(
        received_us=now_us,
        clock_us=now_us,
        offset=offset,
        place=none,
        card=card,
        account=account,
        version=none - 1,
        service=np.full(len(rows), int(Service.DATA), np.int64),
        direction=none,
        zone=zone,
        country=none - 1,
        countries=[],
        used_us=used_us,
        day=day,
        today=today,
        pool=none - 1,
        cycle=none,
        cycle_start=none,
        cycle_end=today,
        units=none,
        home_units=none,
        pool_units=none,
        overage=none,
        started=yes,
        stopped=~yes,
        rows=seen["rat"].alias("rat").to_frame(),
    )
