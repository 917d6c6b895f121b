"""ClickHouse: the very rows and totals of the history, each once, whatever is killed, lost or repeated."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.demo.generate import generate
from jobs.show.sql import connect as connect_history
from jobs.warehouse.clickhouse import check, load
from jobs.warehouse.compact import compact
from pipeline.catalogue import load_catalogue
from pipeline.clickhouse import Client, History, Sink, connect, migrate, require_schema
from pipeline.clickhouse import client as client_module
from pipeline.clickhouse.schema import Migration, migrations
from pipeline.clickhouse.sink import VIEWS
from pipeline.config import ClickHouse
from pipeline.embedded.driver import Embedded
from pipeline.feeds.mappings import load_mapping
from pipeline.store.directory import DataDirectory
from pipeline.store.folders import lock_directory
from rating.errors import LockedError, UsageError, WorldError
from schemas.tables import TABLES
from tests.support.clickhouse_case import PASSWORD, ROOT, USER, TestServer, commit, events, everything, server
from tests.support.progress import completed, ended
from tests.support.rated_rows import rated_table
from tests.support.weir_command import WEIR, Weir

PAGE = (ROOT / "docs" / "clickhouse.md").read_text(encoding="utf-8")
VIEWS_OF_THE_HISTORY = ("daily", "cycles", "action_states")


@dataclass
class Engine:
    """The embedded engine of this process; each test has a database of its own in it."""

    path: Path
    databases: int = 0

    def database(self) -> Client:
        """A client for a new database, migrated."""
        self.databases += 1
        client = connect(ClickHouse(path=str(self.path), database=f"test_{self.databases}"))
        migrate(client)
        return client


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The engine, kept open for the module: opening it takes a second."""
    path = tmp_path_factory.mktemp("clickhouse")
    with connect(ClickHouse(path=str(path))):
        yield Engine(path)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """A server that the HTTP client talks to."""
    with server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def remote(http: TestServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A migrated database of the test's own on the server."""
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", PASSWORD)
    name = re.sub(r"\W", "_", request.node.name)
    with connect(ClickHouse(url=http.url, user=USER, password_env="CLICKHOUSE_PASSWORD", database=name)) as client:
        migrate(client)
        yield client


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a made-up month, ingested over several checkpoints."""
    folder = tmp_path_factory.mktemp("month")
    made = generate(folder / "fleet", cards=300, records=5_000, seed=1, pools=3)
    end_us = 1_793_577_600_000_000  # 2026-11-02
    with pytest.MonkeyPatch.context() as patch, Embedded.open(folder / "data", write=True) as driver:
        patch.setenv("WEIR_CHECKPOINT_RECORDS", "2000")
        driver.apply(load_catalogue([made.catalogue, made.cards_file]))
        driver.ingest(load_mapping("plain"), [made.usage], end_us, fixed_as_of=True)
        driver.acknowledge()
    return folder / "data"


def _weir(environment: dict[str, str], *arguments: object, status: int = 0) -> str:
    done = completed([WEIR, *map(str, arguments)], env=os.environ | environment)
    assert status == done.returncode, done.stderr
    return str(done.stdout if status == 0 else done.stderr)


def plain(table: pa.Table) -> list[tuple[Any, ...]]:
    """All rows as values, in an order of their own; bytes as text, an absent list as an empty one."""

    def value(one: Any) -> Any:
        return one.decode(errors="surrogateescape") if isinstance(one, bytes) else one

    lists = [pa.types.is_list(kind) or pa.types.is_large_list(kind) for kind in table.schema.types]
    columns = [column.to_pylist() for column in table.columns]
    rows = [tuple([] if many and v is None else value(v) for v, many in zip(row, lists, strict=True))
            for row in zip(*columns, strict=True)]  # fmt: skip
    return sorted(rows, key=repr)


def assert_same_as(connection: duckdb.DuckDBPyConnection, client: Client, name: str) -> int:
    """Every row of a table or view is the same in DuckDB and in ClickHouse; returns how many there are."""
    ours = connection.sql(f"FROM {name}").to_arrow_table()
    binary = [field.name for field in ours.schema if pa.types.is_binary(field.type)]
    chosen = ", ".join(f"hex({one}) AS {one}" if one in binary else f'"{one}"' for one in ours.column_names)
    ours = connection.sql(f"SELECT {chosen} FROM {name}").to_arrow_table()
    theirs = client.arrow(f"SELECT {chosen} FROM {name}")
    assert ours.column_names == theirs.column_names
    assert plain(ours) == plain(theirs)
    return int(ours.num_rows)


def figures(client: Client) -> list[Any]:
    """What rated rows and totals say: doubled, missing or torn rows change it."""
    return [
        client.rows("SELECT journal_offset, part, kind, charge_nanos FROM rated ORDER BY ALL"),
        client.rows("SELECT * FROM daily ORDER BY ALL"),
        client.rows("SELECT * FROM cycles ORDER BY ALL"),
    ]


def forget_marks(client: Client) -> None:
    """As if the process had died between every insert and its mark."""
    client.command("TRUNCATE TABLE landed")


# --- tables, views, migrations ---


def test_tables_and_views_have_the_columns_of_the_history(engine: Engine, data: Path) -> None:
    """Names and columns are those of Parquet and DuckDB, words and times and lists of the kinds they should be."""
    types = {pa.int16(): "Int16", pa.int32(): "Int32", pa.int64(): "Int64", pa.bool_(): "Bool", pa.string(): "String"}
    types |= {pa.date32(): "Date32", pa.timestamp("us", "UTC"): "DateTime64(6, 'UTC')", pa.binary(): "String"}
    types |= {pa.dictionary(pa.int32(), pa.string()): "LowCardinality(String)", pa.list_(pa.string()): "Array(String)"}
    with engine.database() as client, connect_history(data) as connection:
        for name, schema in TABLES.items():
            found = [(row[0], re.sub(r"Nullable\((.*)\)", r"\1", row[1])) for row in client.rows(f"DESCRIBE {name}")]
            found = [
                (column, kind.removesuffix(")") if kind.count("(") < kind.count(")") else kind)
                for column, kind in found
            ]
            assert [(field.name, types[field.type]) for field in schema] == found
        for name in VIEWS_OF_THE_HISTORY:
            columns = connection.sql(f"FROM {name} LIMIT 0").columns
            assert columns == [row[0] for row in client.rows(f"DESCRIBE {name}")]


def test_an_upgrade_keeps_what_has_landed(engine: Engine) -> None:
    """A database of version 1 with rows comes to the newest version with the same rows, and its new view works."""
    tables = everything()
    with connect(ClickHouse(path=str(engine.path), database="upgraded")) as client:
        assert [1] == [one.version for one in migrate(client, migrations()[:1])]
        with pytest.raises(WorldError, match="schema version 1, this version of weir reads"):
            require_schema(client)
        sink = Sink(client)
        rated = tables["rated"]
        first = rated.schema.names.index("adjusts_cycle")  # version 4 brought this column and those after it
        client.insert("rated", rated.select(rated.schema.names[:first]))
        for name in ("actions", "results"):
            sink.land(name, tables[name], 0, 0, 100)
        before = figures(client)
        assert [one.version for one in migrations()[1:]] == [one.version for one in migrate(client)]
        assert [] == migrate(client)
        require_schema(client)
        assert before == figures(client)
        assert tables["actions"].num_rows == len(client.rows("SELECT * FROM action_states"))


def test_new_totals_are_filled_from_the_rows_that_are_there(engine: Engine) -> None:
    """Totals without anything, as a migration adds them, get all rows of each cycle."""
    rated = rated_table(events())
    with engine.database() as client:
        Sink(client).land("rated", rated, 0, 0, 100)
        before = figures(client)
        client.command("TRUNCATE TABLE cycle_totals")
        Sink(client).settle("rated", 0)
        assert before == figures(client)


def test_a_newer_database_is_refused(engine: Engine) -> None:
    """What a newer Weir made is neither changed nor read; a migration that fails half-way is done again."""
    count = len(migrations())
    newer = (
        *migrations(),
        Migration(count + 1, "newer", ("CREATE TABLE IF NOT EXISTS newer (a Int8) ENGINE = Memory", "nonsense")),
    )
    with engine.database() as client:
        with pytest.raises(WorldError, match="UNKNOWN_IDENTIFIER"):
            migrate(client, newer)
        migrate(client, (*newer[:-1], Migration(count + 1, "newer", newer[-1].statements[:1])))
        for refused in (migrate, require_schema):
            with pytest.raises(
                WorldError,
                match=f"has schema version {count + 1}, this version of weir knows {count}; use a newer weir",
            ):
                refused(client)


def test_migrations_are_numbered_without_gaps(tmp_path: Path) -> None:
    """A migration file with a wrong name or number is an error."""
    (tmp_path / "0002_b.sql").write_text("SELECT 1;")
    with pytest.raises(ValueError, match="expected 1, 2, 3"):
        migrations(tmp_path)
    (tmp_path / "1_a.sql").write_text("SELECT 1;")
    with pytest.raises(ValueError, match="a migration is named such as"):
        migrations(tmp_path)


# --- the whole history ---


def test_a_loaded_history_is_the_same_row_for_row(engine: Engine, data: Path) -> None:
    """All rows of all tables and views of an ingested history are the same in DuckDB and ClickHouse."""
    with engine.database() as client, connect_history(data) as connection:
        done = load(data, client, 0)
        rows = {name: assert_same_as(connection, client, name) for name in (*TABLES, *VIEWS_OF_THE_HISTORY)}
        assert rows["rated"] > 4_000
        assert rows["rejected"] > 0
        assert rows["daily"] > 300
        assert done.rows == {name: rows[name] for name in TABLES}
        checked = check(data, client)
        assert ([], 0) == (checked.differences, sum(checked.waiting.values()))
        assert dict.fromkeys(TABLES, 0) == load(data, client, 0).rows


def test_odd_rows_of_every_table_are_the_same(engine: Engine, tmp_path: Path) -> None:
    """Rows of rules, gaps, corrections, late usage, quotes and raw bytes arrive as they are."""
    commit(tmp_path / "data", everything())
    with engine.database() as client, connect_history(tmp_path / "data") as connection:
        load(tmp_path / "data", client, 0)
        for name in (*TABLES, *VIEWS_OF_THE_HISTORY):
            assert assert_same_as(connection, client, name) > 0


def test_sums_past_64_bits_are_exact_or_an_error(engine: Engine) -> None:
    """Totals hold more than 64 bits, where a sum of 64-bit numbers would wrap around; `charge` shows them exactly."""
    rated = rated_table(events()[:1] * 2)
    most = pa.array([2**63 - 1] * 2, pa.int64())
    rated = rated.set_column(rated.schema.get_field_index("charge_nanos"), "charge_nanos", most)
    with engine.database() as client:
        Sink(client).land("rated", rated, 0, 0, 2)
        for view in ("daily", "cycles"):
            ((charge,),) = client.rows(f"SELECT charge FROM {view}")
            assert Decimal(2 * (2**63 - 1)).scaleb(-9) == charge
            with pytest.raises(WorldError, match="cannot be safely converted"):
                client.rows(f"SELECT charge_nanos FROM {view}")


def test_blocks_go_on_over_compaction(data: Path, tmp_path: Path) -> None:
    """Blocks are all rows in order of the journal, none split at an offset, also when files are merged meanwhile."""
    copy = tmp_path / "data"
    subprocess.run(["cp", "-r", str(data), str(copy)], check=True)
    for name in ("rated", "rejected"):
        with DataDirectory.open(copy, write=False) as directory:
            history = History(directory, name, block_rows=700)
            blocks = []
            for number, block in enumerate(history.blocks(0)):
                blocks.append(block)
                if number == 0 and name == "rated":
                    compact(copy)
            assert all(one.next_offset == two.first_offset for one, two in pairwise(blocks))
            assert (0, history.next_offset) == (blocks[0].first_offset, blocks[-1].next_offset)
            found = pa.concat_tables([one.rows for one in blocks])
            assert max(one.rows.num_rows for one in blocks) < 1500
        with connect_history(copy) as connection:
            assert plain(connection.sql(f"FROM {name}").to_arrow_table()) == plain(found)


def test_another_history_is_refused(engine: Engine, data: Path, tmp_path: Path) -> None:
    """A database that holds the rows of one data directory takes none of another."""
    commit(tmp_path / "data", everything())
    with engine.database() as client:
        load(tmp_path / "data", client, 0)
        with pytest.raises(WorldError, match="has another history than"):
            load(data, client, 0)


# --- once, whatever happens ---


def test_whatever_of_a_block_was_there_it_is_there_once(engine: Engine) -> None:
    """From each mixture of table and totals that a crash may leave in each of two cycles, landing the block again
    ends with the same rows and figures."""
    rated = rated_table(events())
    cut, end = 6, rated.num_rows
    head, block = rated.slice(0, cut), rated.slice(cut)
    places = ("rated", "daily_totals", "cycle_totals")
    with engine.database() as client:
        views = {
            totals: client.rows(
                f"SELECT as_select FROM system.tables WHERE database = currentDatabase() AND name = '{view}'"
            )[0][0]
            for view, totals in VIEWS["rated"]
        }
        client.command("CREATE TABLE only AS rated")

        def bring(place: str, rows: pa.Table) -> None:
            client.command("TRUNCATE TABLE only")
            client.insert("only", rows)
            if place == "rated":
                for (cycle,) in client.rows("SELECT DISTINCT cycle FROM only"):
                    client.command(f"ALTER TABLE rated ATTACH PARTITION '{cycle}' FROM only")
            else:
                select = views[place].replace(f"{client.database}.rated", "only").replace("rated.", "only.")
                client.command(f"INSERT INTO {place} {select}")

        Sink(client).land("rated", rated, 0, 0, end)
        wanted = figures(client)
        # Every mixture of one cycle with its opposite in the other, and the block cut in another way for each.
        for mixture in range(8):
            for table in (*places, "landed"):
                client.command(f"TRUNCATE TABLE {table}")
            Sink(client).land("rated", head, 0, 0, cut)
            for cycle, held in (("2026-10", mixture), ("2026-11", 7 - mixture)):
                rows = block.filter(pc.equal(block["cycle"].cast(pa.string()), cycle))
                for bit, place in enumerate(places):
                    if held >> bit & 1:
                        bring(place, rows)
            sink = Sink(client)
            sink.land("rated", rated.slice(cut, 3 + mixture), 0, cut, cut + 3 + mixture)
            sink.land("rated", rated.slice(cut), 0, cut, end)
            assert wanted == figures(client), mixture
            assert {("rated", 0): end} == sink.landed()


def test_repeats_cut_in_other_ways_add_nothing(engine: Engine) -> None:
    """Blocks landed again after their marks were lost, alone or joined, add no row to any table."""
    tables = everything()
    rated = tables["rated"]
    with engine.database() as client:
        sink = Sink(client)
        assert 4 == sink.land("rated", rated.slice(0, 4), 0, 0, 4)
        assert 5 == sink.land("rated", rated.slice(4, 5), 0, 4, 9)
        assert 0 == sink.land("rated", rated.slice(4, 5), 0, 4, 9)
        for name in ("rejected", "gaps", "firings", "actions", "results"):
            offsets = np.arange(tables[name].num_rows) if name == "rejected" else None
            assert tables[name].num_rows == sink.land(name, tables[name], 0, 0, 50, offsets)
        forget_marks(client)
        again = Sink(client)
        assert 0 == again.land("rated", rated.slice(0, 6), 0, 0, 6)
        assert 1 == again.land("rated", rated.slice(6, 4), 0, 6, 10)
        assert 0 == again.land("rated", rated.slice(0, 0), 0, 10, 12)
        assert 12 == again.landed()["rated", 0]
        for name in ("rejected", "gaps", "firings", "actions", "results"):
            offsets = np.arange(tables[name].num_rows) if name == "rejected" else None
            assert 0 == again.land(name, tables[name], 0, 0, 50, offsets)
            assert [(tables[name].num_rows,)] == client.rows(f"SELECT count() FROM {name}")
        assert [(10, 10)] == client.rows("SELECT count(), uniqExact(journal_offset) FROM rated")


def test_two_writers_with_the_same_block_at_once_land_it_once(engine: Engine) -> None:
    """When a second insert of a block was already on its way when the first one came, the engine drops one of them,
    from the table and from the totals."""
    rated = rated_table(events())
    with engine.database() as client:
        Sink(client).land("rated", rated, 0, 0, 50)
        before = figures(client)
        client.insert("rated", rated, {"insert_deduplication_token": "rated:0:0:50"})
        assert before == figures(client)


def test_a_token_that_is_known_without_its_rows_loses_nothing(engine: Engine) -> None:
    """The engine notes a token before the rows: where it died between, the rows come all the same."""
    tables = everything()
    other = pa.array([7] * tables["rated"].num_rows, pa.int32())
    with engine.database() as client:
        place = tables["rated"].schema.get_field_index("journal_partition")
        client.insert(
            "rated",
            tables["rated"].set_column(place, "journal_partition", other),
            {"insert_deduplication_token": "rated:0:0:50"},
        )
        client.insert(
            "gaps",
            tables["gaps"].set_column(8, "journal_partition", other[:1]),
            {"insert_deduplication_token": "gaps:0:0:50"},
        )
        sink = Sink(client)
        for name in ("rated", "gaps"):
            assert tables[name].num_rows == sink.land(name, tables[name], 0, 0, 50)
            assert [(tables[name].num_rows,)] == client.rows(f"SELECT count() FROM {name} WHERE journal_partition = 0")
        assert [(tables["rated"].num_rows,)] * 2 == client.rows(
            "SELECT sum(records + adjustments) FROM cycle_totals GROUP BY journal_partition"
        )


def test_rows_that_do_not_fit_their_offsets_are_a_mistake(engine: Engine) -> None:
    """Offsets outside the range, of another partition or absent are refused before anything is written."""
    tables = everything()
    with engine.database() as client:
        sink = Sink(client)
        for name, partition, first, end in (
            ("rated", 0, 0, 5),
            ("rated", 1, 0, 50),
            ("rejected", 0, 0, 5),
            ("gaps", 0, 5, 4),
        ):
            with pytest.raises(ValueError, match=r"offset|range|partition"):
                sink.land(name, tables[name], partition, first, end)
        assert {} == sink.landed()


@pytest.mark.parametrize("seed", [1])
def test_killed_loads_end_as_an_undisturbed_one(data: Path, tmp_path: Path, seed: int) -> None:
    """A load into the embedded engine, killed at random moments and given again, leaves the very history; then
    `weir` loads the rest, checks and queries it."""
    chance = random.Random(seed)
    place = tmp_path / "clickhouse"
    command = [sys.executable, "-m", "tests.support.clickhouse_load", str(data), str(place)]
    kills = 0
    while kills < 3:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert child.stdout is not None
        with child.stdout as lines:
            for _ in range(chance.randint(1, 6)):
                lines.readline()
            time.sleep(chance.uniform(0, 0.12))
            child.kill()
            child.wait()
        kills += 1
    (tmp_path / "weir.toml").write_text(f'[clickhouse]\npath = "{place}"\n')
    environment = {"WEIR_DATA": str(data), "WEIR_CONFIG": str(tmp_path / "weir.toml")}
    assert json.loads(_weir(environment, "clickhouse", "load", "--json"))["rows"]["rated"] > 0
    assert {"equal": True} == {
        key: value
        for key, value in json.loads(_weir(environment, "clickhouse", "check", "--json")).items()
        if key == "equal"
    }


# --- a server ---


def test_a_server_takes_the_same_history(remote: Client, data: Path) -> None:
    """Over HTTP, with user and password, the same rows arrive."""
    load(data, remote, 0)
    with connect_history(data) as connection:
        for name in ("rated", "rejected", *VIEWS_OF_THE_HISTORY):
            assert_same_as(connection, remote, name)


@pytest.mark.parametrize("kind", ["lost", "late", "busy"])
def test_an_answer_that_never_came_doubles_nothing(remote: Client, http: TestServer, kind: str) -> None:
    """An insert that was done without an answer, is still being done, or was refused, is there once in the end."""
    rated = rated_table(events())
    sink = Sink(remote, patience_s=3600)
    sink.land("rated", rated.slice(0, 5), 0, 0, 5)
    for at in (5, 8):
        http.fault(kind)
        sink.land("rated", rated.slice(at, 3), 0, at, at + 3)
    assert [(11, 11)] == remote.rows("SELECT count(), uniqExact(journal_offset) FROM rated")
    assert [(11,)] == remote.rows("SELECT sum(records + adjustments) FROM cycles")


def test_an_insert_that_is_still_being_done_is_waited_for(remote: Client, http: TestServer) -> None:
    """Who takes over cuts the rows in another way, so that no token helps: it waits for what the other began."""
    rated = rated_table(events())
    http.fault("late")
    with pytest.raises(WorldError, match="then give the same command again"):
        Sink(remote, patience_s=0).land("rated", rated.slice(0, 5), 0, 0, 5)
    assert 2 == Sink(remote, patience_s=3600).land("rated", rated.slice(0, 7), 0, 0, 7)
    assert [(7, 7)] == remote.rows("SELECT count(), uniqExact(journal_offset) FROM rated")
    assert [(7,)] == remote.rows("SELECT sum(records + adjustments) FROM cycles")


def test_a_server_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server is away landing waits; when its patience ends it is an error, and nothing is marked."""
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", PASSWORD)
    rated = rated_table(events())
    with server(tmp_path) as running:
        client = connect(ClickHouse(url=running.url, user=USER, password_env="CLICKHOUSE_PASSWORD"))
        migrate(client)
        Sink(client).land("rated", rated.slice(0, 5), 0, 0, 5)
    with pytest.raises(WorldError, match="check that ClickHouse runs"):
        Sink(client, patience_s=0.5).land("rated", rated.slice(5, 5), 0, 5, 10)
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys,threading; t=threading.Timer(0.3, lambda: None); t.start(); t.join()"]
    )
    ended(process)
    with server(tmp_path, port=int(running.url.rsplit(":", 1)[1])):
        sink = Sink(client, patience_s=3600)
        assert {("rated", 0): 5} == sink.landed()
        assert 5 == sink.land("rated", rated.slice(5, 5), 0, 5, 10)
    client.close()


def test_secrets_are_in_no_message(http: TestServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wrong password ends at once, with a message that shows neither it nor the right one; a file can have it."""
    wrong = "Geheim-1234"
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", wrong)
    with pytest.raises(WorldError, match="AUTHENTICATION_FAILED") as refused:
        connect(ClickHouse(url=http.url, user=USER, password_env="CLICKHOUSE_PASSWORD"))
    assert wrong not in str(refused.value)
    (tmp_path / "password").write_text(PASSWORD + "\n")
    connect(ClickHouse(url=http.url, user=USER, password_file=str(tmp_path / "password"))).close()


def test_tls_wants_a_trusted_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over https a server is talked to when its certificate is trusted, else nothing is sent."""
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", *words.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", PASSWORD)
    with server(tmp_path / "engine", tls=(certificate, key)) as running:
        config = ClickHouse(url=running.url, user=USER, password_env="CLICKHOUSE_PASSWORD", ca_file=str(certificate))
        with connect(config) as client:
            assert [(1,)] == client.rows("SELECT 1")
        with pytest.raises(WorldError, match="CERTIFICATE_VERIFY_FAILED"):
            connect(ClickHouse(url=running.url, user=USER, password_env="CLICKHOUSE_PASSWORD"))


# --- connecting, the command line, the page ---


def test_one_path_a_process_and_one_process_a_path(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second path is refused while the first is open; so is a path that another process has."""
    with pytest.raises(UsageError, match="this process has the embedded ClickHouse open at"):
        connect(ClickHouse(path=str(tmp_path)))
    monkeypatch.setattr(client_module, "_held", client_module._Held())
    lock = lock_directory(tmp_path)
    try:
        with pytest.raises(LockedError, match="several processes at once need a server"):
            connect(ClickHouse(path=str(tmp_path)))
    finally:
        os.close(lock)


def test_the_command_line(
    remote: Client,
    http: TestServer,
    data: Path,
    tmp_path: Path,
    weir: Weir,
) -> None:
    """`weir clickhouse` loads, finds differences, answers queries and refuses to write."""
    (tmp_path / "weir.toml").write_text(
        f'[clickhouse]\nurl = "{http.url}"\ndatabase = "{remote.database}"\nuser = "{USER}"\n'
        'password_env = "CLICKHOUSE_PASSWORD"\n'
    )

    def clickhouse(*arguments: str, status: int = 0) -> str:
        ended = weir("--data", data, "--config", tmp_path / "weir.toml", "clickhouse", *arguments)
        assert status == ended.status, ended.err
        return ended.out + ended.err

    assert "rows loaded into" in clickhouse("load")
    assert "no new rows" in clickhouse("load")
    assert "figures are the same" in clickhouse("check")
    assert "found a DROP statement; give one that only reads" in clickhouse("sql", "DROP TABLE rated", status=2)
    query = "SELECT count() AS n, min(used_at) AS first FROM rated"
    assert {"n", "first"} == json.loads(clickhouse("sql", query, "--json"))[0].keys()
    assert clickhouse("sql", query, "--csv").startswith("n,first\n")
    remote.command("ALTER TABLE rated DELETE WHERE journal_offset < 100 SETTINGS mutations_sync = 2")
    assert "differ from the history" in clickhouse("check", status=3)


@pytest.fixture(scope="module")
def shown(engine: Engine) -> Iterator[Client]:
    """A database with a few rows of everything."""
    with engine.database() as client:
        sink = Sink(client)
        for name, table in everything().items():
            sink.land(name, table, 0, 0, 50, np.arange(table.num_rows) if name == "rejected" else None)
        yield client


@pytest.mark.parametrize("query", re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL))
def test_every_query_of_the_page_runs(query: str, shown: Client) -> None:
    """Each example query runs and finds something."""
    assert shown.arrow(query.rstrip().rstrip(";")).num_rows
