"""Commands that read data: `weir report`, `cards`, `card`, `pools`, `pool`, `explain`, `sql` and `status`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs.context import Json, Limit, Offset, data_of, feed_names
from rating.errors import UsageError
from schemas.choices import CardStatus, ReportFormat

AsOf = Annotated[
    str | None, typer.Option(metavar="TIME", help="Read as of this time (ISO 8601). Default: the latest arrival.")
]
AccountOption = Annotated[str | None, typer.Option(metavar="ID", help="Only this account and those below it.")]
UntilMidnight = Annotated[
    bool,
    typer.Option("--until-midnight", help="Show usage until 24:00 of the previous local day, not the current usage."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (report, cards, card, pools, pool, explain, sql, status):
        app.command()(command)


def report(
    context: typer.Context,
    cycle: Annotated[str, typer.Option(metavar="2026-10", help="The billing cycle.")],
    account: AccountOption = None,
    formats: Annotated[
        list[ReportFormat] | None, typer.Option("--format", help="Format of a file; may be repeated. Default: all.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for the files.")] = Path("report"),
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Write the monthly usage report: an HTML page, XLSX, CSV and Parquet."""
    from jobs.output.console import show, shown_path
    from jobs.report.build import build_report
    from jobs.report.write import write_report
    from jobs.show.source import reading

    with reading(data_of(context), as_of, cycle, check=True) as moment:
        made = build_report(moment.connection, moment.views, cycle, account, moment.as_of)
    files = write_report(made, out, formats or ReportFormat)
    document = made.as_dict() | {"files": [str(path) for path in files]}
    listed = "\n".join(shown_path(path) for path in files)
    show(document, as_json, lambda console: console.print(listed, soft_wrap=True, highlight=False))


def cards(
    context: typer.Context,
    account: AccountOption = None,
    plan: Annotated[str | None, typer.Option(metavar="ID", help="Only cards on this plan now.")] = None,
    pool: Annotated[str | None, typer.Option(metavar="ID", help="Only cards in this pool now.")] = None,
    status: Annotated[CardStatus | None, typer.Option(help="Only cards with this network status.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only cards with this tag.")] = None,
    search: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only cards with this text in a number, tag or custom field.")
    ] = None,
    over_quota: Annotated[
        bool, typer.Option("--over-quota", help="Only cards past their allowance in this cycle.")
    ] = False,
    limit: Limit = 50,
    offset: Offset = 0,
    until_midnight: UntilMidnight = False,
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """List cards with their usage in the open cycle. Several filters narrow the list."""
    from jobs.known import require_known
    from jobs.output.console import show
    from jobs.show import listing, listing_text
    from jobs.show import until_midnight as midnight
    from jobs.show.source import reading

    with reading(data_of(context), as_of) as moment:
        require_known("a plan", plan, moment.plan_ids)
        require_known("a pool", pool, moment.pool_ids)
        moment.require_counters()
        views, shown = moment.views, midnight.ShownUsage(moment.as_of)
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
    iccid: Annotated[str, typer.Argument(metavar="ICCID", help="The ICCID, IMSI or MSISDN of the card.")],
    until_midnight: UntilMidnight = False,
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Show one card: its data, counters and add-ons, and its usage by day in this and the previous cycle."""
    from jobs.output.console import show
    from jobs.show import listing, listing_text
    from jobs.show.source import reading

    with reading(data_of(context), as_of) as moment:
        detail = listing.card_detail(
            moment.connection, moment.views, iccid, moment.as_of, until_midnight=until_midnight
        )
    show(detail.as_dict(), as_json, lambda console: console.print(listing_text.render_card(detail)))


def pools(
    context: typer.Context,
    account: AccountOption = None,
    cycle: Annotated[
        str | None, typer.Option(metavar="2026-10", help="The billing cycle. Default: the open one.")
    ] = None,
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """List pools: size, usage, percent, and the day on which each is used up."""
    from jobs.output.console import show
    from jobs.show import gauges, listing_text
    from jobs.show.source import reading

    with reading(data_of(context), as_of) as moment:
        if cycle is None:
            moment.require_counters()
        found = gauges.list_pools(moment.views, moment.as_of, account=account, cycle=cycle, windows=moment.windows)
        cycles = sorted(set(moment.views.pools["cycle"]))
    if cycle is not None and cycle not in cycles:
        raise UsageError(
            f"--cycle: found {cycle!r}; expected a cycle that the state has: {', '.join(cycles) or 'none'}"
        )
    document = [gauge.as_dict() for gauge in found]
    show(document, as_json, lambda console: console.print(listing_text.render_pools(found)))


def pool(
    context: typer.Context,
    pool_id: Annotated[str, typer.Argument(metavar="ID", help="A pool, or a device whose SIMs share one.")],
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Show one pool: size and usage by service and cycle, and the members with the most usage."""
    from jobs.output.console import show
    from jobs.show import gauges, listing_text
    from jobs.show.source import reading

    with reading(data_of(context), as_of) as moment:
        moment.require_counters()
        detail = gauges.pool_detail(moment.connection, moment.views, pool_id, moment.as_of, windows=moment.windows)
    show(detail.as_dict(), as_json, lambda console: console.print(listing_text.render_pool(detail)))


def explain(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The record key.")],
    feed: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The feed, if several feeds have this key.", autocompletion=feed_names),
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain the charge of a record, step by step."""
    from jobs.output.console import show
    from jobs.show.explain import explain_key, render_explained
    from jobs.show.sql import connect

    with data_of(context).read() as committed, connect(committed.directory) as connection:
        explained = explain_key(committed.compiled, connection, key, feed)
    show(explained, as_json, lambda console: render_explained(explained, console))


def sql(
    context: typer.Context,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="SQL over the views of docs/tables.md.")],
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Let the query read other files and the network too, as you may.")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not first compare the files that the query names with their digests.")
    ] = False,
) -> None:
    """Query the history in DuckDB's SQL."""
    from jobs.output.console import show
    from jobs.show.sql import STATE_TABLES, render, rows_as_csv, rows_as_json, run_sql
    from rating.queries.views import state_views

    if as_json and as_csv:
        raise UsageError("found --json and --csv; expected one of them")
    data = data_of(context)
    views = None
    # The state views need the whole state. They are computed only if the query may name one of them.
    if any(name in query.lower() for name in STATE_TABLES) and not data.is_streaming():
        with data.read() as committed:
            views = state_views(committed)
    rows = run_sql(data.path, query, views, trusted=trust, check=not no_check)
    if as_csv:
        sys.stdout.write(rows_as_csv(rows))
    else:
        show(rows_as_json(rows) if as_json else None, as_json, lambda console: render(rows, console))


def status(context: typer.Context, as_of: AsOf = None, as_json: Json = False) -> None:
    """Show the contents of the data directory."""
    from jobs.output.console import show
    from jobs.show import listing, listing_text
    from jobs.show.source import reading

    with reading(data_of(context), as_of) as moment:
        document = listing.engine_status(moment.connection, moment.views, moment.as_of, moment.facts)
    show(document, as_json, lambda console: console.print(listing_text.render_status(document)))
