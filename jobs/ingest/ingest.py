"""Ingest of feed files with a progress bar, and the table of its result."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jobs.context import micros
from jobs.output.console import progress_bar
from pipeline.embedded.driver import Embedded
from pipeline.embedded.progress import Progress, Tally
from rating.units.money import format_amount
from schemas.choices import REASONS
from schemas.mapping import Mapping


def ingest_files(driver: Embedded, mapping: Mapping, files: Sequence[Path], as_of: dt.datetime | None) -> Tally:
    """Ingest files that arrived at `as_of` (now if None). Return the tally of all their records."""
    moment = as_of or dt.datetime.now(dt.UTC)
    with progress_bar() as bar:
        task = bar.add_task(f"ingest {mapping.name}", total=None, note="")

        def watch(progress: Progress, offset: int) -> None:
            source = progress.sources[progress.file]
            # For a compressed file only the size on disk is known, and the offset soon exceeds it.
            total = source.size_bytes if offset <= source.size_bytes else None
            bar.update(task, completed=offset, total=total, description=f"ingest {source.name}")

        return driver.ingest(mapping, files, micros(moment), fixed_as_of=as_of is not None, watch=watch)


def render_tally(console: Console, tally: Tally, seconds: float) -> None:
    """Print the tally as a table, with the time and the records a second."""
    console.print(tally_table(tally))
    if seconds > 0:
        console.print(f"{seconds:.1f} s, {tally.records / seconds:,.0f} records a second", highlight=False)
    if tally.rejected:
        console.print("rejected records: `weir rejected list`; correct them with `weir rejected export`")


def tally_table(tally: Tally) -> Table:
    """Return a table of the tally: records, outcomes, reasons of rejection, firings, actions and charges."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("records", f"{tally.records:,}", "")
    table.add_row("rated", f"{tally.rated:,}", "")
    table.add_row("duplicate", f"{tally.duplicate:,}", "the same record accepted before")
    table.add_row("rejected", f"{sum(tally.rejected.values()):,}", "")
    for reason, count in sorted(tally.rejected.items()):
        table.add_row(f"  {reason}", f"{count:,}", REASONS.get(reason, ""))
    if tally.missing_partials:
        table.add_row("missing partials", f"{tally.missing_partials:,}", "gaps in session sequence numbers")
    if tally.firings:
        table.add_row("firings", f"{tally.firings:,}", "of rules: `weir rules firings`")
    if tally.actions:
        table.add_row("actions", f"{tally.actions:,}", "asked for by rules: `weir rules actions`")
    for currency, nanos in sorted(tally.charge_nanos.items()):
        table.add_row(f"charge {currency}", format_amount(nanos), "")
    return table
