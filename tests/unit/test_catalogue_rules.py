"""What is wrong with rules is found, all of it, with its line and what would be right (L6 to L11)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.catalogue.rules import MOST_RULES
from schemas.cards import Catalogue
from schemas.rules import Rule
from tests.support.rule_files import BASE, GOOD, RULES, Case, found, load, name_of, require_findings

# What is changed in GOOD, and the findings that follow: field, and words of what was found and of what would be right.
CASES: list[Case] = [
    # shape
    ('"data_usage_cycle"', '"data_usage_cycel"', [("rules.usage.trigger", "did you mean data_usage_cycle?")]),
    ('type = "zone"', 'type = "zones"', [("rules.usage.filters[3].type", "did you mean zone?")]),
    ('type = "webhook"', 'type = "webhok"', [("rules.usage.actions[2].type", "did you mean webhook?")]),
    ('from = "single"', 'form = "single"', [("rules.moved.form", "did you mean from?")]),
    ('at = "reached"', 'at = "passed"', [("rules.usage.at", "exceeded, reached")]),
    ('by = ["sms"]', 'by = ["smss"]', [("limits.l4.by[0]", "did you mean sms?")]),
    ('kind = "balance_alert"', 'kind = "balance"', [("limits.l3.kind", "did you mean balance_alert?")]),
    # ids
    ('id = "abroad"', 'id = "usage"', [("rules.usage.id", "each id once: it is at")]),
    ('id = "abroad"', 'id = "limit.x"', [("rules.limit.x.id", "does not begin with limit.")]),
    ('id = "l1"', f'id = "{"l" * 97}"', [(".id", "at most 96 characters")]),
    ('id = "l3"', 'id = "l1"', [("limits.l1.id", "each id once")]),
    # what the trigger takes and needs
    ('country = "FR"\n', "", [("rules.abroad.country", "found nothing; expected the country of trigger")]),
    ('country = "FR"', 'country = "UK"', [("rules.abroad.country", "did you mean GB?")]),
    ('zone = "home"\nthreshold', "threshold", [("rules.day.zone", "found nothing; expected the zone of trigger")]),
    ('zone = "home"\nthreshold', 'zone = "hom"\nthreshold', [("rules.day.zone", "did you mean home?")]),
    (
        'zone = "home"\nthreshold',
        'zone = "home"\ncountry = "DE"\nthreshold',
        [("day.country", "takes threshold, at, zone")],
    ),
    ('zone = "home"\nthreshold', 'zone = "home"\nwindow = "rolling"\nthreshold', [("day.window", "no window")]),
    ('zone = "home"\nthreshold', 'zone = "home"\nmeasure = "over"\nthreshold', [("day.measure", "no measure")]),
    ('zone = "home"\nthreshold', 'zone = "home"\nby = "time"\nthreshold', [("day.by", "no by")]),
    ('zone = "home"\nthreshold', 'zone = "home"\nacross = "during"\nthreshold', [("day.across", "no across")]),
    ('zone = "home"\nthreshold', 'zone = "home"\nattribute = "x"\nthreshold', [("day.attribute", "no attribute")]),
    ('zone = "home"\nthreshold', 'zone = "home"\npools = ["together"]\nthreshold', [("day.pools", "no pools")]),
    ('from = "single"', 'threshold = 5\nfrom = "single"', [("moved.threshold", "takes from, to")]),
    ('from = "single"', 'at = "reached"\nfrom = "single"', [("moved.at", "no at: trigger price_plan_changed")]),
    ('from = "single"', 'data_base = 1000\nfrom = "single"', [("moved.data_base", "counts no data")]),
    ('trigger = "price_plan_changed"', 'trigger = "no_sms_24h"', [("from", "none of these"), ("to", "none of these")]),
    # thresholds
    ('threshold = "10 MB"\n', "", [("rules.day.threshold", "found nothing")]),
    ('threshold = "10 MB"', 'threshold = "10 Mb/s"', [("rules.day.threshold", "a size such as")]),
    ('threshold = "10 MB"', 'threshold = "80 %"', [("rules.day.threshold", "no percent")]),
    ('threshold = "10 MB"', 'threshold = ["10 MB", "x"]', [("rules.day.threshold[1]", "a size such as")]),
    ('["80 %", "100 %"]', '["100 %", "80 %"]', [("rules.usage.threshold[1]", "more than the level before")]),
    ('["80 %", "100 %"]', '["80 %", "1 GB"]', [("rules.usage.threshold[1]", "percent")]),
    ('at = "reached"', 'measure = "remaining"', [("rules.usage.threshold[1]", "less than the level before")]),
    ('at = "reached"', 'measure = "hard_cut"', [("rules.usage.threshold", "no threshold")]),
    ("threshold = 10", f"threshold = {list(range(17))}", [("rules.abroad.threshold", "1 to 16 levels")]),
    # the value before and after
    ('from = "single"', 'from = "singel"', [("rules.moved.from", "did you mean single?")]),
    ('to = "shared"', 'to = "single"', [("rules.moved.to", "another value than from")]),
    (
        'trigger = "price_plan_changed"',
        'trigger = "billing_status_changed"',
        [("rules.moved.from", "one of activated"), ("rules.moved.to", "one of activated")],
    ),
    # scope
    ('owner = "acme"\ntrigger = "data', 'owner = "amce"\ntrigger = "data', [("usage.owner", "did you mean acme?")]),
    ('0016"]\nactions', '0032"]\nactions', [("rules.moved.sims[0]", "the ICCID of a card")]),
    (
        '"8988228066700000016"]\nactions',
        '"8988228066700000016", "8988228066700000016"]\nactions',
        [("sims[1]", "once")],
    ),
    (
        'id = "moved"',
        'id = "moved"\nowner = "other"',
        [("rules.moved.sims[0]", "found 8988228066700000016 of account labs")],
    ),
    ('pools = ["together"]', 'pools = ["togehter"]', [("rules.pool.pools[0]", "did you mean together?")]),
    ('pools = ["together"]', 'pools = ["together", "together"]', [("rules.pool.pools[1]", "each pool once")]),
    ('pools = ["together"]', 'pools = ["theirs"]', [("rules.pool.pools[0]", "found theirs of account other")]),
    ('pools = ["together"]', 'sims = ["8988228066700000016"]', [("rules.pool.sims", "every SIM that draws")]),
    ('pools = ["together"]', 'nearest = "x"', [("rules.pool.nearest", "not of a pool")]),
    ('nearest = "volume"', 'nearest = " "', [("rules.usage.nearest", "without spaces")]),
    # filters
    (
        'pools = ["together"]',
        'filters = [{ type = "rat", values = ["LTE"] }]',
        [("pool.filters", "a pool rule has none")],
    ),
    (
        'sims = ["8988228066700000016"]\na',
        'sims = ["8988228066700000016"]\nfilters = [{ type = "rat", values = ["LTE"] }]\na',
        [("moved.filters", "sims says")],
    ),
    (
        'type = "account", values',
        'type = "zone", values',
        [
            (
                "abroad.filters[0].type",
                "of root; expected one of account, account_status, account_tag, rat, sim_status, sim_tag",
            ),
            ("values[0]", "a zone: one of"),
        ],
    ),
    ('type = "sub_account"', 'type = "account_tag"', [("filters[0].type", "account_tag in a rule of an account")]),
    ('name = "site"\n', "", [("rules.usage.filters[2].name", "the name of the custom field")]),
    ('type = "zone"', 'type = "zone"\nname = "x"', [("rules.usage.filters[3].name", "only custom_attribute")]),
    ('values = ["eu"]', "values = []", [("rules.usage.filters[3].values", "1 to 1000")]),
    ('values = ["eu"]', 'values = ["ue"]', [("rules.usage.filters[3].values[0]", "a zone: one of eu, home")]),
    ('values = ["acme"] }', 'values = ["acm"] }', [("abroad.filters[0].values[0]", "did you mean acme?")]),
    ('values = ["labs"]', 'values = ["other"]', [("filters[0].values[0]", "a sub-account: one of cellar, labs")]),
    ('values = ["single"]', 'values = ["singl"]', [("usage.filters[1].values[0]", "did you mean single?")]),
    ('values = ["activated"]', 'values = ["active"]', [("abroad.filters[1].values[0]", "did you mean activated?")]),
    (
        'type = "plan"\nvalues = ["single"]',
        'type = "plan_type"\nvalues = ["alone"]',
        [("filters[1].values[0]", "same_tier")],
    ),
    ('type = "plan"\nvalues = ["single"]', 'type = "sim_tag"\nvalues = [" "]', [("filters[1].values[0]", "not empty")]),
    # actions
    (
        'actions = [{ sequence = 1, type = "resume" }]\n',
        "",
        [("rules.day.actions", "found no actions; expected 1 to 32")],
    ),
    ("sequence = 3\n", "sequence = 2\n", [("rules.usage.actions[2].sequence", "a number of its own")]),
    ("sequence = 3\n", "sequence = -1\n", [("rules.usage.actions[2].sequence", "0 to 9999")]),
    ("rate_bps = 64000", "rate_bps = 0", [("rules.abroad.actions[0].rate_bps", "1 or more bits")]),
    (", rate_bps = 64000", "", [("rules.abroad.actions[0].rate_bps", "throttle needs it")]),
    ('type = "resume"', 'type = "resume", reason = "expired"', [("actions[0].reason", "takes no field but sequence")]),
    ('type = "resume"', 'type = "suspend", url = "https://a.example"', [("actions[0].url", "takes reason, until")]),
    (', tag = "moved"', "", [("rules.moved.actions[0].tag", "add_tag needs it")]),
    ('tag = "moved"', 'tag = " "', [("rules.moved.actions[0].tag", "not empty")]),
    (', value = "yes"', "", [("rules.moved.actions[1].value", "set_attribute needs it")]),
    ('status = "suspended" }', 'status = "suspend" }', [("moved.actions[2].status", "did you mean suspended?")]),
    ('plan = "single" }', 'plan = "sngle" }', [("moved.actions[3].plan", "did you mean single?")]),
    (
        "actions = [\n",
        'actions = [\n{ sequence = 9, type = "suspend", until = "window_end" },\n',
        [("until", 'window_end" with trigger price_plan')],
    ),
    (
        'type = "resume"',
        'type = "suspend", until = "window_end" }]\nrepetition = "once"\nfilters = [{ type = "sim_tag", values = ["x"]',
        [("until", 'window_end" with repetition "once"')],
    ),
    ('"https://hooks', '"ftp://hooks', [("rules.usage.actions[2].url", "a URL such as https://")]),
    ('"https://hooks', '"https://me:word@hooks', [("rules.usage.actions[2].url", "without user or password")]),
    (
        'by = ["email", "sms"]\n',
        "",
        [("usage.actions[0].by", "notify needs it"), ("to[0]", "no channel needs"), ("to[1]", "no channel")],
    ),
    ('by = ["email", "sms"]', 'by = ["email", "sms", "sms"]', [("usage.actions[0].by", "each channel once")]),
    ('by = ["email", "sms"]', 'by = ["email"]', [("usage.actions[0].to[1]", "an e-mail address")]),
    (
        '"ops@acme.example", "+',
        '"ops@acme", "+',
        [("usage.actions[0].to[0]", "an e-mail address or a telephone number")],
    ),
    ('"{rule}"', '"{rulle}"', [("usage.actions[0].subject", "found {rulle}; expected in braces one of")]),
    ("{value} {unit}", '{value} {units} {\\"a\\": 1}', [("usage.actions[0].text", "did you mean unit?")]),
]


def test_the_rules_that_the_cases_change_are_good(tmp_path: Path) -> None:
    """Without a change everything loads: rules as they are written, and limits as rules."""
    rules = load(tmp_path, GOOD).rules
    assert ["usage", "abroad", "moved", "pool", "day"] == [rule.id for rule in rules[:5]]
    assert ["limit.overage_suspension.l1", "limit.balance_alert.l3", "limit.usage_alert.l4"] == [
        rule.id for rule in rules[5:]
    ]
    assert ("single", "shared") == (rules[2].from_, rules[2].to)


@pytest.mark.parametrize(("old", "new", "expected"), CASES, ids=name_of)
def test_each_mistake_is_found(tmp_path: Path, old: str, new: str, expected: list[tuple[str, str]]) -> None:
    """One mistake gives its findings and no others."""
    require_findings(tmp_path, old, new, expected)


def test_an_active_rule_does_not_change(tmp_path: Path) -> None:
    """A rule that is active may come again as it is; another content, of a limit too, is found (L6)."""
    known = load(tmp_path, GOOD)
    active = ("usage", "limit.balance_alert.l3", "gone")
    assert known.rules == load(tmp_path, GOOD, known, active).rules
    changed = GOOD.replace('["80 %", "100 %"]', '["80 %"]').replace("[30, 20, 10]", "[30, 20]")
    assert [("rules.usage.id", "usage"), ("limits.l3.id", "limit.balance_alert.l3")] == [
        (finding.field, finding.found.removeprefix("a change of rule ").removesuffix(", which is active"))
        for finding in found(tmp_path, changed, known, active)
    ]
    assert ("80 %",) == load(tmp_path, changed, known, ("abroad",)).rules[0].threshold


def test_a_filter_of_an_active_rule_does_not_change(tmp_path: Path) -> None:
    """Filters are part of an active rule (L6)."""
    known = load(tmp_path, GOOD)
    changed = GOOD.replace('values = ["eu"]', 'values = ["home"]')
    assert ["rules.usage.id"] == [finding.field for finding in found(tmp_path, changed, known, ("usage",))]


def test_references_to_what_is_in_force(tmp_path: Path) -> None:
    """Rules may come alone: accounts, plans, pools, zones and cards may be those in force."""
    known = load(tmp_path, BASE)
    assert 8 == len(load(tmp_path, RULES, known).rules)
    assert any("expected an account" in str(finding) for finding in found(tmp_path, RULES))


def test_there_may_be_so_many_rules(tmp_path: Path) -> None:
    """Rules that exist have a number of 16 bits each, so there is an end to them."""
    known = Catalogue(rules=tuple(Rule(id=str(number), trigger="no_sms_24h") for number in range(MOST_RULES - 5)))
    five = "".join(
        f'[[rules]]\nid = "r{n}"\ntrigger = "no_sms_24h"\nactions = [{{ sequence = 1, type = "resume" }}]\n'
        for n in range(6)
    )
    assert [f"{MOST_RULES + 1} rules and limits, those in force included"] == [
        finding.found for finding in found(tmp_path, five, known)
    ]
    assert 5 == len(load(tmp_path, five[: five.index('[[rules]]\nid = "r5"')], known).rules)
