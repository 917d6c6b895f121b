"""Lists of rules, their firings and their actions (L6, L10, L12)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import polars as pl

from jobs.known import require_known
from jobs.output.text import json_rows
from jobs.show.page import Page, frame_of, require_page
from schemas.choices import ACTION_STATES, ActionState, RuleStatus, TriggerName
from schemas.rules import Rule

if TYPE_CHECKING:
    import duckdb

_FIRINGS: Final = """
SELECT firing_id, fired_at, rule_id::VARCHAR AS rule_id, kind::VARCHAR AS kind, trigger::VARCHAR AS trigger,
    account_id::VARCHAR AS account_id, iccid, pool_id::VARCHAR AS pool_id, "window"::VARCHAR AS "window",
    unit::VARCHAR AS unit, value_before, value_now, size, threshold, levels, from_value, to_value, used_at, record_key
FROM firings
WHERE ($rule IS NULL OR rule_id = $rule) AND ($iccid IS NULL OR iccid = $iccid)
    AND ($since IS NULL OR fired_at >= $since)
"""
_ACTIONS: Final = """
SELECT action_id, created_at, rule_id::VARCHAR AS rule_id, sequence, action::VARCHAR AS action,
    account_id::VARCHAR AS account_id, iccid, parameters::VARCHAR AS parameters, state, outcome, message, result_at,
    firing_id
FROM action_states
WHERE ($rule IS NULL OR rule_id = $rule) AND ($iccid IS NULL OR iccid = $iccid)
    AND ($since IS NULL OR created_at >= $since) AND ($state IS NULL OR state = $state)
"""
_FIRINGS_ORDER: Final = "fired_at DESC, journal_partition DESC, journal_offset DESC, rule_id, iccid, kind"
_ACTIONS_ORDER: Final = "created_at DESC, journal_partition DESC, journal_offset DESC, rule_id, iccid, sequence"


@dataclass(frozen=True)
class RuleDetail:
    """One rule: its definition, its row of the state, its number of firings, its actions by state, its last firings."""

    rule: Rule
    status: dict[str, Any]
    actions: dict[str, int]  # Number of actions by state.
    firings: pl.DataFrame

    def as_dict(self) -> dict[str, Any]:
        """Return the rule as JSON values."""
        facts = {name: self.status[name] for name in ("status", "active_since", "firings", "sims", "last_fired_at")}
        return {
            "rule": msgspec.to_builtins(self.rule),
            **json_rows(pl.DataFrame([facts], schema_overrides=_INSTANTS))[0],
            "actions": self.actions,
            "latest": json_rows(self.firings),
        }


_INSTANTS: Final = {name: pl.Datetime("us", "UTC") for name in ("active_since", "last_fired_at")}


def list_rules(
    connection: duckdb.DuckDBPyConnection,
    rules: pl.DataFrame,
    *,
    owner: str | None = None,
    trigger: TriggerName | None = None,
    status: RuleStatus | None = None,
    limit: int = 50,
    offset: int = 0,
) -> Page:
    """Return the rules (columns of RULES_VIEW) that match all filters, by id, with counts from the history.

    The counts are firings, SIMs and the time of the last firing. `owner` is an account or "root".
    """
    require_page(limit, offset)
    found = _with_firings(connection, rules)
    if owner is not None:
        found = found.filter(pl.col("owner").is_null() if owner == "root" else pl.col("owner") == owner)
    if trigger is not None:
        found = found.filter(pl.col("trigger") == trigger)
    if status is not None:
        found = found.filter(pl.col("status") == status.upper())
    return Page(found.height, offset, found.sort("rule_id").slice(offset, limit))


def rule_detail(
    connection: duckdb.DuckDBPyConnection, rules: pl.DataFrame, documents: Collection[Rule], rule_id: str, latest: int
) -> RuleDetail:
    """Return the rule with this id and its `latest` newest firings. Raises UsageError if the rule does not exist."""
    require_rule(rules, rule_id)
    (rule,) = (one for one in documents if one.id == rule_id)
    require_page(latest, 0)
    status = _with_firings(connection, rules.filter(pl.col("rule_id") == rule_id)).row(0, named=True)
    counted = connection.execute("SELECT state, count(*) FROM action_states WHERE rule_id = $1 GROUP BY 1", [rule_id])
    by_state = {str(state): 0 for state in ACTION_STATES} | dict(counted.fetchall())
    return RuleDetail(rule, status, by_state, latest_firings(connection, latest, rule=rule_id))


def require_rule(rules: pl.DataFrame, rule_id: str | None) -> None:
    """Raise UsageError if `rule_id` is not None and no rule has this id."""
    require_known("a rule", rule_id, rules["rule_id"])


def list_firings(
    connection: duckdb.DuckDBPyConnection,
    *,
    rule: str | None = None,
    iccid: str | None = None,
    since: dt.datetime | None = None,
    limit: int = 20,
    offset: int = 0,
) -> Page:
    """Return firings, newest first: those of a rule, of a SIM, and since a time, if these filters are given (L12)."""
    asked = {"rule": rule, "iccid": iccid, "since": since}
    return _page(connection, _FIRINGS, _FIRINGS_ORDER, asked, limit, offset)


def latest_firings(
    connection: duckdb.DuckDBPyConnection, limit: int, *, rule: str | None = None, iccid: str | None = None
) -> pl.DataFrame:
    """Return the rows of `list_firings` without counting all of them, which would read the history once more."""
    asked = {"rule": rule, "iccid": iccid, "since": None}
    return _rows(connection, _FIRINGS, _FIRINGS_ORDER, asked, limit, 0)


def list_actions(
    connection: duckdb.DuckDBPyConnection,
    *,
    rule: str | None = None,
    iccid: str | None = None,
    state: ActionState | None = None,
    since: dt.datetime | None = None,
    limit: int = 20,
    offset: int = 0,
) -> Page:
    """Return actions with their state, newest first. Actions of one firing are in their sequence (L10)."""
    asked = {"rule": rule, "iccid": iccid, "since": since, "state": state}
    return _page(connection, _ACTIONS, _ACTIONS_ORDER, asked, limit, offset)


def latest_actions(connection: duckdb.DuckDBPyConnection, limit: int, *, iccid: str) -> pl.DataFrame:
    """Return the rows of `list_actions` without counting all of them."""
    asked = {"rule": None, "iccid": iccid, "since": None, "state": None}
    return _rows(connection, _ACTIONS, _ACTIONS_ORDER, asked, limit, 0)


def _page(
    connection: duckdb.DuckDBPyConnection, sql: str, order: str, asked: dict[str, Any], limit: int, offset: int
) -> Page:
    require_page(limit, offset)
    ((total,),) = connection.execute(f"SELECT count(*) FROM ({sql})", asked).fetchall()
    return Page(int(total), offset, _rows(connection, sql, order, asked, limit, offset))


def _rows(
    connection: duckdb.DuckDBPyConnection, sql: str, order: str, asked: dict[str, Any], limit: int, offset: int
) -> pl.DataFrame:
    params = {**asked, "limit": limit, "offset": offset}
    return frame_of(connection.sql(f"{sql} ORDER BY {order} LIMIT $limit OFFSET $offset", params=params))


def _with_firings(connection: duckdb.DuckDBPyConnection, rules: pl.DataFrame) -> pl.DataFrame:
    fired = frame_of(
        connection.sql(
            "SELECT rule_id::VARCHAR AS rule_id, count(*) AS firings, count(DISTINCT iccid) AS sims, "
            "max(fired_at) AS last_fired_at FROM firings WHERE kind = 'fired' GROUP BY ALL"
        )
    )
    return rules.join(fired, on="rule_id", how="left").with_columns(pl.col("firings", "sims").fill_null(0))
