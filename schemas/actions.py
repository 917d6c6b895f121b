"""Messages: how an action leaves (domain L5, L10, L12); docs/actions.md explains them.

A message is one JSON object; `action` says which of the types below it is. Every field is always there, null where
it does not apply. Fields are only ever added within a `version`.
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
    """Why the SIM is suspended, and until when; a resume that follows of its own accord is an action again (L1, L2)."""

    reason: Reason = "manual"
    until: Literal["released", "window_end", "recovered"] = "released"


class ResumeParameters(_Part, frozen=True):
    """The reason of the suspension that ends."""

    reason: Reason = "manual"


class ThrottleParameters(_Part, frozen=True):
    """The most that the SIM may transfer, in bits per second."""

    rate_bps: int | None = None


class ChangeStatusParameters(_Part, frozen=True):
    """The network status to set (C1)."""

    status: str | None = None


class ChangePlanParameters(_Part, frozen=True):
    """The plan to move the SIM to."""

    plan: str | None = None


class AddTagParameters(_Part, frozen=True):
    """The tag that the card has got."""

    tag: str | None = None


class SetAttributeParameters(_Part, frozen=True):
    """The custom field of the card that has got a value."""

    attribute: str | None = None
    value: str | None = None


class Notice(_Part, frozen=True, rename="camel"):
    """What a device is told of the end of its term (L5).

    serviceName: 1 SIM, 2 RTK, 3 device. serviceStatus: 1 = 30 days before the end, 2 = 7 days, 3 = the last day.
    """

    service_name: NoticeNumber
    service_status: NoticeNumber


class DevicePayload(_Part, frozen=True):
    """What is sent to the device as it stands (L5); the name is spelled as devices know it."""

    q_retain_device_sevice_notice: Notice


class NotifyParameters(_Part, frozen=True, kw_only=True):
    """Whom to tell what, and by which channels; the texts are ready to be sent.

    `by` has the channels that this destination is asked for, which are not always all that the rule names. `device`
    is the payload for the channel "device"; null where the channel is not asked for or no term ends.
    """

    by: tuple[Channel, ...] = ()
    to: tuple[str, ...] = ()
    subject: str
    text: str
    device: DevicePayload | None = None


class WebhookParameters(_Part, frozen=True):
    """Where the rule wants the message sent, and a text if it has one."""

    url: str | None = None
    text: str | None = None


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="action"):
    """`id` is the same in every repeat and every replay: who has acted on it need not act again.

    The card: `iccid`, its `account`, and `pool` where a pool rule fired. The firing (L12): `rule`, its `owner`
    (null: root), `trigger`, and `kind`, "released" where the condition of a suspension is over. Values, `size` (quota
    or size of the pool) and `threshold` are in `unit`; `levels` are those crossed, as the rule writes them; `window` is
    the cycle or the local day; `from_value` and `to_value` are of what changed. `used_at` is of the record that met
    the condition. `fired_at` is the arrival of the record, tick or command.
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
    """Suspend the SIM; answer with `suspended` or `failed`."""

    parameters: SuspendParameters


class Resume(_Message, frozen=True, tag="resume"):
    """Resume the SIM; answer with `resumed` or `failed`."""

    parameters: ResumeParameters


class Throttle(_Message, frozen=True, tag="throttle"):
    """Limit the speed of the SIM; answer with `done` or `failed`."""

    parameters: ThrottleParameters


class ChangeStatus(_Message, frozen=True, tag="change_status"):
    """Set the network status of the SIM; answer with `status_changed` or `failed`."""

    parameters: ChangeStatusParameters


class ChangePlan(_Message, frozen=True, tag="change_plan"):
    """Move the SIM to another plan; answer with `plan_changed` or `failed`."""

    parameters: ChangePlanParameters


class AddTag(_Message, frozen=True, tag="add_tag"):
    """The card has got a tag in Weir's own records; no answer is needed."""

    parameters: AddTagParameters


class SetAttribute(_Message, frozen=True, tag="set_attribute"):
    """A custom field of the card has got a value in Weir's own records; no answer is needed."""

    parameters: SetAttributeParameters


class Notify(_Message, frozen=True, tag="notify"):
    """Tell somebody, or the device; answer with `done` or `failed` if the outcome is to be kept."""

    parameters: NotifyParameters


class Webhook(_Message, frozen=True, tag="webhook"):
    """The message itself is what the rule asks for; no answer is needed."""

    parameters: WebhookParameters


ActionMessage = Suspend | Resume | Throttle | ChangeStatus | ChangePlan | AddTag | SetAttribute | Notify | Webhook
