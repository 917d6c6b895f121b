"""Lists from the live state and the history: cards, rejected records, status (Q1, Q2, Q6).

Results have a method `as_dict` that returns JSON values: quantities in whole units (bytes, messages, seconds), amounts
as decimal text. `jobs.show.listing_text` formats the same results as tables for a terminal.
"""

from __future__ import annotations

import base64
import datetime as dt
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from jobs.known import account_tree, unknown
from jobs.output.printable import printable
from jobs.output.text import amount_text, json_rows
from jobs.show import until_midnight as midnight
from jobs.show.page import Page, frame_of, require_page
from jobs.show.rules import latest_actions, latest_firings
from jobs.show.until_midnight import ShownUsage
from pipeline.feeds.ready import ready_feeds
from rating.errors import UsageError
from rating.queries.schemas import StateViews
from schemas.choices import REASONS, CardStatus, RejectReason

if TYPE_CHECKING:
    import duckdb

AMOUNT_SQL = "(coalesce(sum(charge_nanos), 0)::DECIMAL(29, 0) * 0.000000001::DECIMAL(9, 9))::DECIMAL(38, 9)"
_SEARCHED = ("iccid", "imsi", "msisdn", "account_id", "plan_id", "pool_id", "device_id", "carrier", "status", "custom")
_PREVIEW_BYTES = 200
_LATEST = 10  # Number of firings and of actions to show of a card.


@dataclass(frozen=True)
class CardDetail:
    """One card (Q2): basics, counters of the state, add-ons, and usage of this and the last cycle by day.

    `counters` has the counters of the card and of the device and the pool that it shares. `firings` of rules and the
    `actions` that they requested are the latest ones, newest first.
    """

    basics: dict[str, Any]
    counters: pl.DataFrame
    addons: pl.DataFrame
    cycles: pl.DataFrame
    days: pl.DataFrame
    firings: pl.DataFrame
    actions: pl.DataFrame
    reading: ShownUsage

    def as_dict(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        frames = ("counters", "addons", "cycles", "days", "firings", "actions")
        return {
            **json_values(self.basics),
            **self.reading.as_dict(),
            **{name: json_rows(getattr(self, name)) for name in frames},
        }


@dataclass(frozen=True)
class RejectedList:
    """Rejected records: counts by reason, and a page of the newest ones with a preview of the raw line."""

    by_reason: pl.DataFrame
    page: Page

    def as_dict(self) -> dict[str, Any]:
        """Return the list as JSON values. `raw_base64` is the exact line, `preview` its escaped text."""
        return {"by_reason": json_rows(self.by_reason), **self.page.as_dict()}


def json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with dates as ISO 8601 text."""
    return {name: value.isoformat() if isinstance(value, dt.date) else value for name, value in values.items()}


def list_cards(
    views: StateViews,
    as_of: dt.datetime,
    *,
    account: str | None = None,
    plan: str | None = None,
    pool: str | None = None,
    status: CardStatus | None = None,
    tag: str | None = None,
    search: str | None = None,
    over_quota: bool = False,
    limit: int = 50,
    offset: int = 0,
    reading: ShownUsage | None = None,
) -> Page:
    """Return the cards that match all filters, by ICCID, with their usage in the cycle that is open at `as_of` (Q1).

    `account` includes the accounts below it. `search` matches a part of any identifier, name, tag or custom field and
    ignores case. `over_quota` selects cards whose usage in this cycle exceeds an allowance of their own. The charge of
    a card that shares a pool or device is zero here, because it counts for the pool or device. `reading` says which
    usage `views` have (T7). Raises UsageError if the account does not exist.
    """
    require_page(limit, offset)
    cards = views.cards
    if account is not None:
        cards = cards.filter(pl.col("account_id").is_in(account_tree(views.accounts, account)))
    for column, wanted in (("plan_id", plan), ("pool_id", pool), ("status", status)):
        if wanted is not None:
            cards = cards.filter(pl.col(column) == wanted)
    if tag is not None:
        cards = cards.filter(pl.col("tags").list.contains(tag))
    if search is not None:
        text = pl.concat_str(*_SEARCHED, pl.col("tags").list.join("\n"), separator="\n", ignore_nulls=True)
        cards = cards.filter(text.str.to_lowercase().str.contains(search.lower(), literal=True))
    cards = cards.join(_usage_of_cards(views, as_of), on="iccid", how="left")
    if over_quota:
        cards = cards.filter(pl.col("over_quota").fill_null(False))
    rows = cards.sort("iccid").slice(offset, limit)
    return Page(cards.height, offset, rows, reading or ShownUsage(as_of))


def current_counters(views: StateViews, as_of: dt.datetime) -> pl.DataFrame:
    """Return the counters whose cycle is open at `as_of` in the time zone of their account."""
    zones = views.accounts.select("account_id", "time_zone")
    days = {
        name: as_of.astimezone(zoneinfo.ZoneInfo(name)).date() for name in {"UTC", *zones["time_zone"].drop_nulls()}
    }
    today = pl.DataFrame({"time_zone": list(days), "today": list(days.values())})
    return (
        views.counters.join(zones, on="account_id", how="left", maintain_order="left")
        .with_columns(pl.col("time_zone").fill_null("UTC"))
        .join(today, on="time_zone", maintain_order="left")
        .filter(pl.col("today").is_between(pl.col("cycle_from"), pl.col("cycle_until")))
    )


def _usage_of_cards(views: StateViews, as_of: dt.datetime) -> pl.DataFrame:
    own = current_counters(views, as_of).filter(pl.col("subject_kind") == "sim")
    service, billable = pl.col("service"), pl.col("billable")
    usage = own.group_by(pl.col("subject").alias("iccid")).agg(
        pl.col("cycle").max(),
        billable.filter(service == "data").sum().alias("data_used_bytes"),
        pl.col("allowance_size").filter(service == "data").sum().alias("data_allowance_bytes"),
        billable.filter(service == "sms").sum().alias("sms_used"),
        billable.filter(service == "voice").sum().alias("voice_used_s"),
        ((pl.col("allowance_size") > 0) & (pl.col("overage") > 0)).any().alias("over_quota"),
    )
    return usage.join(_charges_of_cards(own), on="iccid", how="left")


def _charges_of_cards(counters: pl.DataFrame) -> pl.DataFrame:
    """Return the charge and currency of each card, and its `charges` in all currencies as text: "50 EUR, 20 USD".

    Amounts of different currencies are never added. If a card has several, `charge` and `currency` are null.
    """
    charge, iccid = pl.col("charge"), pl.col("iccid")
    sums = counters.group_by(iccid=pl.col("subject"), currency="currency").agg(
        charge=nanos_as_amount(pl.col("charge_nanos").cast(pl.Int128).sum())
    )
    owed = sums.filter((charge != 0) | ~(charge != 0).any().over(iccid)).sort("iccid", "currency")
    several = (charge != 0).sum() > 1
    return owed.group_by(iccid, maintain_order=True).agg(
        charge=pl.when(~several).then(charge.first()),
        currency=pl.when(~several).then(pl.col("currency").drop_nulls().first()),
        charges=pl.format("{} {}", amount_text(charge), "currency").str.join(", "),
    )


def nanos_as_amount(nanos: pl.Expr) -> pl.Expr:
    """Convert a whole number of nanos to an exact Decimal(38, 9) amount."""
    return (nanos.cast(pl.Decimal(38, 0)).cast(pl.Decimal(38, 9)) / pl.lit(10**9)).cast(pl.Decimal(38, 9))


def card_detail(
    connection: duckdb.DuckDBPyConnection,
    views: StateViews,
    card: str,
    as_of: dt.datetime,
    *,
    until_midnight: bool = False,
) -> CardDetail:
    """Return the card with this ICCID, IMSI or MSISDN: live, or with usage until the last local midnight (T7).

    Raises UsageError if no card or more than one card has this number.
    """
    found = views.cards.filter(pl.col("iccid") == card)
    if not found.height:
        found = views.cards.filter((pl.col("imsi") == card) | (pl.col("msisdn") == card))
    if found.height != 1:
        count = "no card" if not found.height else f"{found.height} cards"
        raise UsageError(f"{count} with ICCID, IMSI or MSISDN {card!r}; find one with: weir cards --search TEXT")
    basics = found.row(0, named=True)
    iccid = basics["iccid"]
    reading = ShownUsage(as_of)
    if until_midnight:
        views, reading = midnight.until_midnight(connection, views, as_of, iccid)
        reading = reading.of_zone(_zone_of(views, basics["account_id"]))
    shared = [("sim", iccid), ("device", basics["device_id"]), ("pool", basics["pool_id"])]
    mine = pl.any_horizontal(
        (pl.col("subject_kind") == kind) & (pl.col("subject") == subject) for kind, subject in shared if subject
    )
    counters = views.counters.filter(mine).sort(
        ["cycle_from", "subject_kind", "counter"], descending=[True, False, False]
    )
    days = _days_of_card(connection, iccid, _label_now(counters, basics["account_id"], views, as_of))
    if reading.until is not None:
        days = days.filter(pl.col("day") <= max(reading.until.values()))
    cycles = days.group_by("cycle", "service", "currency").agg(
        pl.col("records", "used", "from_test", "from_allowance", "from_addon", "overage", "charge").sum()
    )
    return CardDetail(
        basics=basics,
        counters=counters.with_columns(charge=nanos_as_amount(pl.col("charge_nanos"))).drop("charge_nanos"),
        addons=views.addons.filter(pl.col("iccid") == iccid)
        .sort("expires_on", "purchased_at", "addon_id")
        .with_columns(price=nanos_as_amount(pl.col("price_nanos")))
        .drop("price_nanos"),
        cycles=cycles.sort(["cycle", "service", "currency"], descending=[True, False, False]),
        days=days,
        firings=latest_firings(connection, _LATEST, iccid=iccid),
        actions=latest_actions(connection, _LATEST, iccid=iccid),
        reading=reading,
    )


def _zone_of(views: StateViews, account_id: str) -> str:
    return dict(views.accounts.select("account_id", "time_zone").iter_rows()).get(account_id) or "UTC"


def _label_now(counters: pl.DataFrame, account_id: str, views: StateViews, as_of: dt.datetime) -> str:
    """Return the label of the card's open cycle, or the calendar month if no counter has an open cycle."""
    today = as_of.astimezone(zoneinfo.ZoneInfo(_zone_of(views, account_id))).date()
    labels = counters.filter((pl.col("cycle_from") <= today) & (pl.col("cycle_until") >= today))["cycle"]
    return str(labels.max()) if labels.len() else f"{today:%Y-%m}"


def _days_of_card(connection: duckdb.DuckDBPyConnection, iccid: str, label: str) -> pl.DataFrame:
    """Return usage by day of the cycle `label` and of the last cycle before it, newest cycle first, days in order."""
    rows = connection.sql(
        f"""
        SELECT cycle::VARCHAR AS cycle, day, service::VARCHAR AS service, currency::VARCHAR AS currency,
            count(*) FILTER (kind = 'usage' AND part = 0) AS records, sum(billable_quantity)::BIGINT AS used,
            sum(from_test)::BIGINT AS from_test, sum(from_allowance)::BIGINT AS from_allowance,
            sum(from_addon)::BIGINT AS from_addon, sum(overage)::BIGINT AS overage, {AMOUNT_SQL} AS charge
        FROM rated WHERE iccid = $1 AND cycle <= $2 GROUP BY ALL ORDER BY cycle DESC, day, service, currency
        """,
        params=[iccid, label],
    )
    frame = frame_of(rows)
    before = frame.filter(pl.col("cycle") < label)["cycle"].max()
    return frame.filter(pl.col("cycle").is_in([label, str(before)]))


def list_rejected(
    connection: duckdb.DuckDBPyConnection,
    *,
    reason: RejectReason | None = None,
    feed: str | None = None,
    limit: int = 20,
    offset: int = 0,
    table: str = "rejected",
) -> RejectedList:
    """Return counts by reason of the rejected records, and a page of those with `reason`, newest first (F5).

    Both have only records of `feed` unless it is None. `table` is a view with the columns of `rejected`. Raises
    UsageError if the feed is neither a ready one nor in the history.
    """
    require_page(limit, offset)
    require_feed(connection, feed)
    counted = frame_of(
        connection.sql(
            f"SELECT reason::VARCHAR AS reason, count(*) AS records FROM {table} WHERE $1 IS NULL OR feed = $1 "
            "GROUP BY 1 ORDER BY 2 DESC, 1",
            params=[feed],
        )
    ).with_columns(meaning=pl.col("reason").replace_strict(REASONS, default=None, return_dtype=pl.String))
    newest = frame_of(
        connection.sql(
            "SELECT reject_id, received_at, feed::VARCHAR AS feed, source::VARCHAR AS source, source_row, "
            "reason::VARCHAR AS reason, field::VARCHAR AS field, message, record_key, raw "
            f"FROM {table} WHERE ($3 IS NULL OR reason = $3) AND ($4 IS NULL OR feed = $4) "
            "ORDER BY received_at DESC, reject_id DESC LIMIT $1 OFFSET $2",
            params=[limit, offset, reason, feed],
        )
    )
    raws = newest["raw"].to_list()
    rows = newest.drop("raw").with_columns(
        pl.Series("preview", [raw_preview(raw) for raw in raws], dtype=pl.String),
        pl.Series("raw_base64", [None if raw is None else base64.b64encode(raw).decode() for raw in raws], pl.String),
    )
    shown = counted if reason is None else counted.filter(pl.col("reason") == reason)
    return RejectedList(counted, Page(int(shown["records"].sum()), offset, rows))


def require_feed(connection: duckdb.DuckDBPyConnection, feed: str | None) -> None:
    """Raise UsageError if `feed` is not None, is not a ready feed, and is not the feed of any record of the history."""
    ready = ready_feeds()
    if feed is None or feed in ready:
        return
    rows = connection.execute(
        "SELECT DISTINCT feed::VARCHAR FROM rejected UNION SELECT DISTINCT feed::VARCHAR FROM rated"
    )
    known = {name for (name,) in rows.fetchall()}
    if feed not in known:
        raise unknown("a feed", feed, {*known, *ready})


def raw_preview(raw: bytes | None) -> str | None:
    """Return the beginning of a raw line as text that is safe to show; None for None.

    Bytes that are not text, and characters that could control a terminal, are escaped.
    """
    if raw is None:
        return None
    text = printable(raw[:_PREVIEW_BYTES].decode("utf-8", errors="backslashreplace"))
    return text if len(raw) <= _PREVIEW_BYTES else f"{text}… ({len(raw):,} bytes)"


def engine_status(
    connection: duckdb.DuckDBPyConnection, views: StateViews, as_of: dt.datetime, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the status of the data directory as JSON values. `facts` (checkpoint, files, …) are from the driver."""
    rated = frame_of(
        connection.sql(
            f"SELECT currency::VARCHAR AS currency, {AMOUNT_SQL} AS charge, count(*) AS rows, "
            "count(*) FILTER (kind = 'usage' AND part = 0) AS records, "
            "count(*) FILTER (kind <> 'usage') AS adjustments, "
            "strftime(max(received_at) AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%SZ') AS received FROM rated "
            "GROUP BY 1 ORDER BY 1"
        )
    )
    gaps = connection.execute("SELECT count(*) FROM gaps").fetchone()
    rejected = connection.execute(
        "SELECT reason::VARCHAR, count(*) FROM rejected GROUP BY 1 ORDER BY 2 DESC, 1"
    ).fetchall()
    statuses = (
        views.cards.group_by(pl.col("status").fill_null("none")).len().sort(["len", "status"], descending=[True, False])
    )
    open_cycles = current_counters(views, as_of)["cycle"].unique().sort().to_list()
    return {
        **facts,
        "accounts": views.accounts.height,
        "cards": views.cards.height,
        "cards_by_status": dict(statuses.iter_rows()),
        "plans_in_use": views.cards["plan_id"].drop_nulls().n_unique(),
        "pools": views.pools.filter(pl.col("kind") != "device")["pool_id"].n_unique(),
        "open_cycles": open_cycles,
        "rated_rows": rated["rows"].sum(),
        "rated_records": rated["records"].sum(),
        "adjustment_rows": rated["adjustments"].sum(),
        "last_received_at": rated["received"].max(),
        "charge": {row["currency"]: row["charge"] for row in json_rows(rated.select("currency", "charge"))},
        "rejected": dict(rejected),
        "gaps": gaps[0] if gaps else 0,
    }
