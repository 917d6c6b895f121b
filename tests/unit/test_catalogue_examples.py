"""The example catalogue loads, and it and the reference show everything there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from pipeline.catalogue import load_catalogue
from rating.catalogue.rates import Book
from rating.catalogue.vocabulary import Vocabulary
from rating.rules.triggers import TRIGGERS
from schemas.cards import CARD_SCHEMA, Account, Addon, Catalogue, Pool
from schemas.plans import Plan, Price, ZoneSet

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / "examples" / "catalogue").glob("*.toml")), ROOT / "examples" / "feeds" / "cards.csv"]
REFERENCE = ROOT / "docs" / "catalogue.md"
DOCUMENTS = (Account, ZoneSet, Plan, Pool, Addon)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """The example catalogue with the cards of the example feeds."""
    return load_catalogue(FILES)


def test_the_example_loads(catalogue: Catalogue) -> None:
    """All example files are good together, and the plans compile to a rate book."""
    assert {"acme", "borealis"} <= {account.id for account in catalogue.accounts}
    assert {"eu-single-500", "eu-dynamic-100", "world-payg"} <= {plan.id for plan in catalogue.plans}
    assert len(catalogue.plans) == len(Book(catalogue, Vocabulary()).plan_cycle)


def test_the_example_shows_every_price_model(catalogue: Catalogue) -> None:
    """Each model of the plan language is priced by somewhere."""
    rates = [rate for plan in catalogue.plans for version in plan.versions for rate in version.rates]
    rates += [rate for pool in catalogue.pools for rate in pool.overage]
    (models,) = [field.type for field in msgspec.structs.fields(Price) if field.name == "model"]
    assert set(models.__args__) == {rate.price.model for rate in rates}


def test_the_example_shows_every_kind_of_pool_and_plan(catalogue: Catalogue) -> None:
    """All kinds of pools, all types of plans, and a device as the billing entity."""
    assert {"same_tier", "dynamic", "static"} == {pool.kind for pool in catalogue.pools}
    assert {"single", "same_tier", "dynamic", "static"} == {plan.type for plan in catalogue.plans}
    assert "device" in {plan.entity for plan in catalogue.plans}


def test_the_example_shows_rules_and_limits(catalogue: Catalogue) -> None:
    """Rules on usage, pools, events and silence; settings that stand before others; all parts of the language."""
    assert 8 <= len(catalogue.rules)
    assert {"usage", "pool", "change", "silence", "term"} <= {TRIGGERS[rule.trigger].kind for rule in catalogue.rules}
    assert {"suspend", "throttle", "notify", "webhook", "add_tag", "set_attribute"} <= {
        action.type for rule in catalogue.rules for action in rule.actions
    }
    assert any(rule.filters for rule in catalogue.rules)
    near = [rule for rule in catalogue.rules if rule.nearest == "overage_suspension"]
    assert [True, False] == [bool(rule.actions) for rule in near]


def _structs(kind: inspect.Type) -> Iterator[inspect.StructType]:
    if isinstance(kind, inspect.StructType):
        yield kind
        for field in kind.fields:
            yield from _structs(field.type)
    elif isinstance(kind, inspect.VarTupleType):
        yield from _structs(kind.item_type)
    elif isinstance(kind, inspect.UnionType):
        for member in kind.types:
            yield from _structs(member)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.__name__)
def test_the_reference_names_every_field(document: type[msgspec.Struct]) -> None:
    """Each field of each document has its row in a table of docs/catalogue.md, under the heading of its struct."""
    sections = dict(
        re.findall(r"^#+ .*?\(`(\w+)`\)\n(.*?)(?=^#|\Z)", REFERENCE.read_text(encoding="utf-8"), re.M | re.S)
    )
    for kind in _structs(inspect.type_info(document)):
        assert kind.cls.__name__ in sections
        rows = set(re.findall(r"^\| `(\w+)` \|", sections[kind.cls.__name__], re.M))
        assert {field.name for field in kind.fields} == rows, kind.cls.__name__


def test_the_reference_names_every_card_column() -> None:
    """Each column of a card list is in the table of docs/catalogue.md."""
    text = REFERENCE.read_text(encoding="utf-8")
    section = text[text.index("## Cards") :]
    assert set(CARD_SCHEMA) <= set(re.findall(r"^\| `(\w+)` \|", section, re.M))


def test_the_examples_of_the_reference_load(tmp_path: Path, catalogue: Catalogue) -> None:
    """The TOML blocks of docs/catalogue.md are one good catalogue together with the examples."""
    blocks = re.findall(r"```toml\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.S)
    path = tmp_path / "reference.toml"
    path.write_text("\n".join(blocks), encoding="utf-8")
    loaded = load_catalogue([path], catalogue)
    assert all((loaded.accounts, loaded.zones, loaded.plans, loaded.pools, loaded.addons, loaded.cards.height))
