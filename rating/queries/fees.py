"""Fees of a cycle: the amounts that cards and pools owe in addition to usage (P1, P9)."""

from __future__ import annotations

import numpy as np
import polars as pl

from rating.apply import Compiled
from rating.catalogue.cards import BEGINNING, END
from rating.catalogue.pools import COUNTING_STATUSES
from rating.columnar.key_index import Ints
from rating.queries.addon_prices import addon_prices
from rating.queries.schemas import FEES_OWED
from rating.tariff.fees import FeeTerms, prorate
from rating.usage.cycles import cycle_days, cycle_kind, cycle_label


def fees_view(compiled: Compiled, cycles: list[int]) -> pl.DataFrame:
    """Return the fees of cycles (given by their codes) as rows of FEES_OWED, for all cards and pools with fees.

    A card owes the fee of a cycle for the days on which it was on the plan, from its activation to the end of its term.
    It owes an activation fee in the cycle of its activation. A card in service without an activation date counts as
    active at all times. A card that is not in service yet owes nothing. The price of an add-on is owed in the cycle of
    its purchase, under the name `add-on`.
    """
    frames = [
        frame
        for code in cycles
        for frame in (*_card_fees(compiled, code), _pool_fees(compiled, code), addon_prices(compiled, code))
    ]
    return pl.concat([pl.DataFrame(schema=FEES_OWED), *frames])


def _card_fees(compiled: Compiled, code: int) -> list[pl.DataFrame]:
    book, directory = compiled.book, compiled.directory
    first, last = cycle_days(book, code)
    spells = directory.plans
    in_service = directory.cards["status"].fill_null("activated").is_in(COUNTING_STATUSES).to_numpy()
    kind = cycle_kind(code)
    frames = []
    for version, (plan, terms) in enumerate(book.versions):
        plan_row = book.vocabulary.plans.rows[plan.id]
        if not terms.fees or int(book.plan_cycle[plan_row]) != kind:
            continue
        begins, ends = _in_force(compiled, plan_row, version)
        at = np.flatnonzero(spells.target == plan_row)
        card = spells.card[at]
        active = directory.activated_on[card]
        start = np.maximum(spells.from_day[at], np.where(active == END, BEGINNING, active))
        start = np.maximum(np.maximum(start, begins), first)
        until = np.minimum(np.minimum(np.minimum(spells.until_day[at], directory.term_ends[card]), ends), last)
        days = np.where(in_service[card], np.maximum(until - start + 1, 0), 0)
        activated = (active >= start) & (active <= until) & in_service[card]
        for fee in terms.fees:
            compiled_fee = FeeTerms.compile(fee)
            owes = days > 0 if fee.per == "cycle" else activated
            if not owes.any():
                continue
            frames.append(
                _rows(compiled, card[owes], days[owes], last - first + 1, compiled_fee, cycle_label(book, code)).select(
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
                )
            )
    return frames


def _in_force(compiled: Compiled, plan: int, version: int) -> tuple[int, int]:
    """Return the first and last local day on which a version of a plan is in force."""
    effective, version_at = compiled.book.effective[plan], compiled.book.version_at[plan]
    place = int(np.flatnonzero(version_at == version)[0])
    further = place + 1 < len(effective) and version_at[place + 1] >= 0
    return int(effective[place]), int(effective[place + 1]) - 1 if further else END


def _rows(compiled: Compiled, card: Ints, days: Ints, of_days: int, fee: FeeTerms, cycle: str) -> pl.DataFrame:
    directory = compiled.directory
    full = np.full(len(card), of_days)
    charged = days if fee.per == "cycle" and fee.prorate else full
    amounts = {int(one): prorate(fee.amount_nanos, int(one), of_days) for one in np.unique(charged)}
    amount = np.array([amounts.get(number, 0) for number in range(of_days + 1)], np.int64)[charged]
    cards = directory.cards[card]
    return pl.DataFrame(
        {
            "account_id": cards["account"],
            "subject": cards["iccid"],
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
                     terms.amount_nanos, pool.currency)
                )  # fmt: skip
    return pl.DataFrame(rows, schema=FEES_OWED, orient="row")
