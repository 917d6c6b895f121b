"""Every value that an option or argument takes: outside a fixed set, or unknown to the catalogue, it is refused.

Each command is walked. A parameter that takes any text must be in REFUSED with a value that its command refuses, or in
FREE with the reason why any text is right. So a new option that quietly gives an empty list fails here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from jobs.cli.app import COMMANDS, load_command
from rating.rules.triggers import TRIGGERS
from schemas.choices import REASONS, ActionState, RejectReason, TriggerName
from tests.integration.test_cli import files, loaded
from tests.support.weir_command import Weir

__all__ = ["files", "loaded"]  # fixtures

# What a command needs beside the parameter that is tested.
NEEDS: dict[str, tuple[str, ...]] = {
    "apply": ("catalogue.toml",),
    "ingest": ("--feed", "plain", "usage.csv"),
    "report": ("--cycle", "2026-10"),
    "card": ("89490000000000000011",),
    "pool": ("fleet",),
    "explain": ("b1",),
    "rejected replay": ("usage.csv",),
    "command": ("commands.ndjson",),
    "rules activate": ("cap",),
    "rules deactivate": ("cap",),
    "feeds check": ("usage.csv",),
    "feed": ("plain", "usage.csv"),
    "send apply": ("catalogue.toml",),
    "send command": ("commands.ndjson",),
    "send activate": ("cap",),
    "send deactivate": ("cap",),
    "pack": ("plain", "--from", "records"),
    "rerate": ("--cycle", "2026-10"),
}
ACCOUNT = "found account 'nosuch'; expected an account: one of coast, rhine"
FEED = "expected one of "
# (command, parameter): what is said of the value "nosuch".
REFUSED: dict[tuple[str, str], str] = {
    ("ingest", "--feed"): FEED,
    ("report", "--cycle"): "'nosuch' is not a billing cycle; write 2026-10",
    ("rerate", "--cycle"): "'nosuch' is not a billing cycle; write 2026-10",
    ("rerate", "--plan"): "found no plan 'nosuch'; expected the id of a plan",
    ("rerate", "--account"): "found no account 'nosuch'; expected the id of an account",
    ("report", "--account"): ACCOUNT,
    ("cards", "--account"): ACCOUNT,
    ("cards", "--plan"): "found plan 'nosuch'; expected a plan: one of shared, solo",
    ("cards", "--pool"): "found pool 'nosuch'; expected a pool: one of fleet",
    ("card", "iccid"): "no card with ICCID, IMSI or MSISDN 'nosuch'",
    ("pools", "--account"): ACCOUNT,
    ("pools", "--cycle"): "expected a cycle that the state has: 2026-10",
    ("pool", "pool_id"): "found pool 'nosuch'; expected a pool: one of fleet",
    ("explain", "key"): "found no record with key 'nosuch'",
    ("explain", "--feed"): "found no record of feed nosuch with key 'b1'",
    ("sql", "query"): "the query cannot be read",
    ("rejected list", "--feed"): "found feed 'nosuch'; expected a feed: one of ",
    ("rejected export", "--feed"): "found feed 'nosuch'; expected a feed: one of ",
    ("rules list", "--owner"): "found account 'nosuch'; expected an account: one of coast, rhine, root",
    ("rules show", "rule_id"): "found rule 'nosuch'; expected a rule",
    ("rules activate", "ids"): "found rule 'nosuch'; expected a rule",
    ("rules deactivate", "ids"): "found rule 'nosuch'; expected a rule",
    ("rules firings", "--rule"): "found rule 'nosuch'; expected a rule",
    ("rules firings", "--sim"): "no card with ICCID 'nosuch'",
    ("rules firings", "--since"): "--since: found 'nosuch'; expected an ISO 8601 time",
    ("rules actions", "--rule"): "found rule 'nosuch'; expected a rule",
    ("rules actions", "--sim"): "no card with ICCID 'nosuch'",
    ("rules actions", "--since"): "--since: found 'nosuch'; expected an ISO 8601 time",
    ("feeds show", "feed"): FEED,
    ("feeds check", "feed"): FEED,
    ("outbox retry", "action_ids"): "found nosuch, no dead letter",
    ("feed", "feed"): FEED,
    ("pack", "feed"): FEED,
    ("pack", "--partitions"): "--partitions: found 'nosuch'; expected numbers and ranges",
}
FREE: dict[tuple[str, str], str] = {
    ("cards", "--tag"): "tags are whatever cards carry; none is declared",
    ("cards", "--search"): "any text",
    ("rerate", "--because"): "any text",
    ("send activate", "ids"): "the workers know the rules, and refuse; tests/integration/test_send.py",
    ("send deactivate", "ids"): "the workers know the rules, and refuse; tests/integration/test_send.py",
    ("worker", "--history"): "a directory, which is made",
    ("pack", "--from"): "a topic, which Kafka knows",
    ("pack", "--csv-header"): "any line",
    ("pack", "--group"): "a group, which is made",
    ("clickhouse sql", "query"): "ClickHouse reads it",
}
FIXED = re.compile(r"'([^']*)'")


def _parameters(name: str, command: Any) -> Iterator[tuple[str, str, Any]]:
    """(command, the name of the parameter as it is typed, the parameter) of a command and those below it."""
    for word, below in getattr(command, "commands", {}).items():
        yield from _parameters(f"{name} {word}", below)
    for one in command.params:
        yield name, one.opts[0] if one.param_type_name == "option" else one.name, one


ALL = [found for name in COMMANDS for found in _parameters(name, load_command(name))]
CHOICES = [(command, name, one.type.choices) for command, name, one in ALL if hasattr(one.type, "choices")]
TEXTS = [(command, name) for command, name, one in ALL if one.type.name in ("text", "str")]
TIMES = [(command, name) for command, name in TEXTS if name == "--as-of"]


def test_each_parameter_that_takes_text_is_accounted_for() -> None:
    """Text is checked by the command, or free for a reason that is written down."""
    checked = {*REFUSED, *FREE, *TIMES}
    assert checked == set(TEXTS)
    assert len(checked) == len(REFUSED) + len(FREE) + len(TIMES)


def _refused(weir: Weir, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str) -> str:
    """What a command says of the value "nosuch"; it ends with 2 and prints nothing."""
    monkeypatch.chdir(folder)
    (folder / "commands.ndjson").write_text('{"type": "activate", "rule": "cap"}\n')
    needs = list(NEEDS.get(command, ()))
    if name in needs:
        del needs[needs.index(name) : needs.index(name) + 2]
    if name.startswith("--"):
        words = [*needs, name, "nosuch"]
    else:  # the first of the arguments, or the one before them
        words = ["nosuch", *needs[1:]] if command != "feeds check" else ["nosuch", *needs]
    result = weir(*command.split(), *words)
    assert (2, "") == (result.status, result.out), words
    return " ".join(result.err.split())


@pytest.mark.parametrize(
    ("command", "name", "legal"), CHOICES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_value_outside_a_fixed_set_is_refused(
    weir: Weir,
    loaded: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    name: str,
    legal: tuple[str, ...],
) -> None:
    """The message names the option and every legal value."""
    said = _refused(weir, loaded, monkeypatch, command, name)
    assert f"Invalid value for '{name}': 'nosuch' is not one of" in said
    assert {"nosuch", *legal} <= set(FIXED.findall(said))


@pytest.mark.parametrize(("command", "name"), REFUSED)
def test_an_unknown_name_is_refused(
    weir: Weir,
    loaded: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    name: str,
) -> None:
    """A name that the catalogue, the history or Weir does not know gives no empty list."""
    assert REFUSED[command, name] in _refused(weir, loaded, monkeypatch, command, name)


@pytest.mark.parametrize(("command", "name"), TIMES)
def test_a_time_that_is_none_is_refused(
    weir: Weir,
    loaded: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    name: str,
) -> None:
    """The message names the option and shows a time."""
    said = _refused(weir, loaded, monkeypatch, command, name)
    assert f"{name}: found 'nosuch'; expected an ISO 8601 time such as 2026-11-01T00:00:00Z" in said


def test_a_near_miss_is_suggested(weir: Weir, loaded: Path) -> None:
    """A slip of the pen is named with what was probably meant."""
    for words, meant in (
        (("cards", "--plan", "sollo"), "solo"),
        (("cards", "--pool", "flet"), "fleet"),
        (("cards", "--account", "rhin"), "rhine"),
        (("pool", "fleets"), "fleet"),
        (("rejected", "list", "--feed", "plane"), "plain"),
    ):
        assert f"did you mean {meant}?" in weir(*words).err


def test_a_status_in_a_command_is_one_of_the_fixed_set(weir: Weir, loaded: Path) -> None:
    """A file of commands gives no card a status that does not exist."""
    given = loaded / "commands.ndjson"
    given.write_text('{"type": "status_changed", "iccid": "89490000000000000011", "status": "foo"}\n')
    for words in (("command", given), ("send", "command", given)):
        refused = weir(*words)
        assert 2 == refused.status
        assert 'status: found "foo"; expected one of activated, cancelled, deactivated' in " ".join(refused.err.split())


def test_sets_are_those_of_what_makes_the_values() -> None:
    """The fixed sets and the tables beside them name the same values."""
    assert get_args(RejectReason) == tuple(REASONS)
    assert set(get_args(TriggerName)) == set(TRIGGERS)
    views = (Path(__file__).parents[2] / "jobs" / "show" / "views.sql").read_text()
    case = views[views.index("WHEN latest.outcome") : views.index("AS state")]
    assert set(get_args(ActionState)) == set(re.findall(r"(?:THEN|ELSE) '(\w+)'", case))
