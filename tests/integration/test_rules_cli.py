"""`weir command`, `weir tick` and `weir rules`: what they take, refuse, do and print."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.embedded.driver import Embedded
from tests.support.weir_command import Result, Weir

SIM, OTHER = "8988303000000000017", "8988303000000000025"
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
allowance = "5000"
price = {{ model = "flat", price = "0.001", per = "1" }}
[[cards]]
iccid = "{SIM}"
account = "rhine"
plan = "solo"
[[cards]]
iccid = "{OTHER}"
account = "rhine"
plan = "solo"
[[rules]]
id = "cap"
trigger = "data_usage_cycle"
threshold = ["80 %", "100 %"]
[[rules.actions]]
sequence = 1
type = "suspend"
reason = "over_quota"
until = "window_end"
[[rules.actions]]
sequence = 2
type = "notify"
by = ["email"]
to = ["ops@example.com"]
subject = "over"
text = "{{iccid}}"
[[rules]]
id = "quiet"
owner = "rhine"
trigger = "no_data_session_24h"
filters = [{{ type = "plan", values = ["solo"] }}]
actions = [{{ sequence = 1, type = "add_tag", tag = "quiet" }}]
"""
HEADER = "record_key,service,iccid,quantity,used_at\n"


@pytest.fixture
def loaded(weir: Weir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose data directory knows two cards, of which one has used 4,500 of its 5,000, and two rules."""
    monkeypatch.setenv("WEIR_DATA", str(tmp_path / "data"))
    (tmp_path / "catalogue.toml").write_text(CATALOGUE)
    assert 0 == weir("apply", tmp_path / "catalogue.toml", "--no-check-digits").status
    use(weir, tmp_path, "2026-10-11T12:00:00Z", f"b1,data,{SIM},4500,2026-10-11T10:00:00Z")
    return tmp_path


def use(weir: Weir, folder: Path, as_of: str, *lines: str) -> dict[str, Any]:
    """Ingest these lines of the plain feed."""
    file = folder / f"usage-{len(list(folder.iterdir()))}.csv"
    file.write_text(HEADER + "\n".join(lines) + "\n")
    told: dict[str, Any] = weir("ingest", "--feed", "plain", file, "--as-of", as_of, "--json").json
    return told


def fired(weir: Weir, folder: Path) -> dict[str, Any]:
    """Activate both rules and let SIM cross both levels of its quota. Return the output of the ingest."""
    assert 0 == weir("rules", "activate", "--all", "--as-of", "2026-10-11T13:00:00Z").status
    return use(
        weir,
        folder,
        "2026-10-12T12:00:00Z",
        f"b2,data,{SIM},100,2026-10-12T10:00:00Z",
        f"b3,data,{SIM},1000,2026-10-12T11:00:00Z",
    )


def command(weir: Weir, folder: Path, *commands: dict[str, Any], as_of: str = "2026-10-12T13:00:00Z") -> Result:
    """Give commands in a file."""
    file = folder / "commands.ndjson"
    file.write_text("".join(json.dumps(one) + "\n" for one in commands))
    return weir("command", file, "--as-of", as_of, "--json")


def test_rules_are_inactive_until_they_are_started(weir: Weir, loaded: Path) -> None:
    """L6: a loaded rule watches nobody; started and stopped it says since when; each by id or all at once."""
    listed = weir("rules", "list", "--json").json
    assert [("cap", None, "INACTIVE", None, 0), ("quiet", "rhine", "INACTIVE", None, 0)] == [
        (row["rule_id"], row["owner"], row["status"], row["active_since"], row["firings"]) for row in listed["rows"]
    ]
    at = ("--as-of", "2026-10-11T13:00:00Z")
    assert {"rules": ["cap"], "status": "ACTIVE", "firings": 0, "actions": 0} == weir(
        "rules", "activate", "cap", *at, "--json"
    ).json
    assert ["quiet"] == weir("rules", "activate", "--all", *at, "--json").json["rules"]
    assert [] == weir("rules", "activate", "--all", *at, "--json").json["rules"]
    assert "no rules to activate" in weir("rules", "activate", "--all", *at).out
    since = [row["active_since"] for row in weir("rules", "--json").json["rows"]]
    assert ["2026-10-11T13:00:00Z"] * 2 == since
    assert "2 rules deactivated" in weir("rules", "deactivate", "cap", "quiet", *at).out
    assert 2 == weir("rules", "list", "--status", "inactive", "--json").json["total"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("activate", "cop"), "expected a rule: one of cap, quiet; did you mean cap?"),
        (("activate",), "found no rules; expected their ids, or --all"),
        (("deactivate", "cap", "--all"), "found rules and --all; expected one of them"),
        (("deactivate", "cap"), "which is inactive; expected an active rule"),
        (("show", "x"), "found rule 'x'"),
        (("firings", "--rule", "x"), "found rule 'x'"),
        (("firings", "--sim", "x"), "no card with ICCID 'x'"),
        (("firings", "--since", "x"), "--since: found 'x'"),
        (("actions", "--state", "x"), "'x' is not one of 'open', 'told', 'done', 'failed'"),
        (("list", "--status", "x"), "'x' is not one of 'active', 'inactive'"),
        (("list", "--trigger", "x"), "'x' is not one of 'data_session_started', "),
        (("list", "--owner", "acmee"), "found account 'acmee'; expected an account: one of "),
        (("--json", "show", "cap"), "expected it after"),
    ],
)
def test_what_cannot_be_is_refused(weir: Weir, loaded: Path, words: tuple[str, ...], said: str) -> None:
    """A wrong argument is named with what would be right, status 2."""
    refused = weir("rules", *words)
    assert (2, "") == (refused.status, refused.out)
    assert said in " ".join(refused.err.split())


def test_firings_begin_from_what_the_history_holds(weir: Weir, loaded: Path) -> None:
    """A rule started in mid-cycle counts what the cycle has used; both levels are listed with values before and now."""
    told = fired(weir, loaded)
    assert (2, 4) == (told["firings"], told["actions"])
    listed = weir("rules", "firings", "--rule", "cap", "--json").json
    assert [(4600, 5600, 5000, ["100 %"]), (4500, 4600, 4000, ["80 %"])] == [
        (row["value_before"], row["value_now"], row["threshold"], row["levels"]) for row in listed["rows"]
    ]
    assert {SIM} == {row["iccid"] for row in listed["rows"]}
    total = weir("status", "--json").json["total"]
    assert (2, 4) == (total["firings"], total["actions"])


def test_ingest_says_what_rules_did_only_where_they_did(weir: Weir, loaded: Path) -> None:
    """The table of an ingest has lines for firings and actions where there are any."""
    assert 0 == weir("rules", "activate", "cap", "--as-of", "2026-10-11T13:00:00Z").status
    for number, quantity, shown in ((8, 600, True), (9, 1, False)):
        file = loaded / f"{number}.csv"
        file.write_text(f"{HEADER}c{number},data,{SIM},{quantity},2026-10-12T10:00:00Z\n")
        told = weir("ingest", "--feed", "plain", file, "--as-of", "2026-10-12T12:00:00Z").out
        assert shown == bool(re.search(r"firings +1 ", told)), told
        assert shown == bool(re.search(r"actions +2 ", told)), told


def test_lists_are_narrowed(weir: Weir, loaded: Path) -> None:
    """Firings and actions by rule, SIM, time and state; a page at a time."""
    fired(weir, loaded)
    assert 0 == weir("tick", "--as-of", "2026-10-14T00:00:00Z").status
    firings, actions = ("rules", "firings", "--json"), ("rules", "actions", "--json")
    assert 4 == weir(*firings).json["total"]  # two silences, and the two levels
    assert 2 == weir(*firings, "--rule", "quiet").json["total"]
    assert [OTHER] == [row["iccid"] for row in weir(*firings, "--sim", OTHER).json["rows"]]
    assert 2 == weir(*firings, "--since", "2026-10-13").json["total"]
    page = weir(*firings, "--limit", "1", "--offset", "3").json
    assert (4, 3, ["80 %"]) == (page["total"], page["offset"], page["rows"][0]["levels"])
    assert {"open": 2, "told": 2, "done": 2, "failed": 0} == {
        state: weir(*actions, "--state", state).json["total"] for state in ("open", "told", "done", "failed")
    }
    assert ["suspend", "notify"] * 2 == [row["action"] for row in weir(*actions, "--rule", "cap").json["rows"]]


def test_results_come_back_as_commands(weir: Weir, loaded: Path) -> None:
    """L10: an action is done or failed as its latest result says, and the status of the card follows it."""
    fired(weir, loaded)
    asked = {row["action"]: row for row in weir("rules", "actions", "--json").json["rows"]}
    suspend, notify = asked["suspend"]["action_id"], asked["notify"]["action_id"]
    told = command(
        weir,
        loaded,
        {"type": "suspended", "iccid": SIM, "reason": "over_quota", "action_id": suspend},
        {"type": "failed", "action_id": notify, "message": "mailbox full"},
    ).json
    assert {"commands": 2, "firings": 0, "actions": 0} == told
    states = {row["action_id"]: (row["state"], row["outcome"], row["message"]) for row in _rows(weir, "actions")}
    assert ("done", "suspended", None) == states[suspend]
    assert ("failed", "failed", "mailbox full") == states[notify]
    card = weir("card", SIM, "--json").json
    assert ("suspended", "over_quota") == (card["status"], card["status_reason"])
    assert ["100 %"] == card["firings"][0]["levels"]
    assert {"done", "failed", "open", "told"} == {row["state"] for row in card["actions"]}
    assert [[suspend, "suspended"], [notify, "failed"]] == [
        list(row.values())
        for row in weir("sql", "select action_id, outcome from results order by journal_offset", "--json").json
    ]


def _rows(weir: Weir, what: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = weir("rules", what, "--json").json["rows"]
    return rows


def test_the_card_follows_what_was_kept(weir: Weir, loaded: Path) -> None:
    """A status that a command set is in the next process too, beside a tag that an action set."""
    fired(weir, loaded)
    command(weir, loaded, {"type": "suspended", "iccid": OTHER, "reason": "manual"})
    assert 0 == weir("tick", "--as-of", "2026-10-14T00:00:00Z").status
    assert 0 == weir("tick", "--as-of", "2026-10-14T00:01:00Z").status
    rows = {row["iccid"]: row for row in weir("cards", "--json").json["rows"]}
    assert "suspended" == rows[OTHER]["status"]
    assert ["quiet"] == rows[SIM]["tags"]
    found = weir("sql", "select rule_id, status, active_since::varchar as since from rules", "--json").json
    assert {"rule_id": "cap", "status": "ACTIVE", "since": "2026-10-11 13:00:00+00"} in found


def test_a_rule_that_is_stopped_says_whom_it_holds(weir: Weir, loaded: Path) -> None:
    """L1: the SIM stays suspended until its window ends, and its card says so."""
    fired(weir, loaded)
    at = ("--as-of", "2026-10-13T12:00:00Z")
    said = weir("rules", "deactivate", "cap", *at).out
    assert "1 rule deactivated; still suspended: 1 SIM until the end of the window or recovery" in said
    (held,) = weir("sql", f"select holds from cards where iccid = '{SIM}'", "--json").json
    assert ["over_quota by cap until window_end, not confirmed"] == held["holds"]
    assert "over_quota by cap until window_end" in weir("card", SIM).out
    weir("tick", "--as-of", "2026-11-01T00:30:00+01:00")
    assert 1 == [row["action"] for row in _rows(weir, "actions")].count("resume")


def test_a_released_sim_is_resumed_by_the_clock(weir: Weir, loaded: Path) -> None:
    """L1: the tick after the cycle asks for the resume, once."""
    fired(weir, loaded)
    first = weir("tick", "--as-of", "2026-11-01T00:30:00+01:00", "--json").json
    assert 1 == weir("sql", "select count(*) as n from firings where kind = 'released'", "--json").json[0]["n"], first
    again = weir("tick", "--as-of", "2026-11-01T00:31:00+01:00", "--json").json
    assert 0 == again["firings"]
    newest = _rows(weir, "actions")
    assert 1 == [row["action"] for row in newest].count("resume")


def test_commands_come_from_several_files_and_standard_input(
    weir: Weir,
    loaded: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files are taken one after another; - is standard input; empty lines are nothing."""
    (loaded / "one").write_text('{"type": "activate", "rule": "cap"}\n\n')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"type": "deactivate", "rule": "cap"}')))
    took = weir("command", loaded / "one", "-", "--as-of", "2026-10-12T00:00:00Z")
    assert (0, "applied 2 commands\n") == (took.status, took.out)
    assert ["INACTIVE"] * 2 == [row["status"] for row in _rows(weir, "list")]


def test_bad_lines_are_all_found_and_nothing_is_taken(weir: Weir, loaded: Path) -> None:
    """Every bad line is named by file and line, field, what was found and what would be right."""
    file = loaded / "commands.ndjson"
    lines = [
        '{"type": "activate", "rule": "cap"}',
        "{",
        "[1]",
        '{"rule": "cap"}',
        '{"type": "activat", "rule": "cap"}',
        '{"type": "activate", "rules": "cap"}',
        '{"type": "suspended", "iccid": 17, "reason": "tired"}',
        '{"type": "resumed", "iccid": "1", "at": "2026-10-12T00:00:00"}',
        '{"type": "plan_changed", "iccid": "1", "plan": "p", "from": "soon"}',
    ]
    file.write_text("\n".join(lines))
    before = checkpoint(loaded)
    refused = weir("command", file)
    assert 2 == refused.status
    said = " ".join(refused.err.split())
    for number, expected in (
        (2, "line: found no JSON"),
        (3, "line: found an array of 1; expected an object"),
        (4, "type: found nothing; expected one of"),
        (5, 'type: found "activat"; expected one of'),
        (6, 'rules: found "cap"; expected no field of this name, but one of at, key, rule; did you mean rule?'),
        (6, "rule: found nothing; expected text"),
        (7, "iccid: found 17; expected text"),
        (7, 'reason: found "tired"; expected one of'),
        (8, 'at: found "2026-10-12T00:00:00"; expected a time with its offset'),
        (9, 'from: found "soon"; expected a date such as'),
    ):
        assert f"{file}:{number}: {expected}" in said, expected
    assert f"{file}:1:" not in said
    assert before == checkpoint(loaded)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"type": "activate", "rule": "cap"}, "which is active"),
        ({"type": "activate", "rule": "nap"}, "which is no rule"),
        ({"type": "connected", "iccid": "1"}, "which no card has"),
        ({"type": "plan_changed", "iccid": SIM, "plan": "none"}, "expected a plan of the catalogue"),
    ],
)
def test_a_command_that_cannot_follow_is_named_by_its_line(
    weir: Weir,
    loaded: Path,
    bad: dict[str, str],
    said: str,
) -> None:
    """Commands are judged one after another; the first that cannot take effect is named, and none is taken."""
    good = [
        {"type": "connected", "iccid": SIM},
        {"type": "activate", "rule": "cap"},
        {"type": "connected", "iccid": OTHER},
    ]
    before = checkpoint(loaded)
    refused = command(weir, loaded, *good, bad, *good[::2])
    assert (2, "") == (refused.status, refused.out)
    assert "commands.ndjson:4: " in refused.err
    assert said in " ".join(refused.err.split())
    assert before == checkpoint(loaded)


def checkpoint(folder: Path) -> int:
    """The number of the last checkpoint."""
    with Embedded.open(folder / "data", write=False) as driver:
        return driver.directory.manifest.checkpoint


def test_tables_fit_a_terminal_of_100_columns(weir: Weir, loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each list and the details print within 100 columns, with the names of rules and SIMs whole."""
    from jobs.output import console

    fired(weir, loaded)
    assert 0 == weir("tick", "--as-of", "2026-10-14T00:00:00Z").status
    monkeypatch.setattr(console.out, "_width", 100)
    for words in (("list",), ("show", "cap"), ("show", "quiet"), ("firings",), ("actions",)):
        shown = weir("rules", *words)
        assert 0 == shown.status
        assert max(map(len, shown.out.splitlines())) <= 100
        assert "…" not in shown.out
    assert "over_quota" in weir("rules", "show", "cap").out
    assert "plan" in weir("rules", "show", "quiet").out
    card = weir("card", SIM).out
    assert "Latest firings" in card
    assert "Latest actions" in card


def test_before_any_rule_lists_are_empty(weir: Weir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rules every list says so, and nothing can be started."""
    monkeypatch.setenv("WEIR_DATA", str(tmp_path / "data"))
    (tmp_path / "catalogue.toml").write_text(CATALOGUE.partition("[[rules]]")[0])
    assert 0 == weir("apply", tmp_path / "catalogue.toml", "--no-check-digits").status
    assert "no rules; load some with `weir apply FILE.toml`" in weir("rules").out
    assert "no firings" in weir("rules", "firings").out
    assert "no actions" in weir("rules", "actions").out
    assert 0 == weir("rules", "list", "--json").json["total"]
    refused = weir("rules", "activate", "cap")
    assert (2, True) == (refused.status, "expected a rule: there is none" in refused.err)
