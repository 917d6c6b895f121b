"""Loading of a set of catalogue files: read all, validate them as a whole, and return one catalogue."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import polars as pl

from pipeline.catalogue.card_checks import check_cards, in_full
from pipeline.catalogue.cards import CardEntry, CardSet, add_card_list, add_toml_cards
from pipeline.catalogue.codes import is_id
from pipeline.catalogue.conform import conform
from pipeline.catalogue.files import TABLES, read_bytes, toml_entries
from pipeline.catalogue.findings import EnoughFound, Entry, Findings, Text
from pipeline.catalogue.merge import Known, merge
from pipeline.catalogue.plans import check_plan, check_zones
from pipeline.catalogue.rules import check_rules
from pipeline.catalogue.tenants import check_account, check_addons, check_pool
from rating.catalogue.rates import meter_name
from schemas.cards import CHANGE_SCHEMA, Account, Addon, Catalogue, Pool
from schemas.plans import Plan, Rate, ZoneSet
from schemas.rules import Limit, Rule

T = TypeVar("T", bound=msgspec.Struct)

SUFFIXES = (".toml", ".csv")
_PACKED = (".gz", ".zst")


def load_catalogue(
    paths: Sequence[Path],
    known: Catalogue | None = None,
    *,
    check_digits: bool = True,
    active: Collection[str] = (),
) -> Catalogue:
    """Return the catalogue of a set of files, validated as a whole.

    The files are TOML or CSV card lists, each plain, gzip or zstd. References may name entries of the files and of
    `known`, the catalogue in force. An entry with an id of `known` replaces that one, but rules whose ids are in
    `active` must not change (L6). Limits are returned as the rules that they become. If `check_digits` is False, the
    check digits of ICCIDs and EIDs are not checked.

    Raises CatalogueError with all findings, so that nothing of the set takes effect. Raises SourceError if a file
    cannot be read at all.
    """
    findings = Findings()
    catalogue: Catalogue | None = None
    with suppress(EnoughFound):
        catalogue = _checked([Path(path) for path in paths], known or Catalogue(), active, findings, check_digits)
    findings.raise_any()
    assert catalogue is not None
    return catalogue


def _checked(
    paths: Sequence[Path], in_force: Catalogue, active: Collection[str], findings: Findings, check_digits: bool
) -> Catalogue:
    """Return the catalogue of the files, and add findings. The catalogue is valid only if there are no findings."""
    tables: dict[str, list[Entry[dict[str, Any]]]] = {name: [] for name in TABLES}
    cards = CardSet()
    for path in paths:
        _read(path, tables, cards, findings)
    accounts = _shaped(tables["accounts"], Account, findings)
    zones = _shaped(tables["zones"], ZoneSet, findings)
    plans = _shaped(tables["plans"], Plan, findings)
    pools = _shaped(tables["pools"], Pool, findings)
    addons = _shaped(tables["addons"], Addon, findings)
    rules = _shaped(tables["rules"], Rule, findings)
    limits = _shaped(tables["limits"], Limit, findings)
    names = merge(in_force, tables, accounts, zones, plans, pools)
    for kind in ("accounts", "zones", "plans", "pools", "addons", "rules", "limits"):
        _check_ids(tables[kind], findings)
    for account in accounts:
        check_account(account, names, findings)
    for zone_set in zones:
        check_zones(zone_set, findings)
    for plan in plans:
        check_plan(plan, names, findings)
    for pool in pools:
        check_pool(pool, names, findings)
    _check_vouchers(plans, names, findings)
    _check_counters(plans, pools, names, findings)
    check_cards(cards, in_force.cards, names, findings, check_digits=check_digits)
    rows = cards.frame()
    whole = in_full(rows, in_force.cards)
    staying = in_force.cards.join(rows.select("iccid"), on="iccid", how="anti")
    owned = ("iccid", "account", "plan")
    holding = pl.concat([staying.select(owned), whole.select(owned)])
    check_addons(addons, holding, names, findings)
    made = check_rules(rules, limits, holding, names, in_force.rules, active, findings)
    return Catalogue(
        accounts=tuple(entry.value for entry in accounts),
        zones=tuple(entry.value for entry in zones),
        plans=tuple(entry.value for entry in plans),
        pools=tuple(entry.value for entry in pools),
        addons=tuple(entry.value for entry in addons),
        rules=made,
        cards=rows.select(*CHANGE_SCHEMA).rechunk(),
    )


def _read(path: Path, tables: dict[str, list[Entry[dict[str, Any]]]], cards: CardSet, findings: Findings) -> None:
    suffix = path.with_suffix("").suffix if path.suffix.lower() in _PACKED else path.suffix
    if suffix.lower() not in SUFFIXES:
        expected = f"a name that ends in {' or '.join(SUFFIXES)}, or in {' or '.join(_PACKED)} after that"
        findings.place(str(path), 0, "file", path.name, expected)
        return
    data = read_bytes(path, findings)
    if data is None:
        return
    if suffix.lower() == ".csv":
        add_card_list(data, str(path), cards, findings)
        return
    entries = toml_entries(data, str(path), findings)
    for name, written in entries.items():
        tables[name] += written
    add_toml_cards(_shaped(entries["cards"], CardEntry, findings), cards)


def _shaped(written: Sequence[Entry[dict[str, Any]]], kind: type[T], findings: Findings) -> list[Entry[T]]:
    """Return the entries that have the shape of `kind` or can be repaired to it; add findings about shapes."""
    shaped = []
    for entry in written:
        value = conform(entry, kind, findings)
        if value is not None:
            document = msgspec.convert(value, kind)
            shaped.append(Entry(document, entry.file, entry.lines, entry.path, entry.name))
    return shaped


def _check_ids(written: Sequence[Entry[dict[str, Any]]], findings: Findings) -> None:
    first: dict[str, Entry[dict[str, Any]]] = {}
    for entry in written:
        name = entry.value.get("id")
        if not isinstance(name, str):
            continue
        if not is_id(name):
            findings.add(entry, ("id",), name, "an id of 1 to 128 characters without spaces at its ends")
        elif name in first:
            expected = f"each id once: it is at {first[name].file}:{first[name].line('id')}"
            findings.add(entry, ("id",), name, expected)
        first.setdefault(name, entry)


def _check_vouchers(plans: Sequence[Entry[Plan]], names: Known, findings: Findings) -> None:
    owners = {plan.voucher: plan.id for plan in names.plans_in_force.values() if plan.voucher is not None}
    for entry in plans:
        if entry.value.voucher is None:
            continue
        owner = owners.setdefault(entry.value.voucher, entry.value.id)
        if owner != entry.value.id:
            findings.add(entry, ("voucher",), entry.value.voucher, f"a key of its own: plan {owner} has this one")


def _check_counters(
    plans: Sequence[Entry[Plan]], pools: Sequence[Entry[Pool]], names: Known, findings: Findings
) -> None:
    """Add findings about counters that rates of different services share. A counter has one unit, across all plans."""
    services: dict[str, str] = {"data": "data", "sms": "sms", "voice": "voice"}
    for plan in names.plans_in_force.values():
        for version in plan.versions:
            services.update({meter_name(rate): rate.service for rate in version.rates})
    for entry in plans:
        for index, version in enumerate(entry.value.versions):
            _count(entry, ("versions", index, "rates"), version.rates, services, findings)
    for pool in pools:
        _count(pool, ("overage",), pool.value.overage, services, findings)


def _count(
    entry: Entry[T], field: tuple[str | int, ...], rates: tuple[Rate, ...], services: dict[str, str], findings: Findings
) -> None:
    for index, rate in enumerate(rates):
        service = services.setdefault(meter_name(rate), rate.service)
        if service != rate.service:
            found = Text(f"{meter_name(rate)} for {rate.service}, which counts {service} elsewhere")
            findings.add(entry, (*field, index, "counter"), found, "a counter for one service only")
