"""Validation of the actions of a rule: order, fields by type, addresses and texts (L10)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline.catalogue.addresses import is_email, is_phone, url_problem
from pipeline.catalogue.findings import NOTHING, Entry, Findings, T, Text, choice
from pipeline.catalogue.lines import Path
from pipeline.catalogue.rule_references import References
from rating.rules.triggers import TRIGGERS
from schemas.choices import CARD_STATUSES
from schemas.rules import Action, Channel, Rule

MOST_ACTIONS: Final = 32
MOST_SEQUENCE: Final = 9_999
MOST_ADDRESSES: Final = 100
PLACEHOLDERS: Final = ("iccid", "account", "rule", "value", "threshold", "unit", "percent", "window")

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]{1,40})\}")  # other text in braces is no placeholder


@dataclass(frozen=True)
class _Takes:
    """The required and the optional fields of an action type."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


TAKES: Final[dict[str, _Takes]] = {
    "suspend": _Takes((), ("reason", "until")),
    "resume": _Takes(),
    "throttle": _Takes(("rate_bps",)),
    "change_status": _Takes(("status",)),
    "change_plan": _Takes(("plan",)),
    "add_tag": _Takes(("tag",)),
    "set_attribute": _Takes(("attribute", "value")),
    "notify": _Takes(("by",), ("to", "subject", "text", "service_name")),
    "webhook": _Takes((), ("url", "text")),
}
_ADDRESSES: Final[dict[Channel, tuple[Callable[[str], bool], str]]] = {
    "email": (is_email, "an e-mail address"),
    "sms": (is_phone, "a telephone number with its country code"),
}
_DEFAULTS: Final = {
    field.name: field.default for field in msgspec.structs.fields(Action) if field.name not in ("sequence", "type")
}


def check_actions(entry: Entry[Rule], references: References, findings: Findings) -> None:
    """Add findings about the actions of a rule."""
    actions = entry.value.actions
    if not 1 <= len(actions) <= MOST_ACTIONS:
        found = Text(f"{len(actions) or 'no'} actions")
        findings.add(entry, ("actions",), found, f"1 to {MOST_ACTIONS}: what is asked for when the rule fires")
    seen: set[int] = set()
    for index, action in enumerate(actions):
        field = ("actions", index)
        if not 0 <= action.sequence <= MOST_SEQUENCE or action.sequence in seen:
            expected = f"a number of its own, 0 to {MOST_SEQUENCE}: actions run in its order"
            findings.add(entry, (*field, "sequence"), action.sequence, expected)
        seen.add(action.sequence)
        _check_fields(entry, field, action, findings)
        _check_values(entry, field, action, references, findings)


def _check_fields(entry: Entry[Rule], field: Path, action: Action, findings: Findings) -> None:
    takes = TAKES[action.type]
    for name, default in _DEFAULTS.items():
        value = getattr(action, name)
        if name in takes.required and value == default:
            findings.add(entry, (*field, name), NOTHING, f"{name} = …: {action.type} needs it")
        elif name not in takes.required + takes.optional and value != default:
            takes_words = ", ".join(takes.required + takes.optional) or "no field but sequence"
            findings.add(entry, (*field, name), value, f"no {name}: {action.type} takes {takes_words}")


def _check_values(entry: Entry[Rule], field: Path, action: Action, references: References, findings: Findings) -> None:
    if action.type == "suspend" and action.until != "released":
        trigger = TRIGGERS[entry.value.trigger]
        if trigger.kind not in ("usage", "pool", "term"):
            found = Text(f'until "{action.until}" with trigger {trigger.name}')
            expected = '"released": this trigger has no window that ends'
            findings.add(entry, (*field, "until"), found, expected)
        elif entry.value.repetition == "once":
            found = Text(f'until "{action.until}" with repetition "once"')
            expected = '"released": a rule that fires once for ever keeps no window; or another repetition'
            findings.add(entry, (*field, "until"), found, expected)
    if action.rate_bps is not None and action.rate_bps < 1:
        findings.add(entry, (*field, "rate_bps"), action.rate_bps, "1 or more bits per second")
    if action.status is not None and action.status not in CARD_STATUSES:
        findings.add(entry, (*field, "status"), action.status, choice(action.status, CARD_STATUSES))
    references.check_plan(entry, (*field, "plan"), action.plan, findings)
    for name in ("tag", "attribute"):
        value = getattr(action, name)
        if value is not None and not value.strip():
            findings.add(entry, (*field, name), value, "text that is not empty")
    if action.url is not None and (right := url_problem(action.url)):
        findings.add(entry, (*field, "url"), action.url, right)
    if action.type == "notify":
        check_addresses(entry, field, action.by, action.to, findings)
    for name in ("subject", "text"):
        _check_text(entry, (*field, name), getattr(action, name), findings)


def check_addresses(entry: Entry[T], field: Path, by: Sequence[Channel], to: Sequence[str], findings: Findings) -> None:
    """Add findings about the channels and addresses of messages.

    No address is also right: then the configuration of the outbox provides one.
    """
    if len(set(by)) < len(by):
        findings.add(entry, (*field, "by"), Text(", ".join(by)), "each channel once")
    if len(to) > MOST_ADDRESSES:
        findings.add(entry, (*field, "to"), Text(f"{len(to)} addresses"), f"at most {MOST_ADDRESSES}")
    for index, address in enumerate(to):
        if not any(name in by and fits(address) for name, (fits, _) in _ADDRESSES.items()):
            expected = " or ".join(words for name, (_, words) in _ADDRESSES.items() if name in by)
            expected = expected or f"no address: {', '.join(by) or 'no channel'} needs none"
            findings.add(entry, (*field, "to", index), address, expected)


def _check_text(entry: Entry[Rule], field: Path, text: str | None, findings: Findings) -> None:
    for name in _PLACEHOLDER.findall(text or ""):
        if name not in PLACEHOLDERS:
            expected = choice(name, PLACEHOLDERS, "in braces one of")
            findings.add(entry, field, Text(f"{{{name}}}"), expected)
