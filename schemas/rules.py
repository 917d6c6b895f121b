"""Rules as a catalogue file writes them (domain L6 to L11): a trigger, its threshold, filters and ordered actions.

`rating.rules.triggers` defines what each trigger watches and which of these fields it takes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.choices import TriggerName
from schemas.document import Document
from schemas.plans import Quantity

FilterType = Literal[
    "account",
    "account_status",
    "account_tag",
    "sub_account",
    "sub_account_status",
    "plan",
    "plan_type",
    "custom_attribute",
    "zone",
    "sim_tag",
    "sim_status",
    "rat",
]
ActionType = Literal[
    "suspend",
    "resume",
    "throttle",
    "change_status",
    "change_plan",
    "add_tag",
    "set_attribute",
    "notify",
    "webhook",
]
Repetition = Literal["once", "once_per_window", "daily", "always"]
Measure = Literal["used", "over", "remaining", "hard_cut"]
Channel = Literal["email", "sms", "system", "device"]
LimitKind = Literal["overage_suspension", "hard_cut", "balance_alert", "usage_alert", "expiry_alert", "expiry_notice"]
Reason = Literal["over_quota", "hard_cut", "device_change", "region", "expired", "security", "manual"]


class Filter(Document, frozen=True):
    """One filter (L9). The SIM or record matches if its property `type` is one of `values`.

    `name` is the custom field of a `custom_attribute` filter. Filters of one type are joined by OR, types by AND.
    """

    type: FilterType
    values: tuple[str, ...]
    name: str | None = None


class Action(Document, frozen=True):
    """An action that a rule requests when it fires (L10).

    Actions run in ascending `sequence`, which is unique in a rule. The fields by type:

    suspend: `reason`, and `until`: "released" (until somebody resumes the SIM), "window_end" (Weir resumes it when the
    window of the rule is over, L1) or "recovered" (like "window_end", or earlier, when an add-on or another plan puts
    the SIM below the threshold again, L2). throttle: `rate_bps`. change_status: `status`. change_plan: `plan`.
    add_tag: `tag`. set_attribute: `attribute`, `value`. notify: `by`, `to`, `subject`, `text`, and for the channel
    "device" `service_name` (L5). webhook: `url`, `text`.

    Texts may contain {iccid}, {account}, {rule}, {value}, {threshold}, {unit}, {percent} and {window}.
    """

    sequence: int
    type: ActionType
    reason: Reason = "manual"
    until: Literal["released", "window_end", "recovered"] = "released"
    rate_bps: int | None = None
    status: str | None = None
    plan: str | None = None
    tag: str | None = None
    attribute: str | None = None
    value: str | None = None
    by: tuple[Channel, ...] = ()
    to: tuple[str, ...] = ()
    subject: str | None = None
    text: str | None = None
    service_name: Literal["sim", "rtk", "device"] = "sim"
    url: str | None = None


class Rule(Document, frozen=True):
    """A rule (L6). A new rule is inactive. An active rule cannot be changed.

    `owner` is an account: the rule watches the SIMs of this account and of its sub-accounts. None is root: the rule
    watches every SIM. `sims` restricts a rule to individual SIMs, `pools` a pool rule to these pools; empty: all SIMs
    or pools of the owner.

    `threshold` is one level, or several in the order in which they are met. A level is a quantity ("1 GB", 20,
    "5 min"), a percentage ("80 %") of the quota or of the current pool size, or a number of days before the end of the
    term. `measure` is the compared value: "used" is usage, "over" is usage beyond the quota (L1), "remaining" is the
    rest of the quota (L3), "hard_cut" compares usage with the cut of the plan's tier (L2; no threshold). The quota is
    the allowance of the plan plus the add-ons that are valid. `at` is "exceeded" (strictly) or "reached"; None means
    the default of the trigger (L11). `window` applies to the 24-hour triggers (T4).

    If several rules with the same `nearest` name watch a SIM, only those of the nearest setting apply to it. The order
    is SIM, plan, account, root.
    """

    id: str
    trigger: TriggerName
    actions: tuple[Action, ...] = ()
    name: str = ""
    owner: str | None = None
    threshold: Quantity | tuple[Quantity, ...] = ()
    measure: Measure = "used"
    at: Literal["exceeded", "reached"] | None = None
    window: Literal["day", "rolling"] = "day"
    data_base: Literal[1000, 1024] = 1024
    country: str | None = None
    zone: str | None = None
    attribute: str | None = None  # for custom_attribute_changed; None: any
    from_: str | None = msgspec.field(default=None, name="from")  # for triggers on changes; None: any
    to: str | None = None
    by: Literal["any", "data", "time"] = "any"  # for price_plan_expired
    across: Literal["any", "during", "across"] = "any"  # for location_changed: within one data session, or between two
    sims: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()
    repetition: Repetition = "once_per_window"
    nearest: str | None = None

    @property
    def levels(self) -> tuple[Quantity, ...]:
        """The levels of the threshold, as a tuple even if there is only one."""
        return self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)


class Limit(Document, frozen=True):
    """A predefined limit or alert (L1 to L5), which `weir apply` turns into a rule.

    A limit has at most one of `sims`, `plan` and `account`; without any it applies to every SIM. Of several limits of
    one kind, the one nearest to a SIM applies to it.

    overage_suspension: `margin` over the quota, or "off" (L1). hard_cut: by plan tier (L2). balance_alert: up to three
    `levels` of the remaining quota, in % or MB (L3). usage_alert: up to two `levels` in MB; expiry_alert: up to two in
    days; 0 is off (L4). expiry_notice: a notice to the device 30, 7 and 0 days before the end of the term (L5). `by`
    and `to` are as in an Action.
    """

    id: str
    kind: LimitKind
    sims: tuple[str, ...] = ()
    plan: str | None = None
    account: str | None = None
    margin: Quantity | None = None
    levels: tuple[Quantity, ...] = ()
    by: tuple[Channel, ...] = ()
    to: tuple[str, ...] = ()
    service_name: Literal["sim", "rtk", "device"] = "sim"
    data_base: Literal[1000, 1024] = 1024
