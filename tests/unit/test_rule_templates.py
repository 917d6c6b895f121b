"""Limits become rules that say what L1 to L5 ask for."""

from __future__ import annotations

from typing import Any

import pytest

from rating.errors import PlanError
from rating.rules.limits import RULE_PREFIX, channels_of, levels_of, rules_of
from rating.rules.triggers import TRIGGERS, reached
from schemas.rules import Action, Filter, Limit, Rule


def made(kind: str, **fields: Any) -> Rule:
    """The one rule of a limit with the id "x"."""
    (rule,) = rules_of(Limit(id="x", kind=kind, **fields))  # type: ignore[arg-type]
    return rule


def test_overage_suspension() -> None:
    """L1: usage above quota and margin suspends until the window ends. Contacts are notified if there are any."""
    rule = made("overage_suspension", margin="10 MB")
    assert ("data_usage_cycle", "over", ("10 MB",)) == (rule.trigger, rule.measure, rule.threshold)
    assert not reached(TRIGGERS[rule.trigger], rule.at, rule.measure)
    assert (Action(sequence=1, type="suspend", reason="over_quota", until="window_end"),) == rule.actions
    told = made("overage_suspension", margin=0, to=("a@b.example",))
    assert ("suspend", "notify") == tuple(action.type for action in told.actions)
    assert (2, ("email",), ("a@b.example",)) == (
        told.actions[1].sequence, told.actions[1].by, told.actions[1].to,
    )  # fmt: skip


def test_hard_cut() -> None:
    """L2: the cut of the plan's tier is reached, and the SIM comes back as soon as it is under it again."""
    rule = made("hard_cut")
    assert ("data_usage_cycle", "hard_cut", ()) == (rule.trigger, rule.measure, rule.threshold)
    assert reached(TRIGGERS[rule.trigger], rule.at, rule.measure)
    assert (Action(sequence=1, type="suspend", reason="hard_cut", until="recovered"),) == rule.actions


def test_balance_alert() -> None:
    """L3: up to three levels of what is left, in level 1's unit, once a day."""
    rule = made("balance_alert", levels=(30, 20, "10"))
    assert ("remaining", "daily", ("30 %", "20 %", "10 %")) == (rule.measure, rule.repetition, rule.threshold)
    assert reached(TRIGGERS[rule.trigger], rule.at, rule.measure)
    assert (("system",), ()) == (rule.actions[0].by, rule.actions[0].to)
    assert ("30 MB", "2.5 MB") == made("balance_alert", levels=("30 MB", "2.5")).threshold
    both = made("balance_alert", levels=(10,), by=("system", "email"), to=("a@b.example",)).actions[0]
    assert ("system", "email") == both.by


def test_usage_alert() -> None:
    """L4: each threshold in MB once a window, in the order in which they are met; 0 is off."""
    rule = made("usage_alert", levels=(100, "80 MB"), to=("+4915112345678",))
    assert ("data_usage_cycle", "used", "once_per_window") == (rule.trigger, rule.measure, rule.repetition)
    assert ("80 MB", "100 MB") == rule.threshold
    assert (("sms",), 1) == (rule.actions[0].by, rule.actions[0].sequence)
    assert ("100 MB",) == made("usage_alert", levels=(0, 100), to=("a@b.example",)).threshold


def test_expiry_alert() -> None:
    """L4: each threshold in days once a term, the earlier one first; 0 is off."""
    rule = made("expiry_alert", levels=(15, 30), to=("a@b.example", "+4915112345678"))
    assert ("term_ends", (30, 15), "once_per_window") == (rule.trigger, rule.threshold, rule.repetition)
    assert ("email", "sms") == rule.actions[0].by
    assert (15,) == made("expiry_alert", levels=(0, "15 days"), to=("a@b.example",)).threshold


def test_expiry_notice() -> None:
    """L5: 30 days and 7 days before and on the day, to the device, with the name of its service."""
    rule = made("expiry_notice", service_name="rtk")
    assert ("term_ends", (30, 7, 0)) == (rule.trigger, rule.threshold)
    assert (Action(sequence=1, type="notify", by=("device",), service_name="rtk"),) == rule.actions


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("overage_suspension", {"margin": "off", "to": ("a@b.example",)}),
        ("usage_alert", {"levels": (0, 0), "to": ("a@b.example",)}),
        ("expiry_alert", {"levels": (0,)}),
    ],
)
def test_what_is_off_never_fires(kind: str, fields: dict[str, Any]) -> None:
    """A limit that is off has no levels and no actions, and still stands before the wider ones of its kind."""
    rule = made(kind, **fields)
    assert ((), (), (), kind) == (rule.threshold, rule.levels, rule.actions, rule.nearest)


def test_scope() -> None:
    """SIMs, plan and account become scope, filter and owner; the id is made of kind and id."""
    assert ("a",) == made("hard_cut", sims=("a",)).sims
    assert (Filter(type="plan", values=("p",)),) == made("hard_cut", plan="p").filters
    assert "acme" == made("hard_cut", account="acme").owner
    everybody = made("hard_cut")
    assert ((), (), None) == (everybody.sims, everybody.filters, everybody.owner)
    assert (f"{RULE_PREFIX}hard_cut.x", "hard_cut") == (everybody.id, everybody.nearest)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("overage_suspension", {}, 'margin: found nothing; expected data with its unit such as "10 MB"'),
        ("overage_suspension", {"margin": 10}, "margin: found 10; expected data with its unit"),
        ("overage_suspension", {"margin": "10 %"}, "margin: found '10 %'; expected a size"),
        ("balance_alert", {}, "levels: found 0 levels; expected 1 to 3"),
        ("balance_alert", {"levels": (4, 3, 2, 1)}, "levels: found 4 levels; expected 1 to 3"),
        ("balance_alert", {"levels": ("30 %", "20 MB")}, "the unit of the first level, %"),
        ("balance_alert", {"levels": (30, 30)}, r"levels\[1\]: found 30; expected less than the level before"),
        ("balance_alert", {"levels": (101,)}, "0 to 100 %"),
        ("balance_alert", {"levels": ("30 s",)}, "expected a size such as"),
        ("balance_alert", {"levels": ("-1",)}, "a number, or one with its unit"),
        ("usage_alert", {"levels": (80, "80 MB")}, "another level than the first"),
        ("usage_alert", {"levels": ("80 %",)}, r"levels\[0\]: found '80 %'; expected a size"),
        ("usage_alert", {"levels": (1, 2, 3)}, "expected 1 to 2"),
        ("expiry_alert", {"levels": ("1.5",)}, "expected days before the end"),
        ("expiry_alert", {"levels": ("3 MB",)}, "expected days before the end"),
        ("expiry_alert", {"levels": (10**6,)}, "expected days before the end"),
    ],
)
def test_what_cannot_be_read(kind: str, fields: dict[str, Any], words: str) -> None:
    """A margin or level that is none says where, what was found and what would be right."""
    with pytest.raises(PlanError, match=words):
        made(kind, **fields)


def test_channels_follow_the_addresses() -> None:
    """What `by` leaves open, the addresses say."""
    limit = Limit(id="x", kind="overage_suspension")
    assert () == channels_of(limit)
    assert ("sms",) == channels_of(Limit(id="x", kind="usage_alert", to=("+4915112345678",)))
    assert ("system",) == channels_of(Limit(id="x", kind="overage_suspension", by=("system",)))
    assert (30, 7, 0) == levels_of(Limit(id="x", kind="expiry_notice"))
