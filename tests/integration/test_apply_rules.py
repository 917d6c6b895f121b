"""`weir apply` and rules that are active: they stay as they are until they are stopped (L6)."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import pytest

from jobs.cli import app as cli
from pipeline.embedded.driver import Embedded
from schemas.commands import Activate, Command, Deactivate

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


def weir(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit status of a command line."""
    monkeypatch.setattr(sys, "argv", ["weir", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_an_active_rule_is_refused_with_another_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same content may come again; another one ends with status 2 and says how to go on."""
    data, path = tmp_path / "data", tmp_path / "rules.toml"
    apply = ("--data", data, "apply", path)
    path.write_text(RULE)
    assert 0 == weir(monkeypatch, *apply)
    assert "applied 1 accounts, 2 rules" in capsys.readouterr().out
    command(data, Activate(rule="cap"), Activate(rule="limit.hard_cut.cut"))
    assert 0 == weir(monkeypatch, *apply)
    path.write_text(RULE.replace("1 GB", "2 GB").replace('kind = "hard_cut"', 'kind = "hard_cut"\nby = ["system"]'))
    assert 2 == weir(monkeypatch, *apply)
    said = capsys.readouterr().err
    for line, rule in ((4, "cap"), (9, "limit.hard_cut.cut")):
        assert f"rules.toml:{line}: " in said
        assert f"weir rules deactivate {rule} first" in said
    command(data, Deactivate(rule="cap"), Deactivate(rule="limit.hard_cut.cut"))
    assert 0 == weir(monkeypatch, *apply)
