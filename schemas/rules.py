"""Rules as a catalogue file writes them (domain L6 to L11): a trigger, its threshold, filters and ordered actions.

`rating.rules.triggers` says of each trigger what it watches and which of these fields it takes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.choices import TriggerName
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


class _Document(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    pass


class Filter(_Document, frozen=True):
    """One filter (L9): the SIM or record matches where its `type` has one of `values`.

    `name` is the custom field that `custom_attribute` looks at. Filters of one type are joined by OR, types by AND.
    """

    type: FilterType
    values: tuple[str, ...]
    name: str | None = None


class Action(_Document, frozen=True):
    """What is asked for when a rule fires (L10); actions run in ascending `sequence`, which is unique in a rule.

    Fields by type. suspend: `reason`, and `until`: "released" (by whoever resumes it), "window_end" (a resume follows
    by itself when the window of the rule is over, L1) or "recovered" (that, or earlier, once an add-on or another plan
    puts the SIM under the threshold again, L2). throttle: `rate_bps`. change_status: `status`. change_plan: `plan`.
    add_tag: `tag`. set_attribute: `attribute`, `value`. notify: `by`, `to`, `subject`, `text`; for the channel
    "device" `service_name` (L5). webhook: `url`. Texts may hold {iccid}, {account}, {rule}, {value}, {threshold},
    {unit}, {percent} and {window}.
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


class Rule(_Document, frozen=True):
    """A rule (L6). It is made inactive, and cannot be changed while it is active.

    `owner` is an account, whose SIMs and those of its sub-accounts it watches; None is root, which watches every SIM.
    `threshold` is one level or several, in the order in which they are met: quantities ("1 GB", 20, "5 min"), percent
    ("80 %") of the quota or of the pool's size now, or days before the end of the term. `measure` says what is
    compared: "used" usage itself, "over" usage beyond the quota (L1), "remaining" what is left of it (L3), "hard_cut"
    usage with the cut of the plan's tier (L2; no threshold). The quota is the plan's allowance and the add-ons that
    act. `at` is "exceeded" (strictly) or "reached"; None: as L11 says for the trigger. `window` is of the 24-hour
    triggers (T4). `sims` is individual scope, `pools` the pools of a pool rule; none: all in context. Of the rules
    that watch a SIM under one `nearest` name only those of the nearest setting hold for it: SIM, plan, account, root.
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
    attribute: str | None = None  # of custom_attribute_changed; None: any
    from_: str | None = msgspec.field(default=None, name="from")  # of the changed triggers; None: any
    to: str | None = None
    by: Literal["any", "data", "time"] = "any"  # of price_plan_expired
    across: Literal["any", "during", "across"] = (
        "any"  # of location_changed: within one data session, or from one to another
    )
    sims: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()
    repetition: Repetition = "once_per_window"
    nearest: str | None = None

    @property
    def levels(self) -> tuple[Quantity, ...]:
        """The threshold as a tuple of its levels."""
        return self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)


class Limit(_Document, frozen=True):
    """A ready-made rule (L1 to L5), which `weir apply` turns into a rule; at most one of `sims`, `plan`, `account`, and
    none of them for every SIM. Of one kind, the setting nearest to a SIM holds for it.

    overage_suspension: `margin` over the quota, "off" for none (L1). hard_cut: by plan tier (L2). balance_alert: up to
    three `levels` of what is left, in % or MB (L3). usage_alert: two `levels` in MB, expiry_alert: two in days (L4); 0
    is off. expiry_notice: to the device, 30, 7 and 0 days before the end (L5). `by` and `to` as in an Action.
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
