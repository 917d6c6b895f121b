"""The whole journey in one command: example catalogue, sample feeds, a made-up fleet, last month's report."""

from __future__ import annotations

import datetime as dt
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from jobs.cli_context import micros
from jobs.console import shown_path
from jobs.generate import generate
from jobs.query import connect
from jobs.report import build_report, write_report
from pipeline.catalogue import load_catalogue
from pipeline.embedded import Embedded
from pipeline.feeds import ready_mappings
from pipeline.progress import Progress as Ingest
from pipeline.progress import Tally
from rating.errors import UsageError
from rating.state_views import state_views
from schemas.mapping import Mapping

EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples"
CYCLE: Final = "2026-10"
ARRIVAL: Final = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)  # the samples and the fleet are of October 2026
_MARK: Final = ".weir-demo"


@dataclass(frozen=True)
class Demonstration:
    """What the demo did: a tally for each feed, all of them, and where things are."""

    tallies: dict[str, Tally]
    total: Tally
    seconds: float  # of ingesting
    data: Path
    reports: list[Path]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "feeds": {name: tally.to_dict() for name, tally in self.tallies.items()},
            "total": self.total.to_dict() | {"seconds": round(self.seconds, 3)},
            "data": str(self.data),
            "reports": [str(path) for path in self.reports],
        }


def run(folder: Path, cards: int, records: int, bar: Progress) -> Demonstration:
    """Make a fresh `folder` with a fleet, a data directory and a report; a folder of an earlier demo is replaced.

    Raises UsageError where the folder holds anything else.
    """
    if folder.exists() and not (folder / _MARK).exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: found files that are not of a demo; expected an empty or new directory")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARK).touch()
    step = bar.add_task("make up a fleet", total=None, note=f"{cards:,} cards, {records:,} records")
    fleet = generate(folder / "fleet", cards, records, seed=1)
    bar.update(step, description="load the catalogue")
    tallies: dict[str, Tally] = {}
    seconds = 0.0
    with Embedded.open(folder / "data", write=True) as driver:
        driver.apply(
            load_catalogue([*sorted((EXAMPLES / "catalogue").glob("*.toml")), EXAMPLES / "feeds" / "cards.csv"])
        )
        driver.apply(load_catalogue([fleet.catalogue, fleet.cards_file], known=driver.engine.state.catalogue))
        for mapping, path in [*_samples(), (_plain(), fleet.usage)]:
            size = path.stat().st_size
            bar.update(step, description=f"ingest {path.name}", completed=0, total=size, note="")

            def watch(_: Ingest, offset: int, size: int = size) -> None:
                bar.update(step, completed=min(offset, size))

            started = time.monotonic()
            tally = driver.ingest(mapping, [path], micros(ARRIVAL), fixed_as_of=True, watch=watch)
            driver.acknowledge()
            seconds += time.monotonic() - started
            label = f"{mapping.name} (fleet)" if path == fleet.usage else mapping.name
            tallies[label] = tally
        bar.update(step, description="write the report", total=None)
        views = state_views(driver.engine, CYCLE)
        with connect(folder / "data") as connection:
            report = build_report(connection, views, CYCLE, None, ARRIVAL)
        reports = write_report(report, folder / "report")
    total = Tally()
    for tally in tallies.values():
        total.add(tally)
    return Demonstration(tallies, total, seconds, folder / "data", reports)


def _samples() -> list[tuple[Mapping, Path]]:
    """Each ready mapping with its sample file."""
    found = []
    for mapping in ready_mappings():
        samples = sorted((EXAMPLES / "feeds").glob(f"{mapping.name}.*"))
        if not samples:
            raise UsageError(f"{EXAMPLES / 'feeds'}: found no sample of feed {mapping.name}; expected {mapping.name}.*")
        found.append((mapping, samples[0]))
    return found


def _plain() -> Mapping:
    return next(mapping for mapping in ready_mappings() if mapping.name == "plain")


def render(shown: Demonstration, console: Console) -> None:
    """Draw what the demo did, and what to look at next."""
    table = Table(
        title="What became of every record", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for name in ("feed", "records", "rated", "duplicate", "rejected", "charge"):
        table.add_column(name, justify="left" if name == "feed" else "right", no_wrap=True)
    rows = [*shown.tallies.items(), ("all", shown.total)]
    for name, tally in rows:
        document = tally.to_dict()
        charge = document["charge"]
        assert isinstance(charge, dict)
        if name == "all":
            table.add_row()
        table.add_row(
            name,
            f"{tally.records:,}",
            f"{tally.rated:,}",
            f"{tally.duplicate:,}",
            f"{sum(tally.rejected.values()):,}",
            "\n".join(f"{amount} {currency}" for currency, amount in charge.items()),
        )
    console.print(table)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(shown.total.rejected.items()))
    console.print(f"rejected: {reasons}", highlight=False)
    console.print(
        f"{shown.total.records:,} records in {shown.seconds:.1f} s: "
        f"{shown.total.records / shown.seconds:,.0f} records a second",
        highlight=False,
    )
    page = next((path for path in shown.reports if path.suffix == ".html"), shown.reports[0])
    data = shown_path(shown.data)
    console.print(f"\n[bold]report[/bold]   {shown_path(page)}", soft_wrap=True)
    console.print(f"[bold]history[/bold]  {data}/history", soft_wrap=True)
    console.print("\ntry next:")
    # As it can be typed here: the command itself where it is on the path.
    weir = "weir" if shutil.which("weir") else shown_path(Path(sys.argv[0]))
    for command in (
        f"{weir} --data {data} pools --cycle {CYCLE}",
        f"{weir} --data {data} cards --over-quota --as-of {CYCLE}-31",
        f"{weir} --data {data} explain 2026-10-00017",
        f"{weir} --data {data} rejected",
        f'{weir} --data {data} sql "select * from cycles limit 10"',
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True, markup=False)
