"""Translation of limits (L1 to L5) into rules."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, Final

from rating.errors import Finding, PlanError
from rating.units.quantity import parse_quantity
from schemas.plans import Quantity
from schemas.rules import Action, Channel, Filter, Limit, LimitKind, Rule

RULE_PREFIX: Final = "limit."  # of the ids of rules made from limits, and of no other rules
OFF: Final = "off"

# The channels that each kind may use (L1 to L5).
CHANNELS: Final[dict[LimitKind, tuple[Channel, ...]]] = {
    "overage_suspension": ("email", "sms", "system"),
    "hard_cut": ("email", "sms", "system"),
    "balance_alert": ("email", "system"),
    "usage_alert": ("email", "sms"),
    "expiry_alert": ("email", "sms"),
    "expiry_notice": ("device",),
}

# The largest number of levels, for each kind that has levels.
MOST_LEVELS: Final[dict[LimitKind, int]] = {"balance_alert": 3, "usage_alert": 2, "expiry_alert": 2}
MOST_DAYS: Final = 36_500

_NOTICE_DAYS: Final = (30, 7, 0)
_LEVEL = re.compile(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*(%|[A-Za-z]*)\s*\Z", re.ASCII)

_SUBJECTS: Final[dict[LimitKind, str]] = {
    "overage_suspension": "SIM {iccid}: suspended for overage",
    "hard_cut": "SIM {iccid}: cut off",
    "balance_alert": "SIM {iccid}: little is left of its quota",
    "usage_alert": "SIM {iccid}: usage alert",
    "expiry_alert": "SIM {iccid}: its term is about to end",
}
_TEXTS: Final[dict[LimitKind, str]] = {
    "overage_suspension": (
        "SIM {iccid} of {account} used {value} {unit} in {window}, its quota and margin being {threshold} {unit}. "
        "It is to be suspended, and resumed when the next cycle begins."
    ),
    "hard_cut": (
        "SIM {iccid} of {account} used {value} {unit} in {window} and reached its cut at {threshold} {unit}. It is to "
        "be suspended; an add-on, a larger plan or the next cycle resumes it."
    ),
    "balance_alert": (
        "SIM {iccid} of {account} used {value} {unit} in {window} and reached the level of its balance alert at "
        "{threshold} {unit}."
    ),
    "usage_alert": "SIM {iccid} of {account} used {value} {unit} in {window}, more than {threshold} {unit}.",
    "expiry_alert": "The term of SIM {iccid} of {account} ends in {value} days.",
}


def limit_rule_id(limit: Limit) -> str:
    """Return the id of the rule that a limit becomes: `limit.<kind>.<id>`."""
    return f"{RULE_PREFIX}{limit.kind}.{limit.id}"


def rules_of(limit: Limit) -> tuple[Rule, ...]:
    """Return the rules that a limit becomes: always one, inactive like every new rule, with id `limit.<kind>.<id>`.

    The `nearest` name of the rule is the kind. A limit that is off becomes a rule with neither threshold nor actions.
    It never fires, but takes precedence over wider limits of its kind. Raises PlanError if the margin or a level cannot
    be read.
    """
    scope: dict[str, Any] = {"sims": limit.sims, "owner": limit.account}
    if limit.plan is not None:
        # L9 allows plan filters for account rules only. L1 lets a limit apply to a plan, whatever the account.
        scope["filters"] = (Filter(type="plan", values=(limit.plan,)),)
    suspend: tuple[Action, ...] = ()
    watched: dict[str, Any]
    if limit.kind == "overage_suspension":
        threshold = _margin(limit)
        watched = {"trigger": "data_usage_cycle", "measure": "over"}
        suspend = (Action(sequence=1, type="suspend", reason="over_quota", until="window_end"),)
    elif limit.kind == "hard_cut":
        threshold = ()
        watched = {"trigger": "data_usage_cycle", "measure": "hard_cut"}
        suspend = (Action(sequence=1, type="suspend", reason="hard_cut", until="recovered"),)
    else:
        threshold = levels_of(limit)
        watched = {
            "balance_alert": {"trigger": "data_usage_cycle", "measure": "remaining", "repetition": "daily"},
            "usage_alert": {"trigger": "data_usage_cycle"},
            "expiry_alert": {"trigger": "term_ends"},
            "expiry_notice": {"trigger": "term_ends"},
        }[limit.kind]
    is_on = bool(threshold) or limit.kind == "hard_cut"
    rule = Rule(
        id=limit_rule_id(limit),
        name=f"{limit.kind.replace('_', ' ')} {limit.id}",
        threshold=threshold,
        actions=suspend + _notice(limit) if is_on else (),
        data_base=limit.data_base,
        nearest=limit.kind,
        **watched,
        **scope,
    )
    return (rule,)


def channels_of(limit: Limit) -> tuple[Channel, ...]:
    """Return the channels of a limit: its `by`, else the channels that fit its addresses; () if it notifies nobody."""
    if limit.by:
        return limit.by
    if limit.kind == "expiry_notice":
        return ("device",)
    channels: tuple[Channel, ...] = ()
    if any("@" in address for address in limit.to):
        channels += ("email",)
    if any("@" not in address for address in limit.to):
        channels += ("sms",)
    if not channels and limit.kind == "balance_alert":
        channels = ("system",)
    return channels


def levels_of(limit: Limit) -> tuple[Quantity, ...]:
    """Return the levels of an alert in the order in which they are met; () if the alert is off.

    The unit of a bare number: in a balance alert that of level 1, else percent (L3); in a usage alert MB, in an expiry
    alert days (L4). Raises PlanError if a level cannot be read or has another unit, if a level of a balance alert is
    not below the one before (L3), if both levels of another alert are equal, or if there are no or too many levels.
    """
    if limit.kind == "expiry_notice":
        return _NOTICE_DAYS
    most = MOST_LEVELS.get(limit.kind, 0)
    if not 1 <= len(limit.levels) <= most:
        raise PlanError(Finding(("levels",), f"{len(limit.levels)} levels", f"1 to {most}"))
    if limit.kind == "balance_alert":
        return _balance(limit)
    read = _usage if limit.kind == "usage_alert" else _days
    units = [read(limit, place) for place in range(len(limit.levels))]
    if len({value for value, _ in units if value}) < sum(bool(value) for value, _ in units):
        raise _error(limit, 1, "another level than the first, or 0 for none")
    # L4 gives no order of the two levels. Sort them in the order in which they are met: ascending usage, fewer days.
    return tuple(level for _, level in sorted(filter(_is_on, units), reverse=limit.kind == "expiry_alert", key=_first))


def _first(level: tuple[int, Quantity]) -> int:
    return level[0]


def _is_on(level: tuple[int, Quantity]) -> bool:
    return level[0] > 0


def _margin(limit: Limit) -> tuple[Quantity, ...]:
    if limit.margin == OFF:
        return ()
    bare = str(limit.margin).strip().replace(".", "", 1)
    if limit.margin is None or (bare.isdigit() and int(bare) != 0):
        found = "nothing" if limit.margin is None else str(limit.margin)
        raise PlanError(Finding(("margin",), found, f'data with its unit such as "10 MB", 0, or "{OFF}"'))
    try:
        parse_quantity(limit.margin, "data", limit.data_base)
    except PlanError as error:
        finding = error.finding
        raise PlanError(Finding(("margin",), finding.found, f'{finding.expected}, or "{OFF}"')) from None
    return (limit.margin,)


def _balance(limit: Limit) -> tuple[Quantity, ...]:
    read = [_parts(limit, place) for place in range(len(limit.levels))]
    unit = read[0][1] or "%"
    levels: list[Quantity] = []
    above: Fraction | None = None
    for place, (number, own) in enumerate(read):
        if own and own.lower() != unit.lower():
            raise _error(limit, place, f"the unit of the first level, {unit}, or none")
        value = Fraction(number)
        if above is not None and value >= above:
            raise _error(limit, place, "less than the level before")
        if unit == "%" and value > 100:
            raise _error(limit, place, "0 to 100 %: what is left of the quota")
        level = f"{number} {unit}"
        if unit != "%":
            _data(level, limit, place)
        levels.append(level)
        above = value
    return tuple(levels)


def _usage(limit: Limit, place: int) -> tuple[int, Quantity]:
    number, unit = _parts(limit, place)
    level = f"{number} {unit or 'MB'}"
    return _data(level, limit, place), level


def _days(limit: Limit, place: int) -> tuple[int, Quantity]:
    number, unit = _parts(limit, place)
    if unit.lower() not in ("", "d", "day", "days") or not number.isdigit() or int(number) > MOST_DAYS:
        raise _error(limit, place, "days before the end of the term")
    return int(number), int(number)


def _parts(limit: Limit, place: int) -> tuple[str, str]:
    match = _LEVEL.match(str(limit.levels[place]))
    if match is None:
        raise _error(limit, place, 'a number, or one with its unit such as "30 %" or "80 MB"')
    return match[1], match[2]


def _data(level: str, limit: Limit, place: int) -> int:
    try:
        return parse_quantity(level, "data", limit.data_base)
    except PlanError as error:
        raise PlanError(error.finding.under("levels", place)) from None


def _error(limit: Limit, place: int, expected: str) -> PlanError:
    return PlanError(Finding(("levels", place), repr(limit.levels[place]), expected))


def _notice(limit: Limit) -> tuple[Action, ...]:
    """Return the notify action, second in sequence if the limit also suspends; () if the limit notifies nobody."""
    by = channels_of(limit)
    if not by:
        return ()
    return (
        Action(
            sequence=2 if limit.kind in ("overage_suspension", "hard_cut") else 1,
            type="notify",
            by=by,
            to=limit.to,
            subject=_SUBJECTS.get(limit.kind),
            text=_TEXTS.get(limit.kind),
            service_name=limit.service_name,
        ),
    )
