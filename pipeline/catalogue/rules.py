"""Validation of rules (L6 to L11): fields of the trigger, thresholds, scope, filters, no change of an active rule."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, cast, get_args

import msgspec
import polars as pl

from pipeline.catalogue.codes import countries, is_id
from pipeline.catalogue.findings import NOTHING, Entry, Findings, T, Text, choice
from pipeline.catalogue.limits import check_limits
from pipeline.catalogue.lines import Path
from pipeline.catalogue.merge import Known
from pipeline.catalogue.rule_actions import check_actions
from pipeline.catalogue.rule_references import References
from rating.errors import RuleError
from rating.rules.limits import RULE_PREFIX
from rating.rules.select.filters import LEGAL, context
from rating.rules.thresholds import parse_threshold
from rating.rules.triggers import TRIGGERS, Trigger
from schemas.choices import CARD_STATUSES
from schemas.plans import Plan
from schemas.rules import Filter, Limit, Rule

MOST_RULES: Final = 60_000  # all rules, active or not
MOST_FILTERS: Final = 64
MOST_VALUES: Final = 1_000  # per filter

_DEFAULTS: Final = {field.encode_name: field.default for field in msgspec.structs.fields(Rule)}
_FIELDS: Final = {field.encode_name: field.name for field in msgspec.structs.fields(Rule)}
# The fields that only some triggers take. Every rule takes the others.
_PARTICULAR: Final = (
    "threshold", "measure", "at", "window", "country", "zone", "attribute", "from", "to", "by", "across", "pools",
)  # fmt: skip
_REQUIRED: Final = ("country", "zone")
_PLAN_TYPES: Final = get_args(next(field.type for field in msgspec.structs.fields(Plan) if field.name == "type"))


def check_rules(
    rules: Sequence[Entry[Rule]],
    limits: Sequence[Entry[Limit]],
    cards: pl.DataFrame,
    known: Known,
    in_force: Iterable[Rule],
    active: Collection[str],
    findings: Findings,
) -> tuple[Rule, ...]:
    """Add findings about rules and limits; return the rules, including those that limits become.

    `cards` are all cards after this catalogue, with columns iccid and account. `in_force` are the rules in force,
    `active` the ids of the active ones.
    """
    named = {iccid for entry in rules for iccid in entry.value.sims}
    named.update(iccid for entry in limits for iccid in entry.value.sims)
    references = References(known, cards, named)
    before = {rule.id: rule for rule in in_force}
    made: dict[str, Rule] = {}
    for entry in rules:
        _check_rule(entry, references, findings)
        _check_change(entry, entry.value, before, active, findings)
        made[entry.value.id] = entry.value
    for limit, rule in check_limits(limits, references, before.values(), findings):
        _check_change(limit, rule, before, active, findings)
        made[rule.id] = rule
    written: Sequence[Entry[Rule] | Entry[Limit]] = [*rules, *limits]
    if len(before.keys() | made.keys()) > MOST_RULES:
        found = Text(f"{len(before.keys() | made.keys())} rules and limits, those in force included")
        findings.add(cast("Entry[Rule]", written[-1]), (), found, f"at most {MOST_RULES}: let one rule name many SIMs")
    return tuple(made.values())


def _check_change(
    entry: Entry[T], rule: Rule, before: dict[str, Rule], active: Collection[str], findings: Findings
) -> None:
    if rule.id in active and before.get(rule.id, rule) != rule:
        found = Text(f"a change of rule {rule.id}, which is active")
        findings.add(entry, ("id",), found, f"the rule as it is: weir rules deactivate {rule.id} first")


def _check_rule(entry: Entry[Rule], references: References, findings: Findings) -> None:
    rule = entry.value
    trigger = TRIGGERS[rule.trigger]
    if rule.id.startswith(RULE_PREFIX):
        findings.add(entry, ("id",), rule.id, f"an id that does not begin with {RULE_PREFIX}: limits make those")
    references.check_account(entry, ("owner",), rule.owner, findings)
    _check_fields(entry, trigger, findings)
    _check_threshold(entry, trigger, findings)
    _check_places(entry, references, findings)
    _check_changed(entry, references, findings)
    references.check_sims(entry, rule.sims, rule.owner, findings)
    references.check_pools(entry, rule.pools, rule.owner, findings)
    references.check_shared(entry, rule.pools, trigger.service, findings)
    if trigger.kind == "pool" and rule.sims:
        findings.add(entry, ("sims",), rule.sims, "no sims: every SIM that draws on the pool is watched")
    _check_nearest(entry, trigger, findings)
    _check_filters(entry, trigger, references, findings)
    check_actions(entry, references, findings)


def _check_fields(entry: Entry[Rule], trigger: Trigger, findings: Findings) -> None:
    """Add findings about fields that the trigger does not take, and about missing fields that it needs."""
    rule = entry.value
    for name in _PARTICULAR:
        value = getattr(rule, _FIELDS[name])
        if name in trigger.fields or value == _DEFAULTS[name]:
            continue
        takes = ", ".join(trigger.fields) or "none of these fields"
        findings.add(entry, (name,), value, f"no {name}: trigger {trigger.name} takes {takes}")
    if rule.data_base != 1024 and trigger.unit != "bytes":
        findings.add(entry, ("data_base",), rule.data_base, f"no data_base: trigger {trigger.name} counts no data")
    for name in _REQUIRED:
        if name in trigger.fields and getattr(rule, name) is None:
            findings.add(entry, (name,), NOTHING, f"the {name} of trigger {trigger.name}")


def _check_threshold(entry: Entry[Rule], trigger: Trigger, findings: Findings) -> None:
    """Add findings about levels that are missing, unreadable, too many, or not in the order in which they are met."""
    rule = entry.value
    if rule.measure != "used" and "measure" not in trigger.fields:
        return
    needs = "threshold" in trigger.fields and rule.measure != "hard_cut"
    if needs and not rule.levels:
        findings.add(entry, ("threshold",), NOTHING, f"the threshold of trigger {trigger.name}: one level or several")
    elif needs or "measure" in trigger.fields:  # _check_fields reports a threshold or measure that is not taken
        try:
            parse_threshold(rule, trigger)
        except RuleError as error:
            findings.error(entry, (), error)


def _check_places(entry: Entry[Rule], references: References, findings: Findings) -> None:
    rule = entry.value
    if rule.country is not None and rule.country not in countries():
        hint = "; did you mean GB?" if rule.country.upper() == "UK" else ""
        findings.add(entry, ("country",), rule.country, f"an ISO 3166 alpha-2 code such as DE{hint}")
    if rule.zone is not None:
        references.check_zone(entry, ("zone",), rule.zone, findings)


def _check_changed(entry: Entry[Rule], references: References, findings: Findings) -> None:
    """Add findings about `from` and `to` of a trigger on changes."""
    rule = entry.value
    for name, value in (("from", rule.from_), ("to", rule.to)):
        if value is None:
            continue
        if TRIGGERS[rule.trigger].column == "status" and value not in CARD_STATUSES:
            findings.add(entry, (name,), value, choice(value, CARD_STATUSES))
        elif TRIGGERS[rule.trigger].column == "plan":
            references.check_plan(entry, (name,), value, findings)
    if rule.to is not None and rule.from_ == rule.to:
        findings.add(entry, ("to",), rule.to, "another value than from: nothing changes between the two")


def _check_nearest(entry: Entry[Rule], trigger: Trigger, findings: Findings) -> None:
    name = entry.value.nearest
    if name is None:
        return
    if not is_id(name):
        findings.add(entry, ("nearest",), name, "a name of 1 to 128 characters without spaces at its ends")
    elif trigger.kind == "pool":
        findings.add(entry, ("nearest",), name, "no nearest: it chooses among the settings of a SIM, not of a pool")


def _check_filters(entry: Entry[Rule], trigger: Trigger, references: References, findings: Findings) -> None:
    """Add findings about the filters of a rule: types that it may not have, and values (L9)."""
    rule = entry.value
    if rule.filters and (trigger.kind == "pool" or rule.sims):
        why = "a pool rule has none" if trigger.kind == "pool" else "sims says which SIMs are watched"
        findings.add(entry, ("filters",), rule.filters, f"no filters: {why}")
        return
    if len(rule.filters) > MOST_FILTERS:
        findings.add(entry, ("filters",), Text(f"{len(rule.filters)} filters"), f"at most {MOST_FILTERS}")
    legal = [name for name in LEGAL if context(rule) in LEGAL[name]]
    for index, one in enumerate(rule.filters):
        field = ("filters", index)
        if one.type not in legal:
            found = Text(f"{one.type} in a rule of {'an account' if rule.owner else 'root'}")
            findings.add(entry, (*field, "type"), found, choice(one.type, legal))
        if one.type == "custom_attribute" and not (one.name or "").strip():
            findings.add(entry, (*field, "name"), NOTHING, "the name of the custom field")
        elif one.type != "custom_attribute" and one.name is not None:
            findings.add(entry, (*field, "name"), one.name, "no name: only custom_attribute has one")
        if not 1 <= len(one.values) <= MOST_VALUES:
            findings.add(entry, (*field, "values"), Text(f"{len(one.values)} values"), f"1 to {MOST_VALUES}")
        for place, value in enumerate(one.values):
            _check_value(entry, (*field, "values", place), one, value, references, findings)


def _check_value(
    entry: Entry[Rule], field: Path, one: Filter, value: str, references: References, findings: Findings
) -> None:
    owner = entry.value.owner
    if one.type == "account":
        references.check_account(entry, field, value, findings)
    elif one.type == "sub_account" and owner in references.known.accounts:
        if not references.is_below(value, str(owner)):
            findings.add(entry, field, value, choice(value, references.below(str(owner)), "a sub-account: one of"))
    elif one.type == "plan":
        references.check_plan(entry, field, value, findings)
    elif one.type == "zone":
        references.check_zone(entry, field, value, findings)
    elif one.type == "plan_type" and value not in _PLAN_TYPES:
        findings.add(entry, field, value, choice(value, _PLAN_TYPES))
    elif one.type == "sim_status" and value not in CARD_STATUSES:
        findings.add(entry, field, value, choice(value, CARD_STATUSES))
    elif not value.strip() and one.type != "custom_attribute":
        findings.add(entry, field, value, "text that is not empty")
