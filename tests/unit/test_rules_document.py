"""docs/rules.md says what the triggers, the schemas and the checks say, and its examples load."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from pipeline.catalogue import load_catalogue
from pipeline.catalogue.command_files import read_commands
from pipeline.catalogue.rule_actions import PLACEHOLDERS, TAKES
from rating.rules.limits import rules_of
from rating.rules.select.filters import LEGAL
from rating.rules.triggers import TRIGGERS
from schemas.cards import Catalogue
from schemas.choices import TriggerName
from schemas.commands import Command
from schemas.rules import Action, Filter, Limit, LimitKind, Measure, Repetition, Rule

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
EXAMPLES = [*sorted((ROOT / "examples" / "catalogue").glob("*.toml")), ROOT / "examples" / "feeds" / "cards.csv"]


def section(heading: str) -> str:
    """The text below a heading that begins so, up to the next one of its level or above."""
    found = re.search(rf"^(##+) {re.escape(heading)}.*?\n(.*?)(?=^##? |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[2]


def rows(text: str) -> dict[str, list[str]]:
    """The rows of the tables of a text by their first cell, without its quotes."""
    found = re.findall(r"^\| (`[^|]*) \|(.*)\|$", text, re.MULTILINE)
    return {name.strip("`"): [cell.strip() for cell in cells.split("|")] for name, cells in found}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """All TOML of the page, loaded on top of the example catalogue."""
    path = tmp_path_factory.mktemp("rules") / "rules.toml"
    path.write_text("\n".join(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)), encoding="utf-8")
    return load_catalogue([path], load_catalogue(EXAMPLES))


def test_every_trigger_has_an_example(loaded: Catalogue) -> None:
    """The examples are good, and show each trigger (L7, L8) and each kind of limit (L1 to L5)."""
    assert set(get_args(TriggerName)) == {rule.trigger for rule in loaded.rules}
    assert set(get_args(LimitKind)) == {rule.nearest for rule in loaded.rules if rule.id.startswith("limit.")}


def test_every_action_has_an_example(loaded: Catalogue) -> None:
    """The examples ask for suspensions, notices, tags and whatever else Weir's own record or the outbox takes."""
    asked = {action.type for rule in loaded.rules for action in rule.actions}
    assert {"suspend", "notify", "webhook", "add_tag", "set_attribute"} <= asked


def test_triggers() -> None:
    """Each trigger has one row, which has its condition, unit, window and fields; the headings count them."""
    text = section("Triggers")
    assert f"There are {len(TRIGGERS)}." in text
    assert len(TRIGGERS) == sum(int(count) for count in re.findall(r"^### .*?: (\d+) trigger", text, re.MULTILINE))
    assert sorted(TRIGGERS) == sorted(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    windows = {"cycle": "cycle", "day": "24 h", None: "–"}
    said = rows(text)
    for name, trigger in TRIGGERS.items():
        fields = ", ".join(f"`{field}`" for field in trigger.fields) or "–"
        assert [trigger.text, trigger.unit or "–", windows[trigger.window], fields] == said[name], name


@pytest.mark.parametrize("document", [Rule, Filter, Action, Limit], ids=lambda document: document.__name__)
def test_fields(document: type[msgspec.Struct]) -> None:
    """Each field of each table has its row, under the heading of its struct."""
    (heading,) = re.findall(rf"^## (.*?\(`{document.__name__}`\))$", PAGE, re.MULTILINE)
    tables = re.findall(r"^\| field \|.*?(?=\n\n|\Z)", section(heading), re.DOTALL | re.MULTILINE)
    assert 1 == len(tables)
    assert {field.encode_name for field in msgspec.structs.fields(document)} == rows(tables[0]).keys()


def test_filters_by_context() -> None:
    """The table of filters says which of them rules of root and of accounts may have (L9)."""
    said = {name: cells for name, cells in rows(section("Filters")).items() if name in LEGAL}
    assert LEGAL.keys() == said.keys()
    for name, cells in said.items():
        allowed = tuple(who for who, cell in zip(("root", "account"), cells[1:], strict=True) if cell == "yes")
        assert LEGAL[name] == allowed, name


def test_actions_and_their_fields() -> None:
    """The table of actions names the fields of each type, and the placeholders of texts (L10)."""
    text = section("Actions")
    said = rows(text)
    for name, takes in TAKES.items():
        fields = ", ".join(f"`{field}`" for field in takes.required + takes.optional) or "none"
        assert fields == said[name][1]
    assert all(f"`{{{name}}}`" in text for name in PLACEHOLDERS)


def test_words() -> None:
    """Every measure, repetition and kind of limit has its row."""
    assert set(get_args(Measure)) == rows(section("Thresholds")).keys()
    assert set(get_args(Repetition)) == rows(section("Repetition")).keys()
    assert set(get_args(LimitKind)) <= rows(section("Limits and alerts")).keys()


def test_commands(tmp_path: Path) -> None:
    """The commands of the page are commands, and each type has its row."""
    text = section("Activating")
    (lines,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "commands.ndjson"
    path.write_text(lines, encoding="utf-8")
    assert len(lines.splitlines()) == len(read_commands([path]))
    kinds: tuple[Any, ...] = get_args(Command)
    named = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (.*?) \|", text, re.MULTILINE)))
    assert {str(kind.__struct_config__.tag) for kind in kinds} == set(named)
    activated = {json.loads(line).get("rule") for line in lines.splitlines()} - {None}
    limit = Limit(id="everybody", kind="overage_suspension", margin=0)
    assert rules_of(limit)[0].id in activated
