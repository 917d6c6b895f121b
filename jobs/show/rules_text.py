"""Terminal tables of rules, firings and actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import polars as pl
from rich.console import RenderableType
from rich.text import Text

from jobs.output.printable import printable
from jobs.show.page import Page
from jobs.show.rules import RuleDetail
from jobs.show.tables import Listing, listing_table, pairs_table, quantity_cell, range_text, safe, spaced
from rating.rules.triggers import TRIGGERS
from schemas.rules import Rule

_SERVICE_OF = {"bytes": "data", "seconds": "voice"}  # The service decides how a quantity is formatted.
_OWN_TABLES = ("filters", "actions")
_LONG = ("subject", "text")  # Long fields of messages, which only `weir rules show` prints.


def render_rules(page: Page) -> RenderableType:
    """Format rules, one a row."""
    if not page.total:
        return Text("no rules; load some with `weir apply FILE.toml`, docs/rules.md says how")
    table = listing_table(
        "Rules",
        "Rule Owner Trigger Threshold Status Since",
        "Firings SIMs",
        "Last",
        give_way="Last SIMs Since Owner Threshold Trigger",
    )
    for row in page.rows.iter_rows(named=True):
        table.add_row(
            safe(row["rule_id"]),
            safe(row["owner"] or "root"),
            safe(row["trigger"]),
            safe(_threshold(row["measure"], row["threshold"])),
            safe(row["status"], "green" if row["status"] == "ACTIVE" else "dim"),
            safe(row["active_since"]),
            safe(row["firings"]),
            safe(row["sims"]),
            safe(row["last_fired_at"]),
        )
    return spaced([table, range_text(page)])


def _threshold(measure: str | None, threshold: str | None) -> str | None:
    if measure in (None, "used"):
        return threshold
    if threshold:
        return f"{measure} {threshold}"
    return measure if measure == "hard_cut" else "off"


def render_rule(detail: RuleDetail) -> RenderableType:
    """Format one rule: its definition, filters and actions, and its last firings."""
    rule, status = detail.rule, detail.status
    came = ", ".join(f"{count:,} {state}" for state, count in detail.actions.items())
    facts = {
        "status": status["status"],
        "active since": status["active_since"],
        "firings": status["firings"],
        "SIMs": status["sims"],
        "last fired": status["last_fired_at"],
        "actions asked for": came,
    }
    parts: list[RenderableType] = [pairs_table(f"Rule {printable(rule.id)}", (_said(rule) | facts).items())]
    if rule.filters:
        table = listing_table("Filters", "Filter Name Values")
        for one in rule.filters:
            table.add_row(safe(one.type), safe(one.name), safe(", ".join(one.values)))
        parts.append(table)
    if rule.actions:
        table = listing_table("Actions", "", "Sequence", "Action Parameters")
        for action in sorted(rule.actions, key=lambda each: each.sequence):
            said = msgspec.to_builtins(action)
            fields = ((name, value) for name, value in said.items() if name not in ("sequence", "type"))
            table.add_row(safe(action.sequence), safe(action.type), safe(_fields(dict(fields))))
        parts.append(table)
    if detail.firings.height:
        parts.append(firings_table("Latest firings", detail.firings, of_rule=True))
    return spaced(parts)


def _said(rule: Rule) -> dict[str, object]:
    """Return the definition of a rule as text by field name, without its filters and actions."""
    said = msgspec.to_builtins(rule)
    text = {name: _words(value) for name, value in said.items() if name not in (*_OWN_TABLES, "id")}
    trigger = f"{rule.trigger}: {TRIGGERS[rule.trigger].text}"
    return {"owner": rule.owner or "root"} | text | {"trigger": trigger, "repetition": rule.repetition}


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _fields(fields: Mapping[str, Any]) -> str | None:
    return ", ".join(f"{name.replace('_', ' ')} {_words(value)}" for name, value in fields.items()) or None


def render_firings(page: Page, *, of_rule: bool = False, of_sim: bool = False) -> RenderableType:
    """Format a page of firings, one a row. `of_rule` and `of_sim` are as in `firings_table`."""
    if not page.total:
        return Text("no firings")
    return spaced([firings_table("Firings", page.rows, of_rule=of_rule, of_sim=of_sim), range_text(page)])


def firings_table(title: str, rows: pl.DataFrame, *, of_rule: bool = False, of_sim: bool = False) -> Listing:
    """Format firings as a table.

    If `of_rule` is true, all firings are of one rule and the column of the rule is omitted. `of_sim` omits the ICCID in
    the same way.
    """
    names = {"Fired": "fired_at", "Rule": "rule_id", "ICCID": "iccid", "Window": "window"}
    _leave_out(names, of_rule, of_sim)
    table = listing_table(
        title,
        f"{' '.join(names)} Event",
        "Before Now Threshold",
        "Levels",
        give_way="Before Levels Window Threshold Now",
    )
    for row in rows.iter_rows(named=True):
        service = _SERVICE_OF.get(row["unit"], "")
        values = (quantity_cell(row[name], service) for name in ("value_before", "value_now", "threshold"))
        table.add_row(
            *(safe(row[name]) for name in names.values()),
            safe(_event(row)),
            *values,
            safe(", ".join(row["levels"] or []) or None),
        )
    return table


def _leave_out(names: dict[str, str], of_rule: bool, of_sim: bool) -> None:
    for heading, same in (("Rule", of_rule), ("ICCID", of_sim)):
        if same:
            del names[heading]


def _event(row: Mapping[str, Any]) -> str:
    if row["kind"] == "released":
        return "released"
    if row["from_value"] is not None or row["to_value"] is not None:
        return f"{row['from_value'] or 'none'} to {row['to_value'] or 'none'}"
    return f"pool {row['pool_id']}" if row["pool_id"] is not None else "fired"


def render_actions(page: Page, *, of_rule: bool = False, of_sim: bool = False) -> RenderableType:
    """Format a page of actions, one a row. `of_rule` and `of_sim` are as in `firings_table`."""
    if not page.total:
        return Text("no actions")
    return spaced([actions_table("Actions", page.rows, of_rule=of_rule, of_sim=of_sim), range_text(page)])


_STYLES = {"open": "yellow", "told": "cyan", "done": "green", "failed": "red"}


def actions_table(title: str, rows: pl.DataFrame, *, of_rule: bool = False, of_sim: bool = False) -> Listing:
    """Format actions as a table with their states. `of_rule` and `of_sim` are as in `firings_table`."""
    names = {"Asked": "created_at", "Rule": "rule_id", "ICCID": "iccid", "Action": "action"}
    _leave_out(names, of_rule, of_sim)
    table = listing_table(title, f"{' '.join(names)} State Parameters Message", give_way="Message Parameters Rule")
    for row in rows.iter_rows(named=True):
        fields = msgspec.json.decode(row["parameters"]) if row["parameters"] else {}
        fields = {name: value for name, value in fields.items() if name not in _LONG}
        table.add_row(
            *(safe(row[name]) for name in names.values()),
            safe(row["state"], _STYLES[row["state"]]),
            safe(_fields(fields)),
            safe(row["message"]),
        )
    return table
