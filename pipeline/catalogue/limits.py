"""Validation of limits (L1 to L5), and their translation into rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pipeline.catalogue.findings import Entry, Findings, Text
from pipeline.catalogue.rule_actions import check_addresses
from pipeline.catalogue.rule_references import References
from rating.errors import PlanError
from rating.rules.limits import CHANNELS, MOST_LEVELS, RULE_PREFIX, channels_of, limit_rule_id, rules_of
from schemas.rules import Limit, Rule

MOST_ID: Final = 96  # characters; so the id of its rule, which contains it, is still a valid id

_TARGETS: Final = ("sims", "plan", "account")

Target = tuple[str, str, str]  # kind of limit, field that names the target, and one value of this field


def check_limits(
    limits: Sequence[Entry[Limit]], references: References, in_force: Iterable[Rule], findings: Findings
) -> Iterator[tuple[Entry[Limit], Rule]]:
    """Add findings about limits, and yield the rules of those limits that can be read.

    `in_force` are the rules of the catalogue in force. If a limit among them is redefined here, the new one counts.
    """
    first: dict[Target, Entry[Limit]] = {}
    standing = _standing(limits, in_force)
    for entry in limits:
        limit = entry.value
        if len(limit.id) > MOST_ID:
            findings.add(entry, ("id",), limit.id, f"at most {MOST_ID} characters: the id of its rule holds it")
        given = [name for name in _TARGETS if getattr(limit, name)]
        if len(given) > 1:
            findings.add(entry, (given[1],), Text(" and ".join(given)), "one of them, or none for every SIM")
        references.check_plan(entry, ("plan",), limit.plan, findings)
        references.check_account(entry, ("account",), limit.account, findings)
        references.check_sims(entry, limit.sims, None, findings)
        _check_fields(entry, findings)
        _check_channels(entry, findings)
        _check_once(entry, first, standing, findings)
        try:
            rules = rules_of(limit)
        except PlanError as error:
            findings.error(entry, (), error)
        else:
            yield from ((entry, rule) for rule in rules)


def _check_fields(entry: Entry[Limit], findings: Findings) -> None:
    limit = entry.value
    if limit.margin is not None and limit.kind != "overage_suspension":
        findings.add(entry, ("margin",), limit.margin, f"no margin: {limit.kind} has none")
    if limit.levels and limit.kind not in MOST_LEVELS:
        findings.add(entry, ("levels",), limit.levels, f"no levels: {limit.kind} has none of its own")
    if limit.service_name != "sim" and limit.kind != "expiry_notice":
        findings.add(entry, ("service_name",), limit.service_name, "no service_name: only expiry_notice has one")


def _check_channels(entry: Entry[Limit], findings: Findings) -> None:
    limit = entry.value
    legal = CHANNELS[limit.kind]
    by = channels_of(limit)
    for index, channel in enumerate(limit.by):
        if channel not in legal:
            findings.add(entry, ("by", index), channel, f"one of {', '.join(legal)} for {limit.kind}")
    if all(channel in legal for channel in limit.by):
        check_addresses(entry, (), by, limit.to, findings)
    needs_somebody = limit.kind in ("usage_alert", "expiry_alert") and any(
        level not in (0, "0") for level in limit.levels
    )
    if needs_somebody and not by:
        findings.add(entry, ("to",), Text("nobody"), "an e-mail address or a phone number")


def _check_once(
    entry: Entry[Limit], first: dict[Target, Entry[Limit]], standing: dict[Target, str], findings: Findings
) -> None:
    """Add a finding if another limit of the kind has the same target: both would apply, which is never intended."""
    limit = entry.value
    for place, target in enumerate(_targets(limit.kind, limit.sims, limit.plan, limit.account)):
        _, name, value = target
        before = first.setdefault(target, entry)
        field = ("sims", place) if name == "sims" else (name,) if value else ("kind",)
        found = value or Text("a second limit for every SIM")
        if before is not entry:
            findings.add(
                entry, field, found, f"one {limit.kind} for it: {before.name} at {before.file}:{before.line()} is one"
            )
            return
        if target in standing:
            other = standing[target]
            expected = f'one {limit.kind} for it: "{other}" is in force; give this one the id "{other}" to change that'
            findings.add(entry, field, found, expected)
            return


def _standing(limits: Sequence[Entry[Limit]], in_force: Iterable[Rule]) -> dict[Target, str]:
    """Return the ids of limits in force by target, for the kinds in `limits`, excluding limits that are redefined."""
    again = {limit_rule_id(entry.value) for entry in limits}
    kinds = {entry.value.kind for entry in limits}
    found: dict[Target, str] = {}
    for rule in in_force:
        if not rule.id.startswith(RULE_PREFIX) or rule.nearest not in kinds or rule.id in again:
            continue
        plan = rule.filters[0].values[0] if rule.filters else None
        limit_id = rule.id.removeprefix(f"{RULE_PREFIX}{rule.nearest}.")
        for target in _targets(rule.nearest, rule.sims, plan, rule.owner):
            found[target] = limit_id
    return found


def _targets(kind: str, sims: tuple[str, ...], plan: str | None, account: str | None) -> list[Target]:
    """Return the targets of a limit: each SIM, its plan, or its account; an empty account means every SIM."""
    if sims:
        return [(kind, "sims", iccid) for iccid in sims]
    return [(kind, "account", account or "") if plan is None else (kind, "plan", plan)]
