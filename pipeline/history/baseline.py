"""Totals from the committed history for rules that start on them (rating.rules.totals.cycle_and_day)."""

from __future__ import annotations

import polars as pl

from pipeline.store.directory import DataDirectory
from rating.engine import Engine
from rating.rules.detect.usage import baseline_scope
from rating.rules.totals.cycle_and_day import BASELINE, baseline_sql


def baseline(directory: DataDirectory, engine: Engine, at_us: int, before_offset: int | None = None) -> pl.DataFrame:
    """Return sums of the committed rated rows for a rule that starts at `at_us`, with the columns of BASELINE.

    With `before_offset`, only rows of entries before that offset. The same history gives the same rows in the same
    order. Files of cycles that take no more usage are not read. Raises StorageError if a file has changed since it was
    written: the sums become state.
    """
    scope = baseline_scope(engine.rules.set, engine.state.rules.memory, max(engine.state.clock_us, at_us))
    wanted = {f"cycle={label}" for label in scope["cycles"]}
    files = [
        str(directory.check(entry)) for entry in directory.manifest.group("rated") if wanted & {*entry.path.split("/")}
    ]
    if not files:
        return pl.DataFrame(schema=BASELINE)
    import duckdb  # which only a rule over usage that is already in the history needs

    with duckdb.connect(config={"python_enable_replacements": False}) as connection:
        connection.execute("SET enable_progress_bar = false")  # it is printed on stdout
        connection.execute("SET TimeZone = 'UTC'")
        rated = connection.read_parquet(files, hive_partitioning=False)
        if before_offset is not None:
            rated = rated.filter(f"journal_offset < {before_offset:d}")
        rated.create_view("rated")
        frame = pl.from_arrow(connection.sql(baseline_sql(), params=scope).to_arrow_table())
    assert isinstance(frame, pl.DataFrame)
    return frame.select(pl.col(name).cast(kind) for name, kind in BASELINE.items()).sort(pl.all())
