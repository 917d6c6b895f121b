"""Conversion of history rows to messages: parameters by type, filled texts, the payload for devices."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import polars as pl

from rating.rules.triggers import TRIGGERS
from schemas import actions as out
from schemas.actions import ActionMessage
from schemas.rules import Action, Channel

_KINDS: Final[dict[str, tuple[Callable[..., ActionMessage], type[msgspec.Struct]]]] = {
    "suspend": (out.Suspend, out.SuspendParameters),
    "resume": (out.Resume, out.ResumeParameters),
    "throttle": (out.Throttle, out.ThrottleParameters),
    "change_status": (out.ChangeStatus, out.ChangeStatusParameters),
    "change_plan": (out.ChangePlan, out.ChangePlanParameters),
    "add_tag": (out.AddTag, out.AddTagParameters),
    "set_attribute": (out.SetAttribute, out.SetAttributeParameters),
    "notify": (out.Notify, out.NotifyParameters),
    "webhook": (out.Webhook, out.WebhookParameters),
}

# The columns of a firing, in the order in which `_message` unpacks them.
_FIRING: Final = (
    "kind", "trigger", "owner", "pool_id", "unit", "value_before", "value_now", "size", "threshold", "levels",
    "window", "from_value", "to_value", "record_key", "used_at",
)  # fmt: skip
_ACTION: Final = (
    "journal_partition", "journal_offset", "action_id", "firing_id", "rule_id", "sequence", "action", "account_id",
    "iccid", "parameters", "created_at",
)  # fmt: skip

_PLACEHOLDER: Final = re.compile(r"\{(iccid|account|rule|value|threshold|unit|percent|window)\}")
_SUBJECT: Final = "{rule}: SIM {iccid}"
_TEXT: Final = "Rule {rule} fired for SIM {iccid} of account {account}."
_TEXT_OF_VALUE: Final = "Rule {rule} fired for SIM {iccid} of account {account}: {value} {unit}, threshold {threshold}."

_SERVICE_NUMBERS: Final = {"sim": 1, "rtk": 2, "device": 3}
_DAYS_OF_STATUS_1: Final = 7  # a notice more than 7 days before the end has status 1
_encoder: Final = msgspec.json.Encoder()


@dataclass(frozen=True)
class Target:
    """A destination of a message and, for a notify, the channels that it serves."""

    destination: str
    channels: tuple[Channel, ...] = ()


@dataclass(frozen=True)
class Outgoing:
    """A message for one destination, with the fields that the outbox stores."""

    partition: int
    offset: int
    action_id: str
    destination: str
    iccid: str
    rule: str
    action: str
    body: bytes
    account: str = ""


def outgoing(
    actions: pl.DataFrame, firings: pl.DataFrame, route: Callable[[Action, str], Sequence[Target]]
) -> Iterator[Outgoing]:
    """Yield the messages for rows of ACTIONS, in order, one for each target that `route` returns for action and rule.

    `firings` has the rows of FIRINGS that the actions name. Raises ValueError, which names the action, if its firing is
    missing or its parameters do not fit its type.
    """
    rows = actions.select(_ACTION).join(
        firings.select("firing_id", *_FIRING), on="firing_id", how="left", maintain_order="left"
    )
    known: dict[tuple[str, str, str], tuple[Action, Sequence[Target]]] = {}
    for row in rows.select(*_ACTION, *_FIRING).iter_rows():
        named = (row[4], row[6], row[9])
        if named not in known:
            action = _action(row)
            known[named] = (action, tuple(route(action, row[4])))
        action, targets = known[named]
        for target in targets:
            body = _encoder.encode(_message(row, action, target.channels))
            yield Outgoing(row[0], row[1], row[2], target.destination, row[8], row[4], row[6], body, row[7])


def _action(row: tuple[Any, ...]) -> Action:
    try:
        written = msgspec.json.decode(row[9] or "{}", type=dict[str, Any])
        return msgspec.convert({**written, "sequence": row[5], "type": row[6]}, Action)
    except msgspec.MsgspecError as error:
        raise ValueError(f"action {row[2]}: parameters {row[9]!r}: {error}") from error


def _message(row: tuple[Any, ...], action: Action, channels: tuple[Channel, ...]) -> ActionMessage:
    _, _, action_id, firing_id, rule, sequence, _, account, iccid, _, created_at, *firing = row
    kind, trigger, owner, pool, unit, before, now, size, threshold, levels, window, was, became, key, used_at = firing
    if kind is None:
        raise ValueError(f"action {action_id}: firing {firing_id} is not in the history")
    make, parameters = _KINDS[action.type]
    given: msgspec.Struct
    if action.type in ("notify", "webhook"):
        value = {
            "iccid": iccid,
            "account": account,
            "rule": rule,
            "value": now,
            "threshold": threshold,
            "unit": unit,
            "window": window,
            # Rounded down, unlike rating.units.ratio: a text says "100 %" only once all is used, never a little before.
            "percent": now * 100 // size if size and now is not None else None,
        }
        if action.type == "webhook":
            text = None if action.text is None else fill(action.text, value)
            given = out.WebhookParameters(url=action.url, text=text)
        else:
            given = out.NotifyParameters(
                by=channels,
                to=action.to,
                subject=fill(action.subject or _SUBJECT, value),
                text=fill(action.text or (_TEXT if now is None else _TEXT_OF_VALUE), value),
                device=_device(action, unit, threshold, levels, trigger) if "device" in channels else None,
            )
    else:
        given = parameters(**{name: getattr(action, name) for name in parameters.__struct_fields__})
    return make(
        id=action_id,
        firing_id=firing_id,
        rule=rule,
        sequence=sequence,
        iccid=iccid,
        account=account,
        pool=pool,
        kind=kind,
        trigger=trigger,
        owner=owner,
        unit=unit,
        value_before=before,
        value_now=now,
        size=size,
        threshold=threshold,
        levels=tuple(levels or ()),
        window=window,
        from_value=was,
        to_value=became,
        record_key=key,
        used_at=used_at,
        fired_at=created_at,
        parameters=given,
    )


def fill(text: str, values: dict[str, object]) -> str:
    """Return the text with its placeholders filled. An unknown value becomes ""; other braces are kept."""
    return _PLACEHOLDER.sub(lambda found: "" if (value := values[found[1]]) is None else str(value), text)


def _device(
    action: Action, unit: str | None, threshold: int | None, levels: Sequence[str] | None, trigger: str
) -> out.DevicePayload | None:
    """Return the expiry notice for the last level reached (1 = 30 days, 2 = 7 days, 3 = last day); else None (L5)."""
    watched = TRIGGERS.get(trigger)
    if watched is not None and watched.kind == "term" and watched.unit is None:  # the term is over
        days = 0
    elif unit != "days":
        return None
    elif threshold is not None:
        days = threshold
    elif levels and levels[-1].isdigit():
        days = int(levels[-1])
    else:
        return None
    status = 3 if days <= 0 else 2 if days <= _DAYS_OF_STATUS_1 else 1
    notice = out.Notice(service_name=_SERVICE_NUMBERS[action.service_name], service_status=status)
    return out.DevicePayload(q_retain_device_sevice_notice=notice)


def schema() -> bytes:
    """Return the JSON Schema of messages, as docs/action.schema.json publishes it."""
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An action of Weir",
        **msgspec.json.schema(ActionMessage),
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
