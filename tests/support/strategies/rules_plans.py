"""The plans of random fleets."""

from __future__ import annotations

import datetime as dt

import msgspec

from schemas.plans import Cycle, Increment, Plan, PlanVersion, Rate, TestAllowance
from tests.support.fold_case import SINCE

_TEST = TestAllowance(amount=2500, months=1)


def plans() -> tuple[Plan, ...]:
    """Return plans with and without zones, with rates by direction, with another cycle, and with two versions."""

    # Without increments, because the reference model counts them one step after the other.
    whole = Increment(round="none")

    def rates(data: int, zoned: bool, split: bool = False, prorate: bool = False) -> tuple[Rate, ...]:
        found = [Rate(service="data", allowance=data, prorate_allowance=prorate)]
        if zoned:
            found = [
                Rate(service="data", zone="home", allowance=data, prorate_allowance=prorate),
                Rate(service="data", zone="world", allowance=data // 2),
            ]
        if split:
            found = [
                Rate(service="data", direction="up", allowance=data // 4),
                Rate(service="data", direction="down", allowance=data // 2),
                Rate(service="data", allowance=data // 4),
            ]
        calls = [Rate(service="sms", allowance=60), Rate(service="voice", allowance=4000)]
        if not zoned:
            calls = [
                Rate(service="sms", direction="mo", allowance=30),
                Rate(service="sms", direction="mt", allowance=20),
                Rate(service="voice", allowance=3000),
            ]
        return tuple(msgspec.structs.replace(rate, increment=whole) for rate in (*found, *calls))

    def plan(name: str, *versions: tuple[Rate, ...], kind: str = "single", **more: object) -> Plan:
        zoned = any(rate.zone for rate in versions[0])
        made = tuple(
            PlanVersion(
                version=number,
                effective=SINCE if number == 1 else dt.date(2026, 10, 8),
                zones="z" if zoned or name == "p4" else None,
                default_zone="world" if zoned or name == "p4" else None,
                rates=rates_,
                test=_TEST if name == "p0" else None,
            )
            for number, rates_ in enumerate(versions, 1)
        )
        return Plan(id=name, currency="EUR", versions=made, type=kind, **more)  # type: ignore[arg-type]

    return (
        plan("p0", rates(20_000, zoned=True), kind="dynamic"),
        plan("p1", rates(8_000, zoned=True), rates(30_000, zoned=True, prorate=True), kind="same_tier", term_months=2),
        plan("p2", rates(12_000, zoned=False, split=True)),
        plan("p3", rates(16_000, zoned=True, prorate=True), cycle=Cycle(anchor_day=15)),
        plan("p4", rates(0, zoned=False), kind="static", term_months=1),
        plan("p5", rates(10_000, zoned=True), entity="device"),
    )
