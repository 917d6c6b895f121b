"""The plan voucher key: `Carrier_PlanType_BillingCycle_RateVersion_Tier`, or with `..._PoolID` at its end (B2).

    example      CMCC_single_1M_v3_500MB        CMCC_dynamic_1M_v1_acme-eu
    Carrier      letters, digits, '.', '-'      no underscore, which separates the parts
    PlanType     single, same_tier, dynamic, static
    BillingCycle the months of the cycle and 'M'
    RateVersion  'v' and the number of the plan version
    last part    a tier for single and same_tier, a pool's id for dynamic and static; may contain underscores

A key has one spelling: `parse_voucher(str(voucher)) == voucher`, and `str(parse_voucher(key)) == key`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from rating.errors import Finding, PlanError
from schemas.plans import Plan

PlanType = Literal["single", "same_tier", "dynamic", "static"]

_FORM = "Carrier_PlanType_BillingCycle_RateVersion_Tier or Carrier_PlanType_BillingCycle_RateVersion_PoolID"
_TYPES = get_args(PlanType)
_CARRIER = re.compile(r"[A-Za-z0-9.-]+")
_LAST = re.compile(r"[A-Za-z0-9._-]+")
_CYCLE = re.compile(r"([1-9][0-9]{0,2})M")
_VERSION = re.compile(r"v(0|[1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Voucher:
    """The parts of a plan voucher key. Exactly one of `tier` and `pool` is set, depending on `type` (see the module).

    Raises PlanError, naming the part, if a part is invalid.
    """

    carrier: str
    type: PlanType
    cycle_months: int
    version: int
    tier: str | None = None
    pool: str | None = None

    def __post_init__(self) -> None:
        wanted, other = ("pool", "tier") if self.type in ("dynamic", "static") else ("tier", "pool")
        if self.type not in _TYPES:
            raise _fault("PlanType", self.type, f"one of {', '.join(_TYPES)}")
        if getattr(self, other) is not None:
            raise _fault(
                _PART[other], getattr(self, other), f"nothing: a {self.type} plan's key ends in {_PART[wanted]}"
            )
        _match("Carrier", _CARRIER, self.carrier, "letters, digits, '.' and '-'")
        _match(_PART[wanted], _LAST, getattr(self, wanted) or "", "letters, digits, '.', '_' and '-'")
        _match("BillingCycle", _CYCLE, f"{self.cycle_months}M", "1 to 999 months")
        _match("RateVersion", _VERSION, f"v{self.version}", "a whole number from 0")

    def __str__(self) -> str:
        last = self.pool if self.tier is None else self.tier
        return f"{self.carrier}_{self.type}_{self.cycle_months}M_v{self.version}_{last}"


_PART = {"tier": "Tier", "pool": "PoolID"}


def parse_voucher(key: str) -> Voucher:
    """Return the parts of a plan voucher key. Raises PlanError naming the wrong part and what would be right."""
    carrier, _, rest = key.partition("_")
    # "same_tier" contains the separator of the parts.
    type_ = "same_tier" if rest.startswith("same_tier_") else rest.partition("_")[0]
    parts = [carrier, type_, *rest.removeprefix(type_).removeprefix("_").split("_", 2)]
    if len(parts) < 5:
        raise PlanError(Finding((), "fewer than 5 parts", _FORM, f"voucher key {key!r}"))
    cycle, version, last = parts[2:]
    if type_ not in _TYPES:
        raise _fault("PlanType", type_, f"one of {', '.join(_TYPES)}", key)
    months = _match("BillingCycle", _CYCLE, cycle, "the months of the cycle and 'M', such as 1M", key)
    number = _match("RateVersion", _VERSION, version, "'v' and the number of the plan version, such as v3", key)
    pooled = type_ in ("dynamic", "static")
    return Voucher(
        carrier=_match("Carrier", _CARRIER, carrier, "letters, digits, '.' and '-'", key).group(),
        type=cast(PlanType, type_),
        cycle_months=int(months.group(1)),
        version=int(number.group(1)),
        tier=None if pooled else _last("Tier", last, key),
        pool=_last("PoolID", last, key) if pooled else None,
    )


def voucher_contradictions(voucher: Voucher, plan: Plan) -> list[tuple[str, str, str]]:
    """Return the differences between key and plan as (part, value in the key, value in the plan).

    A carrier or tier that is missing on one side counts as equal.
    """
    months = plan.cycle.months
    numbers = [version.version for version in plan.versions]
    checks = [
        ("Carrier", voucher.carrier, plan.carrier, plan.carrier in (None, voucher.carrier)),
        ("PlanType", voucher.type, plan.type, plan.type == voucher.type),
        ("BillingCycle", f"{voucher.cycle_months}M", f"{months}M", months == voucher.cycle_months),
        ("RateVersion", f"v{voucher.version}", ", ".join(f"v{n}" for n in numbers), voucher.version in numbers),
        ("Tier", voucher.tier, plan.tier, None in (plan.tier, voucher.tier) or plan.tier == voucher.tier),
    ]
    return [(part, str(said), str(right)) for part, said, right, agrees in checks if not agrees]


def _last(part: str, text: str, key: str) -> str:
    return _match(part, _LAST, text, "letters, digits, '.', '_' and '-'", key).group()


def _match(part: str, pattern: re.Pattern[str], text: str, expected: str, key: str | None = None) -> re.Match[str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise _fault(part, text, expected, key)
    return found


def _fault(part: str, found: str, expected: str, key: str | None = None) -> PlanError:
    subject = "voucher key" if key is None else f"voucher key {key!r}"
    return PlanError(Finding((part,), repr(found), expected, subject))
