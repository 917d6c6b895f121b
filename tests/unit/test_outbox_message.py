"""Messages of the outbox: every type, texts, the device payload, the published schema (L5, L10, L12)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import polars as pl
import pytest

from pipeline.config import Outbox, Route
from pipeline.outbox.message import Outgoing, Target, fill, outgoing, schema
from pipeline.outbox.routes import targets
from schemas.actions import ActionMessage, Notify
from schemas.rules import Action, ActionType, Channel
from tests.support.outbox_case import FIRED_AT, Act, action_row, firing_row, sim

DOCS = Path(__file__).parents[2] / "docs"

PARAMETERS: dict[str, dict[str, Any]] = {
    "suspend": {"reason": "over_quota", "until": "window_end"},
    "resume": {"reason": "over_quota"},
    "throttle": {"rate_bps": 64_000},
    "change_status": {"status": "deactivated"},
    "change_plan": {"plan": "eu-2"},
    "add_tag": {"tag": "heavy"},
    "set_attribute": {"attribute": "site", "value": "B"},
    "notify": {"by": ["email"], "to": ["a@example.com"], "subject": "{iccid}", "text": "{value} of {threshold}"},
    "webhook": {"url": "https://example.com/weir"},
}


def sent(acts: Sequence[Act], outbox: Outbox | None = None) -> list[Outgoing]:
    """What the outbox would keep of these actions."""
    config = outbox or Outbox()
    frame = pl.DataFrame([action_row(one) for one in acts], infer_schema_length=None)
    firings = pl.DataFrame([firing_row(one) for one in acts], infer_schema_length=None)
    return list(outgoing(frame, firings, lambda action, rule: targets(config, action, rule)))


def message(act: Act) -> ActionMessage:
    """The one message of an action."""
    (one,) = sent([act])
    found: ActionMessage = msgspec.json.decode(one.body, type=ActionMessage)
    return found


def plain(one: ActionMessage) -> dict[str, Any]:
    """The message as JSON values."""
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(one))
    return values


def test_every_type_of_action_has_a_case() -> None:
    """The cases of this file cover the types that rules can name."""
    assert set(get_args(ActionType)) == set(PARAMETERS)


@pytest.mark.parametrize("action", sorted(PARAMETERS))
def test_a_message_says_what_the_rule_asked_for(action: str) -> None:
    """The parameters of each type reach the message, beside the card and the firing."""
    found = plain(message(Act(7, action=action, parameters=PARAMETERS[action])))
    assert action == found["action"]
    assert f"0.7.{sim(1)}.1.quota" == found["id"]
    assert (900, 1100, 1000, 1000, "bytes") == tuple(
        found[name] for name in ("value_before", "value_now", "threshold", "size", "unit")
    )
    assert ("2026-10-07T12:25:00Z", "2026-10-07T12:30:00Z") == (found["used_at"], found["fired_at"])
    wanted = PARAMETERS[action]
    if action == "notify":
        wanted = wanted | {"subject": sim(1), "text": "1100 of 1000"}
    assert wanted == {name: value for name, value in found["parameters"].items() if name in wanted}


def test_defaults_that_a_rule_leaves_out_are_written() -> None:
    """A receiver finds the reason and the end of a suspension even where the rule names neither."""
    found = plain(message(Act(1)))
    assert {"reason": "manual", "until": "released"} == found["parameters"]


def test_placeholders_are_filled_and_other_braces_stay() -> None:
    """All placeholders are known, a missing value leaves nothing, and no format string is evaluated."""
    values: dict[str, object] = dict.fromkeys(
        ["iccid", "account", "rule", "value", "threshold", "unit", "percent", "window"], 5
    )
    assert "5 5 5 5 5 5 5 5" == fill("{iccid} {account} {rule} {value} {threshold} {unit} {percent} {window}", values)
    assert "{other} {iccid.__class__} {} <>" == fill("{other} {iccid.__class__} {} <{unit}>", values | {"unit": None})


def test_percent_is_of_the_size_now() -> None:
    """{percent} is the value in percent of the quota or pool, rounded down; a size of 0 has none."""
    text = {"by": ["system"], "text": "<{percent}>"}
    texts = [
        found.parameters.text
        for size in (1000, 0, None)
        if isinstance(found := message(Act(1, action="notify", parameters=text, firing={"size": size})), Notify)
    ]
    assert ["<110>", "<>", "<>"] == texts


@pytest.mark.parametrize(
    ("levels", "threshold", "status"), [(["30"], 30, 1), (["30", "7"], 7, 2), (["7", "0"], 0, 3), (["30"], None, 1)]
)
def test_device_payload_names_the_deepest_level(levels: list[str], threshold: int | None, status: int) -> None:
    """serviceStatus is 1, 2, 3 for 30 days, 7 days, the last day; serviceName is that of the rule (L5)."""
    firing = {"trigger": "term_ends", "unit": "days", "levels": levels, "threshold": threshold}
    parameters = {"by": ["device"], "service_name": "rtk"}
    found = plain(message(Act(1, action="notify", parameters=parameters, firing=firing)))
    expected = {"q_retain_device_sevice_notice": {"serviceName": 2, "serviceStatus": status}}
    assert expected == found["parameters"]["device"]


def test_no_device_payload_without_the_channel_or_a_term() -> None:
    """The payload is there only for the channel "device" and the end of a term."""
    term = {"trigger": "term_ends", "unit": "days", "levels": ["30"], "threshold": 30}
    for parameters, firing in (({"by": ["email"]}, term), ({"by": ["device"]}, {})):
        found = message(Act(1, action="notify", parameters=parameters, firing=firing))
        assert isinstance(found, Notify)
        assert found.parameters.device is None


def test_routes_choose_by_type_rule_and_channel() -> None:
    """An action goes to each route that takes it, a notify by the channels asked for there, the rest to the file."""
    config = Outbox(
        routes=(
            Route(to=("ops",), actions=("suspend", "resume")),
            Route(to=("mail", "ops"), actions=("notify",), channels=("email",)),
            Route(to=("audit",), rules=("audited",)),
        )
    )

    def found(action: ActionType, rule: str = "r", by: tuple[Channel, ...] = ()) -> list[Target]:
        return list(targets(config, Action(sequence=1, type=action, by=by), rule))

    assert [Target("ops")] == found("suspend")
    assert [Target("ops"), Target("audit")] == found("resume", "audited")
    assert [Target("file")] == found("throttle")
    assert [Target("mail", ("email",)), Target("ops", ("email",)), Target("file", ("sms",))] == found(
        "notify", by=("email", "sms")
    )


def test_a_destination_is_told_its_own_channels() -> None:
    """Of a notify by e-mail and SMS the gateway for SMS is asked for SMS only."""
    config = Outbox(routes=(Route(to=("gateway",), channels=("sms",)),))
    found = sent([Act(1, action="notify", parameters={"by": ["email", "sms"]})], config)
    by = {one.destination: msgspec.json.decode(one.body)["parameters"]["by"] for one in found}
    assert {"gateway": ["sms"], "file": ["email"]} == by


def test_a_missing_firing_is_told() -> None:
    """An action whose firing is not in the history is damage, not a message with holes."""
    act = Act(3)
    frame = pl.DataFrame([action_row(act)])
    firings = pl.DataFrame([firing_row(Act(4))])
    with pytest.raises(ValueError, match=re.escape(f"firing {act.firing_id} is not in the history")):
        list(outgoing(frame, firings, lambda *_: [Target("file")]))


def test_the_published_schema_is_the_one_in_force() -> None:
    """docs/action.schema.json is what `pipeline.outbox.message.schema` says."""
    assert schema() == (DOCS / "action.schema.json").read_bytes()


def test_the_examples_of_the_documentation_are_messages() -> None:
    """docs/actions.md has a message of every type, each of the schema, in the form in which it leaves."""
    text = (DOCS / "actions.md").read_text()
    examples = [block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"firing_id"' in block]
    found = [msgspec.json.decode(block, type=ActionMessage) for block in examples]
    assert sorted(PARAMETERS) == sorted(plain(one)["action"] for one in found)
    for block, one in zip(examples, found, strict=True):
        assert msgspec.json.decode(block) == plain(one)


def test_arrival_is_when_it_fired() -> None:
    """fired_at is the arrival of the entry that met the condition."""
    assert message(Act(1)).fired_at == FIRED_AT
