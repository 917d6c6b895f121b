"""Terms of the reference model of the rules: limits, filters, and the nearest setting."""

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
# L2, as docs/domain.md has it: (largest plan in bytes a month, usage at which it is cut).
_CUTS = ((300 * _MB, 3 * _GB), (500 * _MB, 4 * _GB), (2 * _GB, 5 * _GB), (4 * _GB, 8 * _GB))
_WAYS = {"data": (Direction.BOTH, Direction.UP, Direction.DOWN), "sms": (Direction.MO, Direction.MT)}
_WAYS["voice"] = _WAYS["sms"]


def service_of(trigger: Trigger) -> str | None:
    """Return the name of the service that a trigger watches, or None."""
    return None if trigger.service is None else trigger.service.name.lower()


def is_percent(level: str | int) -> bool:
    """Return True if a level of a threshold is in percent."""
    return isinstance(level, str) and level.strip().endswith("%")


def asks_quota(rule: Rule) -> bool:
    """Return True if the condition of a rule depends on the quota or on the size of the pool."""
    by_share = any(is_percent(level) for level in rule.levels)
    return by_share or rule.measure != "used" or rule.trigger == "price_plan_expired"


def lines_of(rule: Rule, size: int | None, extra: int) -> list[tuple[Fraction, bool]] | None:
    """Return for each level its usage limit, and True if reaching the limit is enough; None if nothing is watched.

    `size` is the quota or the size of the pool; for hard cuts, the units that the plan includes. `extra` has the units
    of add-ons on top of it.
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
            # A pool of size 0 is past every percentage with its first usage.
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
    """Return the number of levels that a value reaches."""
    return sum(value >= line if reach else value > line for line, reach in lines)


def threshold_of(lines: list[tuple[Fraction, bool]], level: int) -> int:
    """Return the limit of a level as an integer: the first value that reaches it, or the last one not above it."""
    line, reach = lines[level - 1]
    return math.ceil(line) if reach else math.floor(line)


def data_text(units: int) -> str:
    """Return bytes in the largest unit that leaves no fraction."""
    for name, size in (("GB", _GB), ("MB", _MB), ("KB", 1 << 10)):
        if units and units % size == 0:
            return f"{units // size} {name}"
    return str(units)


def device_of(imei: str | None) -> str | None:
    """Return what names the device in an IMEI: its first 14 digits, without check digit or software version."""
    return imei[:14] if imei is not None and imei.isdigit() and len(imei) in (15, 16) else imei


# Quotas


def home_zone(model: Sizes, version: PlanVersion) -> tuple[bool, str | None]:
    """Return whether a plan version has a home zone, and its name. Without zones, all usage is home (True, None)."""
    if version.zones is None:
        return True, None
    names = [zone.name for zone in model.zones[version.zones].zones if zone.home]
    return bool(names), names[0] if names else None


def home_meters(model: Sizes, version: PlanVersion, service: str, way: Direction | None) -> list[str]:
    """Return the meters of a service's usage in the home zone."""
    known, zone = home_zone(model, version)
    ways = _WAYS[service] if way is None else (way,)
    rates = [find_rate(version, service, one, zone, None) for one in ways] if known else []
    return list(dict.fromkeys(meter(rate) for rate in rates if rate is not None))


def pool_meters(model: Sizes, version: PlanVersion, service: str, way: Direction | None) -> list[str]:
    """Return the meters that the size of a pool is for: those of the home zone; all if no zone is the home."""
    if home_zone(model, version)[0]:
        return home_meters(model, version, service, way)
    ways = _WAYS[service] if way is None else (way,)
    assert version.zones is not None
    places = [None, *(zone.name for zone in model.zones[version.zones].zones)]
    rates = [find_rate(version, service, one, place, None) for one in ways for place in places]
    return list(dict.fromkeys(meter(rate) for rate in rates if rate is not None))


def distinct_meters(version: PlanVersion, service: str) -> dict[str, Rate]:
    """Return the meters of a service, each with its first rate."""
    found: dict[str, Rate] = {}
    for rate in version.rates:
        if rate.service == service:
            found.setdefault(meter(rate), rate)
    return found


# Selection of cards and records


def accounts_above(model: Sizes, account: str) -> list[str]:
    """Return an account and all accounts above it, the nearest first."""
    chain = [account]
    while (parent := model.accounts[chain[-1]].parent) is not None:
        chain.append(parent)
    return chain


def status_of(card: Row) -> str:
    """Return the network status of a card; "activated" if it has none."""
    return card["status"] or "activated"


def custom_of(card: Row) -> dict[str, str]:
    """Return the custom fields of a card."""
    fields: dict[str, str] = json.loads(card["custom"]) if card["custom"] else {}
    return fields


def _fits(model: Sizes, one: Filter, rule: Rule, card: Row) -> bool:
    """Return True if a card matches one filter (L9)."""
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
    return True  # The filters zone and rat are about the record.


def watches_card(model: Sizes, rule: Rule, card: Row) -> bool:
    """Return True if owner, scope and the filters on cards select a card, regardless of other rules."""
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
    """Return a sort key of how specific a rule is: SIMs, then a plan, then an account (deeper ones more), then root."""
    if rule.sims:
        return 3, 0
    if any(one.type == "plan" for one in rule.filters):
        return 2, 0
    if rule.owner is not None:
        return 1, len(accounts_above(model, rule.owner))
    return 0, 0


def watches_place(rule: Rule, zone: str | None, rat: str | None) -> bool:
    """Return True if a record with this zone and RAT matches the filters on records."""
    for kind, found in (("zone", zone), ("rat", rat)):
        asked = [one for one in rule.filters if one.type == kind]
        if asked and not any(found in one.values for one in asked):
            return False
    return True


def way_of(direction: int) -> Direction:
    """Return the direction of a record."""
    return Direction(direction)


def service_name(service: int) -> str:
    """Return the name of a service."""
    return Service(service).name.lower()


def parameters_of(action: Action, released: bool) -> str:
    """Return the fields of an action as JSON without default values. Suspend and resume always have a reason."""
    if released:
        return json.dumps({"reason": action.reason}, separators=(",", ":"))
    names = ("until", "rate_bps", "status", "plan", "tag", "attribute", "value", "by", "to", "subject", "text")
    names += ("service_name", "url")
    plain = Action(sequence=0, type="webhook")
    said = {name: getattr(action, name) for name in names if getattr(action, name) != getattr(plain, name)}
    if action.type in ("suspend", "resume"):
        said["reason"] = action.reason
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
