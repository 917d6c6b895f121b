"""Text of quantities and amounts, and JSON rows: readable for people, exact decimals for machines."""

from __future__ import annotations

from typing import Any

import polars as pl

_SIZES = ("bytes", "KB", "MB", "GB", "TB", "PB", "EB")


def amounts_as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` with each Decimal column as decimal text, without trailing zeros and without exponents."""
    amounts = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Decimal)]
    return frame.with_columns(amount_text(pl.col(name)) for name in amounts)


def amount_text(amount: pl.Expr) -> pl.Expr:
    """Return the exact decimal text of a Decimal column: "0", "-0.5", "12.000000001"."""
    text = amount.cast(pl.Decimal(38, 9)).cast(pl.String)
    return text.str.strip_chars_end("0").str.strip_chars_end(".")


def json_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of `frame` as JSON values: amounts as decimal text, dates and times in ISO 8601."""
    dates = [name for name, kind in frame.schema.items() if kind == pl.Date]
    instants = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    return (
        amounts_as_text(frame)
        .with_columns(pl.col(dates).dt.to_string("iso"), pl.col(instants).dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ"))
        .to_dicts()
    )


def size_text(volume_bytes: int) -> str:
    """Format a data volume in the largest unit (a power of 1024) that gives at least 1: "1.50 GB", "12 bytes"."""
    magnitude = abs(volume_bytes)
    step = 0
    while magnitude >= 1024 ** (step + 1) and step < len(_SIZES) - 1:
        step += 1
    if step == 0:
        return f"{volume_bytes} bytes"
    unit = 1024**step
    hundredths = (magnitude * 100 + unit // 2) // unit
    if hundredths >= 102_400 and step < len(_SIZES) - 1:
        step, hundredths = step + 1, 100
    sign = "-" if volume_bytes < 0 else ""
    return f"{sign}{hundredths // 100}.{hundredths % 100:02d} {_SIZES[step]}"


def duration_text(duration_s: int) -> str:
    """Format a duration as hours, minutes and seconds: "1:02:05", "0:00:30"."""
    minutes, seconds = divmod(abs(duration_s), 60)
    sign = "-" if duration_s < 0 else ""
    return f"{sign}{minutes // 60:,}:{minutes % 60:02d}:{seconds:02d}"


def quantity_text(quantity: int, service: str) -> str:
    """Format a quantity of `service`: data with size_text, voice with duration_text, others with thousands commas."""
    if service == "data":
        return size_text(quantity)
    if service == "voice":
        return duration_text(quantity)
    return f"{quantity:,}"
