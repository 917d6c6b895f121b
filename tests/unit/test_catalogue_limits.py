"""What is wrong with limits is found, all of it, with its line and what would be right (L1 to L5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.rule_files import GOOD, Case, found, load, name_of, require_findings

# What is changed in GOOD, and the findings that follow: field, and words of what was found and of what would be right.
CASES: list[Case] = [
    ('margin = "10 MB"', "margin = 10", [("limits.l1.margin", 'expected data with its unit such as "10 MB"')]),
    ('margin = "10 MB"\n', "", [("limits.l1.margin", "found nothing")]),
    ("levels = [30, 20, 10]", "levels = [30, 30]", [("limits.l3.levels[1]", "less than the level before")]),
    ("levels = [30, 20, 10]", 'margin = "1 MB"\nlevels = [3]', [("limits.l3.margin", "balance_alert has none")]),
    ('margin = "10 MB"', 'margin = "10 MB"\nlevels = [1]', [("limits.l1.levels", "has none of its own")]),
    ('margin = "10 MB"', 'margin = "10 MB"\nservice_name = "rtk"', [("limits.l1.service_name", "only expiry_notice")]),
    ('plan = "single"\nlevels', 'plan = "singel"\nlevels', [("limits.l3.plan", "did you mean single?")]),
    ('plan = "single"\nlevels', 'account = "acm"\nlevels', [("limits.l3.account", "did you mean acme?")]),
    (
        'plan = "single"\nlevels',
        'plan = "single"\naccount = "acme"\nlevels',
        [("limits.l3.account", "found plan and account")],
    ),
    ('0016"]\nlevels', '0032"]\nlevels', [("limits.l4.sims[0]", "the ICCID of a card")]),
    ('by = ["sms"]', 'by = ["system"]', [("limits.l4.by[0]", "one of email, sms for usage_alert")]),
    ('by = ["sms"]', 'by = ["email"]', [("limits.l4.to[0]", "an e-mail address")]),
    ('by = ["sms"]\nto = ["+4915112345678"]\n', "", [("limits.l4.to", "found nobody")]),
    (
        'id = "l3"\nkind = "balance_alert"\nplan = "single"',
        'id = "l3"\nkind = "usage_alert"\nto = ["a@b.example"]\nsims = ["8988228066700000016"]',
        [("limits.l3.levels", "expected 1 to 2"), ("limits.l4.sims[0]", "limits.l3 at")],
    ),
    (
        'id = "l3"\nkind = "balance_alert"\nplan = "single"\nlevels = [30, 20, 10]',
        'id = "l3"\nkind = "overage_suspension"\nmargin = 0',
        [("limits.l3.kind", "a second limit for every SIM")],
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), CASES, ids=name_of)
def test_each_mistake_is_found(tmp_path: Path, old: str, new: str, expected: list[tuple[str, str]]) -> None:
    """One mistake gives its findings and no others."""
    require_findings(tmp_path, old, new, expected)


SIM, OTHER = "8988228066700000016", "8988228066700000024"


def limit(name: str, kind: str, rest: str) -> str:
    """The text of one limit."""
    return f'[[limits]]\nid = "{name}"\nkind = "{kind}"\n{rest}\n'


@pytest.mark.parametrize(
    ("kind", "rest", "field", "standing"),
    [
        ("overage_suspension", "margin = 0", "kind", "l1"),
        ("balance_alert", 'plan = "single"\nlevels = [5]', "plan", "l3"),
        ("usage_alert", f'sims = ["{OTHER}", "{SIM}"]\nlevels = [5]\nto = ["a@b.example"]', "sims[1]", "l4"),
        ("hard_cut", 'account = "acme"', "account", "cut"),
    ],
)
@pytest.mark.parametrize("is_active", [False, True])
def test_a_second_limit_under_another_id_is_found(
    tmp_path: Path, kind: str, rest: str, field: str, standing: str, is_active: bool
) -> None:
    """A limit in force of the same kind for the same SIM, plan, account or everybody is named; under its id it goes."""
    known = load(tmp_path, GOOD + limit("cut", "hard_cut", 'account = "acme"\nby = ["system"]'))
    active = (f"limit.{kind}.{standing}",) if is_active else ()
    (finding,) = found(tmp_path, limit("new", kind, rest), known, active)
    assert f"limits.new.{field}" == finding.field
    assert f'one {kind} for it: "{standing}" is in force; give this one the id "{standing}"' in finding.expected
    changed = load(tmp_path, limit(standing, kind, rest), known)
    assert [f"limit.{kind}.{standing}"] == [rule.id for rule in changed.rules]


def test_limits_for_others_or_of_another_kind_stand_beside(tmp_path: Path) -> None:
    """Neither another kind, a nearer scope, nor a SIM that the limit in force gives up now is a second limit."""
    known = load(tmp_path, GOOD)
    alert = 'levels = [5]\nto = ["a@b.example"]'
    beside = (
        limit("l1", "hard_cut", "")
        + limit("near", "overage_suspension", 'account = "acme"\nmargin = 0')
        + limit("l4", "usage_alert", f'sims = ["{OTHER}"]\n{alert}')
        + limit("new", "usage_alert", f'sims = ["{SIM}"]\n{alert}')
    )
    assert 4 == len(load(tmp_path, beside, known).rules)
