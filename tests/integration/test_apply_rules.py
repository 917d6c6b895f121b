"""`weir apply` and rules that are active: they stay as they are until they are stopped (L6)."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from pipeline.embedded.driver import Embedded
from schemas.commands import Activate, Command, Deactivate
from tests.support.weir_command import Weir

RULE = """\
[[accounts]]
id = "acme"
[[rules]]
id = "cap"
trigger = "data_usage_cycle"
threshold = "1 GB"
actions = [{ sequence = 1, type = "suspend" }]
[[limits]]
id = "cut"
kind = "hard_cut"
"""
NOW_US = int(dt.datetime(2026, 10, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000


def command(data: Path, *commands: Command) -> None:
    """Take commands."""
    with Embedded.open(data, write=True) as driver:
        driver.command(list(commands), NOW_US)
        driver.acknowledge()


def test_an_active_rule_is_refused_with_another_content(tmp_path: Path, weir: Weir) -> None:
    """The same content may come again; another one ends with status 2 and says how to go on."""
    data, path = tmp_path / "data", tmp_path / "rules.toml"
    apply = ("--data", data, "apply", path)
    path.write_text(RULE)
    applied = weir(*apply)
    assert (0, True) == (applied.status, "applied 1 accounts, 2 rules" in applied.out)
    command(data, Activate(rule="cap"), Activate(rule="limit.hard_cut.cut"))
    assert 0 == weir(*apply).status
    path.write_text(RULE.replace("1 GB", "2 GB").replace('kind = "hard_cut"', 'kind = "hard_cut"\nby = ["system"]'))
    refused = weir(*apply)
    assert 2 == refused.status
    for line, rule in ((4, "cap"), (9, "limit.hard_cut.cut")):
        assert f"rules.toml:{line}: " in refused.err
        assert f"weir rules deactivate {rule} first" in refused.err
    command(data, Deactivate(rule="cap"), Deactivate(rule="limit.hard_cut.cut"))
    assert 0 == weir(*apply).status
