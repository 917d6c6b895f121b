"""A small catalogue with rules and limits, and checks of the findings that a change of it causes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.catalogue import load_catalogue
from rating.errors import CatalogueError, Finding
from schemas.cards import Catalogue

Case = tuple[str, str, list[tuple[str, str]]]

BASE = """\
[[accounts]]
id = "acme"
[[accounts]]
id = "labs"
parent = "acme"
[[accounts]]
id = "cellar"
parent = "labs"
[[accounts]]
id = "other"
[[zones]]
id = "roaming"
zones = [{ name = "home", countries = ["DE"], home = true }, { name = "eu", countries = ["FR"] }]
[[plans]]
id = "single"
currency = "EUR"
versions = [{ version = 1, effective = 2026-01-01, rates = [{ service = "data", allowance = "500 MB" }] }]
[[plans]]
id = "shared"
currency = "EUR"
type = "dynamic"
versions = [{ version = 1, effective = 2026-01-01, rates = [] }]
[[pools]]
id = "together"
account = "acme"
kind = "dynamic"
[[pools]]
id = "theirs"
account = "other"
kind = "dynamic"
[[cards]]
iccid = "8988228066700000016"
account = "labs"
plan = "single"
[[cards]]
iccid = "8988228066700000024"
account = "other"
plan = "single"
"""

RULES = """\
[[rules]]
id = "usage"
owner = "acme"
trigger = "data_usage_cycle"
threshold = ["80 %", "100 %"]
at = "reached"
nearest = "volume"
[[rules.actions]]
sequence = 1
type = "notify"
by = ["email", "sms"]
to = ["ops@acme.example", "+4915112345678"]
subject = "{rule}"
text = "SIM {iccid}: {value} {unit}"
[[rules.actions]]
sequence = 2
type = "suspend"
reason = "over_quota"
until = "window_end"
[[rules.actions]]
sequence = 3
type = "webhook"
url = "https://hooks.acme.example/weir"
[[rules.filters]]
type = "sub_account"
values = ["labs"]
[[rules.filters]]
type = "plan"
values = ["single"]
[[rules.filters]]
type = "custom_attribute"
name = "site"
values = ["Kiel", ""]
[[rules.filters]]
type = "zone"
values = ["eu"]

[[rules]]
id = "abroad"
trigger = "sms_mo_count_country_cycle"
country = "FR"
threshold = 10
actions = [{ sequence = 1, type = "throttle", rate_bps = 64000 }]
filters = [{ type = "account", values = ["acme"] }, { type = "sim_status", values = ["activated"] }]

[[rules]]
id = "moved"
trigger = "price_plan_changed"
from = "single"
to = "shared"
sims = ["8988228066700000016"]
actions = [
    { sequence = 1, type = "add_tag", tag = "moved" },
    { sequence = 2, type = "set_attribute", attribute = "seen", value = "yes" },
    { sequence = 3, type = "change_status", status = "suspended" },
    { sequence = 4, type = "change_plan", plan = "single" },
]

[[rules]]
id = "pool"
owner = "acme"
trigger = "pool_data_usage"
pools = ["together"]
threshold = "120 %"
data_base = 1000
repetition = "once"
actions = [{ sequence = 1, type = "suspend" }]

[[rules]]
id = "day"
trigger = "data_usage_zone_cycle"
zone = "home"
threshold = "10 MB"
actions = [{ sequence = 1, type = "resume" }]

[[limits]]
id = "l1"
kind = "overage_suspension"
margin = "10 MB"
to = ["ops@acme.example"]

[[limits]]
id = "l3"
kind = "balance_alert"
plan = "single"
levels = [30, 20, 10]

[[limits]]
id = "l4"
kind = "usage_alert"
sims = ["8988228066700000016"]
levels = [80, 100]
by = ["sms"]
to = ["+4915112345678"]
"""
GOOD = BASE + RULES


def write(folder: Path, text: str, name: str = "catalogue.toml") -> Path:
    """Write a catalogue file and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, known: Catalogue | None = None, active: tuple[str, ...] = ()) -> Catalogue:
    """Load the catalogue `text`."""
    return load_catalogue([write(folder, text)], known, active=active)


def found(folder: Path, text: str, known: Catalogue | None = None, active: tuple[str, ...] = ()) -> list[Finding]:
    """Return the findings of loading `text`, which must fail with CatalogueError."""
    with pytest.raises(CatalogueError) as caught:
        load(folder, text, known, active)
    return caught.value.findings


def name_of(value: object) -> str:
    """Return the test id of a parameter: the beginning of a string, otherwise nothing."""
    return value[:40] if isinstance(value, str) else ""


def require_findings(folder: Path, old: str, new: str, expected: list[tuple[str, str]]) -> None:
    """Require that RULES, with `old` replaced by `new`, gives the expected findings and no others.

    `expected` has pairs of field and words. At least one finding must be on a line of the replaced table.
    """
    assert old in RULES
    text = BASE + RULES.replace(old, new, 1)
    findings = found(folder, text)
    said = [str(finding) for finding in findings]
    assert len(expected) == len(said), said
    for field, words in expected:
        assert any(field in finding.field and words in str(finding) for finding in findings), said
    start = GOOD.index(old, len(BASE))
    lines = text.split("\n")
    first, last = text[:start].count("\n"), text[: start + len(new)].count("\n")
    while not lines[first].startswith("[["):
        first -= 1
    while last + 1 < len(lines) and lines[last + 1]:
        last += 1
    assert any(first < finding.line <= last + 1 for finding in findings), said
