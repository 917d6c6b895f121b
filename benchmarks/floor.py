"""The floor under `weir ingest`: Polars alone reads the same CSV and writes Parquet with the columns of `rated`.

    python -m benchmarks.floor usage.csv rated.parquet

It looks up no card, knows no key seen before and keeps no total: values come from expressions on the record itself, of
the types of `schemas.tables.RATED` and about as varied as the real ones. What Weir takes beyond it is the price of
rating, of checkpoints and of not losing anything.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import polars as pl

from schemas.tables import RATED

_COLUMNS = {
    "record_key": pl.String(),
    "iccid": pl.String(),
    "service": pl.String(),
    "direction": pl.String(),
    "volume_up_bytes": pl.Int64(),
    "volume_down_bytes": pl.Int64(),
    "quantity": pl.Int64(),
    "used_at": pl.String(),
    "plmn": pl.String(),
}
_REPORTED = ("quantity", "up_bytes", "down_bytes")
_ALLOWANCE = 300 << 20


def rated_frame(source: Path) -> pl.LazyFrame:
    """Return the query: usage of the plain feed in `source` as frames with the columns of RATED, in their order."""
    usage = pl.scan_csv(
        source,
        schema=_COLUMNS,
        row_index_name="row",
        ignore_errors=True,
        truncate_ragged_lines=True,
        encoding="utf8-lossy",
    )
    before = pl.col("row").cast(pl.Int64) * 7919 % (4 * _ALLOWANCE)
    usage = usage.with_columns(
        pl.col("used_at").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC", strict=False),
        pl.coalesce("quantity", pl.col("volume_up_bytes") + pl.col("volume_down_bytes")).alias("quantity_raw"),
        pl.col("row").cast(pl.Int64).alias("row"),
    ).with_columns(
        ((pl.col("quantity_raw") + 1023) // 1024 * 1024).alias("billable_quantity"), before.alias("counter_before")
    )
    usage = usage.with_columns(
        (pl.col("counter_before") + pl.col("billable_quantity")).alias("counter_after"),
        (pl.col("counter_before") - _ALLOWANCE).clip(0).alias("overage_before"),
    ).with_columns(
        ((pl.col("counter_after") - _ALLOWANCE).clip(0) - pl.col("overage_before")).alias("overage"),
    )
    own = pl.col("iccid").str.slice(0, 6)
    values = {
        "part": pl.lit(0, pl.Int16),
        "kind": pl.lit("usage"),
        "feed": pl.lit("plain"),
        "account_id": pl.when(own == "898839").then(pl.lit("alder")).otherwise(pl.lit("birch")),
        "subject_kind": pl.lit("sim"),
        "subject": pl.col("iccid"),
        "cycle": pl.lit("2026-10"),
        "day": pl.col("used_at").dt.date(),
        "plan_id": pl.when(own == "898839").then(pl.lit("fleet-single")).otherwise(pl.lit("zoned-single")),
        "plan_version": pl.lit(1, pl.Int32),
        "rate": pl.col("service"),
        "zone": pl.when(pl.col("plmn").str.starts_with("262")).then(pl.lit("home")),
        "country": pl.when(pl.col("plmn").str.starts_with("262")).then(pl.lit("DE")).otherwise(pl.lit("US")),
        "from_test": pl.lit(0, pl.Int64),
        "from_allowance": pl.col("billable_quantity") - pl.col("overage"),
        "from_addon": pl.lit(0, pl.Int64),
        "charge_nanos": pl.col("overage") * 9,
        "currency": pl.when(own == "898839").then(pl.lit("USD")).otherwise(pl.lit("EUR")),
        "late": pl.lit(False),
        "session_id": pl.lit(None, pl.String),
        "received_at": pl.lit(1_793_491_200_000_000).cast(pl.Datetime("us", "UTC")),
        "source": pl.lit(source.name),
        "source_row": pl.col("row") + 2,
        "journal_partition": pl.lit(0, pl.Int32),
        "journal_offset": pl.col("row"),
        **dict.fromkeys(("adjusts_cycle", "because", "cause", "named_zone"), pl.lit(None, pl.String)),
        **dict.fromkeys(("started_at", "ended_at"), pl.lit(None, pl.Datetime("us", "UTC"))),
        **dict.fromkeys(("sequence", *(f"reported_{what}" for what in _REPORTED)), pl.lit(None, pl.Int64)),
    }
    return usage.with_columns(**values).select(RATED.names)


def main() -> None:
    """Read argv[1], write argv[2], print records and seconds as JSON."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    began = time.perf_counter()
    # Streaming, which is both faster and leaner here than a read into memory and a write from it.
    rated_frame(source).sink_parquet(target, compression="zstd", compression_level=1)
    seconds = time.perf_counter() - began
    records = pl.scan_parquet(target).select(pl.len()).collect().item()
    print(json.dumps({"records": records, "seconds": round(seconds, 3), "bytes": target.stat().st_size}))


if __name__ == "__main__":
    main()
