"""Commands: entries of the journal other than usage, catalogues and ticks (domain L6, L7, L10).

Three things arrive as commands: the activation of rules, the results of actions (which change the card), and network
events of a SIM that are not usage (sessions, attachments, blocks). A file of commands is NDJSON: one object with a
`type` per line.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from schemas.plans import ServiceName
from schemas.rules import Reason


class _Command(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """Fields that all commands share.

    `at` is the time of the event; None means the arrival of the command. `key` makes a repeat harmless.
    """

    at: dt.datetime | None = None
    key: str | None = None


class Activate(_Command, frozen=True, tag="activate"):
    """Activate the rule (L6)."""

    rule: str


class Deactivate(_Command, frozen=True, tag="deactivate"):
    """Deactivate the rule. It can then be changed (L6)."""

    rule: str


class Suspended(_Command, frozen=True, tag="suspended"):
    """The SIM was suspended."""

    iccid: str
    reason: Reason = "manual"
    action_id: str | None = None


class Resumed(_Command, frozen=True, tag="resumed"):
    """The SIM was resumed. Its status is "activated" again, unless it is suspended for something else as well.

    `reason` lifts the holds with this reason, whatever put them on. None lifts those that end when somebody releases
    the SIM. If the result names a resume that Weir asked for, it lifts none: that hold ended before.
    """

    iccid: str
    reason: Reason | None = None
    action_id: str | None = None


class StatusChanged(_Command, frozen=True, tag="status_changed"):
    """The network status of the SIM changed (C1)."""

    iccid: str
    status: str  # a CardStatus; checked when a command is accepted, so that older journals can be read
    action_id: str | None = None


class PlanChanged(_Command, frozen=True, tag="plan_changed"):
    """The plan of the SIM changed on the local day `from`; None means the local day of the command."""

    iccid: str
    plan: str
    from_: dt.date | None = msgspec.field(default=None, name="from")
    action_id: str | None = None


class Done(_Command, frozen=True, tag="done"):
    """An action that does not change the card (notify, webhook, throttle) was carried out."""

    action_id: str
    iccid: str | None = None


class Failed(_Command, frozen=True, tag="failed"):
    """An action could not be carried out. The card does not change."""

    action_id: str
    message: str = ""
    iccid: str | None = None


class SessionStarted(_Command, frozen=True, tag="session_started"):
    """A data session of the SIM began."""

    iccid: str
    session_id: str | None = None


class SessionStopped(_Command, frozen=True, tag="session_stopped"):
    """A data session of the SIM ended."""

    iccid: str
    session_id: str | None = None


class Connected(_Command, frozen=True, tag="connected"):
    """The SIM attached to a network, possibly in another device or cell."""

    iccid: str
    imei: str | None = None
    cell_id: str | None = None
    rat: str | None = None
    zone: str | None = None


class Blocked(_Command, frozen=True, tag="blocked"):
    """A service of the SIM was blocked because it violated the security profile."""

    iccid: str
    service: ServiceName


NetworkEvent = SessionStarted | SessionStopped | Connected | Blocked
Command = (
    Activate
    | Deactivate
    | Suspended
    | Resumed
    | StatusChanged
    | PlanChanged
    | Done
    | Failed
    | SessionStarted
    | SessionStopped
    | Connected
    | Blocked
)
