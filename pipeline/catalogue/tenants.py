"""Validation of accounts, pools and add-ons, each entry by itself and against the entries that it names."""

from __future__ import annotations

import zoneinfo

import polars as pl

from pipeline.catalogue.codes import currencies, expected_currency, time_zones
from pipeline.catalogue.findings import Entry, Findings, Text, choice
from pipeline.catalogue.merge import Known
from pipeline.catalogue.plans import check_cycle
from pipeline.catalogue.rates import RateContext, check_amount, check_fees, check_quantity, check_rates
from schemas.cards import Account, Addon, Pool

MOST_GRACE_HOURS = 24 * 31
MOST_LEVELS = 32


def check_account(entry: Entry[Account], known: Known, findings: Findings) -> None:
    """Add findings about one account: time zone, grace period, parents (T1, T5)."""
    account = entry.value
    if account.time_zone not in time_zones():
        expected = choice(account.time_zone, time_zones(), "an IANA time zone: one of")
        findings.add(entry, ("time_zone",), account.time_zone, expected)
    if not 0 <= account.grace_hours <= MOST_GRACE_HOURS:
        findings.add(entry, ("grace_hours",), account.grace_hours, f"0 to {MOST_GRACE_HOURS}")
    before = known.accounts_in_force.get(account.id)
    if before is not None and before.time_zone != account.time_zone:
        found = Text(f"{account.time_zone}, but {before.time_zone} is in force")
        expected = f"{before.time_zone}: give an account with another time zone another id"
        findings.add(entry, ("time_zone",), found, expected)
    if account.parent is None:
        return
    if account.parent not in known.accounts:
        findings.add(entry, ("parent",), account.parent, choice(account.parent, known.accounts, "an account: one of"))
        return
    row = known.account_tree.rows[account.id]
    if row in known.account_tree.circular:
        findings.add(entry, ("parent",), account.parent, "an account that is not below this one")
    elif known.account_tree.depth[row] > MOST_LEVELS:
        findings.add(entry, ("parent",), account.parent, f"at most {MOST_LEVELS} accounts above one another")


def check_pool(entry: Entry[Pool], known: Known, findings: Findings) -> None:
    """Add findings about one pool: account, currency, services, size, cycle, overage rates, fees (P7)."""
    pool = entry.value
    if pool.account not in known.accounts:
        findings.add(entry, ("account",), pool.account, choice(pool.account, known.accounts, "an account: one of"))
    if pool.currency is not None and pool.currency not in currencies():
        findings.add(entry, ("currency",), pool.currency, expected_currency(pool.currency))
    if pool.currency is None and (pool.overage or pool.fees):
        findings.add(entry, ("currency",), Text("none"), "the currency of the pool's overage and fees, such as EUR")
    if not pool.services or len(set(pool.services)) < len(pool.services):
        findings.add(
            entry, ("services",), Text(", ".join(pool.services) or "none"), "one or more of data, sms, voice, each once"
        )
    _check_sizes(entry, findings)
    check_cycle(entry, ("cycle",), pool.cycle, findings)
    for index, rate in enumerate(pool.overage):
        if rate.service not in pool.services:
            found = Text(f"{rate.service}, which this pool does not share")
            findings.add(entry, ("overage", index, "service"), found, choice(rate.service, pool.services))
        if rate.allowance not in (0, "0", ()):
            expected = "no allowance: the pool's size is what its members' plans or size give"
            findings.add(entry, ("overage", index, "allowance"), rate.allowance, expected)
    context = RateContext(
        entry=entry,
        data_base=pool.data_base,
        zones=None,
        bands=None,
        no_zones="no zone: a pool's overage has one price everywhere",
        no_bands="no band: a pool's overage has one price at all times",
    )
    check_rates(context, ("overage",), pool.overage, findings)
    check_fees(entry, ("fees",), pool.fees, findings)
    before = known.pools_in_force.get(pool.id)
    for name in ("account", "currency", "cycle"):
        if before is not None and getattr(pool, name) != getattr(before, name):
            found = Text(f"another {name} than the one in force")
            findings.add(entry, (name,), found, f"the same {name}: give a pool with another one another id")


def _check_sizes(entry: Entry[Pool], findings: Findings) -> None:
    pool = entry.value
    if pool.kind != "static":
        if pool.size:
            expected = f"no size: a {pool.kind} pool is as large as its members' allowances"
            findings.add(entry, ("size",), pool.size, expected)
        return
    sized: set[str] = set()
    for index, size in enumerate(pool.size):
        if size.service not in pool.services or size.service in sized:
            expected = choice(size.service, pool.services, "each service of the pool once:")
            findings.add(entry, ("size", index, "service"), size.service, expected)
        sized.add(size.service)
        check_quantity(entry, ("size", index, "amount"), size.amount, size.service, pool.data_base, findings)
    for service in pool.services:
        if service not in sized:
            found = Text(f"no size for {service}")
            findings.add(
                entry, ("size",), found, f'size = [{{ service = "{service}", amount = "..." }}] in a static pool'
            )


def check_addons(entries: list[Entry[Addon]], cards: pl.DataFrame, known: Known, findings: Findings) -> None:
    """Add findings about add-ons (C5). `cards` are all cards after this catalogue: columns iccid, account and plan."""
    wanted = pl.DataFrame({"iccid": [entry.value.iccid for entry in entries]}, schema={"iccid": pl.String})
    chosen = cards.join(wanted, on="iccid", how="semi").select("iccid", "account", "plan")
    found = {iccid: (account, plan) for iccid, account, plan in chosen.iter_rows()}
    for entry in entries:
        addon = entry.value
        if addon.iccid not in found:
            findings.add(entry, ("iccid",), addon.iccid, "the ICCID of a card in these files or in force")
        account, plan_id = found.get(addon.iccid, (None, None))
        plan = known.plans.get(plan_id or "")
        if addon.iccid in found and plan_id is None:
            expected = "a card on a plan, whose currency the price is in"
            findings.add(entry, ("iccid",), Text(f"{addon.iccid} without a plan"), expected)
        if plan is not None and plan.type == "single" and plan.entity == "device":
            expected = "a card that is billed for itself: an add-on serves one card"
            findings.add(entry, ("iccid",), Text(f"{addon.iccid} on plan {plan.id}, which bills by device"), expected)
        if plan is not None and plan.type != "single":
            expected = "a card on a single plan: add cards to a pool, or enlarge it"
            findings.add(entry, ("iccid",), Text(f"{addon.iccid} on the {plan.type} plan {plan.id}"), expected)
        base = plan.versions[-1].data_base if plan is not None and plan.versions else 1024
        check_quantity(entry, ("amount",), addon.amount, addon.service, base, findings, least=1)
        check_amount(entry, ("price",), addon.price, findings)
        if addon.purchased_at.tzinfo is None:
            expected = "a time with its offset, such as 2026-10-01T08:00:00Z"
            findings.add(entry, ("purchased_at",), addon.purchased_at, expected)
            continue
        owner = known.accounts.get(account or "")
        zone = "UTC" if owner is None or owner.time_zone not in time_zones() else owner.time_zone
        bought_on = addon.purchased_at.astimezone(zoneinfo.ZoneInfo(zone)).date()
        if addon.expires_on < bought_on:
            expected = f"{bought_on} or later: the local day of purchased_at in {zone}"
            findings.add(entry, ("expires_on",), addon.expires_on, expected)
