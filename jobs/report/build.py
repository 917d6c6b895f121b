"""Construction of the monthly usage report from the history and the state, by whole columns (Q4)."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from dataclasses import dataclass

import duckdb
import polars as pl

from jobs.known import account_tree
from jobs.report.model import FEES_SERVICE, SECTIONS, UNITS, Report
from jobs.report.rule_sections import rule_sections
from jobs.report.sections import SECTION_SQL, lines_sql, scan_sql
from rating.errors import InputError, UsageError
from rating.queries.schemas import FEES_VIEW, StateViews
from schemas.choices import REASONS

TOP_SIMS = 20


def build_report(
    connection: duckdb.DuckDBPyConnection,
    views: StateViews,
    cycle: str,
    account: str | None,
    as_of: dt.datetime,
) -> Report:
    """Return the report of `cycle` as of `as_of`: usage from the view `rated`, sizes and fees from `views`.

    With `account`, the report covers that account and all accounts below it, and omits rejected records, which belong
    to no account yet. The same history, state and arguments give the same report. Raises UsageError if `as_of` has no
    UTC offset or the account does not exist, and InputError if the cycle is not known.
    """
    if as_of.tzinfo is None:
        raise UsageError(f"as-of time {as_of.isoformat()} has no UTC offset; give one, e.g. {as_of.isoformat()}Z")
    accounts = None if account is None else account_tree(views.accounts, account)
    views = views.with_views(fees=_fees(connection, views.fees))
    _require_cycle(connection, views, cycle, accounts, as_of)
    window = _cycle_window(views, cycle, accounts, as_of)

    with duckdb.connect() as scratch:
        scratch.execute("SET enable_progress_bar = false")  # it is printed on stdout
        for name in ("lines", "days", "rates", "countries"):
            rows = connection.sql(scan_sql(name, accounts is not None), params=[cycle, *([accounts] * bool(accounts))])
            table = rows.to_arrow_table()
            scratch.register(f"scan_{name}", table)
        _register_views(scratch, views, cycle, accounts, window.by_subject)
        scratch.execute(lines_sql())
        sections = {name: _section(scratch, name) for name in SECTION_SQL}

    sections |= {
        name: _as_planned(name, frame)
        for name, frame in rule_sections(
            connection, views, cycle, window.first, window.last, accounts, TOP_SIMS
        ).items()
    }
    sections["rejected"] = _rejected(connection, views, window) if accounts is None else _rejected_none()
    cards = views.cards if accounts is None else views.cards.filter(pl.col("account_id").is_in(accounts))
    used = sections["sims"].filter(pl.col("service") != FEES_SERVICE)["iccid"].n_unique()
    return Report(
        cycle=cycle,
        account=account,
        as_of=as_of,
        cycle_from=window.first,
        cycle_until=window.last,
        is_open=window.is_open,
        elapsed_days=window.elapsed_days,
        cycle_days=(window.last - window.first).days + 1,
        cards=cards.height,
        cards_used=used,
        top=TOP_SIMS,
        notes=_notes(account, window),
        sections={name: sections[name] for name in SECTIONS},
    )


@dataclass(frozen=True)
class _Window:
    """Bounds of the cycle over all accounts in scope, and the elapsed part of each subject's cycle."""

    first: dt.date
    last: dt.date
    is_open: bool
    elapsed_days: str | None
    by_subject: pl.DataFrame  # Columns subject_kind, subject, service, elapsed_s, cycle_s; open cycles only.


def _require_cycle(
    connection: duckdb.DuckDBPyConnection,
    views: StateViews,
    cycle: str,
    accounts: list[str] | None,
    as_of: dt.datetime,
) -> None:
    """Raise InputError if nothing was used in the cycle and no fee is due, by one of `accounts` if they are given.

    Fees are due only in cycles that have begun. `views.fees` has those of the cycle asked for.
    """
    rated = connection.execute("SELECT DISTINCT cycle::VARCHAR, account_id::VARCHAR FROM rated").fetchall()
    used = {*rated, *views.counters.select("cycle", "account_id").unique().iter_rows()}
    cycles = {label for label, owner in used if accounts is None or owner in accounts}
    tomorrow = as_of.date() + dt.timedelta(days=1)  # a cycle begins up to a day earlier in another time zone
    if cycle not in cycles and label_bounds(cycle)[0] <= tomorrow:
        due = views.fees.filter(pl.col("cycle") == cycle)
        owners = set(due["account_id"].to_list())
        cycles |= {cycle} if owners and (accounts is None or owners & set(accounts)) else set()
    whose = "the history" if accounts is None else "the history of the account and those below it"
    if cycle not in cycles:
        there = f"there are: {_some(sorted(cycles, reverse=True))}" if cycles else "nothing has been rated yet"
        raise InputError(f"no cycle {cycle!r} in {whose}; {there}")


def _fees(connection: duckdb.DuckDBPyConnection, owed: pl.DataFrame) -> pl.DataFrame:
    """Return what is due beside usage: of closed cycles what stands in `charges`, of others what is owed now."""
    columns = [name for name in FEES_VIEW if name != "closed"]
    texts = [f"{name}::VARCHAR AS {name}" if FEES_VIEW[name] == pl.String else name for name in columns]
    table = connection.sql(f"SELECT {', '.join(texts)}, true AS closed FROM charges").to_arrow_table()
    standing = pl.from_arrow(table)
    assert isinstance(standing, pl.DataFrame)
    provisional = owed.filter(~pl.col("closed").fill_null(False))
    return pl.concat([provisional, standing.cast(FEES_VIEW)])  # type: ignore[arg-type]


def _some(names: list[str], limit: int = 12) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def label_bounds(cycle: str) -> tuple[dt.date, dt.date]:
    """Return the first and the last day of the monthly cycle with this label. Raises InputError if it is no label."""
    try:
        first = dt.date.fromisoformat(cycle if len(cycle) > 7 else f"{cycle}-01")
    except ValueError:
        raise InputError(
            f"{cycle!r} is not a billing cycle; write 2026-10, or 2026-10-15 for a cycle that starts on the 15th"
        ) from None
    after = dt.date(first.year + first.month // 12, first.month % 12 + 1, first.day)
    return first, after - dt.timedelta(days=1)


def _cycle_window(views: StateViews, cycle: str, accounts: list[str] | None, as_of: dt.datetime) -> _Window:
    counters = views.counters.filter(pl.col("cycle") == cycle)
    if accounts is not None:
        counters = counters.filter(pl.col("account_id").is_in(accounts))
    zones = views.accounts.select("account_id", "time_zone")
    subjects = (
        counters.join(zones, on="account_id", how="left", maintain_order="left")
        .group_by("subject_kind", "subject", "service")
        .agg(pl.col("cycle_from").min(), pl.col("cycle_until").max(), pl.col("time_zone").first().fill_null("UTC"))
    )
    spans = subjects.select("time_zone", "cycle_from", "cycle_until").unique().sort(pl.all()).rows()
    progress = [(zone, first, last, *_elapsed(zone, first, last, as_of)) for zone, first, last in spans]
    frame = pl.DataFrame(
        progress,
        schema={
            "time_zone": pl.String(),
            "cycle_from": pl.Date(),
            "cycle_until": pl.Date(),
            "elapsed_s": pl.Int64(),
            "cycle_s": pl.Int64(),
        },
        orient="row",
    )
    by_subject = (
        subjects.join(frame, on=["time_zone", "cycle_from", "cycle_until"], how="left")
        .filter(pl.col("elapsed_s").is_not_null())
        .select("subject_kind", "subject", "service", "elapsed_s", "cycle_s")
    )
    first, last = label_bounds(cycle)
    if spans:
        last = max(span[2] for span in spans)
    running = [row[3] for row in progress if row[3] is not None]
    elapsed = None
    if running:
        hundredths = max(running) * 100 // 86_400
        elapsed = f"{hundredths // 100}.{hundredths % 100:02d}"
    return _Window(first, last, bool(running), elapsed, by_subject)


def _elapsed(time_zone: str, first: dt.date, last: dt.date, as_of: dt.datetime) -> tuple[int | None, int | None]:
    """Return the elapsed and the total seconds of a cycle, or (None, None) if it is not open at `as_of`.

    Elapsed is at least one day, so that the first hours do not give an extreme forecast.
    """
    zone = zoneinfo.ZoneInfo(time_zone)
    start = dt.datetime.combine(first, dt.time(), zone).astimezone(dt.UTC)
    end = dt.datetime.combine(last + dt.timedelta(days=1), dt.time(), zone).astimezone(dt.UTC)
    if not start <= as_of < end:
        return None, None
    return max(86_400, (as_of - start) // dt.timedelta(seconds=1)), (end - start) // dt.timedelta(seconds=1)


def _register_views(
    scratch: duckdb.DuckDBPyConnection,
    views: StateViews,
    cycle: str,
    accounts: list[str] | None,
    by_subject: pl.DataFrame,
) -> None:
    def of_scope(frame: pl.DataFrame) -> pl.DataFrame:
        scoped = frame if accounts is None else frame.filter(pl.col("account_id").is_in(accounts))
        return scoped.filter(pl.col("cycle") == cycle) if "cycle" in frame.columns else scoped

    cards = of_scope(views.cards).select("iccid", "account_id", "status")
    units = pl.DataFrame({"service": list(UNITS), "unit": list(UNITS.values())})
    frames = {
        "cards": cards,
        "counters": of_scope(views.counters),
        "pools": of_scope(views.pools),
        "fees": of_scope(views.fees),
        "accounts": of_scope(views.accounts),
        "progress": by_subject,
        "units": units,
    }
    for name, frame in frames.items():
        scratch.register(name, frame.to_arrow())


def _section(scratch: duckdb.DuckDBPyConnection, name: str) -> pl.DataFrame:
    frame = pl.from_arrow(scratch.sql(SECTION_SQL[name]).to_arrow_table())
    assert isinstance(frame, pl.DataFrame)
    return _as_planned(name, frame)


def _as_planned(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(column.name for column in SECTIONS[name].columns)


def _rejected(connection: duckdb.DuckDBPyConnection, views: StateViews, window: _Window) -> pl.DataFrame:
    """Return counts by reason of records rejected between the start of the cycle and its end plus the longest grace.

    During this time a record can count in the cycle. The time of use of a rejected record is not reliable, so a record
    that is rejected in the first days of a cycle is also in the report of the cycle before.
    """
    grace = dt.timedelta(hours=max(views.accounts["grace_hours"].drop_nulls().to_list(), default=0))
    until = dt.datetime.combine(window.last + dt.timedelta(days=1), dt.time()) + grace
    found = connection.execute(
        "SELECT reason::VARCHAR, count(*)::BIGINT FROM rejected WHERE received_at >= $1::TIMESTAMPTZ AND "
        "received_at < $2::TIMESTAMPTZ GROUP BY 1 ORDER BY 2 DESC, 1",
        [f"{window.first} 00:00:00+00", f"{until}+00"],
    ).fetchall()
    rows = [(reason, REASONS.get(reason, "refused"), records) for reason, records in found]
    return pl.DataFrame(rows, schema=_rejected_none().schema, orient="row")


def _rejected_none() -> pl.DataFrame:
    return pl.DataFrame(schema={"reason": pl.String(), "meaning": pl.String(), "records": pl.Int64()})


def _notes(account: str | None, window: _Window) -> tuple[str, ...]:
    notes = [
        "Used is the billed quantity: rounded to the plan's increment, including adjustments.",
        "Usage charges are the charges of usage records. Reversals and re-ratings are shown as adjustments.",
        "Late usage arrived after its own cycle had closed for good, so it is charged in this cycle. The usage "
        "charge and the adjustments include it.",
    ]
    if window.is_open:
        notes.append(
            "The cycle is open, so all figures are preliminary. A forecast is the usage so far, divided by the "
            "elapsed days (at least one) and multiplied by the days of the cycle. Late usage of earlier cycles "
            "counts once. There is no forecast of charges."
        )
    if account is not None:
        notes.append(
            "The report covers the account and all accounts below it. It omits rejected records, because these "
            "belong to no account until they are corrected."
        )
    return tuple(notes)
