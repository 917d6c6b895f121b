"""Least amounts: what a card owes for a cycle although it used little or nothing (P2)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import polars as pl

from rating.apply import Compiled
from rating.catalogue.rates import Book
from rating.closing.owed import FEES_OWED
from rating.columnar.counters import MOST_NANOS, Counters, counter_key
from rating.columnar.key_index import Ints
from rating.columnar.named import named
from rating.tariff.fees import prorate
from rating.units.money import parse_amount
from rating.usage.charge import TEST_METER, sim_subject
from rating.usage.cycles import cycle_days, cycle_kind, cycle_label

SPEND: Final = "minimum spend"
_ACCOUNT_BITS: Final = 32


@dataclass(frozen=True)
class _PlanHolders:
    """Cards with the account that owned them, the plan version they had last in a cycle, and their days on it.

    int64 columns, one row for each card and account. Cards that share a pool or a device are left out.
    """

    card: Ints
    account: Ints
    version: Ints
    days: Ints

    @classmethod
    def of(cls, compiled: Compiled, code: int) -> Self:
        """Return the holders of plans in a cycle (given by its code)."""
        service = compiled.pools.service
        part = service.within(*cycle_days(compiled.book, code))
        place, version, days = service.by_version(part)
        alone = part.pool[place] < 0
        place, version, days = place[alone], version[alone], days[alone]
        key = part.card[place] << _ACCOUNT_BITS | part.account[place]
        # Stretches are ordered by card and day, and the version with the later effective day is the later one.
        begins = np.array([version.effective.toordinal() for _, version in compiled.book.versions] or [0], np.int64)
        order = np.lexsort((begins[version], place, key))
        key, version, days = key[order], version[order], days[order]
        last = np.append(key[1:] != key[:-1], True)[: len(key)]
        keys, inverse = np.unique(key, return_inverse=True)
        total = np.zeros(len(keys), np.int64)
        np.add.at(total, inverse.reshape(-1), days)
        return cls(keys >> _ACCOUNT_BITS, keys & ((1 << _ACCOUNT_BITS) - 1), version[last], total)

    def take(self, at: Ints) -> Self:
        """Return the holders in these rows."""
        return type(self)(self.card[at], self.account[at], self.version[at], self.days[at])


def minimums_owed(compiled: Compiled, counters: Counters, code: int, fees: pl.DataFrame) -> pl.DataFrame:
    """Return what cards owe beyond usage and fees in a cycle (given by its code), as rows of FEES_OWED.

    A price with a `minimum` and without an allowance costs it in a cycle without a record too. A version with a
    `minimum_spend` tops fees and charges for usage up to it; it is prorated by days on the plan. `fees` are the rows of
    kind `fee` in this cycle.
    """
    book, kind = compiled.book, cycle_kind(code)
    rates = {row: found for row in range(len(book.versions)) if (found := _minimum_rates(book, row))}
    spends = {
        row: parse_amount(version.minimum_spend)
        for row, (_, version) in enumerate(book.versions)
        if version.minimum_spend is not None
    }
    asked = [row for row in {*rates, *spends} if _cycle_of(book, row) == kind]
    if not asked:
        return pl.DataFrame(schema=FEES_OWED)
    holders = _PlanHolders.of(compiled, code)
    frames = [
        _idle(compiled, counters, code, holders.take(np.flatnonzero(holders.version == row)), rate)
        for row in asked
        for rate in rates.get(row, ())
    ]
    least = pl.concat([pl.DataFrame(schema=FEES_OWED), *frames])
    owed = pl.concat([fees, least])
    topped = [
        _topped_up(compiled, counters, code, holders.take(np.flatnonzero(holders.version == row)), owed)
        for row in asked
        if row in spends
    ]
    return pl.concat([least, *topped])


def _cycle_of(book: Book, version: int) -> int:
    return int(book.plan_cycle[book.vocabulary.plans.rows[book.versions[version][0].id]])


def _minimum_rates(book: Book, version: int) -> list[int]:
    """Return the rates of a plan version that cost a minimum from the first record on."""
    own = np.unique(book.rate_at[version])
    return [
        rate
        for rate in own[own >= 0].tolist()
        if book.price_specs[rate].price.minimum is not None and int(book.rates.allowance[rate]) == 0
    ]


def _idle(compiled: Compiled, counters: Counters, code: int, holders: _PlanHolders, rate: int) -> pl.DataFrame:
    """Return the minimum of a rate for the cards that have no record on its counter."""
    book = compiled.book
    meter, count = int(book.rates.meter[rate]), len(holders.card)
    subject = sim_subject(compiled.directory.billed_as(holders.card, holders.account))
    keys = counter_key(subject, np.full(count, meter), np.full(count, code))
    row = counters.index.find(keys.view(np.uint64))
    idle = np.flatnonzero((row < 0) | (counters["records"][np.maximum(row, 0)] == 0)) if len(counters) else None
    idle = np.arange(count) if idle is None else idle
    one = np.array([rate])
    nanos = int(book.prices.charge(one, np.array([-1]), np.array([0]))[0])
    owing = holders.take(idle)
    return _rows(compiled, code, owing, f"minimum {book.vocabulary.meters.names[meter]}", np.full(len(idle), nanos))


def _topped_up(
    compiled: Compiled, counters: Counters, code: int, holders: _PlanHolders, owed: pl.DataFrame
) -> pl.DataFrame:
    """Return what is missing to the minimum spend of one plan version."""
    book = compiled.book
    if not len(holders.card):
        return pl.DataFrame(schema=FEES_OWED)
    version = int(holders.version[0])
    plan, terms = book.versions[version]
    first, last = cycle_days(book, code)
    least = parse_amount(terms.minimum_spend or "0")
    by_days = {int(days): prorate(least, int(days), last - first + 1) for days in np.unique(holders.days)}
    due = np.array([by_days[days] for days in holders.days.tolist()], np.int64)
    iccids = compiled.directory.cards["iccid"].gather(holders.card)
    accounts = named(holders.account, book.vocabulary.accounts.names)
    fees = (
        pl.DataFrame({"account_id": accounts, "subject": iccids})
        .join(
            owed.filter(currency=plan.currency).group_by("account_id", "subject").agg(pl.col("amount_nanos").sum()),
            on=["account_id", "subject"],
            how="left",
            maintain_order="left",
        )["amount_nanos"]
        .fill_null(0)
        .to_numpy()
    )
    subject = sim_subject(compiled.directory.billed_as(holders.card, holders.account))
    currency = book.vocabulary.currencies.rows[plan.currency]
    missing = due - fees - np.minimum(_charged(counters, code, subject, currency), due)
    owing = np.flatnonzero(missing > 0)
    return _rows(compiled, code, holders.take(owing), SPEND, missing[owing])


def _charged(counters: Counters, code: int, subject: Ints, currency: int) -> Ints:
    """Return the charges for usage of each subject in a cycle and currency in nanos, int64[n], at most MOST_NANOS."""
    mine = np.flatnonzero((counters.cycle == code) & (counters.meter != TEST_METER))
    mine = mine[np.isin(counters.subject[mine], subject)]
    sums = defaultdict[int, int](int)
    own = mine[counters["currency"][mine] == currency + 1]
    for one, nanos in zip(counters.subject[own].tolist(), counters["charge_nanos"][own].tolist(), strict=True):
        sums[one] += nanos
    if counters.further:
        subject_of = dict(zip(counters.keys[mine].tolist(), counters.subject[mine].tolist(), strict=True))
        for charged, nanos in counters.further.items():
            if charged.currency == currency and charged.key in subject_of:
                sums[subject_of[charged.key]] += nanos
    return np.array([max(-MOST_NANOS, min(MOST_NANOS, sums[one])) for one in subject.tolist()], np.int64)


def _rows(compiled: Compiled, code: int, holders: _PlanHolders, name: str, nanos: Ints) -> pl.DataFrame:
    book = compiled.book
    if not len(holders.card):
        return pl.DataFrame(schema=FEES_OWED)
    plan, terms = book.versions[int(holders.version[0])]
    first, last = cycle_days(book, code)
    columns = {
        "account_id": named(holders.account, book.vocabulary.accounts.names),
        "subject": compiled.directory.cards["iccid"].gather(holders.card),
        "days": holders.days,
        "amount_nanos": nanos,
    }
    frame = pl.DataFrame(columns).with_columns(
        subject_kind=pl.lit("sim"),
        plan_id=pl.lit(plan.id),
        plan_version=pl.lit(terms.version),
        cycle=pl.lit(cycle_label(book, code)),
        name=pl.lit(name),
        of_days=pl.lit(last - first + 1),
        currency=pl.lit(plan.currency),
        kind=pl.lit("minimum"),
    )
    return frame.select(pl.col(column).cast(dtype) for column, dtype in FEES_OWED.items())
