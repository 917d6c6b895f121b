"""SQL over the history: views with the documented columns, one snapshot a query, and clear refusals."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from jobs.show.sql import connect, render, rows_as_csv, rows_as_json, run_sql
from jobs.warehouse.compact import compact
from pipeline.history.writer import Landing
from pipeline.store.background import Background
from pipeline.store.directory import DataDirectory
from rating.errors import InputError, UsageError
from schemas.tables import TABLES
from tests.support.rated_rows import Event, rated_table, rule_tables, small_views


def land(path: Path, *events: Event, **others: pa.Table) -> None:
    """One checkpoint with these rated events, and rows of other tables."""
    with DataDirectory.open(path, write=True) as directory, Background() as background, directory.begin() as step:
        landing = Landing(step, background)
        landing.add("rated", rated_table(events))
        for name, table in others.items():
            landing.add(name, table)
        landing.finish()
        step.commit()


ONE, TWO = "8988303000000000001", "8988303000000000002"


def test_empty_history_has_all_views_and_columns(data_dir: Path) -> None:
    """Before anything was rated each view answers with its columns and no rows."""
    land(data_dir)
    for name, schema in TABLES.items():
        table = run_sql(data_dir, f"select * from {name}")
        assert schema.names == table.column_names
        assert 0 == table.num_rows
    for view in ("daily", "cycles", "action_states"):
        assert 0 == run_sql(data_dir, f"select * from {view}").num_rows


def test_views_have_the_same_types_with_and_without_rows(tmp_path: Path) -> None:
    """A query that works on an empty history works on a full one."""
    land(tmp_path / "empty")
    land(tmp_path / "full", Event(ONE, 7, 100), **rule_tables())
    for view in ("rated", "daily", "cycles", "firings", "actions", "results", "action_states"):
        described = [run_sql(tmp_path / name, f"describe {view}").to_pylist() for name in ("empty", "full")]
        types = [[(row["column_name"], row["column_type"]) for row in rows] for rows in described]
        assert types[0] == types[1]


def test_an_action_stands_as_its_latest_result_says(data_dir: Path) -> None:
    """The latest result decides an action's state, in any order of files. Without a result, its kind decides."""
    tables = rule_tables()
    tables["results"] = tables["results"].take([2, 1, 0])
    land(data_dir, **tables)
    found = run_sql(
        data_dir, "select rule_id, action, state, outcome, message from action_states order by journal_offset, sequence"
    )
    assert [
        ("cap", "suspend", "done", "suspended", None),  # it failed first, and was done then
        ("cap", "notify", "told", None, None),
        ("=pool", "suspend", "failed", "failed", "no such SIM"),
        ("=pool", "suspend", "open", None, None),
        ("cap", "resume", "open", None, None),
    ] == [tuple(row.values()) for row in found.to_pylist()]


def test_daily_and_cycles_add_up(data_dir: Path) -> None:
    """Daily sums are per day and subject, cycle sums per account, plan and subject; amounts are exact."""
    priced = {"allowance": 150, "nanos_per_unit": 3}
    land(data_dir, Event(ONE, 7, 100, **priced), Event(ONE, 7, 100, **priced), Event(TWO, 8, 10, **priced))
    daily = run_sql(data_dir, "select subject, day::varchar, records, overage, charge from daily order by all")
    assert [(ONE, "2026-10-07", 2, 50, Decimal("0.000000150")), (TWO, "2026-10-08", 1, 0, Decimal(0))] == [
        tuple(row.values()) for row in daily.to_pylist()
    ]
    cycles = run_sql(data_dir, "select cycle, subject, sims, quantity_raw, charge_nanos from cycles order by all")
    assert [("2026-10", ONE, 1, 200, 150), ("2026-10", TWO, 1, 10, 0)] == [
        tuple(row.values()) for row in cycles.to_pylist()
    ]


def test_state_tables_are_there_when_given(data_dir: Path) -> None:
    """With the state, cards and counters can be joined with the history."""
    land(data_dir)
    views = small_views()
    assert views.cards.height == run_sql(data_dir, "select * from cards", views).num_rows
    assert 0 == run_sql(data_dir, "select iccid from cards join rated using (iccid)", views).num_rows
    with pytest.raises(InputError, match="cards"):
        run_sql(data_dir, "select * from cards")


@pytest.mark.parametrize("name", ["it's", "[a-z]", "a*b?c", "wéir dir", "sem;icolon--"])
def test_any_directory_name_is_taken_literally(tmp_path: Path, name: str) -> None:
    """Quotes and glob characters in the path are part of the path."""
    land(tmp_path / name, Event(ONE, 7, 100))
    land(tmp_path / "m", Event(ONE, 7, 100), Event(ONE, 7, 100))
    assert 1 == run_sql(tmp_path / name, "select * from rated").num_rows


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("copy (select 1) to '/tmp/x.csv'", "COPY"),
        ("create table t (i int)", "CREATE"),
        ("insert into rated values (1)", "INSERT"),
        ("attach 'x.db'", "ATTACH"),
        ("install httpfs", "LOAD"),
        ("set threads = 1", "SET"),
        ("explain analyze copy (select 1) to '/tmp/x.csv'", "EXPLAIN"),
    ],
)
def test_only_reading_statements_run(data_dir: Path, sql: str, found: str) -> None:
    """Anything but a reading statement is refused by name."""
    land(data_dir)
    with pytest.raises(UsageError, match=f"found {found} statement; the history is only read"):
        run_sql(data_dir, sql)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("selec 1", 'syntax error at or near "selec"'),
        ("select nothing from rated", 'Referenced column "nothing" not found'),
        ("select * from nowhere", "nowhere does not exist"),
        ("select * from data_dir", "data_dir does not exist"),
        ("select 'x'::int", "Could not convert string 'x' to INT32"),
        ("select * from '/nowhere/x.parquet'", "beyond the tables and views of the history, which only --trust"),
    ],
)
def test_wrong_sql_is_the_users_to_mend(data_dir: Path, sql: str, message: str) -> None:
    """DuckDB's own message comes through as an input error."""
    land(data_dir)
    with pytest.raises(InputError, match=message):
        run_sql(data_dir, sql)


@pytest.mark.parametrize(("sql", "count"), [("", 0), ("select 1; select 2", 2)])
def test_one_statement_at_a_time(data_dir: Path, sql: str, count: int) -> None:
    """Nothing and several statements are refused."""
    land(data_dir)
    with pytest.raises(UsageError, match=f"found {count} statements; give one"):
        run_sql(data_dir, sql)


def test_there_must_be_a_data_directory(data_dir: Path) -> None:
    """Querying nothing says how to begin."""
    with pytest.raises(UsageError, match="there is no data directory yet"):
        run_sql(data_dir, "select 1")


def test_no_progress_is_printed_between_the_rows(data_dir: Path) -> None:
    """DuckDB shows the progress of long queries on stdout if Python runs without a script. Here it never does."""
    land(data_dir)
    asked = """
import sys
from pathlib import Path
import duckdb
from jobs.show.sql import connect
setting = "SELECT current_setting('enable_progress_bar')"
with connect(Path(sys.argv[1])) as connection, duckdb.connect() as other:
    print(other.execute(setting).fetchone()[0], connection.execute(setting).fetchone()[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", asked, data_dir], capture_output=True, text=True, check=True, timeout=240
    )
    assert "True False" == done.stdout.strip()


def test_a_connection_keeps_its_snapshot(data_dir: Path) -> None:
    """Rows of a later checkpoint do not show in a connection that was made before it."""
    land(data_dir, Event(ONE, 7, 100))
    with connect(data_dir) as connection:
        land(data_dir, Event(ONE, 7, 100))
        assert (1,) == connection.execute("select count(*) from rated").fetchone()
    assert 2 == run_sql(data_dir, "select * from rated").num_rows


def test_queries_go_on_while_files_are_merged(data_dir: Path) -> None:
    """Queries that race with landing and compaction always see whole checkpoints, never a row twice."""
    land(data_dir, *[Event(ONE, day, 1) for day in range(1, 8)])
    stop = threading.Event()
    failures: list[BaseException] = []

    def churn() -> None:
        try:
            while not stop.is_set():
                land(data_dir, *[Event(ONE, day, 1) for day in range(1, 8)])
                land(data_dir, *[Event(ONE, day, 1) for day in range(1, 8)])
                compact(data_dir)
        except BaseException as failure:
            failures.append(failure)

    writer = threading.Thread(target=churn)
    writer.start()
    counts = []
    try:
        for _ in range(25):
            table = run_sql(data_dir, "select count(*) as n, count(distinct day) as days from rated")
            counts.append(tuple(table.to_pylist()[0].values()))
    finally:
        stop.set()
        writer.join()
    assert [] == failures
    assert {7} == {days for _, days in counts}
    assert {0} == {n % 7 for n, _ in counts}
    assert sorted(counts) == counts
    assert counts[0][0] < counts[-1][0]


def test_json_values_are_exact(data_dir: Path) -> None:
    """Amounts are decimal text, sums integers, times ISO 8601 in UTC, bytes readable, names unique."""
    land(data_dir)
    sql = """
        select amount(1500000000) as money, sum(x) as total, timestamptz '2026-10-07 12:00:00+02' as at,
            date '2026-10-07' as day, 'a\\xFFb'::blob as raw, null as nothing, 1 as a, 2 as a, [1.50] as list,
            amount(-1000000000) as whole, 'nan'::double as bad
        from range(3) t(x)
        """
    assert [
        {
            "money": "1.5",
            "total": 3,
            "at": "2026-10-07T10:00:00Z",
            "day": "2026-10-07",
            "raw": "a\\xffb",
            "nothing": None,
            "a": 1,
            "a_2": 2,
            "list": ["1.5"],
            "whole": "-1",
            "bad": None,
        }
    ] == rows_as_json(run_sql(data_dir, sql))


def test_csv_quotes_what_needs_quotes(data_dir: Path) -> None:
    """CSV has a header, empty fields for null, and quotes around commas and line ends."""
    land(data_dir)
    text = rows_as_csv(
        run_sql(data_dir, "select 'a,b' as x, null as y, 2 as z union all select E'c\\nd', 1, 3 order by z")
    )
    assert 'x,y,z\n"a,b",,2\n"c\nd",1,3\n' == text


def test_text_shows_the_first_rows_and_the_count() -> None:
    """A long result is cut, says so, and no value can steer the terminal."""
    sink = io.StringIO()
    table = pa.table({"n": list(range(150)), "word": ["\x1b[31m[red]"] * 150})
    render(table, Console(file=sink, width=100))
    text = sink.getvalue()
    assert "100 of 150 rows; all of them with --csv or --json" in text
    assert "\x1b" not in text
    assert "[red]" in text
    assert "\n99  " in text
    assert "\n100  " not in text
