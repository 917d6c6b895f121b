"""Commands: what reaches the journal beside usage, catalogues and ticks (domain L6, L7, L10).

Results of actions come back as commands, and the card follows them; what the network tells of a SIM without usage
(sessions, attachments, blocks) comes as commands too. A file of commands is NDJSON, one object with a `type` a line.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from schemas.choices import CardStatus
from schemas.plans import ServiceName
from schemas.rules import Reason


class _Command(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """`at` is when it happened, the arrival of the command where it does not say. `key` makes a repeat harmless."""

    at: dt.datetime | None = None
    key: str | None = None


class Activate(_Command, frozen=True, tag="activate"):
    """The rule watches from here on (L6)."""

    rule: str


class Deactivate(_Command, frozen=True, tag="deactivate"):
    """The rule watches no longer, and can be changed (L6)."""

    rule: str


class Suspended(_Command, frozen=True, tag="suspended"):
    """The SIM was suspended."""

    iccid: str
    reason: Reason = "manual"
    action_id: str | None = None


class Resumed(_Command, frozen=True, tag="resumed"):
    """The SIM was resumed: it is activated again."""

    iccid: str
    action_id: str | None = None


class StatusChanged(_Command, frozen=True, tag="status_changed"):
    """The network status of the SIM is another one (C1)."""

    iccid: str
    status: CardStatus
    action_id: str | None = None


class PlanChanged(_Command, frozen=True, tag="plan_changed"):
    """The SIM is on another plan from the local day `from`; from the day of the command where it does not say."""

    iccid: str
    plan: str
    from_: dt.date | None = msgspec.field(default=None, name="from")
    action_id: str | None = None


class Done(_Command, frozen=True, tag="done"):
    """An action that changes nothing in the card was carried out: notify, webhook, throttle."""

    action_id: str
    iccid: str | None = None


class Failed(_Command, frozen=True, tag="failed"):
    """An action could not be carried out; the card stays as it is."""

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
    """The SIM attached to a network, perhaps in another device or cell."""

    iccid: str
    imei: str | None = None
    cell_id: str | None = None
    rat: str | None = None
    zone: str | None = None


class Blocked(_Command, frozen=True, tag="blocked"):
    """A service of the SIM was blocked for a violation of its security profile."""

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
