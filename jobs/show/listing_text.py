"""Terminal tables of cards, pools, rejected records and status.

Every value passes through `printable` and is never interpreted as markup, so it cannot control the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from jobs.output.printable import printable
from jobs.output.text import amounts_as_text
from jobs.show.gauges import Gauge, PoolDetail
from jobs.show.listing import CardDetail, RejectedList
from jobs.show.page import Page
from jobs.show.rules_text import actions_table, firings_table
from jobs.show.tables import listing_table, pairs_table, quantity_cell, range_text, safe, spaced

_BAR_CELLS = 10
_GAUGES_SHOWN = 50


def render_cards(page: Page) -> RenderableType:
    """Format cards, one a row, with the usage of the open cycle."""
    table = listing_table(
        "Cards",
        "ICCID Account Plan Pool Status",
        "Data Allowance SMS Voice Charge",
        "Tags",
        give_way="Tags Voice SMS Pool Allowance Plan Account Status",
    )
    for row in amounts_as_text(page.rows).iter_rows(named=True):
        over = "bold red" if row["over_quota"] else ""
        table.add_row(
            *(safe(row[name]) for name in ("iccid", "account_id", "plan_id", "pool_id", "status")),
            quantity_cell(row["data_used_bytes"], "data", over),
            quantity_cell(row["data_allowance_bytes"], "data"),
            quantity_cell(row["sms_used"], "sms"),
            quantity_cell(row["voice_used_s"], "voice"),
            safe(row["charges"]) if row["charge"] is None else _amount(row["charge"], row["currency"]),
            safe(", ".join(row["tags"] or [])),
        )
    parts: list[RenderableType] = [table, range_text(page)]
    if page.reading is not None:
        parts.append(Text(page.reading.sentence(), style="dim"))
        if page.rows.height and page.rows["cycle"].null_count() == page.rows.height:
            parts.append(Text("none of these has usage in it yet; --as-of TIME shows an earlier cycle", style="dim"))
    return Group(*parts)


def render_card(card: CardDetail) -> RenderableType:
    """Format one card: basics, counters, add-ons, and totals of this and the last cycle with their days."""
    parts: list[RenderableType] = [
        pairs_table(f"Card {printable(card.basics['iccid'])}", _basics(card.basics)),
        Text(card.reading.sentence(), style="dim"),
    ]
    if card.counters.height:
        table = listing_table(
            "Counters",
            "Cycle Counter Of",
            "Used Allowance Left Add-on Overage Charge",
            give_way="Add-on Allowance Of Left Cycle",
        )
        for row in amounts_as_text(card.counters).iter_rows(named=True):
            service, size = row["service"], row["allowance_size"]
            left = None if size is None else size - (row["allowance_used"] or 0)
            table.add_row(
                safe(f"{row['cycle_from']} to {row['cycle_until']}"),
                safe(row["counter"]),
                safe("card" if row["subject_kind"] == "sim" else f"{row['subject_kind']} {row['subject']}"),
                *(quantity_cell(value, service) for value in (row["billable"], size, left, row["addon_used"])),
                quantity_cell(row["overage"], service, "bold red" if row["overage"] else ""),
                _amount(row["charge"], row["currency"]),
            )
        parts.append(table)
    if card.addons.height:
        table = listing_table(
            "Add-ons", "Add-on Service Bought Expires", "Size Used Left Price", give_way="Bought Service Size"
        )
        for row in amounts_as_text(card.addons).iter_rows(named=True):
            sizes = (row["size"], row["used"], row["size"] - row["used"])
            table.add_row(
                *(safe(row[name]) for name in ("addon_id", "service", "purchased_at", "expires_on")),
                *(quantity_cell(value, row["service"]) for value in sizes),
                _amount(row["price"], row["currency"]),
            )
        parts.append(table)
    parts.append(_usage_table("Usage by cycle", "Cycle", "cycle", card.cycles))
    parts.append(_usage_table("Usage by day", "Day", "day", card.days))
    if card.firings.height:
        parts.append(firings_table("Latest firings", card.firings, of_sim=True))
    if card.actions.height:
        parts.append(actions_table("Latest actions", card.actions, of_sim=True))
    return spaced(parts)


def _basics(basics: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    for name, value in basics.items():
        if name in ("tags", "holds"):
            yield name, (", " if name == "tags" else "; ").join(value) if value else None
        else:
            yield name.removesuffix("_id").replace("_", " "), str(value) if value is not None else None


def _usage_table(title: str, heading: str, key: str, frame: pl.DataFrame) -> RenderableType:
    if not frame.height:
        return Text(f"{title}: none in this and the last cycle")
    table = listing_table(
        title,
        f"{heading} Service",
        "Records Used Allowance Add-on Overage Charge",
        give_way="Records Add-on Allowance Overage",
    )
    for row in amounts_as_text(frame).iter_rows(named=True):
        quantities = (row["used"], row["from_allowance"], row["from_addon"], row["overage"])
        table.add_row(
            safe(row[key]),
            safe(row["service"]),
            safe(row["records"]),
            *(quantity_cell(value, row["service"]) for value in quantities),
            _amount(row["charge"], row["currency"]),
        )
    return table


def render_pools(gauges: Sequence[Gauge]) -> RenderableType:
    """Format gauges of pools, one a row."""
    if not gauges:
        return Text("no pools with an open cycle; --as-of TIME or --cycle shows those of another one")
    table = listing_table(
        "Pools",
        "Pool Account Kind",
        "Members",
        "Service Cycle Gauge",
        "Used Size Overage",
        "Outlook",
        give_way="Overage Kind Members Account Size Used Cycle",
    )
    for gauge in gauges[:_GAUGES_SHOWN]:
        table.add_row(
            *(safe(value) for value in (gauge.pool_id, gauge.account_id, gauge.kind, gauge.members)),
            *(safe(value) for value in (gauge.service, gauge.cycle)),
            gauge_bar(gauge),
            *(quantity_cell(value, gauge.service) for value in (gauge.used, gauge.size, gauge.overage)),
            safe(outlook(gauge)),
        )
    more = len(gauges) - _GAUGES_SHOWN
    return Group(table, Text(f"and {more:,} more; all of them with --json", style="dim")) if more > 0 else table


def render_pool(pool: PoolDetail) -> RenderableType:
    """Format one pool: its gauges, and the members that use most."""
    first = pool.gauges[0]
    basics = (("account", first.account_id), ("kind", first.kind), ("members", first.members))
    parts: list[RenderableType] = [pairs_table(f"Pool {printable(first.pool_id)}", basics), render_pools(pool.gauges)]
    table = listing_table(
        f"Most used in {first.cycle}", "ICCID Service", "Used Overage Charge", give_way="Service Overage"
    )
    for row in amounts_as_text(pool.top).iter_rows(named=True):
        quantities = (quantity_cell(value, row["service"]) for value in (row["used"], row["overage"]))
        table.add_row(safe(row["iccid"]), safe(row["service"]), *quantities, _amount(row["charge"], row["currency"]))
    parts.append(table if pool.top.height else Text("no usage in this cycle yet"))
    return spaced(parts)


def gauge_bar(gauge: Gauge) -> Text:
    """Format a gauge as a bar of block characters with the percentage."""
    if gauge.percent is None:
        return Text("no size", style="dim")
    percent = Decimal(gauge.percent)
    filled = min(_BAR_CELLS, int(percent * _BAR_CELLS / 100))
    style = "red" if percent >= 100 else "yellow" if percent >= 80 else "green"
    return Text("█" * filled + "░" * (_BAR_CELLS - filled) + f" {percent} %", style=style)


def outlook(gauge: Gauge) -> str:
    """Return in words when the pool runs out."""
    if not gauge.is_open:
        return "closed"
    if gauge.used_up:
        return "used up"
    if gauge.runs_out_on is not None:
        return f"runs out on {gauge.runs_out_on}"
    if gauge.size == 0:
        return "no size"
    return f"lasts to {gauge.cycle_until}"


def render_rejected(rejected: RejectedList, *, only_open: bool = False) -> RenderableType:
    """Format rejected records: counts by reason, then the newest with their error and raw line."""
    which = "Open" if only_open else "Rejected"
    if not rejected.by_reason.height:
        return Text("no rejected records are open" if only_open else "no rejected records")
    reasons = listing_table(f"{which} by reason", "Reason", "Records", "Meaning")
    for row in rejected.by_reason.iter_rows(named=True):
        reasons.add_row(safe(row["reason"]), safe(row["records"]), safe(row["meaning"]))
    newest: list[RenderableType] = [Text("Newest", style="bold italic")]
    for row in rejected.page.rows.iter_rows(named=True):
        location = Text.assemble(
            safe(f"{row['source']}:{row['source_row']}", "bold"),
            ("  arrived ", "dim"),
            safe(row["received_at"], "dim"),
            ("  feed ", "dim"),
            safe(row["feed"], "dim"),
        )
        location.no_wrap, location.overflow = True, "ellipsis"
        about = f"{row['reason']} {row['field']}" if row["field"] else row["reason"]
        what = Text.assemble(safe(about, "red"), ": ", safe(row["message"]))
        line = safe(row["preview"], "dim")
        line.no_wrap, line.overflow = True, "ellipsis"
        newest += [location, Padding(what, (0, 0, 0, 2), expand=False), Padding(line, (0, 0, 0, 2), expand=False)]
    return spaced([reasons, Group(*newest, range_text(rejected.page))])


def render_status(status: Mapping[str, Any]) -> RenderableType:
    """Format the status of the data directory, one fact a line."""
    # Amounts and reasons are omitted from the total of all ingests, because the history's lines show the same.
    total = {name: count for name, count in (status.get("total") or {}).items() if isinstance(count, int)}
    shown = {**status, "total": total} if total else status
    return pairs_table("Status", ((name.replace("_", " "), _fact(value)) for name, value in shown.items()))


def _fact(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).replace('_', ' ')} {_fact(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value


def _amount(amount: str | None, currency: str | None) -> Text:
    return safe(None) if amount is None else safe(f"{amount} {currency or ''}".rstrip())
