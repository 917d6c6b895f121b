"""Commands that write data: `weir apply`, `ingest`, `compact`, `generate` and `demo`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from jobs.context import Files, Force, Json, data_of, feed_names, micros, parse_instant, tell


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(apply)
    app.command()(ingest)
    app.command()(compact)
    app.command("generate")(generate_fleet)
    app.command()(demo)


def apply(
    context: typer.Context,
    files: Files,
    no_check_digits: Annotated[
        bool, typer.Option("--no-check-digits", help="Accept ICCIDs and EIDs with a wrong check digit.")
    ] = False,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Effective time (ISO 8601). Default: the latest arrival, tick or command so far.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Load accounts, plans, zones, pools, cards and rules from TOML and CSV files: all or nothing."""
    from pipeline.catalogue import load_catalogue

    moment = parse_instant(as_of, "--as-of")
    with data_of(context).write(force=force) as driver:
        state = driver.engine.state
        change = load_catalogue(
            files, known=state.catalogue, check_digits=not no_check_digits, active=state.rules.active
        )
        step = driver.apply(change, None if moment is None else micros(moment))
    counts = {
        "accounts": len(change.accounts),
        "zones": len(change.zones),
        "plans": len(change.plans),
        "pools": len(change.pools),
        "addons": len(change.addons),
        "rules": len(change.rules),
        "cards": len(change.cards),
    }
    named = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing"
    tell(f"applied {named}", counts, step, as_json)


def ingest(
    context: typer.Context,
    files: Files,
    feed: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE.toml", help="A ready mapping by name, or your own file.", autocompletion=feed_names
        ),
    ],
    as_of: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time of arrival of the files (ISO 8601). Default: now.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Rate the usage records of feed files. Each record ends as rated, duplicate or rejected."""
    from jobs.ingest.ingest import ingest_files, render_tally
    from jobs.output.console import out, show
    from pipeline.feeds.mappings import load_mapping

    mapping = load_mapping(feed)
    moment = parse_instant(as_of, "--as-of")
    started = time.monotonic()
    with data_of(context).write(force=force) as driver:
        tally = ingest_files(driver, mapping, files, moment)
        seconds = time.monotonic() - started
        show(tally.to_dict() | {"seconds": round(seconds, 3)}, as_json, lambda _: render_tally(out, tally, seconds))
        sys.stdout.flush()
        driver.acknowledge()


def compact(context: typer.Context, as_json: Json = False) -> None:
    """Merge small history files. Processes that read are not disturbed."""
    from jobs.output.console import show
    from jobs.warehouse import compact as compaction

    compacted = compaction.compact(data_of(context).path)
    show(compacted.as_json(), as_json, lambda console: compaction.render(compacted, console))


def generate_fleet(
    cards: Annotated[int, typer.Option(min=10, help="Number of cards.")] = 20_000,
    records: Annotated[int, typer.Option(min=1, help="Number of usage records.")] = 500_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 1,
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory for the files.")] = Path("fleet"),
    pools: Annotated[int | None, typer.Option(min=0, help="Number of pools. Default: one for 2,500 cards.")] = None,
    as_json: Json = False,
) -> None:
    """Generate a fleet: a catalogue, a card list and a month of usage as files of the feed `plain`."""
    from jobs.demo.generate import generate, render_generated
    from jobs.output.console import show

    made = generate(out_dir, cards, records, seed, pools=pools)
    show(made.as_json(), as_json, lambda console: render_generated(made, console))


def demo(
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Directory for all files. An earlier demo there is replaced.")
    ] = Path("weir-demo"),
    cards: Annotated[int, typer.Option(min=10, help="Number of cards of the generated fleet.")] = 20_000,
    records: Annotated[int, typer.Option(min=1, help="Number of usage records of the generated fleet.")] = 500_000,
    as_json: Json = False,
) -> None:
    """Run the whole way once: example catalogue and rules, sample feeds, a generated fleet, actions, a report.

    The example files are copied into the directory, as a start for files of your own.
    """
    from jobs.demo import demo as demonstration
    from jobs.output.console import progress_bar, show

    with progress_bar() as bar:
        shown = demonstration.run(folder, cards, records, bar)
    show(shown.as_json(), as_json, lambda console: demonstration.render(shown, console))
