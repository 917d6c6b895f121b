"""Rates a cycle again: which records are chosen, the progress, and the summary of what it changes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from jobs.output.console import progress_bar
from jobs.output.printable import printable
from pipeline.embedded.driver import Embedded
from pipeline.embedded.rerates import Rerated
from pipeline.history.rerate_choice import Choice
from rating.catalogue.account_tree import AccountTree
from rating.errors import UsageError
from rating.units.money import format_amount
from rating.usage.rerate_scope import own_cycle_in
from schemas.cards import Catalogue

_CYCLE = re.compile(r"\d{4}-\d{2}(-\d{2})?")


def choice_of(
    catalogue: Catalogue, cycle: str, plan: str | None, account: str | None, iccids: list[str] | None
) -> Choice:
    """Return the choice of the records of a cycle: of one plan, of an account and those below it, of some cards.

    None means any. Raises UsageError if the cycle is not written as one, or if a plan, account or card is unknown.
    """
    if not _CYCLE.fullmatch(cycle):
        raise UsageError(
            f"{cycle!r} is not a billing cycle; write 2026-10, or 2026-10-15 for a cycle that starts on the 15th"
        )
    wanted = own_cycle_in(frozenset([cycle]))
    if plan is not None:
        if plan not in {one.id for one in catalogue.plans}:
            raise UsageError(f"found no plan {plan!r}; expected the id of a plan of the catalogue")
        wanted &= pc.field("plan_id").cast(pa.string()) == plan
    if account is not None:
        below = _with_those_below(catalogue, account)
        wanted &= pc.field("account_id").cast(pa.string()).isin(pa.array(below, pa.string()))
    if iccids is not None:
        unknown = sorted(set(iccids) - set(catalogue.cards["iccid"].to_list()))
        if unknown:
            raise UsageError(f"found no card {unknown[0]!r} ({len(unknown)} unknown); expected ICCIDs of the catalogue")
        wanted &= pc.field("iccid").isin(pa.array(sorted(set(iccids)), pa.string()))
    return Choice(wanted)


def _with_those_below(catalogue: Catalogue, account: str) -> list[str]:
    parents = {one.id: one.parent for one in catalogue.accounts}
    if account not in parents:
        raise UsageError(f"found no account {account!r}; expected the id of an account of the catalogue")
    return sorted({account} | AccountTree(parents).below(account))


def iccids_of(path: Path) -> list[str]:
    """Return the ICCIDs of a file, one a line. Empty lines do not count. Raises UsageError if there is none."""
    found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not found:
        raise UsageError(f"{path}: found no ICCID; expected one on each line")
    return found


def rerate_cycle(
    driver: Embedded, choice: Choice, at_us: int | None, cause: str | None, *, dry_run: bool, console: Console | None
) -> Rerated:
    """Rate again, and print the summary before the outcome becomes durable. With `dry_run` nothing changes.

    Without a `console` nothing is printed.
    """
    with progress_bar() as bar:
        task = bar.add_task("rate again", total=None, note="")

        def watch(rerated: Rerated) -> None:
            bar.update(task, completed=rerated.records, note=f"{rerated.records:,} records")

        def accept(rerated: Rerated) -> bool:
            bar.stop()
            if console is not None:
                render(rerated, console, dry_run=dry_run)
            return not dry_run

        return driver.rerate(choice, at_us, cause, accept, watch)


def as_json(rerated: Rerated, *, dry_run: bool) -> dict[str, Any]:
    """Return the summary as plain values; amounts are decimal text."""
    largest = [row | {"charge": format_amount(row.pop("charge_nanos"))} for row in rerated.largest.to_dicts()]
    return {
        "dry_run": dry_run,
        "subjects": rerated.subjects,
        "records": rerated.records,
        "adjustments": rerated.adjustments,
        "difference": {currency: format_amount(nanos) for currency, nanos in sorted(rerated.differences.items())},
        "largest": largest,
    }


def render(rerated: Rerated, console: Console, *, dry_run: bool) -> None:
    """Print how much is rated again, the difference by currency, and the largest differences."""
    counts = Table(show_header=False, box=None, pad_edge=False)
    counts.add_column(style="bold")
    counts.add_column(justify="right")
    counts.add_row("subjects", f"{rerated.subjects:,}")
    counts.add_row("records", f"{rerated.records:,}")
    counts.add_row("adjustments", f"{rerated.adjustments:,}")
    for currency, nanos in sorted(rerated.differences.items()):
        counts.add_row(f"difference {currency}", format_amount(nanos))
    parts: list[Any] = [counts]
    if len(rerated.largest):
        table = Table("Subject", "Cycle", "Records", "Difference", title="Largest differences", title_justify="left")
        for row in rerated.largest.iter_rows(named=True):
            name = Text(f"{row['subject_kind']} {printable(row['subject'])}")
            amount = f"{format_amount(row['charge_nanos'])} {row['currency']}"
            table.add_row(name, row["cycle"], f"{row['records']:,}", amount)
        parts.append(table)
    parts.append(Text("nothing was changed (--dry-run)" if dry_run else "", "dim"))
    console.print(Group(*parts), highlight=False)
