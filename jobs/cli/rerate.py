"""The command `weir rerate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.context import Force, Json, data_of, micros, parse_instant


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(rerate)


def rerate(
    context: typer.Context,
    cycle: Annotated[str, typer.Option(metavar="2026-10", help="The billing cycle.")],
    plan: Annotated[str | None, typer.Option(metavar="ID", help="Only records that were rated by this plan.")] = None,
    account: Annotated[
        str | None, typer.Option(metavar="ID", help="Only records of this account and those below it.")
    ] = None,
    iccid_file: Annotated[
        Path | None,
        typer.Option("--iccid-file", metavar="FILE", exists=True, dir_okay=False, help="Only these cards, one a line."),
    ] = None,
    because: Annotated[str | None, typer.Option(metavar="TEXT", help="Write this reason to the adjustments.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Arrival of the adjustments (ISO 8601). Default: the latest arrival."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Rate a billing cycle again with the plans and cards known now. Differences become adjustments."""
    from jobs.output.console import out, show
    from jobs.rerate import rerate as again

    moment = parse_instant(as_of, "--as-of")
    iccids = None if iccid_file is None else again.iccids_of(iccid_file)
    with data_of(context).write(force=force) as driver:
        choice = again.choice_of(driver.engine.state.catalogue, cycle, plan, account, iccids)
        at_us = None if moment is None else micros(moment)
        console = None if as_json else out
        rerated = again.rerate_cycle(driver, choice, at_us, because, dry_run=dry_run, console=console)
    if as_json:
        show(again.as_json(rerated, dry_run=dry_run), as_json, lambda _: None)
