"""The terms of the slow model of the rules: what a limit, a filter or the nearest setting means."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import TYPE_CHECKING

from rating.rules.triggers import TRIGGERS, Trigger, reached
from rating.units.quantity import parse_quantity
from schemas.plans import PlanVersion, Rate
from schemas.rules import Action, Filter, Rule
from schemas.usage import Direction, Service
from tests.support.reference.reference_terms import Row, find_rate, held, meter

if TYPE_CHECKING:
    from tests.support.reference.rules_reference_sizes import Sizes

_MB, _GB = 1 << 20, 1 << 30
# L2, as the manual has it: plans up to so many bytes a month, and where they are cut.
_CUTS = ((300 * _MB, 3 * _GB), (500 * _MB, 4 * _GB), (2 * _GB, 5 * _GB), (4 * _GB, 8 * _GB))
_WAYS = {"data": (Direction.BOTH, Direction.UP, Direction.DOWN), "sms": (Direction.MO, Direction.MT)}
_WAYS["voice"] = _WAYS["sms"]


def service_of(trigger: Trigger) -> str | None:
    """The service that a trigger counts or hears, by name."""
    return None if trigger.service is None else trigger.service.name.lower()


def is_percent(level: str | int) -> bool:
    """Whether a level of a threshold is written in percent."""
    return isinstance(level, str) and level.strip().endswith("%")


def asks_quota(rule: Rule) -> bool:
    """Whether the condition of a rule can be told only with the quota or the size of the pool."""
    by_share = any(is_percent(level) for level in rule.levels)
    return by_share or rule.measure != "used" or rule.trigger == "price_plan_expired"


def lines_of(rule: Rule, size: int | None, extra: int) -> list[tuple[Fraction, bool]] | None:
    """The value of usage at which each level is met, and whether reaching it is enough; None: nothing is watched.

    `size` is the quota or the pool's size (of hard cuts: what the plan includes), `extra` units of add-ons over it.
    """
    trigger = TRIGGERS[rule.trigger]
    reach = reached(trigger, rule.at, rule.measure)
    if rule.trigger == "price_plan_expired":
        return [(Fraction(size), True)] if size else None
    if rule.measure == "hard_cut":
        cut = next((cut for tier, cut in _CUTS if size and size <= tier), None)
        return None if cut is None else [(Fraction(cut + extra), reach)]
    found = []
    for level in rule.levels:
        if is_percent(level):
            assert size is not None
            # A pool without any size is past every percentage as soon as somebody uses.
            if size == 0 and trigger.kind != "pool":
                return None
            amount = Fraction(str(level).strip().removesuffix("%").strip()) * size / 100
        else:
            service = "sms" if trigger.unit in ("sessions", "days") else service_of(trigger)
            assert service is not None
            amount = Fraction(parse_quantity(level, service, rule.data_base))
        if rule.measure == "over":
            amount += size or 0
        elif rule.measure == "remaining":
            if not size:
                return None
            amount = size - amount
        found.append((amount, reach))
    return found


def level_of(lines: list[tuple[Fraction, bool]], value: int) -> int:
    """How many levels hold for a value."""
    return sum(value >= line if reach else value > line for line, reach in lines)


def threshold_of(lines: list[tuple[Fraction, bool]], level: int) -> int:
    """The highest level that holds, as the first value that reaches it or the last that does not exceed it."""
    line, reach = lines[level - 1]
    return math.ceil(line) if reach else math.floor(line)


# Quotas


def home_zone(model: Sizes, version: PlanVersion) -> tuple[bool, str | None]:
    """Whether a plan version knows a home (without zones all is home), and the name of its home zone."""
    if version.zones is None:
        return True, None
    names = [zone.name for zone in model.zones[version.zones].zones if zone.home]
    return bool(names), names[0] if names else None


def home_meters(model: Sizes, version: PlanVersion, service: str, way: Direction | None) -> list[str]:
    """The counters that usage of a service in the home zone runs on."""
    known, zone = home_zone(model, version)
    ways = _WAYS[service] if way is None else (way,)
    rates = [find_rate(version, service, one, zone, None) for one in ways] if known else []
    return list(dict.fromkeys(meter(rate) for rate in rates if rate is not None))


def distinct_meters(version: PlanVersion, service: str) -> dict[str, Rate]:
    """The counters of a service, each with the first of its rates."""
    found: dict[str, Rate] = {}
    for rate in version.rates:
        if rate.service == service:
            found.setdefault(meter(rate), rate)
    return found


# Who is watched


def accounts_above(model: Sizes, account: str) -> list[str]:
    """An account and all above it, the nearest first."""
    chain = [account]
    while (parent := model.accounts[chain[-1]].parent) is not None:
        chain.append(parent)
    return chain


def status_of(card: Row) -> str:
    """The network status of a card; one that is not said is activated."""
    return card["status"] or "activated"


def custom_of(card: Row) -> dict[str, str]:
    """The custom fields of a card."""
    fields: dict[str, str] = json.loads(card["custom"]) if card["custom"] else {}
    return fields


def _fits(model: Sizes, one: Filter, rule: Rule, card: Row) -> bool:
    """Whether a card has what one filter asks for (L9)."""
    account = model.accounts[card["account"]]
    below: list[str] = []
    if rule.owner is not None:
        chain = accounts_above(model, account.id)
        below = chain[: chain.index(rule.owner)]
    plan = held(model.card_plans[card["iccid"]], model.today_of(card))
    if one.type == "account":
        return account.id in one.values
    if one.type == "account_status":
        return account.status in one.values
    if one.type == "account_tag":
        return any(tag in one.values for tag in account.tags)
    if one.type == "sub_account":
        return any(name in one.values for name in below)
    if one.type == "sub_account_status":
        return bool(below) and account.status in one.values
    if one.type == "plan":
        return plan in one.values
    if one.type == "plan_type":
        return plan is not None and model.plans[plan].type in one.values
    if one.type == "custom_attribute":
        return custom_of(card).get(one.name or "") in one.values
    if one.type == "sim_tag":
        return any(tag in one.values for tag in card["tags"] or ())
    if one.type == "sim_status":
        return status_of(card) in one.values
    return True  # zone and rat look at the record


def watches_card(model: Sizes, rule: Rule, card: Row) -> bool:
    """Whether owner, scope and the filters on cards let a rule watch a card, other rules aside."""
    if rule.owner is not None and rule.owner not in accounts_above(model, card["account"]):
        return False
    if rule.sims and card["iccid"] not in rule.sims:
        return False
    kinds = dict.fromkeys(one.type for one in rule.filters)
    return all(
        any(_fits(model, one, rule, card) for one in rule.filters if one.type == kind)
        for kind in kinds
    )  # fmt: skip


def nearness(model: Sizes, rule: Rule) -> tuple[int, int]:
    """How near a setting is to the SIMs it watches: for SIMs, a plan, an account (the deeper the nearer), root."""
    if rule.sims:
        return 3, 0
    if any(one.type == "plan" for one in rule.filters):
        return 2, 0
    if rule.owner is not None:
        return 1, len(accounts_above(model, rule.owner))
    return 0, 0


def watches_place(rule: Rule, zone: str | None, rat: str | None) -> bool:
    """Whether the filters on the record let a rule fire for it."""
    for kind, found in (("zone", zone), ("rat", rat)):
        asked = [one for one in rule.filters if one.type == kind]
        if asked and not any(found in one.values for one in asked):
            return False
    return True


def way_of(direction: int) -> Direction:
    """The direction of a record."""
    return Direction(direction)


def service_name(service: int) -> str:
    """The name of a service."""
    return Service(service).name.lower()


def parameters_of(action: Action, released: bool) -> str:
    """The fields of an action that a rule writes, as JSON; of suspend and resume always the reason."""
    if released:
        return json.dumps({"reason": action.reason}, separators=(",", ":"))
    names = ("until", "rate_bps", "status", "plan", "tag", "attribute", "value", "by", "to", "subject", "text")
    names += ("service_name", "url")
    plain = Action(sequence=0, type="webhook")
    said = {name: getattr(action, name) for name in names if getattr(action, name) != getattr(plain, name)}
    if action.type in ("suspend", "resume"):
        said["reason"] = action.reason
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
