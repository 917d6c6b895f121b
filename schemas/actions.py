"""Messages in which actions leave Weir (domain L5, L10, L12). docs/actions.md explains them.

A message is one JSON object. Its field `action` names one of the types below. Every field is always present, and null
if it does not apply. Within a `version`, fields are added but never removed or changed.

The docstrings of these classes are the descriptions in docs/action.schema.json.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

import msgspec

from schemas.choices import TriggerName
from schemas.rules import Channel, Reason

NoticeNumber = Annotated[int, msgspec.Meta(ge=1, le=3)]


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    pass


class SuspendParameters(_Part, frozen=True):
    """Why the SIM is suspended, and until when. An automatic resume is a separate action (L1, L2)."""

    reason: Reason = "manual"
    until: Literal["released", "window_end", "recovered"] = "released"


class ResumeParameters(_Part, frozen=True):
    """The reason of the suspension that ends."""

    reason: Reason = "manual"


class ThrottleParameters(_Part, frozen=True):
    """The highest rate at which the SIM may transfer data, in bits per second."""

    rate_bps: int | None = None


class ChangeStatusParameters(_Part, frozen=True):
    """The network status to set (C1)."""

    status: str | None = None


class ChangePlanParameters(_Part, frozen=True):
    """The plan to move the SIM to."""

    plan: str | None = None


class AddTagParameters(_Part, frozen=True):
    """The tag that was added to the card."""

    tag: str | None = None


class SetAttributeParameters(_Part, frozen=True):
    """The custom field of the card that was set, and its new value."""

    attribute: str | None = None
    value: str | None = None


class Notice(_Part, frozen=True, rename="camel"):
    """Notice to a device that its term ends (L5).

    serviceName: 1 SIM, 2 RTK, 3 device. serviceStatus: 1 = 30 days before the end, 2 = 7 days, 3 = the last day.
    """

    service_name: NoticeNumber
    service_status: NoticeNumber


class DevicePayload(_Part, frozen=True):
    """Payload to send to the device unchanged (L5). The field name is spelled as devices expect it."""

    q_retain_device_sevice_notice: Notice


class NotifyParameters(_Part, frozen=True, kw_only=True):
    """Recipients, channels and texts of a notification. The texts are ready to be sent.

    `by` contains the channels that this destination serves; the rule may name more. `device` is the payload for the
    channel "device". It is null if this channel is not in `by`, or if the rule is not about the end of a term.
    """

    by: tuple[Channel, ...] = ()
    to: tuple[str, ...] = ()
    subject: str
    text: str
    device: DevicePayload | None = None


class WebhookParameters(_Part, frozen=True):
    """URL to which the rule sends the message, and the text of the rule, if any."""

    url: str | None = None
    text: str | None = None


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="action"):
    """Fields that all actions share.

    `id` is the same in every repeat and every replay, so a receiver that has acted on it need not act again.

    The card: `iccid`, its `account`, and `pool` if a pool rule fired. The firing (L12): `rule`, its `owner` (null:
    root), `trigger`, and `kind`, which is "released" if the condition of a suspension is over. `value_before`,
    `value_now`, `size` (quota or pool size) and `threshold` are in `unit`. `levels` are the levels crossed, as the rule
    writes them. `window` is the billing cycle, the local day, or the last day of the term. `from_value` and `to_value`
    are the old and new value of what changed. `used_at` is the time of use of the record that met the condition.
    `fired_at` is the arrival of the record, tick, command or catalogue.
    """

    version: Literal[1] = 1
    id: str
    firing_id: str
    rule: str
    sequence: int
    iccid: str
    account: str | None
    pool: str | None
    kind: Literal["fired", "released"]
    trigger: TriggerName
    owner: str | None
    unit: str | None
    value_before: int | None
    value_now: int | None
    size: int | None
    threshold: int | None
    levels: tuple[str, ...]
    window: str | None
    from_value: str | None
    to_value: str | None
    record_key: str | None
    used_at: dt.datetime | None
    fired_at: dt.datetime


class Suspend(_Message, frozen=True, tag="suspend"):
    """Suspend the SIM. Answer with the command `suspended` or `failed`."""

    parameters: SuspendParameters


class Resume(_Message, frozen=True, tag="resume"):
    """Resume the SIM. Answer with the command `resumed` or `failed`."""

    parameters: ResumeParameters


class Throttle(_Message, frozen=True, tag="throttle"):
    """Limit the data rate of the SIM. Answer with the command `done` or `failed`."""

    parameters: ThrottleParameters


class ChangeStatus(_Message, frozen=True, tag="change_status"):
    """Set the network status of the SIM. Answer with the command `status_changed` or `failed`."""

    parameters: ChangeStatusParameters


class ChangePlan(_Message, frozen=True, tag="change_plan"):
    """Move the SIM to another plan. Answer with the command `plan_changed` or `failed`."""

    parameters: ChangePlanParameters


class AddTag(_Message, frozen=True, tag="add_tag"):
    """Weir has added a tag to its own record of the card. No answer is needed."""

    parameters: AddTagParameters


class SetAttribute(_Message, frozen=True, tag="set_attribute"):
    """Weir has set a custom field in its own record of the card. No answer is needed."""

    parameters: SetAttributeParameters


class Notify(_Message, frozen=True, tag="notify"):
    """Notify people or the device. Answer with the command `done` or `failed` if Weir should record the outcome."""

    parameters: NotifyParameters


class Webhook(_Message, frozen=True, tag="webhook"):
    """Deliver this message: that is all the rule asks for. No answer is needed."""

    parameters: WebhookParameters


ActionMessage = Suspend | Resume | Throttle | ChangeStatus | ChangePlan | AddTag | SetAttribute | Notify | Webhook
