"""Random rules with all triggers, and thresholds in the range of the usage of a random fleet."""

from __future__ import annotations

from random import Random
from typing import Any

from rating.rules.triggers import TRIGGERS, Trigger
from schemas.rules import Action, Filter, Rule

_VALUES: dict[str, tuple[str, ...]] = {
    "account": ("a", "a1", "b"),
    "account_status": ("active", "closed"),
    "account_tag": ("gold", "new"),
    "sub_account": ("a1", "a2"),
    "sub_account_status": ("active", "closed"),
    "plan": ("p0", "p1", "p3"),
    "plan_type": ("single", "dynamic", "static"),
    "custom_attribute": ("one", "two"),
    "zone": ("home", "world"),
    "sim_tag": ("red", "blue", "marked"),
    "sim_status": ("activated", "suspended"),
    "rat": ("LTE", "NB-IoT"),
}
_OTHER_ACTIONS = (
    Action(sequence=9, type="throttle", rate_bps=64_000),
    Action(sequence=9, type="change_plan", plan="p1"),
    Action(sequence=9, type="change_status", status="silent"),
    Action(sequence=9, type="resume"),
    Action(sequence=9, type="suspend", reason="security"),
    Action(sequence=9, type="webhook", url="https://example.com/{iccid}", text="größer"),
    Action(sequence=9, type="notify", by=("email", "device"), to=("a@example.com",), service_name="rtk"),
)
_OTHERS = ["event", "silence", "change", "term"]
_ROOT = ("account", "account_status", "account_tag", "sim_tag", "sim_status", "rat")
_ACCOUNT = tuple(name for name in _VALUES if not name.startswith("account"))
# Usual range of the usage of a SIM in a day and in a cycle.
_RANGE = {
    ("bytes", "day"): (200, 4000),
    ("bytes", "cycle"): (2000, 40_000),
    ("messages", "day"): (0, 4),
    ("messages", "cycle"): (1, 40),
    ("seconds", "day"): (50, 900),
    ("seconds", "cycle"): (200, 6000),
    ("sessions", "day"): (0, 6),
}


def rule(random: Random, name: str, iccids: list[str], pools: int, heavy: bool = False) -> Rule:
    """Return a random rule; more than half have a trigger on usage totals.

    `heavy` means that some records of the fleet are as large as hard cuts.
    """
    kinds = [["usage"], ["usage"], ["usage"], ["usage"], ["pool"] if pools else ["usage"], _OTHERS, _OTHERS]
    kind = random.choice(kinds)
    trigger = random.choice([one for one in TRIGGERS.values() if one.kind in kind])
    fields: dict[str, Any] = {
        "repetition": random.choice(("once", "once_per_window", "once_per_window", "daily", "always")),
        "owner": random.choice((None, None, "a", "a1", "b")),
    }
    fields |= _threshold(random, trigger, heavy)
    if "window" in trigger.fields:
        fields["window"] = random.choice(("day", "rolling"))
    if "country" in trigger.fields:
        fields["country"] = random.choice(("DE", "FR"))
    if "zone" in trigger.fields:
        fields["zone"] = random.choice(("home", "world"))
    fields |= _changed(random, trigger)
    if trigger.name == "price_plan_expired":
        fields["by"] = random.choice(("any", "data", "time"))
    if trigger.kind == "pool":
        if random.random() < 0.5:
            fields["pools"] = tuple(f"q{number}" for number in range(pools) if random.random() < 0.5)
    elif random.random() < 0.15:
        fields["sims"] = tuple(random.sample(iccids, max(1, len(iccids) // 3)))
    elif random.random() < 0.45:
        fields["filters"] = _filters(random, fields["owner"])
    if trigger.kind != "pool" and random.random() < 0.25:
        fields["nearest"] = random.choice(("one", "two"))
    return Rule(id=name, trigger=trigger.name, actions=_actions(random, trigger, fields), **fields)


def _threshold(random: Random, trigger: Trigger, heavy: bool) -> dict[str, Any]:
    if "threshold" not in trigger.fields:
        return {}
    found: dict[str, Any] = {}
    if "at" in trigger.fields:
        found["at"] = random.choice((None, None, "reached", "exceeded"))
    count = random.choice((1, 1, 2, 3))
    if trigger.unit == "days":
        return {"threshold": tuple(sorted(random.sample((30, 14, 7, 3, 0), count), reverse=True))}
    measures = [one for one in trigger.measures if one != "hard_cut" or heavy]
    measure = random.choice(measures)
    if measure == "hard_cut":
        return found | {"measure": measure}
    if measure == "percent" or (measure == "remaining" and random.random() < 0.5):
        all_shares = ("5 %", "33.3 %", "50 %", "80 %", "100 %", *(("120 %",) if measure == "percent" else ()))
        shares = sorted(random.sample(all_shares, count), key=_share)
        found["threshold"] = tuple(reversed(shares) if measure == "remaining" else shares)
    else:
        low, high = _RANGE[str(trigger.unit), str(trigger.window)]
        if trigger.kind == "pool":
            low, high = 4 * low, 8 * high
        levels = sorted({random.randint(low, high) for _ in range(count)}, reverse=measure == "remaining")
        found["threshold"] = tuple(levels)
    if measure in ("over", "remaining"):
        found["measure"] = measure
    return found


def _share(level: str) -> float:
    return float(level.removesuffix(" %"))


def _changed(random: Random, trigger: Trigger) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "attribute" in trigger.fields:
        found["attribute"] = random.choice((None, "line"))
    if "across" in trigger.fields:
        found["across"] = random.choice(("any", "during", "across"))
    if "from" in trigger.fields and random.random() < 0.4:
        values = {
            "billing_status_changed": ("activated", "suspended"),
            "imei_changed": ("i1", "i2"),
            "location_changed": ("c1", "c2"),
            "price_plan_changed": ("p0", "p1"),
            "custom_attribute_changed": ("one", "two"),
        }.get(trigger.name, ("81", "810"))
        first, second = random.sample(values, 2)
        found |= random.choice(({"from_": first}, {"to": second}, {"from_": first, "to": second}))
    return found


def _filters(random: Random, owner: str | None) -> tuple[Filter, ...]:
    kinds = random.choices(_ROOT if owner is None else _ACCOUNT, k=random.choice((1, 1, 2, 3)))
    return tuple(
        Filter(
            type=kind,  # type: ignore[arg-type]
            values=tuple(random.sample(_VALUES[kind], random.choice((1, 1, 2)))),
            name="line" if kind == "custom_attribute" else None,
        )
        for kind in kinds
    )


def _actions(random: Random, trigger: Trigger, fields: dict[str, Any]) -> tuple[Action, ...]:
    found = [Action(sequence=7, type="notify", by=("system",), text="{iccid}")]
    # A rule that fires only once has no window that could end.
    ends = trigger.kind in ("usage", "pool", "term") and fields["repetition"] != "once"
    if ends and random.random() < 0.4:
        found.append(Action(sequence=3, type="suspend", until=random.choice(("window_end", "recovered"))))
    if random.random() < 0.3:
        found.append(Action(sequence=5, type="add_tag", tag="marked"))
    if random.random() < 0.2:
        found.append(Action(sequence=1, type="set_attribute", attribute="line", value="two"))
    if random.random() < 0.2:
        found.append(random.choice(_OTHER_ACTIONS))
    return tuple(found)
