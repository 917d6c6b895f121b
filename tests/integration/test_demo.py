"""`weir demo`: the whole journey on a small made-up fleet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.output import console
from tests.support.weir_command import Weir

SMALL = ("--cards", 600, "--records", 15_000)
_FOLLOWED = {"suspended", "resumed"}


def test_demo_shows_rules_acting(weir: Weir, tmp_path: Path) -> None:
    """L1, L10, L12: rules of the examples and of the fleet fire, and every action of theirs is delivered once."""
    shown = weir("demo", "--dir", tmp_path / "demo", *SMALL, "--json").json
    fired = {one["rule"]: one for one in shown["rules"]}
    assert {"limit.overage_suspension.fleet-single", "limit.overage_suspension.eu-single", "data-spike"} <= fired.keys()
    assert shown["active_rules"] > len(fired)
    lines = [json.loads(line) for line in Path(shown["actions"]).read_text().splitlines()]
    assert shown["delivered"] == len(lines) == len({one["id"] for one in lines})
    assert len(lines) == sum(sum(one["actions"].values()) for one in fired.values()) == shown["total"]["actions"]
    overage = fired["limit.overage_suspension.fleet-single"]
    assert overage["actions"]["suspend"] == overage["actions"]["resume"] == overage["sims"] > 0


def test_demo_answers_suspensions_and_resumes_the_cards(weir: Weir, tmp_path: Path) -> None:
    """L1, L10: what the network answers is done, and the card is activated again as the next cycle begins."""
    shown = weir("demo", "--dir", tmp_path / "demo", *SMALL, "--json").json
    assert 3 == len(shown["answered"])
    for iccid in shown["answered"]:
        card = weir("--data", shown["data"], "card", iccid, "--json").json
        assert "activated" == card["status"]
        listed = weir("--data", shown["data"], "rules", "actions", "--sim", iccid, "--state", "done", "--json").json
        assert {row["outcome"] for row in listed["rows"] if row["outcome"]} == _FOLLOWED


def test_demo_fits_a_terminal_and_replaces_only_a_demo(
    weir: Weir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All but paths and commands fit 100 columns; a demo is replaced by the next one, a folder of others is refused."""
    monkeypatch.setattr(console.out, "_width", 100)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        lines = weir("demo", *SMALL).out.splitlines()
    assert [] == [line for line in lines if len(line) > 100 and "weir" not in line]
    assert any("rules firings --sim" in line for line in lines)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    refused = weir("demo", "--dir", "mine", *SMALL)
    assert (2, "") == (refused.status, refused.out)
    assert "not of a demo" in refused.err
