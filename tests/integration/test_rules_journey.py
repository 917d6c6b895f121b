"""The whole way of rules on the command line: activate, ingest, fire, deliver, answer, release at the next cycle."""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.actions import ActionMessage
from tests.integration.test_outbox import Got, Receiver, receiving
from tests.support.weir_command import Weir

SCHEMA = Path(__file__).parent.parent.parent / "docs" / "action.schema.json"
USER, TERM = "8988303000000000017", "8988303000000000025"
MB = 1024 * 1024
SUSPENSION, NOTICE = "limit.overage_suspension.solo", "limit.expiry_notice.devices"
SECRET = "one-word-that-signs"
CATALOGUE = f"""
[[accounts]]
id = "rhine"
time_zone = "Europe/Berlin"

[[plans]]
id = "solo"
currency = "EUR"
[[plans.versions]]
version = 1
effective = 2024-01-01
[[plans.versions.rates]]
service = "data"
allowance = "30 MB"
price = {{ model = "flat", price = "0.01", per = "1 MB" }}

[[cards]]
iccid = "{USER}"
account = "rhine"
plan = "solo"

# Its term of 12 months began in November 2025 and so ends with October 2026 (T3).
[[cards]]
iccid = "{TERM}"
account = "rhine"
plan = "solo"
activated_on = 2025-11-10
term_months = 12

[[limits]]
id = "solo"
kind = "overage_suspension"
plan = "solo"
margin = "10 MB"

[[limits]]
id = "devices"
kind = "expiry_notice"
service_name = "rtk"
"""
CONFIG = """
[outbox]
file = "others.ndjson"
[[outbox.files]]
name = "devices"
path = "devices.ndjson"
[[outbox.webhooks]]
name = "network"
url = "{url}"
secret_env = "WEIR_NETWORK_SECRET"
allow = ["127.0.0.0/8"]
[[outbox.routes]]
actions = ["suspend", "resume"]
to = ["network"]
[[outbox.routes]]
actions = ["notify"]
channels = ["device"]
to = ["devices"]
"""


class Journey:
    """Commands on one data directory, and what its receivers have got."""

    def __init__(self, run: Weir, folder: Path, network: Receiver, rule: str) -> None:
        self.run, self.folder, self.network = run, folder, network
        (folder / "catalogue.toml").write_text(CATALOGUE)
        (folder / "weir.toml").write_text(CONFIG.format(url=network.url))
        self.say("apply", folder / "catalogue.toml", "--no-check-digits", "--as-of", "2026-09-30T08:00:00Z")
        self.say("rules", "activate", rule, "--as-of", "2026-09-30T09:00:00Z")

    def say(self, *words: object) -> Any:
        """Give a command, which must end well; its document."""
        return self.run("--config", self.folder / "weir.toml", *words, "--json").json

    def use(self, as_of: str, *quantities: int) -> Any:
        """One record of USER for each of these quantities, on the day of arrival."""
        file = self.folder / f"{as_of[:10]}.csv"
        rows = [f"{as_of[:10]}-{at},data,{USER},{one},{as_of[:11]}0{at}:00:00Z" for at, one in enumerate(quantities)]
        file.write_text("\n".join(["record_key,service,iccid,quantity,used_at", *rows]) + "\n")
        return self.say("ingest", "--feed", "plain", file, "--as-of", as_of)

    def answer(self, as_of: str, **command: str) -> Any:
        """Give one command from a file."""
        (self.folder / "answers.ndjson").write_text(json.dumps(command) + "\n")
        return self.say("command", self.folder / "answers.ndjson", "--as-of", as_of)

    def devices(self) -> list[dict[str, Any]]:
        """The messages in the file for devices."""
        return [checked(line) for line in (self.folder / "devices.ndjson").read_bytes().splitlines()]


def checked(body: bytes) -> dict[str, Any]:
    """A message, of the form that is published (docs/action.schema.json is made of the same structs)."""
    told = msgspec.json.decode(body, type=ActionMessage)
    message: dict[str, Any] = json.loads(body)
    assert message == json.loads(msgspec.json.encode(told))
    shape = json.loads(SCHEMA.read_text())["$defs"][type(told).__name__]
    assert message.keys() == shape["properties"].keys() == {*shape["required"], "version"}
    return message


def signed(got: Got) -> bool:
    """Whether the request carries the signature that docs/actions.md describes."""
    content = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    expected = b64encode(hmac.digest(SECRET.encode(), content, "sha256")).decode()
    return got.headers["webhook-signature"] == f"v1,{expected}"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose data directory and secret the environment names."""
    monkeypatch.setenv("WEIR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("WEIR_NETWORK_SECRET", SECRET)
    return tmp_path


def test_overage_suspends_until_the_next_cycle(weir: Weir, there: Path) -> None:
    """L1, L10 to L12: past allowance and margin a SIM is suspended by the network, and resumed as November begins."""
    with receiving() as network:
        journey = Journey(weir, there, network, SUSPENSION)
        told = journey.use("2026-10-20T12:00:00Z", 30 * MB, 10 * MB)
        assert (0, 0) == (told["firings"], told["actions"])  # at the limit, not past it
        told = journey.use("2026-10-21T12:00:00Z", 1, 5 * MB)
        assert (1, 1) == (told["firings"], told["actions"])  # once in a cycle
        assert 1 == journey.say("outbox", "deliver")["delivered"]
        assert 0 == journey.say("outbox", "deliver")["delivered"]

        (asked,) = network.got
        suspend = checked(asked.body)
        assert signed(asked)
        assert ("suspend", {"reason": "over_quota", "until": "window_end"}) == (
            suspend["action"],
            suspend["parameters"],
        )
        assert (40 * MB, 40 * MB + 1) == (suspend["value_before"], suspend["value_now"])
        assert (40 * MB, 30 * MB, ["10 MB"]) == (suspend["threshold"], suspend["size"], suspend["levels"])
        assert ("2026-10", "2026-10-21-0") == (suspend["window"], suspend["record_key"])
        assert "activated" == journey.say("card", USER)["status"]  # until the network says that it is done

        done = {"type": "suspended", "iccid": USER, "reason": "over_quota", "action_id": suspend["id"], "key": "1"}
        journey.answer("2026-10-21T12:05:00Z", **done)
        journey.answer("2026-10-21T12:06:00Z", **done)  # again, and harmless
        card = journey.say("card", USER)
        assert ("suspended", "over_quota") == (card["status"], card["status_reason"])
        (listed,) = journey.say("rules", "actions", "--sim", USER)["rows"]
        assert (suspend["id"], "done", "suspended") == (listed["action_id"], listed["state"], listed["outcome"])

        # October ends at 23:00 UTC in Berlin.
        assert 0 == journey.say("tick", "--as-of", "2026-10-31T22:59:59Z")["actions"]
        ticks = [journey.say("tick", "--as-of", "2026-10-31T23:00:00Z")["actions"] for _ in range(2)]
        assert [1, 0] == ticks
        journey.say("outbox", "deliver")
        resume = checked(network.got[-1].body)
        assert ("resume", "released", SUSPENSION) == (resume["action"], resume["kind"], resume["rule"])
        assert 2 == len(network.got)
        journey.answer("2026-10-31T23:01:00Z", type="resumed", iccid=USER, action_id=resume["id"])
        assert "activated" == journey.say("card", USER)["status"]

        firings = journey.say("rules", "firings", "--sim", USER)["rows"]
        assert [("released", resume["firing_id"]), ("fired", suspend["firing_id"])] == [
            (row["kind"], row["firing_id"]) for row in firings
        ]
        assert {"open": 0, "told": 0, "done": 2, "failed": 0} == journey.say("rules", "show", SUSPENSION)["actions"]
        told = journey.use("2026-11-02T12:00:00Z", 41 * MB)
        assert (1, 1) == (told["firings"], told["actions"])  # a new cycle, a new suspension


def test_a_failed_suspension_leaves_the_card_as_it_is(weir: Weir, there: Path) -> None:
    """L10: what could not be carried out is listed with why, and the card stays activated."""
    with receiving() as network:
        journey = Journey(weir, there, network, SUSPENSION)
        journey.use("2026-10-21T12:00:00Z", 41 * MB)
        journey.say("outbox", "deliver")
        asked = checked(network.got[0].body)
        journey.answer("2026-10-21T12:05:00Z", type="failed", action_id=asked["id"], message="no answer")
    assert "activated" == journey.say("card", USER)["status"]
    (row,) = journey.say("rules", "actions", "--state", "failed")["rows"]
    assert (asked["id"], "no answer") == (row["action_id"], row["message"])


def test_a_device_is_told_of_the_end_of_its_term(weir: Weir, there: Path) -> None:
    """L5: the payload says 1 from 30 days before, 2 from 7 days, 3 on the last day; firings hold the days."""
    with receiving() as network:
        journey = Journey(weir, there, network, NOTICE)
        days = ("09-30", "10-01", "10-02", "10-23", "10-24", "10-25", "10-30", "10-31")
        fired = [journey.say("tick", "--as-of", f"2026-{day}T12:00:00Z")["firings"] for day in days]
        assert [0, 1, 0, 0, 1, 0, 0, 1] == fired
        assert 0 == journey.say("tick", "--as-of", "2026-10-31T12:00:00Z")["firings"]  # the same tick again
        journey.say("outbox", "deliver")
        assert [] == network.got
    told = journey.devices()
    assert [TERM] * 3 == [one["iccid"] for one in told]
    assert [{"q_retain_device_sevice_notice": {"serviceName": 2, "serviceStatus": number}} for number in (1, 2, 3)] == [
        one["parameters"]["device"] for one in told
    ]
    assert [(["device"], "days")] * 3 == [(one["parameters"]["by"], one["unit"]) for one in told]
    listed = journey.say("rules", "firings", "--rule", NOTICE)["rows"]
    assert [(0, 0, ["0"]), (7, 7, ["7"]), (30, 30, ["30"])] == [
        (row["value_now"], row["threshold"], row["levels"]) for row in listed
    ]
    assert {row["firing_id"] for row in listed} == {one["firing_id"] for one in told}


def test_apply_tells_what_rules_made_of_it(weir: Weir, there: Path) -> None:
    """L7, L12: a catalogue that changes what a rule watches says how many firings and actions came of it."""
    (there / "catalogue.toml").write_text(
        CATALOGUE
        + """
[[rules]]
id = "lost"
trigger = "billing_status_changed"
to = "suspended"
actions = [{ sequence = 1, type = "notify", by = ["system"] }, { sequence = 2, type = "add_tag", tag = "lost" }]
"""
    )
    card = f'[[cards]]\niccid = "{USER}"\naccount = "rhine"\nplan = "solo"\nstatus = "suspended"\n'
    (there / "card.toml").write_text(card)
    words = ("--no-check-digits", "--as-of", "2026-10-01T08:00:00Z")
    assert weir("apply", there / "catalogue.toml", *words).out.strip().endswith("3 rules, 2 cards")
    assert 0 == weir("rules", "activate", "lost", "--as-of", "2026-10-01T09:00:00Z").status
    told = weir("apply", there / "card.toml", "--no-check-digits", "--as-of", "2026-10-01T10:00:00Z")
    assert "applied 1 cards: 1 firing, 2 actions\n" == told.out
    again = weir("apply", there / "card.toml", "--no-check-digits", "--json").json
    assert (1, 0, 0) == (again["cards"], again["firings"], again["actions"])


def test_what_is_told_of_the_clock_limits_and_the_outbox(weir: Weir, there: Path) -> None:
    """A tick into the past says where the clock is; a limit that is off says so; an empty outbox says what fills it."""
    (there / "catalogue.toml").write_text(CATALOGUE.replace('margin = "10 MB"', 'margin = "off"'))
    words = ("--no-check-digits", "--as-of", "2026-10-01T08:00:00Z")
    assert 0 == weir("apply", there / "catalogue.toml", *words).status
    assert "the clock is at 2026-10-02 00:00:00 UTC\n" == weir("tick", "--as-of", "2026-10-02").out
    assert "the clock is at 2026-10-02 00:00:00 UTC already" in weir("tick", "--as-of", "2026-10-01").out
    assert "2026-10-02T00:00:00+00:00" == weir("tick", "--as-of", "2026-10-01", "--json").json["as_of"]
    (line,) = [line for line in weir("rules").out.splitlines() if SUSPENSION in line]
    assert " off " in line
    assert "`weir outbox deliver`" in weir("outbox", "list").out
    assert 0 == weir("outbox", "deliver").status
    assert "there are no deliveries yet" in weir("outbox", "list").out
