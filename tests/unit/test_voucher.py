"""The plan voucher key (B2)."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rating.catalogue.voucher import Voucher, parse_voucher, voucher_contradictions
from rating.errors import PlanError
from schemas.plans import Plan, PlanVersion

_CARRIERS = st.text("ABCxyz019.-", min_size=1, max_size=8)
_LASTS = st.text("ABCxyz019._-", min_size=1, max_size=12) | st.sampled_from(["same_tier_x", "_", "a_same_tier_b"])


@st.composite
def vouchers(draw: st.DrawFn) -> Voucher:
    """Any voucher key that can be written."""
    type_ = draw(st.sampled_from(["single", "same_tier", "dynamic", "static"]))
    last = draw(_LASTS)
    pooled = type_ in ("dynamic", "static")
    return Voucher(
        carrier=draw(_CARRIERS),
        type=type_,  # type: ignore[arg-type]  # drawn from the legal ones
        cycle_months=draw(st.integers(1, 999)),
        version=draw(st.integers(0, 999_999_999)),
        tier=None if pooled else last,
        pool=last if pooled else None,
    )


@given(vouchers())
def test_parse_undoes_build(voucher: Voucher) -> None:
    """A key that was built is read back as its parts, and builds to the same text again."""
    key = str(voucher)
    assert voucher == parse_voucher(key)
    assert key == str(parse_voucher(key))


@given(st.text("ABCsingle_tiermdyn01Mv._-", max_size=40))
def test_any_text_is_a_key_or_a_plan_error(text: str) -> None:
    """Whatever the text, it is either the one spelling of a key or refused."""
    try:
        voucher = parse_voucher(text)
    except PlanError:
        return
    assert text == str(voucher)


def test_examples() -> None:
    """The two forms, with tier and with pool."""
    assert Voucher(carrier="CMCC", type="single", cycle_months=1, version=3, tier="500MB") == parse_voucher(
        "CMCC_single_1M_v3_500MB"
    )
    assert Voucher(carrier="CMCC", type="same_tier", cycle_months=12, version=1, tier="1_GB") == parse_voucher(
        "CMCC_same_tier_12M_v1_1_GB"
    )
    assert Voucher(carrier="CMCC", type="dynamic", cycle_months=1, version=1, pool="acme_eu") == parse_voucher(
        "CMCC_dynamic_1M_v1_acme_eu"
    )


@pytest.mark.parametrize(
    ("key", "part", "found", "expected"),
    [
        ("CM!C_single_1M_v3_500MB", "Carrier", "'CM!C'", "letters, digits"),
        ("_single_1M_v3_500MB", "Carrier", "''", "letters, digits"),
        ("CMCC_solo_1M_v3_500MB", "PlanType", "'solo'", "single, same_tier, dynamic, static"),
        ("CMCC_single_0M_v3_500MB", "BillingCycle", "'0M'", "such as 1M"),
        ("CMCC_single_monthly_v3_500MB", "BillingCycle", "'monthly'", "such as 1M"),
        ("CMCC_single_1M_3_500MB", "RateVersion", "'3'", "such as v3"),
        ("CMCC_single_1M_v03_500MB", "RateVersion", "'v03'", "such as v3"),
        ("CMCC_single_1M_v3_", "Tier", "''", "letters, digits"),
        ("CMCC_static_1M_v3_a b", "PoolID", "'a b'", "letters, digits"),
        ("CMCC_single_1M_v3", "fewer than 5 parts", "", "PoolID"),
        ("", "fewer than 5 parts", "", "PoolID"),
    ],
)
def test_an_error_names_the_part(key: str, part: str, found: str, expected: str) -> None:
    """The message says which part is wrong, what it is and what it should be."""
    with pytest.raises(PlanError) as caught:
        parse_voucher(key)
    message = str(caught.value)
    assert [True, True, True, True] == [text in message for text in (repr(key), part, found, expected)]


def test_a_part_that_does_not_belong_is_refused() -> None:
    """A pool in a single plan's key, or a tier in a pool's, cannot be built."""
    with pytest.raises(PlanError, match="PoolID"):
        Voucher(carrier="C", type="single", cycle_months=1, version=1, tier="t", pool="p")
    with pytest.raises(PlanError, match="Tier"):
        Voucher(carrier="C", type="static", cycle_months=1, version=1, tier="t")
    with pytest.raises(PlanError, match="Tier: found ''"):
        Voucher(carrier="C", type="single", cycle_months=1, version=1)
    with pytest.raises(PlanError, match="BillingCycle"):
        Voucher(carrier="C", type="single", cycle_months=0, version=1, tier="t")


def _plan(**fields: object) -> Plan:
    version = PlanVersion(version=3, effective=dt.date(2026, 1, 1), rates=())
    return Plan(**{"id": "p", "currency": "EUR", "versions": (version,), **fields})  # type: ignore[arg-type]


def test_contradictions_of_key_and_plan() -> None:
    """Each part that says another thing than the plan is named; a field that the plan leaves out agrees."""
    key = parse_voucher("CMCC_single_3M_v4_500MB")
    assert [] == voucher_contradictions(parse_voucher("CMCC_single_1M_v3_500MB"), _plan())
    assert [
        ("Carrier", "CMCC", "CUCC"),
        ("PlanType", "single", "static"),
        ("BillingCycle", "3M", "1M"),
        ("RateVersion", "v4", "v3"),
        ("Tier", "500MB", "1GB"),
    ] == voucher_contradictions(key, _plan(carrier="CUCC", type="static", tier="1GB"))
