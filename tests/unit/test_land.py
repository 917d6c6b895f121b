"""Landed files: their places, schema, order and bytes, however the stream was cut."""

from __future__ import annotations

import datetime as dt
import resource
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.history.partitioning import LONG_RUN, by_cycle_and_day
from pipeline.history.writer import RATED_NULLABLE, Landing
from pipeline.store.background import Background
from pipeline.store.directory import DataDirectory
from rating.errors import StorageError
from schemas.tables import GAPS, RATED, REJECTED
from tests.support.rated_rows import Event, rated_table


def on_days(days: list[int]) -> pa.Table:
    """One rated row a day number; numbers over 31 fall into November."""
    october, november = dt.date(2026, 10, 1), dt.date(2026, 11, 1)
    return rated_table(
        Event(f"89883030000{n:08}", day if day <= 31 else day - 31, 1000, month=october if day <= 31 else november)
        for n, day in enumerate(days)
    )


def land(path: Path, tables: list[tuple[str, pa.Table]], file_rows: int = 1_000_000) -> dict[str, bytes]:
    """Land tables in one checkpoint; the files of the history with their bytes."""
    with DataDirectory.open(path, write=True) as directory, directory.begin() as step, Background() as background:
        landing = Landing(step, background, file_rows=file_rows)
        for name, table in tables:
            landing.add(name, table)
        landing.finish()
        step.commit()
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*.parquet"))}


def test_rated_rows_land_by_cycle_and_day_in_order(tmp_path: Path) -> None:
    """Each (cycle, day) has one file a checkpoint, with its rows in journal order and the documented schema."""
    table = on_days([7, 8, 7, 33, 8, 7])
    files = land(tmp_path, [("rated", table)])
    assert [
        "history/rated/cycle=2026-10/day=2026-10-07/0000000001-000.parquet",
        "history/rated/cycle=2026-10/day=2026-10-08/0000000001-000.parquet",
        "history/rated/cycle=2026-11/day=2026-11-02/0000000001-000.parquet",
    ] == list(files)
    for name, offsets in zip(files, [[0, 2, 5], [1, 4], [3]], strict=True):
        landed = pq.ParquetFile(tmp_path / name).read()
        assert RATED.types == landed.schema.types
        assert {f.name for f in RATED} - RATED_NULLABLE == {f.name for f in landed.schema if not f.nullable}
        assert table.take(offsets).to_pylist() == landed.to_pylist()


def test_other_tables_land_too(tmp_path: Path) -> None:
    """Rejected lines and gaps are files of their own tables, nulls included."""
    rejected = pa.Table.from_pylist([{"reject_id": "a:1", "reason": "malformed", "raw": b"\x00\xff"}], schema=REJECTED)
    gaps = pa.Table.from_pylist([{"feed": "f", "session_id": "s", "missing": 2}], schema=GAPS)
    files = land(tmp_path, [("rejected", rejected), ("gaps", gaps), ("rated", RATED.empty_table())])
    assert [
        "history/gaps/0000000001-000.parquet",
        "history/rejected/0000000001-000.parquet",
    ] == list(files)
    assert rejected.to_pylist() == pq.read_table(tmp_path / "history/rejected/0000000001-000.parquet").to_pylist()
    assert gaps.to_pylist() == pq.read_table(tmp_path / "history/gaps/0000000001-000.parquet").to_pylist()


def test_files_do_not_depend_on_batches(tmp_path: Path) -> None:
    """The same rows in one batch, in many, or in other dictionaries' order of codes give the same bytes."""
    table = on_days([1 + n % 3 for n in range(200)])
    whole = land(tmp_path / "whole", [("rated", table)], file_rows=64)
    cut = land(tmp_path / "cut", [("rated", table.slice(n, 7)) for n in range(0, 200, 7)], file_rows=64)
    assert 6 == len(whole)  # two of each day
    assert whole == cut


def test_duckdb_and_arrow_read_the_partitions(tmp_path: Path) -> None:
    """The directory is a hive-partitioned data set for DuckDB and for Arrow, with the columns of the schema."""
    table = on_days([7, 8, 33])
    land(tmp_path, [("rated", table)])
    rows = duckdb.sql(
        f"select cycle, day, feed, iccid, epoch_us(used_at) from '{tmp_path}/history/rated/**/*.parquet' order by all"
    )
    assert 3 == len(rows)
    assert ["2026-10", "2026-10", "2026-11"] == [row[0] for row in rows.fetchall()]
    files = sorted(str(file) for file in tmp_path.rglob("*.parquet"))
    assert sorted(table.column("iccid").to_pylist()) == sorted(ds.dataset(files).to_table().column("iccid").to_pylist())
    assert RATED.types == ds.dataset(files).schema.types


def test_large_dictionaries_keep_only_used_words(tmp_path: Path) -> None:
    """A file of few rows does not carry the words of all accounts."""
    table = on_days([7, 7, 7])
    many = pa.array([f"account-{n}" for n in range(5000)])
    accounts = pa.DictionaryArray.from_arrays(pa.array([4000, None, 17], pa.int32()), many)
    plmns = pa.DictionaryArray.from_arrays(pa.array([4000, None, 17], pa.int32()), many)
    table = table.set_column(table.schema.get_field_index("plmn"), RATED.field("plmn"), plmns)
    used = pa.DictionaryArray.from_arrays(pa.array([3, 9, 3], pa.int32()), many)
    table = table.set_column(table.schema.get_field_index("account_id"), RATED.field("account_id"), used)
    land(tmp_path, [("rated", table)])
    (file,) = tmp_path.rglob("*.parquet")
    landed = pq.ParquetFile(file).read()
    assert accounts.to_pylist() == landed.column("plmn").to_pylist()
    assert ["account-3", "account-9", "account-3"] == landed.column("account_id").to_pylist()
    assert 2 == len(landed.column("account_id").chunk(0).dictionary)


def test_a_table_of_another_schema_is_refused(tmp_path: Path) -> None:
    """A wrong schema is a mistake of the program and stops before anything is written."""
    with pytest.raises(ValueError, match="not the schema of rated"):
        land(tmp_path, [("rated", GAPS.empty_table())])
    assert [] == list(tmp_path.rglob("*.parquet"))


def test_a_null_where_none_can_be_stops(tmp_path: Path) -> None:
    """A rated row without an account never lands."""
    table = on_days([7])
    nothing = pa.nulls(1, RATED.field("account_id").type)
    table = table.set_column(table.schema.get_field_index("account_id"), RATED.field("account_id"), nothing)
    with pytest.raises((StorageError, ValueError), match="account_id"):
        land(tmp_path, [("rated", table)])
    assert [] == list(tmp_path.rglob("*.parquet"))


def test_a_full_disk_surfaces_from_the_background(tmp_path: Path) -> None:
    """What the writer thread could not write stops the checkpoint in the thread that commits."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot write: File too large"):
            land(tmp_path, [("rated", on_days([7] * 400))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 0 == DataDirectory.open(tmp_path, write=True).manifest.checkpoint
    assert [] == list(tmp_path.rglob("*.parquet"))


def test_background_keeps_order_and_drops_what_follows_a_failure() -> None:
    """Tasks run in order; after one fails no other runs, and the failure comes out."""
    ran: list[int] = []

    def task(number: int) -> None:
        if number == 3:
            raise ZeroDivisionError
        ran.append(number)

    with Background(depth=10) as background:
        for number in range(6):
            background.submit(lambda number=number: task(number))  # type: ignore[misc]
        with pytest.raises(ZeroDivisionError):
            background.finish()
    assert [0, 1, 2] == ran


runs = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 32]), st.sampled_from([1, 2, 5, LONG_RUN - 1, LONG_RUN, LONG_RUN + 40])),
    max_size=12,
)


@given(runs)
def test_partitions_hold_every_row_once_in_order(shape: list[tuple[int, int]]) -> None:
    """Whatever the mix of long and short runs, each partition has just its rows, in order."""
    codes = np.repeat([day for day, _ in shape], [length for _, length in shape]).astype(np.int64)
    cycle = pa.DictionaryArray.from_arrays(pa.array((codes > 31).astype(np.int32)), ["2026-10", "2026-11"])
    table = pa.table(
        {
            "cycle": cycle,
            "day": pa.array((20_000 + codes).astype(np.int32)).cast(pa.date32()),
            "row": pa.array(np.arange(len(codes))),
            "word": pa.array([str(n) if n % 3 else None for n in range(len(codes))], pa.string()),
            "at": pa.array(np.arange(len(codes)), pa.timestamp("us", "UTC")),
        }
    )
    got: dict[tuple[str, str], list[int]] = {}
    for cycle_label, day, piece in by_cycle_and_day(table):
        rows = piece.column("row").to_pylist()
        assert table.take(rows).equals(piece.combine_chunks()) or table.take(rows).to_pylist() == piece.to_pylist()
        got.setdefault((cycle_label, day), []).extend(rows)
    expected: dict[tuple[str, str], list[int]] = {}
    for row, day in enumerate(codes.tolist()):
        label = "2026-11" if day > 31 else "2026-10"
        iso = (dt.date(1970, 1, 1) + dt.timedelta(days=20_000 + day)).isoformat()
        expected.setdefault((label, iso), []).append(row)
    assert expected == got
    assert sorted(expected) == list(got)
