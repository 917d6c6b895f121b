"""Checks of limits (L1 to L5), and the rules that they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.catalogue.findings import Entry, Findings, Text
from pipeline.catalogue.rule_actions import check_addresses
from pipeline.catalogue.rule_references import References
from rating.errors import PlanError
from rating.rules.templates import CHANNELS, MOST_LEVELS, channels_of, rules_of
from schemas.rules import Limit, Rule

MOST_ID: Final = 96  # characters, so that the id of the rule stays one

_TARGETS: Final = ("sims", "plan", "account")


def check_limits(
    limits: Sequence[Entry[Limit]], references: References, findings: Findings
) -> Iterator[tuple[Entry[Limit], Rule]]:
    """Add what is wrong with limits, and yield the rules of those that could be read."""
    first: dict[tuple[str, str, str], Entry[Limit]] = {}
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
        _check_once(entry, first, findings)
        try:
            rules = rules_of(limit)
        except PlanError as error:
            findings.plan_error(entry, (), error)
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


def _check_once(entry: Entry[Limit], first: dict[tuple[str, str, str], Entry[Limit]], findings: Findings) -> None:
    """Of two limits of one kind that are equally near, both would hold: that is never meant."""
    limit = entry.value
    targets = [("sims", iccid) for iccid in limit.sims]
    targets = targets or [("plan", limit.plan or "")] * (limit.plan is not None)
    targets = targets or [("account", limit.account or "")]
    for place, (name, value) in enumerate(targets):
        before = first.setdefault((limit.kind, name, value), entry)
        if before is entry:
            continue
        field = ("sims", place) if name == "sims" else (name,) if value else ("kind",)
        expected = f"one {limit.kind} for it: {before.name} at {before.file}:{before.line()} is one"
        findings.add(entry, field, value or Text("a second limit for every SIM"), expected)
        return
