"""Schemas of the views of the state: data frames of cards, counters, pools, fees, accounts, add-ons, rules (Q1 to Q6).

Counters, pools and fees exist only for cycles that are still in the state: the open cycle, and those within their grace
period (T5). Usage of older cycles is in the history. Quantities are in whole units of the service: bytes, messages or
seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import polars as pl

from rating.closing.owed import FEES_OWED

CARDS_VIEW: dict[str, pl.DataType] = {
    "iccid": pl.String(),
    "imsi": pl.String(),
    "msisdn": pl.String(),
    "account_id": pl.String(),
    "plan_id": pl.String(),  # null: no plan
    "plan_version": pl.Int32(),  # in force now
    "pool_id": pl.String(),
    "device_id": pl.String(),
    "carrier": pl.String(),
    "status": pl.String(),
    "tags": pl.List(pl.String()),
    "activated_on": pl.Date(),
    "term_ends_on": pl.Date(),
    "custom": pl.String(),  # JSON object
    "status_reason": pl.String(),  # why it is suspended
    "holds": pl.List(pl.String()),  # every suspension of it: reason, who asked for it, what ends it; null: none
}

COUNTERS_VIEW: dict[str, pl.DataType] = {
    "subject_kind": pl.String(),  # sim | device | pool
    "subject": pl.String(),
    "account_id": pl.String(),
    "counter": pl.String(),  # data, data/home, sms/mo
    "service": pl.String(),  # data | sms | voice
    "cycle": pl.String(),  # label, as in the history
    "cycle_from": pl.Date(),
    "cycle_until": pl.Date(),  # inclusive
    "billable": pl.Int64(),
    "allowance_size": pl.Int64(),
    "allowance_used": pl.Int64(),
    "addon_used": pl.Int64(),
    "overage": pl.Int64(),
    "charge_nanos": pl.Int64(),
    "currency": pl.String(),
}

POOLS_VIEW: dict[str, pl.DataType] = {
    "pool_id": pl.String(),  # or the device id
    "account_id": pl.String(),
    "kind": pl.String(),  # same_tier | dynamic | static | device
    "members": pl.Int64(),
    "service": pl.String(),
    "cycle": pl.String(),
    "size": pl.Int64(),
    "used": pl.Int64(),
    "percent": pl.String(),  # decimal text; null if the size is 0
    "overage": pl.Int64(),
    "charge_nanos": pl.Int64(),
    "currency": pl.String(),
}

FEES_VIEW: dict[str, pl.DataType] = FEES_OWED | {
    "closed": pl.Boolean(),  # the cycle is closed for the account: what stands is in the table `charges`
}

ACCOUNTS_VIEW: dict[str, pl.DataType] = {
    "account_id": pl.String(),
    "name": pl.String(),
    "parent": pl.String(),
    "time_zone": pl.String(),  # IANA name
    "grace_hours": pl.Int32(),
    "status": pl.String(),
}

RULES_VIEW: dict[str, pl.DataType] = {
    "rule_id": pl.String(),
    "name": pl.String(),
    "owner": pl.String(),  # account; null: root
    "trigger": pl.String(),
    "measure": pl.String(),  # used | over | remaining | hard_cut; null if the trigger has no threshold to compare with
    "threshold": pl.String(),  # the levels as written in the rule, separated by commas; null: none
    "repetition": pl.String(),
    "status": pl.String(),  # ACTIVE | INACTIVE
    "active_since": pl.Datetime("us", "UTC"),
}

ADDONS_VIEW: dict[str, pl.DataType] = {
    "addon_id": pl.String(),
    "iccid": pl.String(),
    "service": pl.String(),
    "size": pl.Int64(),
    "used": pl.Int64(),
    "purchased_at": pl.Datetime("us", "UTC"),
    "expires_on": pl.Date(),  # the last local day
    "price_nanos": pl.Int64(),
    "currency": pl.String(),  # of the plan on the day of purchase
}


VIEWS: Final[dict[str, dict[str, pl.DataType]]] = {
    "cards": CARDS_VIEW,
    "counters": COUNTERS_VIEW,
    "pools": POOLS_VIEW,
    "fees": FEES_VIEW,
    "accounts": ACCOUNTS_VIEW,
    "addons": ADDONS_VIEW,
    "rules": RULES_VIEW,
}


class StateViews:
    """The views of one state, all as of the same moment. Each has the columns of the schema of its name (VIEWS).

    A view is given as a frame, or as a function that computes it. The function is called when the view is first asked
    for, so the state must not change before that. A view that is not given is empty.
    """

    cards: pl.DataFrame
    counters: pl.DataFrame
    pools: pl.DataFrame
    fees: pl.DataFrame
    accounts: pl.DataFrame
    addons: pl.DataFrame
    rules: pl.DataFrame

    def __init__(self, **views: pl.DataFrame | Callable[[], pl.DataFrame]) -> None:
        if unknown := sorted(views.keys() - VIEWS.keys()):
            raise TypeError(f"found the views {unknown}; expected some of {list(VIEWS)}")
        self._views = views

    def __getattr__(self, name: str) -> pl.DataFrame:
        """Return a view that is asked for the first time."""
        if name not in VIEWS:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        given = self._views.get(name)
        if given is None:
            given = pl.DataFrame(schema=VIEWS[name])
        frame = given if isinstance(given, pl.DataFrame) else given()
        setattr(self, name, frame)  # From now on the attribute is found, and this method is not called for it.
        return frame

    def with_views(self, **views: pl.DataFrame) -> StateViews:
        """Return the same views, but these by name instead of those that were given."""
        rest = {name: self.__dict__.get(name, view) for name, view in self._views.items()}
        return StateViews(**{**rest, **views})


def nanos_type(nanos: pl.Series) -> pl.DataType:
    """Return the type of a column of nanos: Int64, or Decimal(38, 0) if an amount does not fit 64 bits."""
    fits = nanos.is_empty() or (nanos.cast(pl.Decimal(38, 0)).is_between(-(1 << 63), (1 << 63) - 1)).all()
    return pl.Int64() if fits else pl.Decimal(38, 0)
