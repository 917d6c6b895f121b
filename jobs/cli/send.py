"""The commands of `weir send`, which send catalogues, commands, rule changes and ticks to streaming workers."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.context import Files, Json, counted, data_of, instant_to_send, micros
from pipeline.extras import require_extra

if TYPE_CHECKING:
    from pipeline.config import Kafka
    from pipeline.journal.entries import Entry
    from schemas.commands import Command

group = typer.Typer(name="send", help="Send catalogues, commands and ticks to the workers.", no_args_is_help=True)

AsOf = Annotated[str | None, typer.Option(metavar="TIME", help="Effective time (ISO 8601). Default: now.")]
RuleIds = Annotated[list[str], typer.Argument(metavar="ID…", help="One or more rules.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for a worker's reply.")]
Timeout = Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How long to wait for a worker's reply.")]
_TIMEOUT_S = 60.0


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(group)


@group.command()
def apply(
    context: typer.Context,
    files: Files,
    no_check_digits: Annotated[
        bool, typer.Option("--no-check-digits", help="Accept ICCIDs and EIDs with a wrong check digit.")
    ] = False,
    as_of: AsOf = None,
    no_wait: NoWait = False,
    timeout: Timeout = _TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Send accounts, plans, zones, pools, cards and rules from TOML and CSV files.

    They are first checked here against what the topic of commands says. A catalogue larger than a message is sent in
    several messages, each of which is accepted or refused by itself.
    """
    from pipeline.catalogue import load_catalogue
    from pipeline.journal.entries import Apply

    def make(kafka: Kafka, at_us: int) -> Entry:
        with require_extra("kafka", "weir send"):
            from pipeline.streaming.commands.sending import in_force

        known = asyncio.run(in_force(kafka))
        change = load_catalogue(
            files, known=known.catalogue, check_digits=not no_check_digits, active=frozenset(known.active)
        )
        return Apply(change, at_us)

    _send(context, make, "a catalogue", as_of, no_wait, timeout, as_json)


@group.command()
def command(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="NDJSON; - is standard input.")],
    as_of: AsOf = None,
    no_wait: NoWait = False,
    timeout: Timeout = _TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Send the commands that `weir command` takes. The commands of a message are accepted or refused together."""
    from pipeline.catalogue.command_files import read_commands

    given = read_commands(files)
    said = counted(len(given), "command")
    _send(context, _commands(given.commands), said, as_of, no_wait, timeout, as_json)


@group.command()
def activate(
    context: typer.Context,
    ids: RuleIds,
    as_of: AsOf = None,
    no_wait: NoWait = False,
    timeout: Timeout = _TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Activate rules. An active rule cannot be edited."""
    from schemas.commands import Activate

    make = _commands([Activate(rule=rule) for rule in ids])
    _send(context, make, f"activation of {counted(len(ids), 'rule')}", as_of, no_wait, timeout, as_json)


@group.command()
def deactivate(
    context: typer.Context,
    ids: RuleIds,
    as_of: AsOf = None,
    no_wait: NoWait = False,
    timeout: Timeout = _TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Deactivate rules, so that they can be edited."""
    from schemas.commands import Deactivate

    make = _commands([Deactivate(rule=rule) for rule in ids])
    _send(context, make, f"deactivation of {counted(len(ids), 'rule')}", as_of, no_wait, timeout, as_json)


@group.command()
def tick(
    context: typer.Context,
    as_of: AsOf = None,
    no_wait: NoWait = False,
    timeout: Timeout = _TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Advance the clock of every partition to now or a given time."""
    from pipeline.journal.entries import Tick

    _send(context, lambda _, at_us: Tick(at_us), "a tick", as_of, no_wait, timeout, as_json)


def _commands(commands: Sequence[Command]) -> Callable[[Kafka, int], Entry]:
    from pipeline.journal.entries import Commands

    return lambda _, at_us: Commands(tuple(commands), at_us)


def _send(
    context: typer.Context,
    make: Callable[[Kafka, int], Entry],
    said: str,
    as_of: str | None,
    no_wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    # Import here: few commands need the Kafka client, and it loads slowly.
    with require_extra("kafka", "weir send"):
        from pipeline.streaming.commands.sending import parts_sent, send_entry
        from pipeline.streaming.kafka import ensure_topics
    from jobs.output.console import show
    from pipeline.config import load_config

    moment = instant_to_send(as_of, "--as-of")
    kafka = load_config(data_of(context).config).kafka
    asyncio.run(ensure_topics(kafka))
    entry = make(kafka, micros(moment or dt.datetime.now(dt.UTC)))
    offsets = asyncio.run(send_entry(kafka, entry, wait_s=None if no_wait else timeout_s))
    document: dict[str, Any] = {"offsets": offsets, "accepted": None if no_wait else True}
    state = "sent" if no_wait else "accepted"
    text = f"{state}: {said}, {parts_sent(offsets)}" if offsets else "nothing to send"
    show(document, as_json, lambda console: console.print(text, highlight=False))
