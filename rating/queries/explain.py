"""Explain a rated record: the steps to its charge, computed again from its row and its plan version (P12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rating.apply import Compiled
from rating.catalogue.pools import DEVICE_PREFIX
from rating.catalogue.rates import CYCLE_BASIS, DIRECTIONS, RECORD_BASIS, SERVICES
from rating.units.money import format_amount
from schemas.plans import Increment, Price
from schemas.usage import Direction

_UNITS = {"data": "bytes", "sms": "messages", "voice": "seconds"}


@dataclass(frozen=True)
class ExplainedStep:
    """One step of an explanation: the decision as a sentence, and its figures as plain JSON values."""

    step: str
    text: str
    facts: dict[str, Any]


def explain(compiled: Compiled, row: dict[str, Any]) -> list[ExplainedStep]:
    """Return the steps from the record to its charge, for one rated row (a dict of RATED's columns)."""
    unit = _UNITS[row["service"]]
    version = f"{row['plan_id']} version {row['plan_version']}"
    steps = [
        ExplainedStep(
            "record",
            f"{row['record_key']} of feed {row['feed']}: {row['quantity_raw']} {unit} of {row['service']} "
            f"({row['direction']}) used at {row['used_at']:%Y-%m-%d %H:%M:%S} UTC by {row['iccid']}; "
            f"{row['source']} line {row['source_row']}",
            _facts(row, "record_key", "feed", "iccid", "service", "direction", "quantity_raw", "source", "source_row"),
        )
    ]
    if row["kind"] != "usage":
        why = _BECAUSE.get(row["because"], "") + (f" ({row['cause']})" if row["cause"] else "")
        text = _ADJUSTMENTS[row["kind"]] + (f"; because {why}" if row["because"] in _BECAUSE else "")
        steps.append(ExplainedStep("adjustment", text, _facts(row, "kind", "because", "cause")))
    late = "; its own cycle had closed, so it counts in the open one (T5)" if row["late"] else ""
    if row["adjusts_cycle"] is not None:
        late = f"; it belongs to cycle {row['adjusts_cycle']}, which had closed"
    steps.append(
        ExplainedStep(
            "cycle",
            f"local day {row['day']} in the zone of account {row['account_id']}, billing cycle {row['cycle']}{late}",
            _facts(row, "account_id", "day", "cycle", "adjusts_cycle", "late"),
        )
    )
    steps.append(
        ExplainedStep("plan", f"plan {version} was in force on that day (P1)", _facts(row, "plan_id", "plan_version"))
    )
    place = f"PLMN {row['plmn'] or 'none'}, country {row['country'] or 'none'}"
    zone = f"in zone {row['zone']}" if row["zone"] else "in no zone that the plan tells apart"
    steps.append(ExplainedStep("zone", f"{place}: {zone} (P5)", _facts(row, "plmn", "country", "zone")))
    steps.append(_increment_step(compiled, row, unit))
    steps.append(
        ExplainedStep(
            "counter",
            f"counter {row['rate']} of {row['subject_kind']} {row['subject']} went from {row['counter_before']} "
            f"to {row['counter_after']} {unit}",
            _facts(row, "rate", "subject_kind", "subject", "counter_before", "counter_after"),
        )
    )
    parts = [f"{row[name]} from {label}" for name, label in _BURNS if row[name]]
    if row["overage"] or not parts:
        parts.append(f"{row['overage']} overage")
    steps.append(
        ExplainedStep(
            "burn", f"of {row['billable_quantity']} {unit}: {', '.join(parts)} (P6)",
            _facts(row, "billable_quantity", "from_test", "from_allowance", "from_addon", "overage"),
        )
    )  # fmt: skip
    steps.append(_price_step(compiled, row, unit))
    return steps


_ADJUSTMENTS = {
    "reversal": "a reversal: the quantities and what they cost are taken back (F6)",
    "rerate": "rated again: what is new less what was charged before (P10)",
}
_BECAUSE = {
    "reversed": "it was reversed",
    "replaced": "it was replaced",
    "correction": "a record that shares a total with it was corrected",
    "catalogue": "the catalogue changed for days in the past",
    "asked": "`weir rerate` was called",
}
_BURNS = (("from_test", "the test allowance"), ("from_allowance", "the allowance"), ("from_addon", "add-ons"))


def _facts(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: str(row[name]) if name in ("day", "used_at") else row[name] for name in names}


def rates_of(compiled: Compiled, row: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the rows of the plan's rate of a rated row, and of the rate that priced it.

    The latter is that of the pool, if the pool has one. Both are None if the plan version or its rate is unknown.
    """
    book = compiled.book
    version = book.vocabulary.versions.rows.get(f"{row['plan_id']}@{row['plan_version']}")
    meter = book.vocabulary.meters.rows.get(row["rate"])
    if version is None or meter is None:
        return None, None
    service = int(SERVICES[row["service"]])
    direction = int(DIRECTIONS.get(row["direction"], Direction.BOTH))
    slots = {zone.name: slot for slot, zone in enumerate(book.zone_keys[book.version_zone_key[version]].zones, 1)}
    rates = np.unique(book.rate_at[version, service, direction, slots.get(row["zone"] or "", 0)])
    own = next((int(rate) for rate in rates if rate >= 0 and int(book.rates.meter[rate]) == meter), None)
    price = own
    if row["subject_kind"] != "sim":
        name = row["subject"] if row["subject_kind"] == "pool" else DEVICE_PREFIX + row["subject"]
        pool = book.vocabulary.pools.rows.get(name)
        if pool is not None and int(book.pool_rate[pool, service, direction]) >= 0:
            price = int(book.pool_rate[pool, service, direction])
    return own, price


def _increment_step(compiled: Compiled, row: dict[str, Any], unit: str) -> ExplainedStep:
    own, _ = rates_of(compiled, row)
    text = f"{row['quantity_raw']} {unit} count as {row['billable_quantity']}"
    facts = _facts(row, "quantity_raw", "billable_quantity")
    if own is not None:
        spec = compiled.book.increment_specs[own].increment
        facts |= {"minimum": spec.minimum, "step": spec.step, "round": spec.round, "per": spec.per}
        facts |= {"starts": [{"start": group.start, "step": group.step} for group in spec.starts]}
        text += f": {describe_increment(spec)} (P3)"
    return ExplainedStep("increment", text, facts)


def describe_increment(spec: Increment) -> str:
    """Describe an increment in words, such as "at least 60 s, in steps of 1 s, rounded up, per record"."""
    if spec.round == "none":
        return "as it came"
    least = [f"at least {spec.minimum}"] if str(spec.minimum) != "0" else []
    later = [f"from {group.start} on in steps of {group.step}" for group in spec.starts]
    return ", ".join([*least, f"in steps of {spec.step}", *later, f"rounded {spec.round}", f"per {spec.per}"])


def _price_step(compiled: Compiled, row: dict[str, Any], unit: str) -> ExplainedStep:
    book = compiled.book
    _, price = rates_of(compiled, row)
    charge = format_amount(row["charge_nanos"])
    facts: dict[str, Any] = {"charge": charge, "currency": row["currency"], "overage_before": row["overage_before"]}
    if price is None:
        return ExplainedStep("price", f"charge {charge} {row['currency']}; the plan is no longer known", facts)
    spec = book.price_specs[price]
    before, after = row["overage_before"], row["overage_before"] + row["overage"]
    basis = int(book.rates.basis[price])
    described = describe_price(spec.price)
    rounding = f"rounded {spec.rounding.mode} to {spec.rounding.decimals} decimals at the {spec.rounding.at}"
    facts |= {"model": spec.price.model, "price": described, "rounding": rounding, "basis": spec.price.basis}
    if basis == CYCLE_BASIS and not book.rates.capacity[price]:
        ends = [_cumulative(compiled, price, end) for end in (before, after)]
        facts |= {"cost_before": ends[0], "cost_after": ends[1], "overage_after": after}
        how = f"cost of {after} {unit} of overage is {ends[1]}, of {before} before it {ends[0]}"
    elif basis == RECORD_BASIS:
        how = f"{row['overage']} {unit} priced by the record alone"
    else:
        how = f"{row['overage']} {unit} priced by its {'peak' if book.rates.capacity[price] else 'session'}"
    fee = int(book.rates.connect_fee_nanos[price])
    if fee:
        facts["connect_fee"] = format_amount(fee)
        how += f"; connect fee {format_amount(fee)} where the record opens its session"
    return ExplainedStep("price", f"{described}: {how}; {rounding}: charge {charge} {row['currency']} (P2)", facts)


def _cumulative(compiled: Compiled, price: int, units: int) -> str:
    entered = -1 if units == 0 else units
    nanos, part = compiled.book.prices.cumulative(np.array([price]), np.array([entered]))
    text = format_amount(int(nanos[0]))
    share = int(part[0])
    return text if not share else f"{text} and {share}/{int(compiled.book.prices.denominator[price])} nano"


def describe_price(price: Price) -> str:
    """Describe a price in words, such as "flat 0.01 per 1 MB"."""
    if price.model == "free":
        return "free"
    if price.tiers:
        tiers = []
        for tier in price.tiers:
            reach = f"to {tier.to}" if tier.to is not None else "beyond"
            flat = f" + {tier.flat}" if tier.flat != "0" else ""
            tiers.append(f"{reach} {tier.price} per {tier.per}{flat}")
        return f"{price.model} ({'; '.join(tiers)})"
    return f"{price.model} {price.price} per {price.per}"
