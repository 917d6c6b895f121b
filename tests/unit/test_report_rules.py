"""Rules in the monthly report: the cycle of a firing, its account, and the states of its actions (L12)."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.report.build import build_report
from jobs.report.model import Report
from jobs.report.page import render_html
from schemas.tables import ACTIONS, FIRINGS
from tests.support.rated_rows import history, rated_table, rule_tables, small_events, small_views

NOVEMBER = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
SIM = "8949000000000000001"  # in Berlin


def report_of(directory: Path, account: str | None = None, **tables: pa.Table) -> Report:
    """The report of October over the small history and these tables."""
    connection = history(directory, rated_table(small_events()), **tables)
    return build_report(connection, small_views(), "2026-10", account, NOVEMBER)


def fired(**row: Any) -> pa.Table:
    """One firing of a SIM of account acme, which is in Berlin."""
    filled = {"firing_id": "0.1", "rule_id": "r", "kind": "fired", "iccid": SIM, "account_id": "acme"} | row
    return pa.Table.from_pylist([filled], schema=FIRINGS)


def at(text: str) -> dt.datetime:
    """An instant from ISO 8601."""
    return dt.datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("within", "row"),
    [
        # A total of a cycle stands where it was counted, whenever it was found past its threshold.
        (True, {"trigger": "data_usage_cycle", "window": "2026-10", "fired_at": at("2026-11-02T08:00:00Z")}),
        (False, {"trigger": "data_usage_cycle", "window": "2026-09", "fired_at": at("2026-10-02T08:00:00Z")}),
        # A total of a day in the cycle of that day.
        (True, {"trigger": "data_usage_24h", "window": "2026-10-31", "fired_at": at("2026-11-01T08:00:00Z")}),
        (False, {"trigger": "data_usage_24h", "window": "2026-11-01", "fired_at": at("2026-11-01T08:00:00Z")}),
        # Anything else by its local day of use, or of firing where it was no use.
        (True, {"trigger": "imei_changed", "used_at": at("2026-09-30T22:30:00Z"), "fired_at": NOVEMBER}),
        (False, {"trigger": "imei_changed", "used_at": at("2026-10-31T23:30:00Z"), "fired_at": NOVEMBER}),
        (True, {"trigger": "term_ends", "window": "2026-11-30", "fired_at": at("2026-10-31T08:00:00Z")}),
    ],
)
def test_a_firing_belongs_to_one_cycle(tmp_path: Path, within: bool, row: dict[str, Any]) -> None:
    """The report of a cycle has the firings whose total is of this cycle, or whose local day is in it."""
    assert within == bool(report_of(tmp_path, firings=fired(**row)).sections["rules"].height)


def test_a_report_of_an_account_has_the_firings_of_its_sims(tmp_path: Path) -> None:
    """Rules of others count for the SIMs of the account and those below it alone."""
    whole = report_of(tmp_path, **rule_tables()).sections
    assert ["=pool", "cap", "moved"] == whole["rules"]["rule_id"].to_list()
    below = report_of(tmp_path, "acme-eu", **rule_tables()).sections
    assert [("=pool", 2, 2)] == below["rules"].select("rule_id", "sims", "firings").rows()
    assert ["8949000000000000002", "8949000000000000003"] == below["rule_sims"]["iccid"].to_list()


def test_only_the_sims_with_the_most_firings_are_listed(tmp_path: Path) -> None:
    """Twenty SIMs, most firings first, then by ICCID."""
    used = at("2026-10-05T00:00:00Z")
    rows = [
        fired(firing_id=f"{sim}-{n}", iccid=f"{sim:019}", trigger="imei_changed", used_at=used, fired_at=used)
        for sim in range(25)
        for n in range(1 + sim % 2)
    ]
    listed = report_of(tmp_path, firings=pa.concat_tables(rows)).sections["rule_sims"]
    assert 20 == listed.height
    odd = [f"{sim:019}" for sim in range(1, 25, 2)]
    assert odd == listed["iccid"].to_list()[: len(odd)]
    assert [f"{sim:019}" for sim in range(0, 16, 2)] == listed["iccid"].to_list()[len(odd) :]


def test_only_what_changes_a_card_waits_for_a_result(tmp_path: Path) -> None:
    """Without any result, a tag is done, a message and a webhook need no result, and a throttle is open."""
    asked = [
        {"action_id": str(n), "firing_id": "0.1", "rule_id": "r", "action": action, "iccid": SIM}
        for n, action in enumerate(("add_tag", "notify", "webhook", "throttle"))
    ]
    firing = fired(trigger="imei_changed", fired_at=at("2026-10-05T00:00:00Z"))
    rules = report_of(tmp_path, firings=firing, actions=pa.Table.from_pylist(asked, schema=ACTIONS)).sections["rules"]
    counts = rules.select("actions", "actions_done", "actions_failed", "actions_told", "actions_open")
    assert [(4, 1, 0, 2, 1)] == counts.rows()


def test_the_page_says_nothing_of_rules_where_none_fired(tmp_path: Path) -> None:
    """With firings the page has both tables and a headline; without, none of them."""
    page = render_html(report_of(tmp_path, **rule_tables()))
    shown = ("Firings of rules", ">Rules<", "SIMs with the most firings")
    assert [True] * 3 == [words in page for words in shown]
    assert "5 actions asked for by 3 rules" in page
    without = render_html(report_of(tmp_path))
    assert [False] * 3 == [words in without for words in shown]
