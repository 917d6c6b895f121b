"""Commands that read the data directory: report, cards, card, pools, pool, explain, sql, status."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs import gauges, listing, listing_text, midnight
from jobs.cli_context import Json, data_of
from jobs.console import show, shown_path
from jobs.explained import explain_key, render_explained
from jobs.query import STATE_TABLES, connect, render, rows_as_csv, rows_as_json, run_sql
from jobs.reading import reading
from jobs.report import FORMATS, build_report, write_report
from rating.errors import UsageError
from rating.state_views import state_views

AsOf = Annotated[str | None, typer.Option(metavar="TIME", help="Look from this time; the latest arrival by default.")]
AccountOption = Annotated[str | None, typer.Option(metavar="ID", help="This account and those below it.")]
UntilMidnight = Annotated[
    bool, typer.Option("--until-midnight", help="Usage until 24:00 of the previous local day, not live.")
]
Limit = Annotated[int, typer.Option(min=0, help="Rows to show at most.")]
Offset = Annotated[int, typer.Option(min=0, help="Rows to leave out first.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (report, cards, card, pools, pool, explain, sql, status):
        app.command()(command)


def report(
    context: typer.Context,
    cycle: Annotated[str, typer.Option(metavar="2026-10", help="The billing cycle.")],
    account: AccountOption = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help=f"{', '.join(FORMATS)}; all by default.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path("report"),
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """The monthly usage report: an HTML page, XLSX, CSV and Parquet."""
    with reading(data_of(context), as_of, cycle) as moment:
        made = build_report(moment.connection, moment.views, cycle, account, moment.as_of)
    files = write_report(made, out, formats or FORMATS)
    document = made.as_dict() | {"files": [str(path) for path in files]}
    listed = "\n".join(shown_path(path) for path in files)
    show(document, as_json, lambda console: console.print(listed, soft_wrap=True, highlight=False))


def cards(
    context: typer.Context,
    account: AccountOption = None,
    plan: Annotated[str | None, typer.Option(metavar="ID", help="Cards on this plan now.")] = None,
    pool: Annotated[str | None, typer.Option(metavar="ID", help="Cards in this pool now.")] = None,
    status: Annotated[str | None, typer.Option(help="Network status.")] = None,
    tag: Annotated[str | None, typer.Option(help="Cards with this tag.")] = None,
    search: Annotated[str | None, typer.Option(metavar="TEXT", help="Part of a number, tag or custom field.")] = None,
    over_quota: Annotated[bool, typer.Option("--over-quota", help="Past their allowance in this cycle.")] = False,
    limit: Limit = 50,
    offset: Offset = 0,
    until_midnight: UntilMidnight = False,
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Cards with their usage in the open cycle, by any filter."""
    with reading(data_of(context), as_of) as moment:
        views, shown = moment.views, midnight.Reading(moment.as_of)
        if until_midnight:
            views, shown = midnight.until_midnight(moment.connection, views, moment.as_of)
        page = listing.list_cards(
            views,
            moment.as_of,
            account=account,
            plan=plan,
            pool=pool,
            status=status,
            tag=tag,
            search=search,
            over_quota=over_quota,
            limit=limit,
            offset=offset,
            reading=shown,
        )
    show(page.as_dict(), as_json, lambda console: console.print(listing_text.render_cards(page)))


def card(
    context: typer.Context,
    iccid: Annotated[str, typer.Argument(metavar="ICCID", help="Or its IMSI or MSISDN.")],
    until_midnight: UntilMidnight = False,
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """One card: basics, counters, add-ons, usage of this and the last cycle by day."""
    with reading(data_of(context), as_of) as moment:
        detail = listing.card_detail(
            moment.connection, moment.views, iccid, moment.as_of, until_midnight=until_midnight
        )
    show(detail.as_dict(), as_json, lambda console: console.print(listing_text.render_card(detail)))


def pools(
    context: typer.Context,
    account: AccountOption = None,
    cycle: Annotated[str | None, typer.Option(metavar="2026-10", help="This cycle; the open one by default.")] = None,
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Pools now: size, used, percent, and the day they run out."""
    with reading(data_of(context), as_of) as moment:
        found = gauges.list_pools(moment.views, moment.as_of, account=account, cycle=cycle, windows=moment.windows)
        held = sorted(set(moment.views.pools["cycle"]))
    if cycle is not None and cycle not in held:
        raise UsageError(f"--cycle: found {cycle!r}; expected a cycle that is still held: {', '.join(held) or 'none'}")
    document = [gauge.as_dict() for gauge in found]
    show(document, as_json, lambda console: console.print(listing_text.render_pools(found)))


def pool(
    context: typer.Context,
    pool_id: Annotated[str, typer.Argument(metavar="ID", help="A pool, or a device whose SIMs share one.")],
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """One pool: its gauge by service and cycle, and the members that use most."""
    with reading(data_of(context), as_of) as moment:
        detail = gauges.pool_detail(moment.connection, moment.views, pool_id, moment.as_of, windows=moment.windows)
    show(detail.as_dict(), as_json, lambda console: console.print(listing_text.render_pool(detail)))


def explain(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The record key.")],
    feed: Annotated[str | None, typer.Option(metavar="NAME", help="Where several feeds have the key.")] = None,
    as_json: Json = False,
) -> None:
    """The steps that led to a record's charge."""
    with data_of(context).read() as driver, connect(driver.directory) as connection:
        explained = explain_key(driver.engine.compiled, connection, key, feed)
    show(explained, as_json, lambda console: render_explained(explained, console))


def sql(
    context: typer.Context,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="SQL over the views of docs/tables.md.")],
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Ask the history in DuckDB's SQL."""
    if as_json and as_csv:
        raise UsageError("found --json and --csv; expected one of them")
    data = data_of(context)
    views = None
    # Computing these takes the whole state, so a query pays for them only where it may name one.
    if any(name in query.lower() for name in STATE_TABLES) and not data.is_streaming():
        with data.read() as driver:
            views = state_views(driver.engine)
    rows = run_sql(data.path, query, views)
    if as_csv:
        sys.stdout.write(rows_as_csv(rows))
    else:
        show(rows_as_json(rows) if as_json else None, as_json, lambda console: render(rows, console))


def status(context: typer.Context, as_of: AsOf = None, as_json: Json = False) -> None:
    """What the data directory holds."""
    with reading(data_of(context), as_of) as moment:
        document = listing.engine_status(moment.connection, moment.views, moment.as_of, moment.facts)
    show(document, as_json, lambda console: console.print(listing_text.render_status(document)))
