"""Validation of zones and plans, each entry by itself and against the entries that it names (P1 to P5)."""

from __future__ import annotations

from typing import TypeVar

from pipeline.catalogue.codes import countries, currencies, expected_currency, is_plmn
from pipeline.catalogue.findings import Entry, Findings, Text, choice
from pipeline.catalogue.lines import Path
from pipeline.catalogue.merge import Known
from pipeline.catalogue.rates import RateContext, check_amount, check_fees, check_quantity, check_rates
from rating.calendars.bands import check_band
from rating.catalogue.voucher import parse_voucher, voucher_contradictions
from rating.errors import PlanError
from schemas.plans import Cycle, Plan, PlanVersion, ZoneSet

MOST_CYCLE_MONTHS = 120

T = TypeVar("T")

_OFTEN_MEANT = {"UK": "GB", "EL": "GR"}  # common codes that are not ISO 3166


def check_zones(entry: Entry[ZoneSet], findings: Findings) -> None:
    """Add findings about one zone set: names, countries, PLMNs, duplicates across zones, more than one home zone."""
    names: set[str] = set()
    homes: list[str] = []
    owners: dict[str, str] = {}
    for index, zone in enumerate(entry.value.zones):
        where: Path = ("zones", index)
        if not zone.name.strip() or zone.name in names:
            findings.add(entry, (*where, "name"), zone.name, "a name of its own for each zone of the set")
        names.add(zone.name)
        if zone.home:
            homes.append(zone.name)
            if len(homes) > 1:
                findings.add(entry, (*where, "home"), True, f"one home zone: {homes[0]} is it")
        for place, country in enumerate(zone.countries):
            if country not in countries():
                meant = _OFTEN_MEANT.get(country.upper(), country.upper())
                expected = choice(meant, countries(), "an ISO 3166 alpha-2 code: one of")
                findings.add(entry, (*where, "countries", place), country, expected)
            _own(entry, (*where, "countries", place), country, zone.name, owners, findings)
        for place, plmn in enumerate(zone.plmns):
            if not is_plmn(plmn):
                findings.add(entry, (*where, "plmns", place), plmn, 'MCC and MNC, 5 or 6 digits such as "26201"')
            _own(entry, (*where, "plmns", place), plmn, zone.name, owners, findings)


def _own(entry: Entry[ZoneSet], field: Path, place: str, zone: str, owners: dict[str, str], findings: Findings) -> None:
    owner = owners.setdefault(place, zone)
    if owner != zone:
        findings.add(entry, field, place, f"each place in one zone: {place} is in {owner}")


def check_plan(entry: Entry[Plan], known: Known, findings: Findings) -> None:
    """Add findings about one plan and its versions."""
    plan = entry.value
    if plan.currency not in currencies():
        findings.add(entry, ("currency",), plan.currency, expected_currency(plan.currency))
    check_cycle(entry, ("cycle",), plan.cycle, findings)
    if plan.term_months is not None and plan.term_months < 1:
        findings.add(entry, ("term_months",), plan.term_months, "1 or more, or no field")
    if not plan.versions:
        findings.add(entry, ("versions",), Text("no versions"), "one [[plans.versions]] or more")
    for index, version in enumerate(plan.versions):
        if index:
            _check_order(entry, index, plan.versions[index - 1], version, findings)
        elif version.version < 1:
            findings.add(entry, ("versions", 0, "version"), version.version, "1 or more")
        _check_version(entry, index, version, known, findings)
    _check_voucher(entry, known, findings)
    before = known.plans_in_force.get(plan.id)
    if before is not None:
        _check_change(entry, before, findings)


def check_cycle(entry: Entry[T], field: Path, cycle: Cycle, findings: Findings) -> None:
    """Add findings about a billing cycle (T2)."""
    if not 1 <= cycle.months <= MOST_CYCLE_MONTHS:
        findings.add(entry, (*field, "months"), cycle.months, f"1 to {MOST_CYCLE_MONTHS}")
    if not 1 <= cycle.anchor_day <= 31:
        findings.add(entry, (*field, "anchor_day"), cycle.anchor_day, "1 to 31")


def _check_order(entry: Entry[Plan], index: int, before: PlanVersion, version: PlanVersion, findings: Findings) -> None:
    if version.version <= before.version:
        expected = f"more than {before.version}, the version before it"
        findings.add(entry, ("versions", index, "version"), version.version, expected)
    if version.effective <= before.effective:
        expected = f"later than {before.effective}, where the version before it takes effect"
        findings.add(entry, ("versions", index, "effective"), version.effective, expected)


def _check_version(entry: Entry[Plan], index: int, version: PlanVersion, known: Known, findings: Findings) -> None:
    where: Path = ("versions", index)
    zones: frozenset[str] | None = None
    if version.zones is not None:
        zone_set = known.zones.get(version.zones)
        if version.zones not in known.zones:
            expected = choice(version.zones, known.zones, "a zone set: one of")
            findings.add(entry, (*where, "zones"), version.zones, expected)
        if zone_set is None:  # reported already; accept any zone, so that one cause gives one finding
            zones = frozenset(rate.zone for rate in version.rates if rate.zone is not None)
        else:
            zones = frozenset(zone.name for zone in zone_set.zones)
    if version.default_zone is not None:
        if zones is None:
            expected = "no default zone, or zones = the id of a zone set in this version"
            findings.add(entry, (*where, "default_zone"), version.default_zone, expected)
        elif known.zones.get(version.zones or "") is not None and version.default_zone not in zones:
            findings.add(entry, (*where, "default_zone"), version.default_zone, choice(version.default_zone, zones))
    _check_bands(entry, where, version, findings)
    context = RateContext(
        entry=entry,
        data_base=version.data_base,
        zones=zones,
        bands=frozenset(band.name for band in version.bands) if version.bands else None,
        no_zones="no zone, or zones = the id of a zone set in this version",
        no_bands="no band, or [[plans.versions.bands]] with this name",
    )
    check_rates(context, (*where, "rates"), version.rates, findings)
    check_fees(entry, (*where, "fees"), version.fees, findings)
    if version.minimum_spend is not None:
        check_amount(entry, (*where, "minimum_spend"), version.minimum_spend, findings)
    if version.test is not None:
        check_quantity(entry, (*where, "test", "amount"), version.test.amount, "data", version.data_base, findings)
        if version.test.months < 1:
            findings.add(entry, (*where, "test", "months"), version.test.months, "1 or more")


def _check_bands(entry: Entry[Plan], where: Path, version: PlanVersion, findings: Findings) -> None:
    names: set[str] = set()
    for index, band in enumerate(version.bands):
        if not band.name.strip() or band.name in names:
            findings.add(entry, (*where, "bands", index, "name"), band.name, "a name of its own for each band")
        names.add(band.name)
        try:
            check_band(index, band)
        except PlanError as error:
            findings.error(entry, where, error)


def _check_voucher(entry: Entry[Plan], known: Known, findings: Findings) -> None:
    plan = entry.value
    if plan.voucher is None:
        return
    try:
        voucher = parse_voucher(plan.voucher)
    except PlanError as error:
        finding = error.finding
        part = f"{finding.field} {finding.found}".strip()
        findings.add(entry, ("voucher",), Text(f'"{plan.voucher}": {part}'), finding.expected)
        return
    merged = known.plans.get(plan.id) or plan  # includes versions in force that the file does not define again
    for part, said, right in voucher_contradictions(voucher, merged):
        findings.add(entry, ("voucher",), Text(f'"{plan.voucher}": {part} {said}'), f"{right}, as the plan says")
    if voucher.pool is not None and voucher.pool not in known.pools:
        found = Text(f'"{plan.voucher}": PoolID {voucher.pool}')
        findings.add(entry, ("voucher",), found, choice(voucher.pool, known.pools, "a pool: one of"))


def _check_change(entry: Entry[Plan], before: Plan, findings: Findings) -> None:
    """Add findings about forbidden changes of a plan in force: running totals and the history depend on it."""
    plan = entry.value
    for name in ("currency", "cycle", "entity"):
        now, then = getattr(plan, name), getattr(before, name)
        if now != then:
            found = Text(f"{_said(now)}, but {_said(then)} is in force")
            findings.add(entry, (name,), found, f"{_said(then)}: give a plan with another {name} another id")
    former = {version.version: version for version in before.versions}
    for index, version in enumerate(plan.versions):
        if former.get(version.version, version) != version:
            found = Text(f"version {version.version} with other content than the one in force")
            expected = "a new version number with its own effective day: usage of the past is rated by this one"
            findings.add(entry, ("versions", index), found, expected)
    later = [version for version in before.versions if version.version not in {v.version for v in plan.versions}]
    for index, version in enumerate(plan.versions):
        for other in later:
            if (other.version < version.version) != (other.effective < version.effective):
                found = Text(f"{version.effective} for version {version.version}")
                expected = f"the order of the numbers: version {other.version} in force is of {other.effective}"
                findings.add(entry, ("versions", index, "effective"), found, expected)


def _said(value: object) -> str:
    if isinstance(value, Cycle):
        return f"months {value.months}, anchor_day {value.anchor_day}"
    return str(value)
