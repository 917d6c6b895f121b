"""Scenarios of rules: what they ask for, and what comes back."""

from __future__ import annotations

import msgspec

from schemas.commands import (
    Activate,
    Blocked,
    Connected,
    Deactivate,
    Done,
    Failed,
    PlanChanged,
    Resumed,
    SessionStarted,
    SessionStopped,
    Suspended,
)
from tests.scenarios.stories import Answer, Apply, Say, Scenario, Tick, nov, oct_, plain, sim, used
from tests.scenarios.words import MB, TELL, account, card, rule, solo, table, told


def pools() -> Scenario:
    """L8, P7: a shared pool; a notification at half, each card throttled once the pool is empty; a card joins."""
    members = [sim(11, n) for n in (1, 2, 3)]
    toml = (
        account("pools") + solo("pools-plan").replace('id = "pools-plan"', 'id = "pools-plan"\ntype = "dynamic"')
        + table("pools", id='"pools-all"', account='"pools"', kind='"dynamic"', currency='"EUR"')
        + "".join(card(one, "pools", "pools-plan", pool='"pools-all"') for one in members)
        + rule("pools-half", "pools", "pool_data_usage", TELL, pools='["pools-all"]', threshold='["50 %", "80 %"]')
        + rule(
            "pools-full", "pools", "pool_data_usage", '{ sequence = 1, type = "throttle", rate_bps = 64000 }',
            pools='["pools-all"]', threshold='"100 %"',
        )
    )  # fmt: skip
    day = [
        plain(oct_(4 + n), *(used(f"pools-{n}-{k}", one, 4 * MB, oct_(4 + n, k)) for k, one in enumerate(members)))
        for n in range(4)
    ]
    return told(
        "pools", 11,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(1, 13), commands=(Activate(rule="pools-half"), Activate(rule="pools-full"))),
        *day[:2],
        Apply(at=oct_(5, 18), toml=card(sim(11, 4), "pools", "pools-plan", pool='"pools-all"')),
        *day[2:],
        plain(oct_(8), used("pools-last", sim(11, 4), MB, oct_(8))),
        rated=13, firings={"pools-half": 6, "pools-full": 4}, actions={"notify": 6, "throttle": 4},
    )  # fmt: skip


def days() -> Scenario:
    """L7, T1, T4: thresholds of the local day in Los Angeles, one notification a day; messages in rolling 24 hours."""
    one = sim(12)
    toml = (
        account("days", time_zone="America/Los_Angeles") + solo("days-plan") + card(one, "days", "days-plan")
        + rule("days-data", "days", "data_usage_24h", TELL, threshold='"5 MB"')
        + rule(
            "days-sms", "days", "sms_mo_count_24h", '{ sequence = 1, type = "suspend", reason = "security" }',
            threshold="3", window='"rolling"', repetition='"daily"',
        )
    )  # fmt: skip
    # Midnight in Los Angeles is 07:00 UTC.
    data = [used(f"days-{n}", one, 3 * MB, oct_(5, 1 + 4 * n)) for n in range(5)]
    text = [used(f"days-s{n}", one, 1, oct_(6, 2 * n), service="sms", direction="mo") for n in range(6)]
    return told(
        "days", 12,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(1, 13), commands=(Activate(rule="days-data"), Activate(rule="days-sms"))),
        plain(oct_(5, 18), *data), plain(oct_(6), *text),
        Tick(at=oct_(7)),
        plain(oct_(8), used("days-9", one, 5 * MB + 1, oct_(8))),
        # The fourth message was sent on the day before it arrived. That day is over, so nothing is suspended for it.
        rated=12, firings={"days-data": 3, "days-sms": 2}, actions={"notify": 3, "suspend": 1},
    )  # fmt: skip


def suspension() -> Scenario:
    """L1, L10: past its limit a card is suspended; the network answers; it is released as the next cycle begins."""
    one, limit = sim(13), "limit.overage_suspension.susp"
    toml = (
        account("susp", time_zone="Europe/Berlin") + solo("susp-plan") + card(one, "susp", "susp-plan")
        + card(sim(13, 2), "susp", "susp-plan")
        + '\n[[limits]]\nid = "susp"\nkind = "overage_suspension"\nplan = "susp-plan"\nmargin = "2 MB"\n'
        + 'by = ["system"]\n'
        + rule("susp-status", "susp", "billing_status_changed", TELL)
    )  # fmt: skip
    done = Suspended(iccid=one, reason="over_quota", key="susp-1")
    return told(
        "susp", 13,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(1, 13), commands=(Activate(rule=limit), Activate(rule="susp-status"))),
        plain(oct_(10), used("susp-1", one, 12 * MB, oct_(10)), used("susp-2", sim(13, 2), MB, oct_(10))),
        plain(oct_(11), used("susp-3", one, 1, oct_(11)), used("susp-4", one, 5, oct_(11))),
        Answer(at=oct_(11, 13), command=done, rule=limit),
        Answer(at=oct_(11, 14), command=done, rule=limit),
        Tick(at=oct_(31, 22)),
        Tick(at=oct_(31, 23)),
        Answer(at=oct_(31, 23, 5), command=Resumed(iccid=one), rule=limit, nth=1),
        plain(nov(2), used("susp-5", sim(13, 2), 13 * MB, nov(2))),
        Answer(at=nov(2, 13), command=Failed(iccid=sim(13, 2), action_id="", message="no answer"), rule=limit),
        rated=5, results=3, firings={limit: 3, "susp-status": 2}, actions={"suspend": 2, "resume": 1, "notify": 4},
    )  # fmt: skip


def started_late() -> Scenario:
    """L6, L7: a rule that starts in mid-cycle knows the usage before it; stopped, changed and started it does again."""
    one, two = sim(20), sim(20, 2)

    def made(level: str) -> str:
        return rule("mid-rule", "mid", "data_usage_cycle", TELL, threshold=f'"{level}"')

    toml = account("mid") + solo("mid-plan") + card(one, "mid", "mid-plan") + card(two, "mid", "mid-plan")
    return told(
        "mid", 20,
        Apply(at=oct_(1), toml=toml + made("6 MB")),
        plain(oct_(8), used("mid-1", one, 6 * MB, oct_(7)), used("mid-2", two, MB, oct_(7))),
        Say(at=oct_(9), commands=(Activate(rule="mid-rule"),)),
        plain(oct_(10), used("mid-3", one, 1, oct_(9)), used("mid-4", two, 1, oct_(9))),
        Say(at=oct_(11), commands=(Deactivate(rule="mid-rule"),)),
        Apply(at=oct_(11, 13), toml=made("1 MB")),
        plain(oct_(12), used("mid-5", two, 5, oct_(12))),
        Say(at=oct_(12, 13), commands=(Activate(rule="mid-rule"),)),
        plain(oct_(13), used("mid-6", one, 1, oct_(13)), used("mid-7", two, 1, oct_(13))),
        rated=7, firings={"mid-rule": 3}, actions={"notify": 3},
    )  # fmt: skip


def tags() -> Scenario:
    """L9, L10: a rule tags a card and sets a field of it; other rules look at the tag and at the change."""
    one, two = sim(21), sim(21, 2)
    own = '{ sequence = 1, type = "add_tag", tag = "heavy" }, '
    own += '{ sequence = 2, type = "set_attribute", attribute = "a", value = "b" }'
    toml = (
        account("tags") + solo("tags-plan") + card(one, "tags", "tags-plan")
        + card(two, "tags", "tags-plan", tags='["heavy"]')
        + rule("tags-set", "tags", "data_usage_cycle", own, threshold='"2 MB"')
        + rule(
            "tags-watch", "tags", "data_usage_24h", TELL, threshold='"1 KB"', repetition='"always"',
            filters='[{ type = "sim_tag", values = ["heavy"] }]',
        )
        + rule("tags-changed", "tags", "custom_attribute_changed", '{ sequence = 3, type = "webhook" }')
    )  # fmt: skip
    names = ("tags-set", "tags-watch", "tags-changed")
    return told(
        "tags", 21,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(1, 13), commands=tuple(Activate(rule=name) for name in names)),
        plain(oct_(20), used("tags-1", one, MB, oct_(20)), used("tags-2", two, 2000, oct_(20))),
        plain(oct_(21), used("tags-3", one, MB + 1, oct_(21)), used("tags-4", one, 5000, oct_(21))),
        plain(oct_(22), used("tags-5", one, 5000, oct_(22)), used("tags-6", two, 10, oct_(22))),
        rated=6, firings={"tags-set": 1, "tags-watch": 2, "tags-changed": 1},
        actions={"add_tag": 1, "set_attribute": 1, "notify": 2, "webhook": 1},
    )  # fmt: skip


def network() -> Scenario:
    """L7: what the network tells without usage: sessions, blocks, another device; and silence, found by the clock."""
    one, two = sim(26), sim(26, 2)
    triggers = {
        "net-start": "data_session_started", "net-block": "data_blocked", "net-imei": "imei_changed",
        "net-silent": "not_connected_24h",
    }  # fmt: skip
    toml = (
        account("net")
        + solo("net-plan")
        + card(one, "net", "net-plan", imei='"35147900000001"')
        + card(two, "net", "net-plan")
    )
    toml += "".join(rule(name, "net", trigger, TELL) for name, trigger in triggers.items())
    begun, moved = SessionStarted(iccid=one, session_id="net-1"), Connected(iccid=one, imei="35247900000002")
    again = Connected(iccid=two, key="net-k")
    return told(
        "net", 26,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(25), commands=tuple(Activate(rule=name) for name in triggers)),
        Say(at=oct_(25, 13), commands=(begun, Blocked(iccid=two, service="data"))),
        Say(at=oct_(25, 14), commands=(SessionStopped(iccid=one, session_id="net-1"), moved)),
        Say(at=oct_(25, 15), commands=(again, msgspec.structs.replace(again, imei="35947900000009"))),
        Tick(at=oct_(26, 13)), Tick(at=oct_(26, 15)),
        plain(oct_(26, 18), used("net-1", two, 5, oct_(26, 17))),
        Tick(at=oct_(27, 20)),
        rated=1, firings={"net-start": 2, "net-block": 1, "net-imei": 1, "net-silent": 3}, actions={"notify": 7},
    )  # fmt: skip


def plan_change() -> Scenario:
    """L10, P1: a rule asks for another plan; the result of it moves the card, and usage is priced by it from then."""
    one = sim(27)
    toml = (
        account("mov") + solo("mov-small", "1 MB", "1.00") + solo("mov-big", "100 MB", "0.01")
        + card(one, "mov", "mov-small")
        + rule("mov-up", "mov", "data_usage_cycle", '{ sequence = 5, type = "change_plan", plan = "mov-big" }, '
               '{ sequence = 7, type = "notify", by = ["system"] }', threshold='"1 MB"')
        + rule("mov-told", "mov", "price_plan_changed", TELL)
    )  # fmt: skip
    return told(
        "mov", 27,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(1, 13), commands=(Activate(rule="mov-up"), Activate(rule="mov-told"))),
        plain(oct_(20), used("mov-1", one, 3 * MB, oct_(20))),
        Answer(at=oct_(20, 13), command=PlanChanged(iccid=one, plan="mov-big"), rule="mov-up", sequence=5),
        Answer(at=oct_(20, 14), command=Done(iccid=one, action_id=""), rule="mov-up", sequence=7),
        plain(oct_(21), used("mov-2", one, 3 * MB, oct_(21))),
        rated=2, results=2, firings={"mov-up": 1, "mov-told": 1}, actions={"change_plan": 1, "notify": 2},
    )  # fmt: skip
