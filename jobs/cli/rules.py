"""Rule and clock commands: `weir command`, `weir tick`, and `weir rules` with its subcommands."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.context import Force, Json, Limit, Offset, counted, data_of, micros, parse_instant, tell
from rating.errors import UsageError
from schemas.choices import ActionState, RuleStatus, TriggerName

if TYPE_CHECKING:
    import duckdb

    from rating.engine import Engine
    from schemas.commands import Command

group = typer.Typer(
    name="rules", help="List, activate and deactivate rules; list their firings and actions. Without a command: list."
)

AsOf = Annotated[str | None, typer.Option(metavar="TIME", help="Effective time (ISO 8601). Default: now.")]
RuleIds = Annotated[list[str] | None, typer.Argument(metavar="ID…", help="One or more rules.")]
All = Annotated[bool, typer.Option("--all", help="All rules not already in that state.")]
OfRule = Annotated[str | None, typer.Option("--rule", metavar="ID", help="Only rows of this rule.")]
OfSim = Annotated[str | None, typer.Option("--sim", metavar="ICCID", help="Only rows of this SIM.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Only rows from this time on (ISO 8601).")]
_LATEST = 10  # Number of firings that `show` lists.


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(command)
    app.command()(tick)
    app.add_typer(group)


def command(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="NDJSON; - is standard input.")],
    as_of: AsOf = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Apply commands: results of actions, network events of SIMs, rules to activate or deactivate. All or nothing.

    Each line is one command, such as {"type": "suspended", "iccid": "8988303000000000017", "action_id": "0.17.…"};
    docs/rules.md lists all commands.
    """
    from pipeline.catalogue.command_files import read_commands, require_possible

    moment = _moment(as_of)
    given = read_commands(files)
    with data_of(context).write(force=force) as driver:
        require_possible(driver.engine, given)
        step = driver.command(given.commands, micros(moment))
    tell(f"applied {counted(len(given), 'command')}", {"commands": len(given)}, step, as_json)


def tick(context: typer.Context, as_of: AsOf = None, force: Force = False, as_json: Json = False) -> None:
    """Advance the clock to now or a given time, so that rules and actions that depend on time happen."""
    moment = _moment(as_of)
    with data_of(context).write(force=force) as driver:
        step = driver.tick(micros(moment))
        clock_us = driver.engine.state.clock_us
    at = dt.datetime.fromtimestamp(clock_us // 1_000_000, dt.UTC).replace(microsecond=clock_us % 1_000_000)
    stays = " already, which is later. It never goes back" if clock_us > micros(moment) else ""
    tell(f"the clock is at {at:%Y-%m-%d %H:%M:%S} UTC{stays}", {"as_of": at.isoformat()}, step, as_json)


@group.callback(invoke_without_command=True)
def rules(context: typer.Context, as_json: Json = False) -> None:
    """List rules if no command follows. Raises UsageError if `--json` stands before a command."""
    if context.invoked_subcommand is None:
        list_rules(context, as_json=as_json)
    elif as_json:
        raise UsageError(f"found --json before {context.invoked_subcommand}; expected it after")


@group.command("list")
def list_rules(
    context: typer.Context,
    owner: Annotated[str | None, typer.Option(metavar="ID", help="Only rules of this account, or of root.")] = None,
    trigger: Annotated[TriggerName | None, typer.Option(metavar="NAME", help="Only rules with this trigger.")] = None,
    status: Annotated[RuleStatus | None, typer.Option(help="Only rules in this state.")] = None,
    limit: Limit = 50,
    offset: Offset = 0,
    as_json: Json = False,
) -> None:
    """List rules: trigger, threshold, since when they are active, and how often they fired."""
    from jobs.known import require_known
    from jobs.output.console import show
    from jobs.show import rules as rules_listing
    from jobs.show import rules_text
    from jobs.show.source import reading

    with reading(data_of(context)) as at:
        require_known("an account", owner, {*at.account_ids, "root"})
        page = rules_listing.list_rules(
            at.connection, at.rules, owner=owner, trigger=trigger, status=status, limit=limit, offset=offset
        )
    show(page.as_dict(), as_json, lambda console: console.print(rules_text.render_rules(page)))


@group.command("show")
def show_rule(
    context: typer.Context,
    rule_id: Annotated[str, typer.Argument(metavar="ID", help="The rule.")],
    as_json: Json = False,
) -> None:
    """Show one rule: its filters, its actions and its latest firings."""
    from jobs.output.console import show
    from jobs.show import rules as rules_listing
    from jobs.show import rules_text
    from jobs.show.source import reading

    with reading(data_of(context)) as at:
        detail = rules_listing.rule_detail(at.connection, at.rules, at.rule_documents, rule_id, _LATEST)
    show(detail.as_dict(), as_json, lambda console: console.print(rules_text.render_rule(detail)))


@group.command()
def activate(
    context: typer.Context,
    ids: RuleIds = None,
    every: All = False,
    as_of: AsOf = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Activate rules. An active rule cannot be edited."""
    _switch(context, ids or [], every, as_of, force, as_json, to="ACTIVE")


@group.command()
def deactivate(
    context: typer.Context,
    ids: RuleIds = None,
    every: All = False,
    as_of: AsOf = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Deactivate rules, so that they can be edited."""
    _switch(context, ids or [], every, as_of, force, as_json, to="INACTIVE")


@group.command()
def firings(
    context: typer.Context,
    rule: OfRule = None,
    sim: OfSim = None,
    since: Since = None,
    limit: Limit = 20,
    offset: Offset = 0,
    as_json: Json = False,
) -> None:
    """List firings, newest first: the SIM, the rule, and the totals before and after."""
    from jobs.output.console import show
    from jobs.show import rules as rules_listing
    from jobs.show import rules_text

    with _asking(context, rule, sim, since) as (connection, asked):
        page = rules_listing.list_firings(connection, **asked, limit=limit, offset=offset)
    same = {"of_rule": rule is not None, "of_sim": sim is not None}
    show(page.as_dict(), as_json, lambda console: console.print(rules_text.render_firings(page, **same)))


@group.command()
def actions(
    context: typer.Context,
    rule: OfRule = None,
    sim: OfSim = None,
    state: Annotated[ActionState | None, typer.Option(help="Only actions in this state.")] = None,
    since: Since = None,
    limit: Limit = 20,
    offset: Offset = 0,
    as_json: Json = False,
) -> None:
    """List the actions that rules requested, newest first, with their results."""
    from jobs.output.console import show
    from jobs.show import rules as rules_listing
    from jobs.show import rules_text

    with _asking(context, rule, sim, since) as (connection, asked):
        page = rules_listing.list_actions(connection, **asked, state=state, limit=limit, offset=offset)
    same = {"of_rule": rule is not None, "of_sim": sim is not None}
    show(page.as_dict(), as_json, lambda console: console.print(rules_text.render_actions(page, **same)))


@contextmanager
def _asking(
    context: typer.Context, rule: str | None, sim: str | None, since: str | None
) -> Iterator[tuple[duckdb.DuckDBPyConnection, dict[str, Any]]]:
    """Open the history and yield its connection with the filters of a list.

    Raises UsageError if the rule or the SIM does not exist. The history of streaming workers has no list of rules and
    SIMs to check against, so there an unknown name gives an empty list.
    """
    from jobs.show import rules as rules_listing
    from jobs.show.source import reading
    from jobs.show.sql import connect

    asked = {"rule": rule, "iccid": sim, "since": parse_instant(since, "--since")}
    if data_of(context).is_streaming():
        with connect(data_of(context).path) as connection:
            yield connection, asked
        return
    with reading(data_of(context)) as at:
        rules_listing.require_rule(at.rules, rule)
        if sim is not None and sim not in at.parts[0].state.catalogue.cards["iccid"]:
            raise UsageError(f"--sim: no card with ICCID {sim!r}; find one with: weir cards --search TEXT")
        yield at.connection, asked


def _switch(
    context: typer.Context, ids: Sequence[str], every: bool, as_of: str | None, force: bool, as_json: bool, to: str
) -> None:
    import polars as pl

    from jobs.show.rules import require_rule
    from rating.queries.views import rules_view
    from schemas.commands import Activate, Deactivate

    if bool(ids) == every:
        raise UsageError(
            "found rules and --all; expected one of them" if ids else "found no rules; expected their ids, or --all"
        )
    moment = _moment(as_of)
    with data_of(context).write(force=force) as driver:
        known = rules_view(driver.engine)
        if every:
            ids = known.filter(pl.col("status") != to)["rule_id"].to_list()
        for rule_id in ids:
            require_rule(known, rule_id)
        kind = Activate if to == "ACTIVE" else Deactivate
        commands: list[Command] = [kind(rule=rule_id) for rule_id in ids]
        step = driver.command(commands, micros(moment))
        held = _held_by(driver.engine, ids) if to == "INACTIVE" else {}
    if not ids:
        said = "no rules to activate" if to == "ACTIVE" else "no rules to deactivate"
    else:
        said = f"{counted(len(ids), 'rule')} {'activated' if to == 'ACTIVE' else 'deactivated'}"
    if held:
        said += "; still suspended: " + ", ".join(f"{counted(count, 'SIM')} until {end}" for end, count in held.items())
    tell(said, {"rules": list(ids), "status": to} | ({"holds": held} if held else {}), step, as_json)


def _held_by(engine: Engine, ids: Sequence[str]) -> dict[str, int]:
    """Return how many SIMs these rules keep suspended, by what ends that."""
    from rating.rules.holds import RELEASED

    shown = engine.state.rules.holds.shown()
    rows = engine.state.vocabulary.rules.rows
    by_rule = [cause in {rows[rule] for rule in ids} for cause in shown.cause.tolist()]
    released = sum(until == RELEASED for until, own in zip(shown.until.tolist(), by_rule, strict=True) if own)
    found = {
        "the end of the window or recovery": sum(by_rule) - released,
        'a result says "resumed"': released,
    }
    return {end: count for end, count in found.items() if count}


def _moment(as_of: str | None) -> dt.datetime:
    return parse_instant(as_of, "--as-of") or dt.datetime.now(dt.UTC)
