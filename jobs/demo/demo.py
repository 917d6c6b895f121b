"""`weir demo`: example catalogue, rules, sample feeds, a synthetic fleet, and the report of one cycle.

The fleet's usage arrives every few days, so that rules fire during the month. The demo delivers their actions to a
file, and answers a few suspensions as a network would. The first arrival of the next cycle resumes these cards.
"""

from __future__ import annotations

import datetime as dt
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from jobs.context import micros
from jobs.demo.generate import Generated, generate
from jobs.output.console import shown_path
from jobs.report.build import build_report
from jobs.report.write import write_report
from jobs.show.sql import connect
from pipeline.catalogue import load_catalogue
from pipeline.config import Outbox
from pipeline.embedded.driver import Embedded
from pipeline.embedded.progress import Progress as Ingest
from pipeline.embedded.progress import Tally
from pipeline.feeds.mappings import ready_mappings
from pipeline.outbox import Deliverer
from rating.errors import UsageError
from rating.queries.views import state_views
from schemas.commands import Activate, Resumed, Suspended
from schemas.mapping import Mapping

CYCLE: Final = "2026-10"
_MARK: Final = ".weir-demo"
_ANSWERED: Final = 3  # Number of suspensions that the network carries out.
_EVERY_DAYS: Final = 3  # With the default grace, usage still counts in the totals of its day for so long.


def _utc(month: int, day: int, hour: int) -> dt.datetime:
    return dt.datetime(2026, month, day, hour, tzinfo=dt.UTC)


# The samples and the fleet are of October 2026. All arrivals but the last are before the cycle ends in any time zone.
START: Final = _utc(10, 1, 0)
ARRIVALS: Final = [_utc(10, day, 0) for day in range(1 + _EVERY_DAYS, 32, _EVERY_DAYS)]
SAMPLES_ARRIVE: Final = _utc(10, 31, 20)
ANSWERS_ARRIVE: Final = _utc(10, 31, 21)
LAST_ARRIVAL: Final = _utc(11, 1, 12)
_USED_AT: Final = re.compile(rb",(2026-10-(?:[012]\d|3[01])T[^,]*),")  # Time of use in a good line of the fleet.


@dataclass(frozen=True)
class RuleTally:
    """Counts of one rule: firings, distinct SIMs, and requested actions by type."""

    rule: str
    firings: int
    sims: int
    actions: dict[str, int]


@dataclass(frozen=True)
class Demonstration:
    """Result of the demo: tallies by feed and in total, counts of rules, and paths of what was written."""

    tallies: dict[str, Tally]
    total: Tally
    seconds: float  # Time spent in ingests.
    active: int  # Number of active rules.
    rules: list[RuleTally]  # The rules that fired.
    delivered: int  # Number of delivered actions.
    answered: list[str]  # ICCIDs of the cards that were suspended and resumed.
    actions: Path
    data: Path
    examples: Path
    reports: list[Path]

    def as_json(self) -> dict[str, Any]:
        """Return the result as a JSON object, with paths as text."""
        return {
            "feeds": {name: tally.to_dict() for name, tally in self.tallies.items()},
            "total": self.total.to_dict() | {"seconds": round(self.seconds, 3)},
            "active_rules": self.active,
            "rules": [msgspec.to_builtins(one) for one in self.rules],
            "delivered": self.delivered,
            "answered": self.answered,
            "actions": str(self.actions),
            "data": str(self.data),
            "examples": str(self.examples),
            "reports": [str(path) for path in self.reports],
        }


def _shipped_examples() -> Path:
    """Return the folder of the examples: in the package jobs if Weir is installed, else at the root of the checkout."""
    jobs = Path(__file__).resolve().parents[1]
    installed = jobs / "examples"
    return installed if installed.is_dir() else jobs.parent / "examples"


def run(folder: Path, cards: int, records: int, bar: Progress) -> Demonstration:
    """Create `folder` with copies of the examples, a fleet, a data directory and a report.

    Replaces the folder of an earlier demo. Raises UsageError if the folder contains any other files.
    """
    if folder.exists() and not (folder / _MARK).exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: found files that are not of a demo; expected an empty or new directory")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARK).touch()
    examples = shutil.copytree(_shipped_examples(), folder / "examples")
    step = bar.add_task("generate a fleet", total=None, note=f"{cards:,} cards, {records:,} records")
    fleet = generate(folder / "fleet", cards, records, seed=1)
    *early, last = _deliveries(fleet)
    bar.update(step, description="load the catalogue", note="")
    actions = folder / "actions.ndjson"
    with Embedded.open(folder / "data", write=True, force=True) as driver:  # its months are fixed
        active = _load(driver, examples, fleet)
        feeds = _Feeds(driver, bar)
        fleet_label = f"{_plain().name} (fleet)"
        for path, moment in zip(early, ARRIVALS, strict=True):
            feeds.ingest(fleet_label, _plain(), path, moment)
        for mapping, path in _samples(examples / "feeds"):
            feeds.ingest(mapping.name, mapping, path, SAMPLES_ARRIVE)
        bar.update(step, description="deliver actions", total=None)
        delivered = _deliver(folder / "data", actions)
        answered = _asked(actions, "suspend")[-_ANSWERED:]
        suspended = [
            msgspec.convert({"iccid": one["iccid"], "reason": one["reason"], "action_id": one["id"]}, Suspended)
            for one in answered
        ]
        driver.command(suspended, micros(ANSWERS_ARRIVE))
        feeds.ingest(fleet_label, _plain(), last, LAST_ARRIVAL)
        delivered += _deliver(folder / "data", actions)
        iccids = [one["iccid"] for one in answered]
        due = [one for one in _asked(actions, "resume") if one["iccid"] in iccids]
        driver.command([Resumed(iccid=one["iccid"], action_id=one["id"]) for one in due], micros(LAST_ARRIVAL))
        bar.update(step, description="write the report", total=None)
        views = state_views(driver.engine, CYCLE)
        with connect(folder / "data") as connection:
            report = build_report(connection, views, CYCLE, None, LAST_ARRIVAL)
            rules = _rule_tallies(connection)
        reports = write_report(report, folder / "report")
    total = Tally()
    # The fleet is ingested first but shown last, because it has most of the records.
    tallies = dict(sorted(feeds.tallies.items(), key=lambda one: one[0] == fleet_label))
    for tally in tallies.values():
        total.add(tally)
    return Demonstration(
        tallies, total, feeds.seconds, active, rules, delivered, iccids, actions, folder / "data", examples, reports
    )


def _load(driver: Embedded, examples: Path, fleet: Generated) -> int:
    """Apply the catalogues of the examples and of the fleet and activate all rules. Return the number of rules."""
    for files in (
        [*sorted((examples / "catalogue").glob("*.toml")), examples / "feeds" / "cards.csv"],
        [fleet.catalogue, fleet.cards_file],
    ):
        driver.apply(load_catalogue(files, known=driver.engine.state.catalogue), micros(START))
    rules = [rule.id for rule in driver.engine.state.catalogue.rules]
    driver.command([Activate(rule=rule) for rule in rules], micros(START))
    return len(rules)


class _Feeds:
    """Ingests files, and adds up their tallies by label and the time that the ingests take."""

    def __init__(self, driver: Embedded, bar: Progress) -> None:
        self.tallies: dict[str, Tally] = {}
        self.seconds = 0.0
        self._driver = driver
        self._bar = bar

    def ingest(self, label: str, mapping: Mapping, path: Path, moment: dt.datetime) -> None:
        """Ingest a file that arrived at `moment` and count its records under `label`."""
        (step,) = self._bar.task_ids
        size = path.stat().st_size
        self._bar.update(step, description=f"ingest {path.name}", completed=0, total=size, note="")

        def watch(_: Ingest, offset: int) -> None:
            self._bar.update(step, completed=min(offset, size))

        started = time.monotonic()
        tally = self._driver.ingest(mapping, [path], micros(moment), fixed_as_of=True, watch=watch)
        self._driver.acknowledge()
        self.seconds += time.monotonic() - started
        self.tallies.setdefault(label, Tally()).add(tally)


def _deliveries(fleet: Generated) -> list[Path]:
    """Split the fleet's usage into one file for each of ARRIVALS, with the usage before it, and one for the rest.

    Return the paths in that order.
    """
    header, *lines = fleet.usage.read_bytes().splitlines(keepends=True)
    ends = [moment.isoformat().encode() for moment in ARRIVALS]
    parts: list[list[bytes]] = [[]]
    for line in lines:
        used_at = _USED_AT.search(line)
        while used_at and len(parts) <= len(ends) and used_at[1] >= ends[len(parts) - 1]:
            parts.append([])
        parts[-1].append(line)
    parts += [[] for _ in range(len(ends) + 1 - len(parts))]  # A small fleet may have no usage in the last days.
    paths = []
    for number, part in enumerate(parts, 1):
        paths.append(fleet.usage.with_name(f"usage-{number:02}.csv"))
        paths[-1].write_bytes(header + b"".join(part))
    return paths


def _deliver(data: Path, file: Path) -> int:
    """Append all undelivered actions to the file. Return their number."""
    with Deliverer(data, Outbox(file=str(file.absolute()))) as deliverer:
        return deliverer.run().delivered


def _asked(file: Path, action: str) -> list[dict[str, str]]:
    """Return id, ICCID and reason of each delivered message with this action."""
    found = []
    for line in file.read_bytes().splitlines() if file.exists() else ():
        message = msgspec.json.decode(line)
        if message["action"] == action:
            found.append({"id": message["id"], "iccid": message["iccid"], "reason": message["parameters"]["reason"]})
    return found


def _rule_tallies(connection: duckdb.DuckDBPyConnection) -> list[RuleTally]:
    fired = connection.execute(
        "SELECT rule_id::VARCHAR, count(*) FILTER (kind = 'fired'), count(DISTINCT iccid) FROM firings "
        "GROUP BY ALL ORDER BY 2 DESC, 1"
    ).fetchall()
    asked = connection.execute(
        "SELECT rule_id::VARCHAR, action::VARCHAR, count(*) FROM actions GROUP BY ALL ORDER BY 1, min(sequence), 2 DESC"
    ).fetchall()
    return [
        RuleTally(rule, firings, sims, {action: count for of, action, count in asked if of == rule})
        for rule, firings, sims in fired
    ]


def _samples(feeds: Path) -> list[tuple[Mapping, Path]]:
    """Return each ready mapping with its sample file. Raises UsageError if a mapping has no sample."""
    found = []
    for mapping in ready_mappings():
        samples = sorted(feeds.glob(f"{mapping.name}.*"))
        if not samples:
            raise UsageError(f"{feeds}: found no sample of feed {mapping.name}; expected {mapping.name}.*")
        found.append((mapping, samples[0]))
    return found


def _plain() -> Mapping:
    return next(mapping for mapping in ready_mappings() if mapping.name == "plain")


def render(shown: Demonstration, console: Console) -> None:
    """Print the result of the demo, and commands to try next."""
    table = Table(
        title="Records by feed and result", title_justify="left", title_style="bold", box=None, pad_edge=False
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
        f"{shown.total.records / shown.seconds:,.0f} records per second",
        highlight=False,
    )
    console.print()
    console.print(_rules_table(shown.rules))
    console.print(
        f"{shown.active:,} rules were active; {shown.delivered:,} actions were delivered to "
        f"{shown_path(shown.actions)}",
        highlight=False,
        soft_wrap=True,
    )
    if shown.answered:
        console.print(
            f"The network confirmed {len(shown.answered)} of them: these cards were suspended, and resumed when the "
            "next cycle began:\n  " + " ".join(shown.answered),
            highlight=False,
        )
    page = next((path for path in shown.reports if path.suffix == ".html"), shown.reports[0])
    data = shown_path(shown.data)
    written = {
        "report": shown_path(page),
        "history": f"{data}/history",
        "examples": f"{shown_path(shown.examples)}: the catalogue and feed files",
    }
    console.print()
    for name, path in written.items():
        console.print(Text.assemble((f"{name:<9}", "bold"), path), soft_wrap=True)
    console.print("\ntry next:")
    # Print commands that can be typed as they are: `weir` if it is on the PATH, otherwise the path of the script.
    weir = "weir" if shutil.which("weir") else shown_path(Path(sys.argv[0]))
    sim = shown.answered[0] if shown.answered else None
    for command in (
        f"{weir} --data {data} pools --cycle {CYCLE}",
        f"{weir} --data {data} cards --over-quota --as-of {CYCLE}-31",
        f"{weir} --data {data} explain 2026-10-00017",
        f"{weir} --data {data} rules",
        f"{weir} --data {data} rules firings" + (f" --sim {sim}" if sim else ""),
        *([f"{weir} --data {data} card {sim}"] if sim else []),
        f"{weir} --data {data} rejected",
        f'{weir} --data {data} sql "select * from cycles limit 10"',
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True)


def _rules_table(rules: list[RuleTally]) -> Table:
    table = Table(
        title="Firings and actions by rule", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for name, justify in (("rule", "left"), ("fired", "right"), ("SIMs", "right"), ("actions", "left")):
        table.add_column(name, justify=justify, no_wrap=name != "actions")  # type: ignore[arg-type]
    for one in rules:
        asked = ", ".join(f"{count:,} {action}" for action, count in one.actions.items())
        table.add_row(one.rule, f"{one.firings:,}", f"{one.sims:,}", asked)
    return table
