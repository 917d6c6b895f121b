"""What a query and an exported cell can reach: the history and nothing else of the machine."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import openpyxl
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.output.formulas import FORMULA, defused
from tests.integration.test_cli import AS_OF, CATALOGUE, files, loaded
from tests.support.weir_command import Weir

__all__ = ["files", "loaded"]  # fixtures

REACHING = [
    "select content from read_text('{file}')",
    "select count(*) from glob('{folder}/*')",
    "select * from read_text('/proc/self/environ')",
    "select * from read_csv('{file}')",
    "select * from read_csv_auto('https://127.0.0.1:1/x.csv')",
    "select * from '{file}'",
    "select * from read_blob('{folder}/*')",
    "select * from sniff_csv('{file}')",
    "select * from parquet_metadata('{file}')",
    "select * from read_json('{file}')",
    "from read_parquet('{folder}/data/**/*.parquet')",
    "from query('from read_text(''{file}'')')",
    "with x as (from read_text('{file}')) from x",
    "select (select content from read_text('{file}'))",
    "describe from read_text('{file}')",
    "summarize from read_text('{file}')",
    "copy (select 1) to '{folder}/out.csv'",
    "copy (from rated) to '{folder}/out.parquet'",
    "attach '{folder}/out.db'",
    "export database '{folder}/out'",
    "install httpfs",
    "load httpfs",
    "set enable_external_access = true",
    "pragma enable_profiling",
    "call pragma_version()",
    "select 1; select 2",
]


def test_a_query_reaches_only_the_history(weir: Weir, loaded: Path) -> None:
    """Files, environment, network and settings are refused, and nothing is written."""
    secret = loaded / "secret.txt"
    secret.write_text("precious")
    before = {path.name for path in loaded.iterdir()}
    for query in REACHING:
        result = weir("sql", query.format(file=secret, folder=loaded))
        assert 2 == result.status, query
        assert "precious" not in result.out + result.err
        assert before == {path.name for path in loaded.iterdir()}


def test_a_trusted_query_reads_what_its_user_may(weir: Weir, loaded: Path) -> None:
    """With --trust; the message of a refused query names it."""
    (loaded / "rates.csv").write_text("cycle,factor\n2026-10,2\n")
    query = f"select sum(charge * factor) as due from cycles join read_csv('{loaded}/rates.csv') using (cycle)"
    assert "--trust" in weir("sql", query).err
    assert "5.2" == weir("sql", query, "--trust", "--json").json[0]["due"]


OUTWARD = [
    "select 1 into outfile '{folder}/out'",
    "select 1 INTO/**/OUTFILE '{folder}/out' format CSV",
    "select 1 into outfile '{folder}/out' append",
    "explain select 1 into outfile '{folder}/out'",
    "show tables into outfile '{folder}/out'",
    "(select 1) union all (select 2) into outfile '{folder}/out'",
    "insert into function file('{folder}/out', 'CSV', 'a Int8') values (1)",
    "select file('{file}')",
    "select `file`('{file}')",
    "select * from file('{file}', 'LineAsString')",
    "describe file('{file}')",
    "describe url('http://127.0.0.1:1/x', 'CSV')",
    "select * from executable('id', 'LineAsString', 'x String')",
    "select * from Python(query)",
    "select 1 settings readonly = 0",
    "backup database default to File('{folder}/out')",
    "create table t engine = File(CSV, '{folder}/out') as select 1",
    "set max_threads = 1",
    "select 1; select 2",
]


@pytest.mark.may_skip("needs the extra chdb")
def test_clickhouse_reaches_only_its_tables(weir: Weir, loaded: Path) -> None:
    """No statement writes or reads a file; words in texts, comments and names are no keywords."""
    pytest.importorskip("chdb")
    assert 0 == weir("clickhouse", "load").status
    secret = loaded / "secret.txt"
    secret.write_text("precious")
    for query in OUTWARD:
        result = weir("clickhouse", "sql", query.format(file=secret, folder=loaded))
        assert 2 == result.status, query
        assert "precious" not in result.out + result.err
        assert not (loaded / "out").exists()
    harmless = "select 'into outfile file(' as `into outfile`, count() as n from numbers(3) -- into outfile 'x'"
    assert [{"into outfile": "into outfile file(", "n": 3}] == weir("clickhouse", "sql", harmless, "--json").json
    assert [{"n": 7}] == weir("clickhouse", "sql", "select count() as n from rated", "--json").json
    guarded = weir("clickhouse", "sql", "select '=1+1' as a, -1 as b", "--csv").out
    assert "a,b\n'=1+1,-1\n" == guarded


FORMULAS = ["=1+1", "+1", "-1", "@SUM(1)", "＝1", "＋1", "－1", "＠x", "\t=1", "\rx", "\n=1", " =1", "\u200b=1", "﹦1"]


def test_cells_of_csv_are_no_formulas(weir: Weir, loaded: Path) -> None:
    """Texts and the names of columns are guarded in `weir sql --csv`; numbers and other texts are as they are."""
    texts = ", ".join(
        "(" + "||".join(["''", *(f"chr({ord(one)})" for one in text)]) + ")" for text in [*FORMULAS, "a=1", ""]
    )
    query = f'select text as "=name", -1 as n, -1.5::decimal(9, 2) as d from (values {texts}) t(text)'
    rows = list(csv.reader(io.StringIO(weir("sql", query, "--csv").out, newline="")))
    assert ["'=name", "n", "d"] == rows[0]
    assert [*(f"'{text}" for text in FORMULAS), "a=1", ""] == [row[0] for row in rows[1:]]
    assert {("-1", "-1.5")} == {(row[1], row[2]) for row in rows[1:]}


def test_cells_of_the_report_are_no_formulas(weir: Weir, files: Path) -> None:
    """CSV has an apostrophe before the text, XLSX a text cell with the mark of one."""
    data, name = ("--data", files / "data"), "＝cmd"
    (files / "catalogue.toml").write_text(CATALOGUE.replace('"rhine"', f'"{name}"'))
    assert 0 == weir(*data, "apply", files / "catalogue.toml").status
    assert 0 == weir(*data, "ingest", "--feed", "plain", files / "usage.csv", "--as-of", AS_OF).status
    made = weir(*data, "report", "--cycle", "2026-10", "--out", files / "report", "--json").json["files"]
    texts = [Path(path).read_text() for path in made if path.endswith(".csv")]
    cells = {cell for text in texts for row in csv.reader(io.StringIO(text)) for cell in row}
    assert f"'{name}" in cells
    assert name not in cells
    book = openpyxl.load_workbook(next(path for path in made if path.endswith(".xlsx")))
    found = [cell for sheet in book for row in sheet.iter_rows() for cell in row if cell.value == name]
    assert found
    assert {("s", True)} == {(cell.data_type, cell.quotePrefix) for cell in found}


@given(st.text(st.sampled_from("=+-@＝﹣ \t\r\n\u200b\ufeffa1'")))
def test_both_guards_agree(text: str) -> None:
    """The expression for whole columns and the function for one text say the same, and what is guarded is a text."""
    whole = pl.select(pl.lit(text).str.contains(FORMULA)).item()
    assert whole == (defused(text) != text)
    assert defused(text) == defused(defused(text))
    assert not defused(text).lstrip(" \t\r\n\u200b\ufeff").startswith(("=", "+", "-", "@", "＝", "﹣"))
