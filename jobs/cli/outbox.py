"""Action delivery commands: `weir outbox deliver`, `list` and `retry`."""

from __future__ import annotations

import datetime as dt
import signal
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jobs.context import Json, Limit, Offset, data_of
from jobs.output.printable import printable
from rating.errors import UsageError
from schemas.choices import DeliveryState

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.outbox import Delivery, Store, Tally

_STYLES: Final[dict[DeliveryState, str]] = {"pending": "yellow", "delivered": "green", "dead": "red"}

group = typer.Typer(name="outbox", help="Deliver actions, list deliveries, retry dead letters.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(group)


@group.callback(no_args_is_help=True)
def outbox() -> None:
    """Group the action delivery commands."""


@group.command("deliver")
def deliver(
    context: typer.Context,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep running and deliver new actions as they appear.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Deliver all actions that are due to their destinations. Resumes where the last run stopped."""
    from jobs.output.console import err, out, progress_bar, show
    from pipeline.config import load_config
    from pipeline.outbox import Deliverer

    data = data_of(context)
    stop = threading.Event()
    config = load_config(data.config).outbox
    started = time.monotonic()
    with Deliverer(data.path, config) as deliverer, progress_bar() as bar:
        if follow:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
        task = bar.add_task("deliver", total=None, note="")

        def show_progress(tally: Tally) -> None:
            done = tally.delivered + tally.dead
            note = f"{tally.failed:,} failed for now" if tally.failed else ""
            bar.update(task, completed=done, total=done + deliverer.pending(), note=note)

        tally = deliverer.run(follow=follow, stop=stop, progress=show_progress)
        console = err if deliverer.writes_to_standard_output else out
    seconds = time.monotonic() - started
    document = _document(tally) | {"seconds": round(seconds, 3)}
    if as_json and console is err:
        err.print_json(data=document)
    else:
        show(document, as_json, lambda _: _render_tally(console, tally, seconds))


@group.command("list")
def list_deliveries(
    context: typer.Context,
    state: Annotated[DeliveryState | None, typer.Option(help="Only deliveries in this state.")] = None,
    limit: Limit = 20,
    offset: Offset = 0,
    as_json: Json = False,
) -> None:
    """List deliveries with their errors, newest first, and count them by destination and state."""
    from jobs.output.console import show

    with _store(context) as store:
        counts = store.counts()
        total, rows = store.list(state, limit, offset)
    document = {"destinations": counts, "total": total, "offset": offset, "rows": [_as_dict(one) for one in rows]}
    show(document, as_json, lambda console: _render_list(console, counts, total, rows))


@group.command("retry")
def retry(
    context: typer.Context,
    action_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Ids of actions.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    as_json: Json = False,
) -> None:
    """Release dead letters for another attempt by the next `weir outbox deliver`."""
    from jobs.output.console import show

    if bool(action_ids) == everything:
        raise UsageError("weir outbox retry: expected ids of actions, or --all for all dead letters")
    with _store(context) as store:
        again = store.retry(None if everything else action_ids, time.time_ns() // 1000)
    show(
        {"retried": again},
        as_json,
        lambda console: console.print(f"{again:,} released for another attempt", highlight=False),
    )


def _store(context: typer.Context) -> Store:
    from pipeline.outbox import Store
    from pipeline.store.directory import DataDirectory

    path = data_of(context).path
    DataDirectory.open(path, write=False).close()
    return Store.open(path, deliver=False)


def _as_dict(one: Delivery) -> dict[str, Any]:
    row = asdict(one)
    row["next_at"], row["changed_at"] = _moment(row.pop("next_at_us")), _moment(row.pop("changed_at_us"))
    return row


def _moment(at_us: int) -> str | None:
    if not at_us:
        return None
    return dt.datetime.fromtimestamp(at_us // 1_000_000, dt.UTC).isoformat().replace("+00:00", "Z")


def _document(tally: Tally) -> dict[str, Any]:
    return {
        "taken_in": tally.taken_in,
        "delivered": tally.delivered,
        "failed_for_now": tally.failed,
        "dead": tally.dead,
        "pending": tally.pending,
        "unknown_destinations": tally.unknown,
        "destinations": tally.left,
    }


def _render_tally(console: Console, tally: Tally, seconds: float) -> None:
    console.print(f"{tally.taken_in:,} new actions, {tally.delivered:,} delivered in {seconds:,.1f} s", highlight=False)
    if tally.failed:
        console.print(
            f"{tally.failed:,} attempts failed and will be repeated; `weir outbox list` shows why", highlight=False
        )
    if tally.dead:
        console.print(
            f"{tally.dead:,} dead letters; `weir outbox list --state dead` shows why, `weir outbox retry` tries again",
            highlight=False,
        )
    if tally.pending:
        console.print(f"{tally.pending:,} not delivered yet", highlight=False)
    for name in tally.unknown:
        console.print(
            f"{printable(name)}: {tally.left[name]['pending']:,} actions wait for this destination, which is no longer "
            "configured",
            highlight=False,
        )


def _render_list(
    console: Console, counts: dict[str, dict[DeliveryState, int]], total: int, rows: list[Delivery]
) -> None:
    from jobs.show.tables import listing_table, safe, spaced

    if not counts:
        console.print("there are no deliveries yet; `weir outbox deliver` delivers actions", highlight=False)
        return
    summary = listing_table("Destinations", "Destination", "Pending Delivered Dead")
    for name, of in counts.items():
        summary.add_row(safe(name), safe(of["pending"]), safe(of["delivered"]), safe(of["dead"]))
    table = listing_table(
        "Deliveries",
        "Action ICCID Rule Destination State",
        "Attempts",
        "Next Message Id",
        give_way="Id Next Attempts Destination Rule Message",
    )
    for one in rows:
        table.add_row(
            *(safe(text) for text in (one.action, one.iccid, one.rule, one.destination)),
            safe(one.state, _STYLES[one.state]),
            safe(one.attempts),
            safe(_moment(one.next_at_us)),
            safe(one.error),
            safe(one.action_id),
        )
    console.print(spaced([summary, table] if rows else [summary]))
    console.print(f"\n{len(rows):,} of {total:,} shown", highlight=False, style="dim")
