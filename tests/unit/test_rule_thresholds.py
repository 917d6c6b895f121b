"""Thresholds of rules: how they are read, and the limits that follow (L1 to L4, L8, L11)."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rating.errors import RuleError
from rating.rules.thresholds import NEVER, Limits, parse_threshold
from rating.rules.triggers import TRIGGERS
from schemas.rules import Action, Rule

GB = 1 << 30
MB = 1 << 20
NOTIFY = (Action(sequence=1, type="notify", by=("system",)),)


def rule(trigger: Any = "data_usage_cycle", **fields: Any) -> Rule:
    """A rule that tells somebody."""
    return Rule(**({"id": "r", "trigger": trigger, "actions": NOTIFY} | fields))


def limits(one: Rule, *sizes: int, addons: list[int] | None = None) -> list[list[int]]:
    """The limits of a rule by level, for each size."""
    size = np.array(sizes, np.int64) if sizes else None
    return Limits([one]).of(0, size, None if addons is None else np.array(addons)).tolist()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"threshold": "1 GB"}, [GB]),
        ({"threshold": "1 GB", "data_base": 1000}, [10**9]),
        ({"threshold": ("1 KB", "1.5 KB", 2000)}, [1024, 1536, 2000]),
        ({"threshold": 5, "at": "reached"}, [4]),
        ({"threshold": 0, "at": "reached"}, [-1]),
        ({"trigger": "sms_mo_count_24h", "threshold": "20 sms"}, [20]),
        ({"trigger": "voice_mt_duration_zone_cycle", "threshold": ("1 min", "5 min")}, [60, 300]),
        ({"trigger": "data_session_count_24h", "threshold": ("3", 7)}, [3, 7]),
        ({"trigger": "pool_data_usage", "threshold": 5}, [4]),
        ({"trigger": "pool_data_usage", "threshold": 5, "at": "exceeded"}, [5]),
        ({"trigger": "home_data_allowance", "threshold": 5}, [4]),
        ({"trigger": "term_ends", "threshold": (30, 7, 0)}, [-31, -8, -1]),
    ],
)
def test_limits_without_a_size(fields: dict[str, Any], expected: list[int]) -> None:
    """Usage exceeds its threshold, pools and the home allowance reach it, unless the rule says otherwise (L11)."""
    one = rule(**fields)
    assert [[limit] for limit in expected] == limits(one)
    assert "" == Limits([one]).needs_size(0)


@pytest.mark.parametrize(
    ("fields", "needs", "sizes", "expected"),
    [
        ({"threshold": ("80 %", "100%")}, "quota", (1000, 1001, 3), [[800, 800, 2], [1000, 1001, 3]]),
        ({"threshold": "80%", "at": "reached"}, "quota", (1000, 1001, 3), [[799, 800, 2]]),
        ({"threshold": "0.5 %"}, "quota", (1000, 1199, 1200), [[5, 5, 6]]),
        ({"threshold": "0.5 %", "at": "reached"}, "quota", (1000, 1199, 1200), [[4, 5, 5]]),
        ({"trigger": "pool_sms_mo_usage", "threshold": "150 %"}, "pool", (3, 4, 0), [[4, 5, -1]]),
        ({"trigger": "pool_sms_mo_usage", "threshold": "150 %", "at": "exceeded"}, "pool", (3, 4, 0), [[4, 6, 0]]),
        ({"trigger": "home_data_allowance", "threshold": "90 %"}, "home", (10, 0), [[8, NEVER]]),
        ({"trigger": "home_data_allowance", "threshold": 3, "measure": "remaining"}, "home", (10, 0), [[6, NEVER]]),
        ({"threshold": "80 %"}, "quota", (0,), [[NEVER]]),
        ({"threshold": "10 MB", "measure": "over"}, "covered", (30 * MB, 0), [[40 * MB, 10 * MB]]),
        ({"threshold": 10, "measure": "over", "at": "reached"}, "covered", (30, 0), [[39, 9]]),
        ({"threshold": "10 %", "measure": "over"}, "covered", (30, 35, 0), [[33, 38, NEVER]]),
        ({"threshold": (20, 5), "measure": "remaining"}, "quota", (100, 10, 0), [[79, -11, NEVER], [94, 4, NEVER]]),
        ({"threshold": 20, "measure": "remaining", "at": "exceeded"}, "quota", (100,), [[80]]),
        ({"threshold": ("30 %", "0 %"), "measure": "remaining"}, "quota", (10, 11), [[6, 7], [9, 10]]),
        ({"threshold": "30 %", "measure": "remaining", "at": "exceeded"}, "quota", (10, 11), [[7, 7]]),
        ({"trigger": "price_plan_expired"}, "quota", (10, 0), [[9, NEVER]]),
        ({"trigger": "price_plan_expired", "by": "data"}, "quota", (10,), [[9]]),
    ],
)  # fmt: skip
def test_limits_that_count_from_a_size(
    fields: dict[str, Any], needs: str, sizes: tuple[int, ...], expected: list[list[int]]
) -> None:
    """Shares are exact and rounded to where whole units meet them; quotas of 0 are not watched, pools of 0 are."""
    one = rule(**fields)
    assert needs == Limits([one]).needs_size(0)
    assert expected == limits(one, *sizes)
    with pytest.raises(ValueError, match=needs):
        limits(one)


def test_hard_cuts_go_by_the_tier_of_the_plan() -> None:
    """30 to 300 MB are cut at 3 GB, 500 MB at 4, 1 and 2 GB at 5, 4 GB at 8; add-ons move the cut; reached (L2)."""
    one = rule(measure="hard_cut")
    tiers = [0, 30 * MB, 300 * MB, 500 * MB, GB, 2 * GB, 4 * GB, 5 * GB]
    cuts = [NEVER, *(cut * GB - 1 for cut in (3, 3, 4, 5, 5, 8)), NEVER]
    assert "tier" == Limits([one]).needs_size(0)
    assert [cuts] == limits(one, *tiers)
    assert [[NEVER, 3 * GB + 9, NEVER]] == limits(one, 0, MB, 9 * GB, addons=[10, 10, 10])
    assert [[3 * GB]] == limits(rule(measure="hard_cut", at="exceeded"), MB)


def test_rules_that_compare_nothing_have_no_levels() -> None:
    """Events, an expiry by time alone, and a limit that is off (L1)."""
    off = rule(nearest="alert", actions=(), measure="remaining")
    for one in (rule("imei_changed"), rule("price_plan_expired", by="time"), off):
        tried = Limits([one])
        assert "" == tried.needs_size(0)
        assert (0, 1) == tried.of(0, None).shape


def units(one: Rule, level: list[int], sizes: list[int] | None = None, addons: list[int] | None = None) -> list[int]:
    """The threshold of the highest level that holds."""
    size = None if sizes is None else np.array(sizes)
    return Limits([one]).units(0, np.array(level), size, None if addons is None else np.array(addons)).tolist()


def test_the_threshold_of_a_firing_is_in_units() -> None:
    """What had to be exceeded or reached by the highest level that holds; days as they are written (L12)."""
    assert [20, 10, 20, 10] == units(rule(threshold=(10, 20)), [2, 1, 2, 0])
    assert [10, 20] == units(rule(threshold=(10, 20), at="reached"), [1, 2])
    assert [20, 10] == units(rule(threshold=(10, 20)), [2, 1], [1, 1])
    assert [2, 3] == units(rule(threshold=("80 %", "100 %")), [1, 2], [3, 3])
    assert [3] == units(rule(threshold="80 %", at="reached"), [1], [3])
    assert [80, 95] == units(rule(threshold=(20, 5), measure="remaining"), [1, 2], [100, 100])
    assert [3 * GB + 1, NEVER] == units(rule(measure="hard_cut"), [1, 1], [MB, 9 * GB], [1, 1])
    assert [7, 30] == units(rule("term_ends", threshold=(30, 7)), [2, 1])
    assert [30, 7] == Limits([rule("term_ends", threshold=(30, 7))]).days(0).tolist()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "threshold: found 0 levels; expected 1 to 16 levels"),
        ({"threshold": tuple(range(1, 18))}, "threshold: found 17 levels; expected 1 to 16 levels"),
        ({"threshold": "much"}, "threshold: found 'much'; expected a size such as"),
        ({"threshold": ("1 GB", "1 sms")}, "threshold[1]: found '1 sms'; expected a size such as"),
        ({"threshold": "80 %%"}, "threshold: found '80 %%'; expected percent such as \"80 %\""),
        ({"threshold": "-1 %"}, "threshold: found '-1 %'; expected percent such as"),
        ({"threshold": "1000000.1 %"}, "threshold: found '1000000.1 %'; expected at most 1000000 %"),
        ({"threshold": "101 %", "measure": "remaining"}, "threshold: found '101 %'; expected at most 100 %"),
        ({"threshold": ("80 %", "1 GB")}, "threshold[1]: found '1 GB'; expected percent, as in the first"),
        ({"threshold": ("1 GB", "80 %")}, "threshold[1]: found '80 %'; expected no percent, as in the first"),
        ({"threshold": ("2 GB", "1 GB")}, "threshold[1]: found '1 GB'; expected more than the level before"),
        ({"threshold": ("1 GB", "1024 MB")}, "threshold[1]: found '1024 MB'; expected more than the level before"),
        ({"threshold": ("20 %", "30 %"), "measure": "remaining"}, "threshold[1]: found '30 %'; expected less than"),
        ({"threshold": (5, 5), "measure": "remaining"}, "threshold[1]: found 5; expected less than"),
        ({"threshold": (9, 5), "measure": "over"}, "threshold[1]: found 5; expected more than"),
        ({"threshold": 1, "measure": "hard_cut"}, "threshold: found 1; expected none: a hard cut takes no threshold"),
        ({"trigger": "imei_changed", "threshold": 1}, "threshold: found 1; expected none: imei_changed takes no"),
        ({"trigger": "data_usage_24h", "threshold": "8 %"}, "threshold: found '8 %'; expected an amount in bytes: "),
        ({"trigger": "data_usage_24h", "threshold": 1, "measure": "over"}, "measure: found 'over'; expected used for"),
        ({"trigger": "sms_mo_count_cycle", "measure": "hard_cut"}, "measure: found 'hard_cut'; expected used or over"),
        ({"trigger": "imei_changed", "measure": "over"}, "measure: found 'over'; expected used for imei_changed"),
        ({"trigger": "pool_data_usage", "threshold": 1, "measure": "remaining"}, "measure: found 'remaining'; "),
        ({"trigger": "term_ends", "threshold": (7, 30)}, "threshold[1]: found 30; expected less than the level before"),
        ({"trigger": "term_ends", "threshold": "7 days"}, "threshold: found '7 days'; expected a whole number of days"),
        ({"trigger": "term_ends", "threshold": -1}, "threshold: found -1; expected a whole number of days"),
        ({"trigger": "data_session_count_24h", "threshold": 1.5}, "threshold: found 1.5; expected a whole number of "),
        ({"trigger": "data_session_count_24h", "threshold": True}, "threshold: found True; expected a whole number of"),
        ({"nearest": "n"}, "threshold: found 0 levels; expected"),
        ({"actions": ()}, "threshold: found 0 levels; expected"),
    ],
)  # fmt: skip
def test_bad_thresholds_are_refused(fields: dict[str, Any], said: str) -> None:
    """The error names the rule, the field, what was found and what would be right."""
    one = rule(**fields)
    with pytest.raises(RuleError) as caught:
        parse_threshold(one, TRIGGERS[one.trigger])
    assert str(caught.value).startswith(f"rule r, {said}")


percents = st.tuples(st.integers(0, 999_999), st.integers(0, 10**9 - 1)).map(lambda pair: f"{pair[0]}.{pair[1]:09d} %")
sizes_of_any_kind = st.lists(st.integers(0, 10**18) | st.integers(0, 2000), min_size=1, max_size=5)


@given(
    text=percents | st.integers(0, 100).map(lambda number: f"{number} %") | st.integers(0, 10**18),
    measure=st.sampled_from(["used", "over", "remaining"]),
    at=st.sampled_from([None, "reached", "exceeded"]),
    sizes=sizes_of_any_kind,
)
def test_a_value_is_above_its_limit_where_it_meets_the_threshold(
    text: str | int, measure: Any, at: Any, sizes: list[int]
) -> None:
    """For any share, size and measure the limit parts the values that meet the threshold from those that do not."""
    share = Fraction(text.removesuffix(" %")) / 100 if isinstance(text, str) else None
    if measure == "remaining" and share is not None and share > 1:
        return
    one = rule(threshold=text, measure=measure, at=at)
    reach = at == "reached" or (at is None and measure == "remaining")
    if measure == "used" and share is None:
        assert [[int(text) - reach]] == limits(one)
        return
    [found] = limits(one, *sizes)
    for size, limit in zip(sizes, found, strict=True):
        if size == 0 and (share is not None or measure == "remaining"):
            assert limit == NEVER
            continue
        part = Fraction(text) if share is None else size * share
        line = {"used": part, "over": size + part, "remaining": size - part}[measure]
        if limit == NEVER:
            assert line > 1 << 61
        else:
            assert limit == (math.ceil(line) - 1 if reach else math.floor(line))
