"""Content of a monthly usage report: its sections as data frames, and the definition of each column (Q4).

Amounts are Decimal(38, 9) in the row's currency, exact to the nano. Quantities are int64 in whole units of the row's
service (bytes, messages, seconds). Every writer takes its columns, titles and formats from this module.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from jobs.output.text import json_rows

Kind = Literal["text", "count", "quantity", "amount", "percent", "date"]


@dataclass(frozen=True)
class Column:
    """One column of a section: `title` is its heading, and `kind` decides its format."""

    name: str
    kind: Kind
    title: str


@dataclass(frozen=True)
class SectionPlan:
    """Definition of a section: name in files, title, a sentence of explanation, and columns."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]


_COLUMNS = {
    column.name: column
    for column in (
        Column("account_id", "text", "Account"),
        Column("name", "text", "Name"),
        Column("parent", "text", "Parent account"),
        Column("plan_id", "text", "Plan"),
        Column("plan_version", "count", "Version"),
        Column("pool_id", "text", "Pool"),
        Column("kind", "text", "Kind"),
        Column("iccid", "text", "ICCID"),
        Column("status", "text", "Status now"),
        Column("subject_kind", "text", "Billed as"),
        Column("subject", "text", "Billing entity"),
        Column("fee", "text", "Fee"),
        Column("rule_id", "text", "Rule"),
        Column("trigger", "text", "Trigger"),
        Column("owner", "text", "Owner"),
        Column("rate", "text", "Rate"),
        Column("country", "text", "Country"),
        Column("reason", "text", "Reason"),
        Column("meaning", "text", "Meaning"),
        Column("service", "text", "Service"),
        Column("unit", "text", "Unit"),
        Column("currency", "text", "Currency"),
        Column("day", "date", "Day"),
        Column("members", "count", "Members"),
        Column("sims", "count", "SIMs"),
        Column("records", "count", "Records"),
        Column("rows", "count", "Rows"),
        Column("fee_count", "count", "Charged"),
        Column("rules", "count", "Rules"),
        Column("firings", "count", "Firings"),
        Column("released", "count", "Released"),
        Column("actions", "count", "Actions"),
        Column("actions_done", "count", "Done"),
        Column("actions_failed", "count", "Failed"),
        Column("actions_told", "count", "Told"),
        Column("actions_open", "count", "Open"),
        Column("size", "quantity", "Size"),
        Column("allowance_size", "quantity", "Allowance"),
        Column("quantity", "quantity", "Quantity"),
        Column("quantity_raw", "quantity", "Measured"),
        Column("used", "quantity", "Used"),
        Column("data_used_bytes", "quantity", "Data used"),
        Column("data_overage_bytes", "quantity", "Data overage"),
        Column("sms_used", "count", "SMS"),
        Column("voice_used_s", "quantity", "Voice"),
        Column("from_test", "quantity", "From test"),
        Column("from_allowance", "quantity", "From allowance"),
        Column("from_addon", "quantity", "From add-on"),
        Column("overage", "quantity", "Overage"),
        Column("percent", "percent", "Used %"),
        Column("late_records", "count", "Late records"),
        Column("late_quantity", "quantity", "Late quantity"),
        Column("late_charge", "amount", "Charge for late usage"),
        Column("adjustment_rows", "count", "Adjustment rows"),
        Column("adjustment_quantity", "quantity", "Adjusted quantity"),
        Column("charge", "amount", "Usage charge"),
        Column("adjustments", "amount", "Adjustments"),
        Column("fees", "amount", "Fees"),
        Column("amount", "amount", "Amount"),
        Column("total", "amount", "Total"),
        Column("forecast", "quantity", "Forecast"),
        Column("forecast_percent", "percent", "Forecast %"),
    )
}

_USAGE = "from_test from_allowance from_addon overage"
_LATE = "late_records late_quantity adjustment_rows adjustment_quantity"
_MONEY = "charge late_charge adjustments fees total"
_ACTIONS = "actions actions_done actions_failed actions_told actions_open"
_SUMMARY = "sims data_used_bytes data_overage_bytes sms_used voice_used_s charge adjustments fees total"


def _plan(name: str, title: str, caption: str, columns: str) -> SectionPlan:
    return SectionPlan(name, title, caption, tuple(_COLUMNS[column] for column in columns.split()))


SECTIONS: dict[str, SectionPlan] = {
    plan.name: plan
    for plan in (
        _plan(
            "totals",
            "Totals",
            "Totals of the cycle by currency: usage charges, adjustments and fees.",
            f"currency sims records {_MONEY}",
        ),
        _plan(
            "services",
            "Usage by service",
            "Usage by service and what covered it: test, plan or pool allowance, or add-ons. The rest is overage.",
            f"service unit currency sims records quantity_raw used {_USAGE} {_LATE} charge late_charge adjustments "
            "forecast",
        ),
        _plan(
            "accounts",
            "Accounts",
            "One row for each account and currency.",
            f"account_id name parent currency {_SUMMARY}",
        ),
        _plan(
            "accounts_by_service",
            "Accounts by service",
            "The same, split by service. Fees have rows of their own.",
            f"account_id service unit currency sims records quantity_raw used {_USAGE} {_LATE} {_MONEY} forecast",
        ),
        _plan(
            "plans",
            "Plans",
            "One row for each plan version and currency.",
            f"plan_id plan_version currency {_SUMMARY}",
        ),
        _plan(
            "plans_by_service",
            "Plans by service",
            "The same, split by service. Fees have rows of their own.",
            f"plan_id plan_version service unit currency sims records quantity_raw used {_USAGE} {_LATE} {_MONEY} "
            "forecast",
        ),
        _plan(
            "pools",
            "Pools and devices",
            "SIMs that share an allowance. The size is the current one, as long as the state has the cycle.",
            f"account_id kind pool_id members service unit currency size used percent {_USAGE} {_LATE} {_MONEY} "
            "forecast forecast_percent",
        ),
        _plan(
            "sims",
            "SIMs",
            "One row for each SIM, service and currency. Fees have rows of their own. Plan and entity are the latest.",
            "account_id iccid status plan_id subject_kind subject service unit currency allowance_size records "
            f"quantity_raw used {_USAGE} {_LATE} {_MONEY} forecast",
        ),
        _plan(
            "rates",
            "Rates",
            "Usage and charges by rate of a plan version.",
            f"plan_id plan_version rate service unit currency sims records used {_USAGE} charge adjustments total",
        ),
        _plan(
            "fees",
            "Fees",
            "Fees other than usage charges.",
            "account_id plan_id plan_version fee currency fee_count amount",
        ),
        _plan(
            "days",
            "Days",
            "Usage and charges by local day of use, including adjustments.",
            f"day service unit currency sims records used {_USAGE} total",
        ),
        _plan(
            "countries",
            "Countries",
            "Usage and charges by country of use, including adjustments.",
            "country service unit currency sims records used overage total",
        ),
        _plan(
            "adjustments",
            "Adjustments",
            "Rows that correct earlier rows: reversals and re-ratings.",
            "account_id kind service unit currency rows quantity amount",
        ),
        _plan(
            "rules",
            "Rules",
            "Firings of each rule in the cycle, SIMs that it released automatically, and the results of its actions.",
            f"rule_id trigger owner sims firings released {_ACTIONS}",
        ),
        _plan(
            "rule_sims",
            "SIMs with the most firings",
            "The SIMs for which rules fired most often in the cycle.",
            f"iccid account_id rules firings released {_ACTIONS}",
        ),
        _plan(
            "rejected",
            "Rejected records",
            "Records that arrived while the cycle accepted usage, but could not be rated. Correct and replay them.",
            "reason meaning records",
        ),
    )
}

# Columns to omit if no row has a value.
_OPTIONAL = {
    "name",
    "parent",
    "members",
    "size",
    "allowance_size",
    "from_test",
    "from_addon",
    "percent",
    "late_records",
    "late_quantity",
    "late_charge",
    "adjustment_rows",
    "adjustment_quantity",
    "adjustments",
    "sms_used",
    "voice_used_s",
    "data_overage_bytes",
    "fees",
    "forecast",
    "forecast_percent",
    "zone",
    "owner",
    "released",
    "actions_done",
    "actions_failed",
    "actions_told",
    "actions_open",
}


def telling_columns(columns: Sequence[Column], frame: pl.DataFrame) -> tuple[Column, ...]:
    """Return `columns` without the optional ones that have no value in `frame`.

    An optional column is omitted if it is null or zero in every row, or, for text, null in every row.
    """
    return tuple(column for column in columns if column.name not in _OPTIONAL or _tells(frame[column.name]))


def _tells(values: pl.Series) -> bool:
    filled = values.drop_nulls()
    return filled.len() > 0 if filled.dtype == pl.String else bool((filled != 0).any())


UNITS = {"data": "bytes", "sms": "messages", "voice": "seconds"}
FEES_SERVICE = "fees"  # The `service` of fee rows.


@dataclass(frozen=True)
class Report:
    """A monthly usage report (Q4). `sections` has a frame for each of SECTIONS, with its columns in order.

    `cycle_from` and `cycle_until` (inclusive) bound the cycle. If it has not ended at `as_of`, `is_open` is true and
    sections have forecasts, based on `elapsed_days` of `cycle_days`. `cards` is the number of cards in scope now, and
    `cards_used` the number of cards with usage in the cycle. `top` limits the lists of top SIMs. `notes` are
    explanations for the reader.
    """

    cycle: str
    account: str | None
    as_of: dt.datetime
    cycle_from: dt.date
    cycle_until: dt.date
    is_open: bool
    elapsed_days: str | None  # Decimal text; None if the cycle is closed.
    cycle_days: int
    cards: int
    cards_used: int
    top: int
    notes: tuple[str, ...]
    sections: dict[str, pl.DataFrame]

    def top_sims(self) -> pl.DataFrame:
        """Return the `top` rows of section `sims` with the most data usage, in descending order."""
        data = self.sections["sims"].filter(pl.col("service") == "data", pl.col("used") > 0)
        return data.top_k(self.top, by="used").sort(["used", "iccid", "currency"], descending=[True, False, False])

    def dearest_sims(self) -> pl.DataFrame:
        """Return the `top` SIMs of each currency by total with fees: currency, account_id, iccid, total."""
        by_sim = self.sections["sims"].group_by("currency", "account_id", "iccid").agg(pl.col("total").sum())
        ordered = by_sim.filter(pl.col("total") > 0).sort(
            ["currency", "total", "iccid"], descending=[False, True, False]
        )
        return ordered.group_by("currency", maintain_order=True).head(self.top)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values: quantities as int, amounts as decimal text, and only the top SIMs."""
        sections = {name: frame for name, frame in self.sections.items() if name != "sims"}
        sections["top_sims"] = self.top_sims()
        sections["dearest_sims"] = self.dearest_sims()
        return {
            "cycle": self.cycle,
            "account": self.account,
            "as_of": self.as_of.astimezone(dt.UTC).isoformat().replace("+00:00", "Z"),
            "cycle_from": self.cycle_from.isoformat(),
            "cycle_until": self.cycle_until.isoformat(),
            "open": self.is_open,
            "elapsed_days": self.elapsed_days,
            "cycle_days": self.cycle_days,
            "cards": self.cards,
            "cards_used": self.cards_used,
            "notes": list(self.notes),
            **{name: json_rows(frame) for name, frame in sections.items()},
        }
