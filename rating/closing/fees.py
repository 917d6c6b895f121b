"""Fees of a cycle: the amounts that cards and pools owe in addition to usage (P1, P9)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rating.apply import Compiled
from rating.catalogue.service import Stretches
from rating.closing.addon_prices import addon_prices
from rating.closing.minimums import minimums_owed
from rating.closing.owed import FEES_OWED
from rating.columnar.counters import Counters
from rating.columnar.key_index import Ints
from rating.columnar.named import named
from rating.tariff.fees import FeeTerms, prorate
from rating.usage.cycles import cycle_days, cycle_kind, cycle_label

_ACCOUNT_BITS: Final = 32


def fees_owed(compiled: Compiled, counters: Counters, cycles: list[int]) -> pl.DataFrame:
    """Return what is owed for cycles (given by their codes) beside usage, as rows of FEES_OWED.

    A card owes the fee of a cycle for its days of service on the plan (rating.catalogue.service), to the account that
    owned it on each of these days. It owes an activation fee in the cycle of its activation. The price of an add-on is
    owed in the cycle of its purchase, under the name `add-on`. Least amounts are those of minimums_owed; `counters` say
    what was charged for usage so far.
    """
    none = pl.DataFrame(schema=FEES_OWED)
    frames = [none]
    for code in cycles:
        fees = pl.concat([none, *_card_fees(compiled, code)])
        least = minimums_owed(compiled, counters, code, fees)
        frames += [fees, _pool_fees(compiled, code), addon_prices(compiled, code), least]
    return pl.concat(frames)


def _card_fees(compiled: Compiled, code: int) -> list[pl.DataFrame]:
    book, service = compiled.book, compiled.pools.service
    first, last = cycle_days(book, code)
    kind = cycle_kind(code)
    asked = [
        row for row, (plan, terms) in enumerate(book.versions)
        if terms.fees and int(book.plan_cycle[book.vocabulary.plans.rows[plan.id]]) == kind
    ]  # fmt: skip
    if not asked:
        return []
    part = service.within(first, last)
    place, version, days = service.by_version(part)
    frames = []
    for row in asked:
        plan, terms = book.versions[row]
        at = np.flatnonzero(version == row)
        served = _Served.of(part.take(place[at]), days[at], _begins(compiled, row))
        for fee in terms.fees:
            owing = FeeTerms.compile(fee)
            owed = served.owing(owing)
            if not len(owed.card):
                continue
            frames.append(
                _rows(compiled, owed, last - first + 1, owing, cycle_label(book, code)).select(
                    "account_id",
                    "subject_kind",
                    "subject",
                    pl.lit(plan.id).alias("plan_id"),
                    pl.lit(terms.version, pl.Int32).alias("plan_version"),
                    "cycle",
                    "name",
                    "days",
                    "of_days",
                    "amount_nanos",
                    pl.lit(plan.currency).alias("currency"),
                    pl.lit("fee").alias("kind"),
                )
            )
    return frames


def _begins(compiled: Compiled, version: int) -> int:
    """Return the first local day on which a version of a plan is in force."""
    plan, place = (int(one) for one in np.argwhere(compiled.book.version_at == version)[0])
    return int(compiled.book.effective[plan, place])


@dataclass(frozen=True)
class _Served:
    """The days on which cards were in service on a plan version in a cycle, by card and account.

    `activated` says that the card was activated on one of these days, `earliest` that no other account had the card on
    the plan version before, in this cycle; bool[n].
    """

    card: Ints
    account: Ints
    days: Ints
    activated: npt.NDArray[np.bool_]
    earliest: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, part: Stretches, days: Ints, begins: int) -> Self:
        """Sum stretches, which are ordered by card and day, of one plan version that is in force from a day on."""
        key, first, inverse = np.unique(
            part.card << _ACCOUNT_BITS | part.account, return_index=True, return_inverse=True
        )
        total, activated = np.zeros(len(key), np.int64), np.zeros(len(key), bool)
        np.add.at(total, inverse.reshape(-1), days)
        until = np.maximum(part.from_day, begins) + days - 1
        on_day = (part.activated_on <= until) & (part.activated_on >= np.maximum(part.from_day, begins))
        np.logical_or.at(activated, inverse.reshape(-1), on_day)
        card = key >> _ACCOUNT_BITS
        earliest = np.ones(len(key), bool)
        at = np.argsort(first, kind="stable")  # by card and day
        earliest[at[1:]] = card[at][1:] != card[at][:-1]
        return cls(card, key & ((1 << _ACCOUNT_BITS) - 1), total, activated, earliest)

    def owing(self, fee: FeeTerms) -> Self:
        """Return those that owe a fee. A fee in full is owed once, by the first account of the cycle."""
        due = self.days > 0 if fee.prorate else self.earliest
        owes = self.activated if fee.per == "activation" else due
        return type(self)(**{one.name: getattr(self, one.name)[owes] for one in fields(self)})


def _rows(compiled: Compiled, owed: _Served, of_days: int, fee: FeeTerms, cycle: str) -> pl.DataFrame:
    full = np.full(len(owed.card), of_days)
    charged = owed.days if fee.per == "cycle" and fee.prorate else full
    amounts = {int(one): prorate(fee.amount_nanos, int(one), of_days) for one in np.unique(charged)}
    amount = np.array([amounts.get(number, 0) for number in range(of_days + 1)], np.int64)[charged]
    return pl.DataFrame(
        {
            "account_id": named(owed.account, compiled.book.vocabulary.accounts.names),
            "subject": compiled.directory.cards["iccid"].gather(owed.card),
            "days": charged.astype(np.int32),
            "amount_nanos": amount,
        }
    ).with_columns(
        subject_kind=pl.lit("sim"), cycle=pl.lit(cycle), name=pl.lit(fee.name), of_days=pl.lit(of_days, pl.Int32)
    )


def _pool_fees(compiled: Compiled, code: int) -> pl.DataFrame:
    book = compiled.book
    first, last = cycle_days(book, code)
    rows = []
    for row, pool in enumerate(book.pools):
        if pool is None or int(book.pool_cycle[row]) != cycle_kind(code):
            continue
        for fee in pool.fees:
            terms = FeeTerms.compile(fee)
            if terms.per == "cycle":
                days = last - first + 1
                rows.append(
                    (pool.account, "pool", pool.id, None, None, cycle_label(book, code), terms.name, days, days,
                     terms.amount_nanos, pool.currency, "pool_fee")
                )  # fmt: skip
    return pl.DataFrame(rows, schema=FEES_OWED, orient="row")
