"""Rules and limits of any kind: either found to be wrong, or such that they can be evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalogue import load_catalogue
from rating.errors import CatalogueError, PlanError
from rating.rules.limits import rules_of
from rating.rules.thresholds import Limits
from schemas.cards import Catalogue
from schemas.rules import ActionType, Channel, FilterType, Limit, LimitKind, Measure, TriggerName
from tests.support.rule_files import BASE

NUMBERS = st.integers(-1, 10**6) | st.sampled_from([10**15, 10**18, 10**19, 10**30])
QUANTITIES = st.one_of(
    NUMBERS,
    st.builds(
        lambda number, point, unit: f"{number}{point}{unit}",
        NUMBERS,
        st.sampled_from(["", ".5", ".123456789", ".1234567891"]),
        st.sampled_from(["", "%", " %", " MB", "GB", " KiB", " s", " min", " sms", " days", "x"]),
    ),
    st.text(max_size=8),
)
LEVELS = st.lists(QUANTITIES, max_size=4)
TEXTS = st.sampled_from(["acme", "labs", "single", "together", "eu", "activated", "8988228066700000016", "", "x"])
ADDRESSES = st.lists(st.sampled_from(["a@b.example", "+4915112345678", "x"]), max_size=2)
CHANNELS = st.lists(st.sampled_from(get_args(Channel)), max_size=2)
FILTERS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(get_args(FilterType)), "values": st.lists(TEXTS, max_size=2)}, optional={"name": TEXTS}
    ),
    max_size=2,
)
ACTIONS = st.lists(
    st.fixed_dictionaries(
        {"sequence": st.integers(-1, 3), "type": st.sampled_from(get_args(ActionType))},
        optional={
            "until": st.sampled_from(["window_end", "recovered"]),
            "rate_bps": st.integers(0, 9),
            "plan": TEXTS,
            "tag": TEXTS,
            "by": CHANNELS,
            "to": ADDRESSES,
            "url": st.sampled_from(["https://a.example", "http://[", "x"]) | st.text(max_size=5),
        },
    ),
    max_size=2,
)
RULES = st.fixed_dictionaries(
    {"id": st.just("r"), "trigger": st.sampled_from(get_args(TriggerName))},
    optional={
        "threshold": QUANTITIES | LEVELS,
        "measure": st.sampled_from(get_args(Measure)),
        "at": st.sampled_from(["exceeded", "reached"]),
        "owner": TEXTS,
        "zone": TEXTS,
        "country": st.sampled_from(["DE", "x"]),
        "from": TEXTS,
        "sims": st.lists(TEXTS, max_size=1),
        "pools": st.lists(TEXTS, max_size=1),
        "nearest": TEXTS,
        "filters": FILTERS,
        "actions": ACTIONS,
    },
)
LIMITS = st.fixed_dictionaries(
    {"id": st.just("l"), "kind": st.sampled_from(get_args(LimitKind))},
    optional={
        "sims": st.lists(TEXTS, max_size=1),
        "plan": TEXTS,
        "account": TEXTS,
        "margin": QUANTITIES | st.just("off"),
        "levels": LEVELS,
        "by": CHANNELS,
        "to": ADDRESSES,
        "data_base": st.sampled_from([1000, 1024]),
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for files that one example writes over those of another."""
    return tmp_path_factory.mktemp("rules")


@pytest.fixture(scope="module")
def known(folder: Path) -> Catalogue:
    """Accounts, plans, pools and cards that rules may name."""
    (folder / "base.toml").write_text(BASE, encoding="utf-8")
    return load_catalogue([folder / "base.toml"])


def toml(value: Any) -> str:
    """A value as TOML writes it, in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("\x7f", "\\u007f")


@given(rule=RULES, limit=LIMITS)
def test_what_is_taken_can_be_evaluated(
    rule: dict[str, Any], limit: dict[str, Any], folder: Path, known: Catalogue
) -> None:
    """Each entry loads, and its thresholds compile, or it ends in findings and nothing else."""
    for table, entry in (("rules", rule), ("limits", limit)):
        text = f"[[{table}]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in entry.items())
        path = folder / "entry.toml"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            loaded = load_catalogue([path], known)
        except CatalogueError:
            continue
        Limits(loaded.rules)
        assert 1 == len(loaded.rules)


@given(
    kind=st.sampled_from(get_args(LimitKind)), margin=QUANTITIES, levels=LEVELS, data_base=st.sampled_from([1000, 1024])
)
def test_rules_of_limits_can_be_evaluated(kind: LimitKind, margin: Any, levels: list[Any], data_base: Any) -> None:
    """Whatever margin and levels are, they end in a PlanError or in thresholds that can be compiled."""
    limit = Limit(id="l", kind=kind, margin=margin, levels=tuple(levels), data_base=data_base)
    try:
        rules = rules_of(limit)
    except PlanError:
        return
    Limits(rules)
