"""Prices of add-ons: what is owed for the add-ons bought in a cycle, beside usage (C5, Q4)."""

from __future__ import annotations

import numpy as np
import polars as pl

from rating.apply import Compiled
from rating.closing.owed import FEES_OWED
from rating.units.money import parse_amount
from rating.usage.cycles import cycle_days, cycle_kind, cycle_label

ADDON_FEE = "add-on"


def addon_prices(compiled: Compiled, code: int) -> pl.DataFrame:
    """Return the prices of the add-ons bought in a cycle as rows of FEES_OWED, one row each, in order of the catalogue.

    The plan of the card on the day of purchase says the currency and the cycle. An add-on without a price has no row.
    """
    book, addons = compiled.book, compiled.addons
    first, last = cycle_days(book, code)
    bought = (addons.purchased_day >= first) & (addons.purchased_day <= last) & (addons.version >= 0)
    rows = []
    for row in np.flatnonzero(bought).tolist():
        addon, (plan, version) = addons.addons[row], book.versions[addons.version[row]]
        nanos = parse_amount(addon.price)
        if not nanos or int(book.plan_cycle[book.vocabulary.plans.rows[plan.id]]) != cycle_kind(code):
            continue
        account = book.vocabulary.accounts.names[addons.account[row]]
        days = last - first + 1
        rows.append(
            (account, "sim", addon.iccid, plan.id, version.version, cycle_label(book, code), ADDON_FEE, days, days,
             nanos, plan.currency, "addon")
        )  # fmt: skip
    return pl.DataFrame(rows, schema=FEES_OWED, orient="row")
