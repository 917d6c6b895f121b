"""Schemas of the views of the state: data frames of cards, counters, pools, fees, accounts, add-ons, rules (Q1 to Q6).

Counters, pools and fees exist only for cycles that are still in the state: the open cycle, and those within their grace
period (T5). Usage of older cycles is in the history. Quantities are in whole units of the service: bytes, messages or
seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

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

FEES_VIEW: dict[str, pl.DataType] = {
    "account_id": pl.String(),
    "subject_kind": pl.String(),
    "subject": pl.String(),
    "plan_id": pl.String(),  # null for a fee of a pool
    "plan_version": pl.Int32(),
    "cycle": pl.String(),
    "name": pl.String(),
    "days": pl.Int32(),  # days charged
    "of_days": pl.Int32(),  # days of the cycle
    "amount_nanos": pl.Int64(),
    "currency": pl.String(),
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
}


def _empty(schema: dict[str, pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame(schema=schema)


@dataclass(frozen=True)
class StateViews:
    """The views of one state, all as of the same moment. Each has the columns of the schema of its name."""

    cards: pl.DataFrame = field(default_factory=lambda: _empty(CARDS_VIEW))
    counters: pl.DataFrame = field(default_factory=lambda: _empty(COUNTERS_VIEW))
    pools: pl.DataFrame = field(default_factory=lambda: _empty(POOLS_VIEW))
    fees: pl.DataFrame = field(default_factory=lambda: _empty(FEES_VIEW))
    accounts: pl.DataFrame = field(default_factory=lambda: _empty(ACCOUNTS_VIEW))
    addons: pl.DataFrame = field(default_factory=lambda: _empty(ADDONS_VIEW))
    rules: pl.DataFrame = field(default_factory=lambda: _empty(RULES_VIEW))
