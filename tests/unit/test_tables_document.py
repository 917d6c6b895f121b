"""docs/tables.md and docs/reports.md say what the schemas say, and their queries run."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.report.model import SECTIONS
from jobs.show.sql import STATE_TABLES, run_sql
from pipeline.history.writer import Landing
from pipeline.store.background import Background
from pipeline.store.directory import DataDirectory
from schemas.choices import REASONS
from schemas.tables import TABLES
from tests.support.rated_rows import rated_table, reject_table, rule_tables, small_events, small_views

DOCS = Path(__file__).resolve().parents[2] / "docs"
TABLES_PAGE = (DOCS / "tables.md").read_text(encoding="utf-8")
REPORTS_PAGE = (DOCS / "reports.md").read_text(encoding="utf-8")
VIEWS = ("daily", "cycles", "action_states")
QUERIES = re.findall(r"```sql\n(.*?)```", TABLES_PAGE + REPORTS_PAGE, re.DOTALL)


def section(page: str, heading: str) -> str:
    """The text of a page below a heading of the second level."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


def rows(text: str, columns: int) -> list[list[str]]:
    """The rows of the Markdown tables in a text that have so many columns and begin with code."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return [row for row in cells if len(row) == columns and row[0].startswith("`")]


def type_name(kind: pa.DataType) -> str:
    """How the documents call an Arrow type."""
    if pa.types.is_dictionary(kind):
        return "word"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {type_name(kind.value_type)}"
    texts = (pa.types.is_string(kind), pa.types.is_large_string(kind), pa.types.is_string_view(kind))
    names = {pa.date32(): "date", pa.timestamp("us", "UTC"): "timestamp"}
    return "text" if any(texts) else names.get(kind, str(kind))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the small history landed in it."""
    path = tmp_path_factory.mktemp("data") / "weir-data"
    gap = {"feed": "f", "session_id": "s", "iccid": "8949", "service": "data", "missing": 2}
    with DataDirectory.open(path, write=True) as directory, directory.begin() as step, Background() as background:
        landing = Landing(step, background)
        landing.add("rated", rated_table(small_events()))
        landing.add("rejected", reject_table([{}]))
        landing.add("gaps", pa.Table.from_pylist([gap], schema=TABLES["gaps"]))
        owed = {"charge_id": "0.1.0", "cycle": "2026-10", "account_id": "acme", "amount_nanos": 5, "currency": "EUR"}
        landing.add("charges", pa.Table.from_pylist([owed], schema=TABLES["charges"]))
        for name, table in rule_tables().items():
            landing.add(name, table)
        landing.finish()
        step.commit()
    return path


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_documented(name: str) -> None:
    """Each table's section lists its columns in order, with their types and a meaning."""
    documented = rows(section(TABLES_PAGE, name), 4)
    columns = [(f"`{field.name}`", type_name(field.type)) for field in TABLES[name]]
    assert columns == [(row[0], row[1]) for row in documented]
    assert all(row[3] for row in documented)


@pytest.mark.parametrize("name", [*VIEWS, *STATE_TABLES])
def test_every_view_is_documented(name: str, data: Path) -> None:
    """Each view's section lists the columns that a query gets, in order, with their types and a meaning."""
    schema = run_sql(data, f"FROM {name}", small_views()).schema
    documented = rows(section(TABLES_PAGE, name), 4)
    assert [(f"`{field.name}`", type_name(field.type)) for field in schema] == [(row[0], row[1]) for row in documented]
    assert all(row[3] for row in documented)


def test_nothing_else_is_documented() -> None:
    """The page has a section for each table and view that there is, and for nothing more."""
    headings = re.findall(r"^## (.*)$", TABLES_PAGE, re.MULTILINE)
    tables = [*TABLES, *VIEWS]
    assert tables == headings[: len(tables)]
    assert sorted(STATE_TABLES) == sorted(headings[len(tables) :])


def test_every_reason_is_documented() -> None:
    """The reasons of rejection are those that the engine gives, in the same words."""
    assert REASONS == {row[0].strip("`"): row[1] for row in rows(section(TABLES_PAGE, "rejected"), 2)}


@pytest.mark.parametrize("query", QUERIES, ids=[str(number) for number in range(len(QUERIES))])
def test_every_query_runs(query: str, data: Path) -> None:
    """Each example query runs over a data directory and finds something."""
    assert run_sql(data, query, small_views()).num_rows


def test_every_report_column_is_documented() -> None:
    """docs/reports.md names every section and every column of the report."""
    documented = {row[0].strip("`") for row in rows(section(REPORTS_PAGE, "Columns"), 2)}
    assert {column.name for plan in SECTIONS.values() for column in plan.columns} == documented
    assert list(SECTIONS) == [row[0].strip("`") for row in rows(section(REPORTS_PAGE, "Sections"), 2)]
