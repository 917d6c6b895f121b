"""`weir close`: close the billing cycles whose grace period is over."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.context import Force, Json, counted, data_of, micros, parse_instant

if TYPE_CHECKING:
    import pyarrow as pa

AsOf = Annotated[str | None, typer.Option(metavar="TIME", help="Close as of this time (ISO 8601). Default: now.")]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(close)


def close(context: typer.Context, as_of: AsOf = None, force: Force = False, as_json: Json = False) -> None:
    """Close the billing cycles whose grace period is over: what is owed beside usage is written down and stands."""
    from jobs.output.console import show

    moment = parse_instant(as_of, "--as-of") or dt.datetime.now(dt.UTC)
    with data_of(context).write(force=force) as driver:
        step = driver.tick(micros(moment))
    sums = _sums(step.charges)
    lines = [
        f"closed {row['cycle']} of account {row['account']}: {counted(row['charges'], 'charge')}, "
        f"{row['amount']} {row['currency']}"
        for row in sums
    ]
    nothing = "no cycle was closed: none has ended whose grace period is over and that was open before"
    show({"closed": sums}, as_json, lambda console: console.print("\n".join(lines) or nothing, highlight=False))


def _sums(charges: pa.Table) -> list[dict[str, Any]]:
    """Return number and amount of charges by cycle, account and currency, in that order."""
    from rating.units.money import format_amount

    sums: dict[tuple[str, str, str], list[int]] = {}
    for row in charges.select(["cycle", "account_id", "currency", "amount_nanos"]).to_pylist():
        one = sums.setdefault((row["cycle"], row["account_id"], row["currency"]), [0, 0])
        one[0] += 1
        one[1] += row["amount_nanos"]
    return [
        {"cycle": cycle, "account": account, "charges": count, "amount": format_amount(nanos), "currency": currency}
        for (cycle, account, currency), (count, nanos) in sorted(sums.items())
    ]
