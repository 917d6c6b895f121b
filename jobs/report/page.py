"""HTML page of a report. It works offline: it has no scripts and loads no fonts, images or other files."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import jinja2
import polars as pl
from markupsafe import Markup

from jobs.output.printable import printable
from jobs.output.text import amounts_as_text, quantity_text, size_text
from jobs.report.cells import Cell, PageTable, amount_cell, table
from jobs.report.charts import ColumnChart, Series, bar_chart, column_chart
from jobs.report.files import file_stem, replacing
from jobs.report.model import Report

_CHARTED_CURRENCIES = 3
_BARS = 10
_LAYERS = (
    ("from_test", "Test allowance", "s-test"),
    ("from_allowance", "Plan or pool allowance", "s-allowance"),
    ("from_addon", "Add-ons", "s-addon"),
    ("overage", "Overage", "s-overage"),
)


@dataclass(frozen=True)
class Figure:
    """A chart with its heading, its legend (pairs of name and CSS class) and its values in words."""

    title: str
    caption: str
    svg: Markup
    legend: Sequence[tuple[str, str]] = ()
    values: Sequence[str] = ()  # The chart in words, one line a column.


def write_html(report: Report, out: Path) -> list[Path]:
    """Write one page with headline figures, charts and tables, and return its path.

    The page lists only the top SIMs. The same report gives the same bytes.
    """
    path = out / f"{file_stem(report)}.html"
    with replacing(path) as unfinished:
        unfinished.write_text(render_html(report), encoding="utf-8", newline="\n")
    return [path]


def render_html(report: Report) -> str:
    """Return the page as text. Every value from the data is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        month=_month(report),
        stem=file_stem(report),
        as_of=report.as_of.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        currencies=_headlines(report),
        facts=_facts(report),
        figures=_figures(report),
        tables=_tables(report),
    )


def _month(report: Report) -> str:
    plain = report.cycle_from.day == 1 and report.cycle_days <= 31
    return f"{report.cycle_from:%B %Y}" if plain else f"{report.cycle_from} to {report.cycle_until}"


def _headlines(report: Report) -> list[tuple[str, list[tuple[str, Cell]]]]:
    rows = amounts_as_text(report.sections["totals"]).to_dicts()
    total = "Total so far" if report.is_open else "Total"
    named = ((total, "total"), ("Usage charges", "charge"), ("Adjustments", "adjustments"), ("Fees", "fees"))
    return [(row["currency"], [(title, amount_cell(row[name])) for title, name in named]) for row in rows]


def _facts(report: Report) -> list[tuple[str, str, str]]:
    """Return the headline facts, each with a label, a value and a line of detail."""
    services = report.sections["services"]
    facts = []
    for service, title in (("data", "Data used"), ("sms", "SMS used"), ("voice", "Voice used")):
        rows = services.filter(pl.col("service") == service)
        if rows.height:
            over = int(rows["overage"].sum())
            covered = f"{quantity_text(over, service)} past the allowances" if over else "all within the allowances"
            facts.append((title, quantity_text(int(rows["used"].sum()), service), covered))
            if service == "data" and rows["forecast"].count():
                ahead = int(rows["forecast"].sum())
                facts.append(("Data forecast", size_text(ahead), f"by {report.cycle_until}, if use goes on as so far"))
    silent = report.cards - report.cards_used
    facts.append(
        (
            "SIMs with usage",
            f"{report.cards_used:,}",
            f"{report.cards:,} cards in stock now" if silent < 0 else f"of {report.cards:,} cards",
        )
    )
    late = services["late_records"].sum()
    facts.append(
        ("Records rated", f"{services['records'].sum():,}", f"{late:,} of them late" if late else "none of them late")
    )
    fired = report.sections["rules"]
    if fired.height:
        asked = f"{fired['actions'].sum():,} actions asked for by {fired.height:,} rules"
        facts.append(("Firings of rules", f"{fired['firings'].sum():,}", asked))
    if report.account is None:
        refused = report.sections["rejected"]["records"].sum()
        facts.append(("Records rejected", f"{refused:,}", f"{'' if refused else 'none '}while the cycle took usage"))
    return facts


def _figures(report: Report) -> list[Figure]:
    figures = []
    data = report.sections["days"].filter(pl.col("service") == "data")
    if data.height:
        figures.append(_data_by_day(report, data))
    totals = report.sections["totals"].filter(pl.col("total") != 0).sort("total", descending=True)
    for currency in totals["currency"].to_list()[:_CHARTED_CURRENCIES]:
        days = report.sections["days"].filter(pl.col("currency") == currency)
        if (days["total"] != 0).any():
            figures.append(_charge_by_day(report, currency, days))
        whose, key = ("plan", "plan_id") if report.account is not None else ("account", "account_id")
        section = report.sections["plans" if key == "plan_id" else "accounts"].filter(pl.col("currency") == currency)
        figures.append(_by_owner(section, whose, key, currency))
    return figures


def _columns_of(report: Report, rows: pl.DataFrame) -> tuple[list[dt.date | None], pl.DataFrame]:
    """Return the columns of a chart by day, and `rows` with `day` set to None if it is outside the cycle.

    There is one column for each day of the cycle. If the cycle contains late usage of earlier days, a first column
    None has all of that usage.
    """
    days: list[dt.date | None] = [report.cycle_from + dt.timedelta(days=at) for at in range(report.cycle_days)]
    inside = pl.col("day").is_between(report.cycle_from, report.cycle_until)
    placed_rows = rows.with_columns(pl.when(inside).then(pl.col("day")).alias("day"))
    return ([None, *days] if placed_rows["day"].null_count() else days), placed_rows


def _day_name(day: dt.date | None) -> str:
    return "late, of earlier days" if day is None else day.isoformat()


def _most(day: dt.date | None) -> str:
    return "most of it late, of earlier days," if day is None else f"most on {day}"


def _data_by_day(report: Report, data: pl.DataFrame) -> Figure:
    days, data = _columns_of(report, data)
    sums = {
        row["day"]: row for row in data.group_by("day").agg(pl.col(name).sum() for name, _, _ in _LAYERS).to_dicts()
    }
    layers = [layer for layer in _LAYERS if (data[layer[0]] != 0).any()]
    series = [
        Series(title, style, [Fraction(sums[day][name] if day in sums else 0) for day in days])
        for name, title, style in layers
    ]
    tips = []
    for at, day in enumerate(days):
        parts = [f"{layer.name.lower()} {size_text(int(layer.values[at]))}" for layer in series if layer.values[at]]
        tips.append(f"{_day_name(day)}: {', '.join(parts) or 'no data'}")
    by_day = {day: sum((layer.values[at] for layer in series), Fraction()) for at, day in enumerate(days)}
    peak = max(days, key=lambda day: by_day[day])
    total = sum(by_day.values())
    alt = f"{size_text(int(total))} in all, {_most(peak)} with {size_text(int(by_day[peak]))}."
    chart = ColumnChart(_day_labels(days), tips, series, _size_tick, 1024, alt)
    return Figure(
        "Data by day",
        f"Billed data by local day of use, by what covered it. {alt}",
        column_chart(chart),
        [(title, style) for _, title, style in layers],
        tips,
    )


def _charge_by_day(report: Report, currency: str, rows: pl.DataFrame) -> Figure:
    days, rows = _columns_of(report, rows)
    sums = {day: Fraction(total) for day, total in rows.group_by("day").agg(pl.col("total").sum()).iter_rows()}
    values = [sums.get(day, Fraction()) for day in days]
    tips = [f"{_day_name(day)}: {_plain(value)} {currency}" for day, value in zip(days, values, strict=True)]
    peak = max(range(len(days)), key=lambda at: values[at])
    whole, most = _plain(sum(values, Fraction())), _plain(values[peak])
    alt = f"{whole} {currency} in all, {_most(days[peak])} with {most} {currency}."
    chart = ColumnChart(_day_labels(days), tips, [Series("Charge", "s-main", values)], _plain, 10, alt)
    caption = f"Adjustments included, fees not. {alt}"
    return Figure(f"Usage charges by day, {currency}", caption, column_chart(chart), values=tips)


def _by_owner(section: pl.DataFrame, whose: str, key: str, currency: str) -> Figure:
    sums = section.group_by(key).agg(pl.col("total").sum()).sort(["total", key], descending=[True, False])
    rows = [(printable(owner or "none"), Fraction(total)) for owner, total in sums.iter_rows()]
    rest = rows[_BARS:]
    if rest:
        rows = [*rows[:_BARS], (f"{len(rest):,} others", sum((total for _, total in rest), Fraction()))]
    bars = [(owner, total, f"{_plain(total)} {currency}") for owner, total in rows]
    return Figure(
        f"Total by {whose}, {currency}", "Usage charges, adjustments and fees, highest first.", bar_chart(bars)
    )


def _day_labels(days: Sequence[dt.date | None]) -> list[str]:
    return ["late" if day is None else str(day.day) for day in days]


def _size_tick(value: Fraction) -> str:
    return size_text(int(value)).replace(".00", "") if value else "0"


def _plain(value: Fraction) -> str:
    """Format an amount that is a whole number of nanos as exact decimal text with thousands commas."""
    nanos = value * 10**9
    text = f"{Decimal(int(nanos)).scaleb(-9):,.9f}"
    return text.rstrip("0").rstrip(".")


def _tables(report: Report) -> list[PageTable]:
    sections = report.sections
    summary = "currency sims data_used_bytes data_overage_bytes sms_used voice_used_s charge adjustments fees total"
    actions = "actions actions_done actions_failed actions_told actions_open"
    usage = "records used from_test from_allowance from_addon overage"
    pools = sections["pools"].sort(
        pl.col("kind") == "device", -pl.col("percent"), "account_id", "pool_id", nulls_last=True, maintain_order=True
    )
    dearest = report.dearest_sims()
    tables = [
        table("totals", sections["totals"], "currency sims records charge late_charge adjustments fees total"),
        table(
            "services",
            sections["services"],
            f"service currency sims {usage} late_records late_quantity adjustment_quantity charge adjustments forecast",
        ),
        table("accounts", sections["accounts"], f"account_id name parent {summary}"),
        table("plans", sections["plans"], f"plan_id plan_version {summary}"),
        table(
            "pools",
            pools,
            "pool_id kind account_id members service size used percent overage currency total "
            "forecast forecast_percent",
            caption="SIMs that share an allowance: pools, then devices, fullest first.",
            limit=50,
        ),
        table(
            "sims",
            report.top_sims(),
            "iccid account_id plan_id used allowance_size from_allowance from_addon overage currency charge "
            "adjustments forecast",
            name="top-sims",
            title="SIMs with the most data",
            caption=f"The first {report.top}; every SIM is in the CSV, XLSX and Parquet files.",
        ),
        table(
            "sims",
            dearest,
            "iccid account_id currency total",
            name="dearest-sims",
            title="SIMs with the highest totals",
            caption=f"Usage charges, adjustments and fees; the first {report.top} of each currency.",
        ),
        table("rates", sections["rates"], f"plan_id plan_version rate currency sims {usage} charge adjustments total"),
        table("countries", sections["countries"], "country service currency sims records used overage total", limit=30),
        table("fees", sections["fees"], "account_id plan_id plan_version fee fee_count currency amount"),
        table("adjustments", sections["adjustments"], "account_id kind service rows quantity currency amount"),
        table("rules", sections["rules"], f"rule_id trigger owner sims firings released {actions}"),
        table("rule_sims", sections["rule_sims"], f"iccid account_id rules firings released {actions}"),
        table("rejected", sections["rejected"], "reason meaning records"),
    ]
    return [each for each in tables if each.rows]
