"""Counters of the state: which there are of a subject, and their figures as a data frame (Q2)."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import polars as pl

from rating.catalogue.pools import DEVICE_PREFIX
from rating.catalogue.rates import SERVICES
from rating.columnar.counters import counter_key
from rating.columnar.key_index import Ints
from rating.columnar.named import named
from rating.queries.queried import Queried
from rating.queries.schemas import COUNTERS_VIEW, nanos_type
from rating.usage.charge import TEST_METER
from rating.usage.cycles import cycle_code, cycle_days, cycle_label


def open_cycles(engine: Queried, day: int, kind: int = -1) -> list[int]:
    """Return the codes of the cycles that contain a local day: of one kind, or of all kinds if `kind` is -1."""
    calendars = engine.compiled.book.cycle_calendars
    today = np.array([day], np.int32)
    kinds = range(len(calendars)) if kind < 0 else [kind]
    return [int(cycle_code(one, calendars[one].index(today).astype(np.int64))[0]) for one in kinds]


def rows_of_subject(engine: Queried, subject: int, cycles: list[int]) -> Ints:
    """Return the rows of a subject's counters in these cycles, ordered by cycle and meter, without test counters.

    The rows are looked up, so the time does not grow with the number of counters.
    """
    counters, meters = engine.state.counters, len(engine.compiled.book.vocabulary.meters)
    meter, cycle = np.tile(np.arange(meters), len(cycles)), np.repeat(np.array(sorted(cycles), np.int64), meters)
    rows = counters.index.find(counter_key(np.full(len(meter), subject, np.int64), meter, cycle).view(np.uint64))
    return np.asarray(rows[(rows >= 0) & (meter != TEST_METER)], np.int64)


def pool_accounts(engine: Queried) -> Ints:
    """Return the account of each pool, int64[pools]; the account of a device is that of its first card, -1 if none."""
    book, directory = engine.compiled.book, engine.compiled.directory
    owner = book.pool_account.copy()
    cards = np.flatnonzero(engine.compiled.pools.device_row >= 0)[::-1]
    owner[engine.compiled.pools.device_row[cards]] = directory.account[cards]
    return owner


def counters_frame(engine: Queried, rows: Ints) -> pl.DataFrame:
    """Return these rows of the counters, in this order.

    The columns are those of COUNTERS_VIEW, `from_test` (units covered by a test allowance, which are not part of
    `billable`) and `in_pool` (units that are part of `billable`, but are charged at the pool or device). Of a counter
    that is charged in several currencies a row follows for each further one, with the charge alone and no units.
    """
    book, directory = engine.compiled.book, engine.compiled.directory
    counters = engine.state.counters
    subject, meter, cycle = counters.subject[rows], counters.meter[rows], counters.cycle[rows]
    is_pool, place = (subject & 1) == 1, subject >> 1
    card, owner = directory.tenant(np.where(is_pool, 0, place))
    pool = np.where(is_pool, place, 0)
    kind = np.zeros(len(rows), np.int64)
    account = np.where(owner >= 0, owner, directory.account[card]) if len(directory) else np.full(len(rows), -1)
    subjects = directory.cards["iccid"].gather(card) if len(directory) else named(kind - 1, [])
    if is_pool.any():  # what is looked up for all pools, the counters of a card alone do not pay for
        names = book.vocabulary.pools.names
        kind = np.where(is_pool, np.array([2 if name.startswith(DEVICE_PREFIX) else 1 for name in names])[pool], 0)
        account = np.where(is_pool, pool_accounts(engine)[pool], account)
        shared = named(np.where(is_pool, pool, -1), [name.removeprefix(DEVICE_PREFIX) for name in names])
        subjects = shared.zip_with(pl.Series(is_pool), subjects)
    codes, code = np.unique(cycle, return_inverse=True)
    days = np.array([cycle_days(book, int(one)) for one in codes], np.int64).reshape(-1, 2)
    frame = pl.DataFrame(
        {
            "subject_kind": named(kind, ["sim", "pool", "device"]),
            "subject": subjects,
            "account_id": named(account, book.vocabulary.accounts.names),
            "counter": named(meter, book.vocabulary.meters.names),
            "service": named(book.meter_service[meter], list(SERVICES)),
            "cycle": named(code, [cycle_label(book, int(one)) for one in codes]),
            "cycle_from": pl.Series(days[code, 0]).cast(pl.Int32).cast(pl.Date),
            "cycle_until": pl.Series(days[code, 1]).cast(pl.Int32).cast(pl.Date),
            "billable": counters["billable"][rows] + counters["in_pool"][rows] - counters["test"][rows],  # C2
            "allowance_size": counters["size"][rows],
            "allowance_used": counters["allowance"][rows],
            "addon_used": counters["addon"][rows],
            "overage": counters["overage"][rows],
            "charge_nanos": counters["charge_nanos"][rows],
            "currency": _currencies(engine, rows),
            "from_test": counters["test"][rows],
            "in_pool": counters["in_pool"][rows],
        }
    )
    if counters.further:
        frame = _with_further_charges(engine, frame, rows)
    fitting = {"charge_nanos": nanos_type(frame["charge_nanos"])}
    return frame.with_columns(pl.col(name).cast(kind) for name, kind in (COUNTERS_VIEW | fitting).items())


def _currencies(engine: Queried, rows: Ints) -> pl.Series:
    """Return the currency of the charges of each counter. A counter without charges has that of its last plan."""
    book, counters = engine.compiled.book, engine.state.counters
    mark, version = counters["currency"][rows], counters["plan_version"][rows]
    last = book.currency_of_version[version] if len(book.versions) else np.full(len(rows), -1, np.int64)
    return named(np.where(mark > 0, mark - 1, last), book.vocabulary.currencies.names)


def _with_further_charges(engine: Queried, frame: pl.DataFrame, rows: Ints) -> pl.DataFrame:
    """Return the frame with all charges of its counters, and a row for each further currency after the counter's own.

    `charge_nanos` is Decimal(38, 0).
    """
    counters, names = engine.state.counters, engine.compiled.book.vocabulary.currencies.names
    charged = {charge.key for charge in counters.further}
    taken, amounts, currencies = [], [], []
    for number, row in enumerate(rows.tolist()):
        own = {-1: int(counters["charge_nanos"][row])}
        sums = counters.charges(row) if int(counters.keys[row]) in charged else own
        for currency, nanos in sums.items():
            taken.append(number)
            amounts.append(nanos)
            currencies.append(names[currency] if currency >= 0 else None)
    units = ("billable", "allowance_size", "allowance_used", "addon_used", "overage", "from_test", "in_pool")
    further = pl.Series(taken).diff() == 0
    return frame[taken].with_columns(
        *(pl.when(further.fill_null(False)).then(0).otherwise(pl.col(name)).alias(name) for name in units),
        pl.Series("charge_nanos", [Decimal(nanos) for nanos in amounts], pl.Decimal(38, 0)),
        pl.coalesce(pl.Series(currencies, dtype=pl.String), "currency").alias("currency"),
    )


def counters_view(engine: Queried) -> pl.DataFrame:
    """Return all counters with the columns of COUNTERS_VIEW."""
    frame = counters_frame(engine, np.flatnonzero(engine.state.counters.meter != TEST_METER))
    return frame.select(*COUNTERS_VIEW).sort("cycle", "subject_kind", "subject", "counter", "currency")
