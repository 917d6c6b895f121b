"""Views of the state as data frames (rating.queries.schemas), computed from the columns of the fold."""

from __future__ import annotations

import numpy as np
import polars as pl

from rating.columnar.key_index import Ints
from rating.errors import InputError
from rating.queries.cards import addons_view, cards_view
from rating.queries.counters import counters_view
from rating.queries.fees import fees_view
from rating.queries.pools import pools_view
from rating.queries.queried import Queried
from rating.queries.schemas import ACCOUNTS_VIEW, RULES_VIEW, StateViews
from rating.rules.triggers import TRIGGERS
from rating.usage.accept import local_days
from rating.usage.charge import TEST_METER
from rating.usage.cycles import cycle_code, cycle_label, is_closed

_FEBRUARY_1970 = 31  # as a day since 1970


def state_views(engine: Queried, cycle: str | None = None, as_of_us: int | None = None) -> StateViews:
    """Return all views of a state: cards and pools as of a time (None: the latest arrival), counters as now.

    Each view is computed when it is first asked for.

    The time is in microseconds since 1970 UTC. Fees are those of the cycles open then, of all cycles that have
    counters, and of cycles with the label `cycle`.
    """
    today = todays(engine, as_of_us)
    return StateViews(
        cards=lambda: _cards(engine, today),
        counters=lambda: counters_view(engine),
        pools=lambda: pools_view(engine, today),
        fees=lambda: fees_view(
            engine.compiled, engine.state.counters, engine.state.closed, _cycles(engine, today, cycle)
        ),
        accounts=lambda: _accounts(engine),
        addons=lambda: addons_view(engine),
        rules=lambda: rules_view(engine),
    )


def todays(engine: Queried, as_of_us: int | None = None) -> Ints:
    """Return the local day of each account at a time, int64[accounts], days since 1970.

    The time is in microseconds since 1970 UTC (None: the latest arrival). Before the first arrival it is February 1970,
    because no cycle begins before 1970.
    """
    accounts = np.arange(len(engine.state.catalogue.accounts))
    us = engine.state.clock_us if as_of_us is None else as_of_us
    return np.maximum(local_days(engine.compiled.book, accounts, np.full(len(accounts), us)), _FEBRUARY_1970)


def cycles_gone(engine: Queried, as_of_us: int) -> list[str]:
    """Return the labels of cycles open at a time whose counters the state no longer keeps: they take no more usage.

    Cycles of one kind that are open in another time zone and still take usage count for all time zones.
    """
    book, today = engine.compiled.book, todays(engine, as_of_us).astype(np.int32)
    gone: set[str] = set()
    for kind, calendar in enumerate(book.cycle_calendars):
        codes = set(cycle_code(kind, calendar.index(today).astype(np.int64)).tolist())
        if all(is_closed(book, code, engine.state.clock_us) for code in codes):
            gone |= {cycle_label(book, code) for code in codes}
    return sorted(gone)


def _cycles(engine: Queried, today: Ints, label: str | None) -> list[int]:
    """Return the codes of the cycles that have counters, are open, or have this label, in ascending order."""
    book = engine.compiled.book
    counters = engine.state.counters
    codes = set(np.unique(counters.cycle[counters.meter != TEST_METER]).tolist())
    for kind, calendar in enumerate(book.cycle_calendars):
        if len(today):
            codes |= set(cycle_code(kind, calendar.index(today.astype(np.int32)).astype(np.int64)).tolist())
        if label is not None:
            try:
                codes.add(int(cycle_code(kind, np.array([calendar.index_of_label(label)]))[0]))
            except InputError:
                continue  # no cycle of this kind begins on that day
    return sorted(codes)


def _cards(engine: Queried, today: Ints) -> pl.DataFrame:
    directory = engine.compiled.directory
    cards = np.arange(len(directory))
    if not len(cards):
        return cards_view(engine, cards, np.zeros(0, np.int64))
    day = today[directory.account]
    return cards_view(engine, cards, today[directory.accounts.at(cards, day)])


def _accounts(engine: Queried) -> pl.DataFrame:
    rows = [(a.id, a.name, a.parent, a.time_zone, a.grace_hours, a.status) for a in engine.state.catalogue.accounts]
    return pl.DataFrame(rows, schema=ACCOUNTS_VIEW, orient="row")


def rules_view(engine: Queried) -> pl.DataFrame:
    """Return the rules of the catalogue with the columns of RULES_VIEW, sorted by id."""
    active = engine.state.rules.active
    rows = [
        (
            rule.id,
            rule.name or None,
            rule.owner,
            rule.trigger,
            rule.measure if TRIGGERS[rule.trigger].measures else None,
            ", ".join(str(level) for level in rule.levels) or None,
            rule.repetition,
            "ACTIVE" if rule.id in active else "INACTIVE",
            active.get(rule.id),
        )
        for rule in engine.state.catalogue.rules
    ]
    return pl.DataFrame(rows, schema=RULES_VIEW, orient="row").sort("rule_id")
