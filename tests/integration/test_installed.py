"""The wheel: what it contains, that it runs outside the checkout, and what it says without its extras."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import signal
import subprocess
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, get_args

import pytest

from pipeline.broker import free_port
from pipeline.extras import DISTRIBUTION, Extra
from tests.support.broker import SharedBroker, need_broker
from tests.support.installed import ROOT, ROOTS, Installed, build, copy_sources, environment, install, metadata_of

SMALL = ("--cards", 600, "--records", 15_000)
EXTRAS: tuple[Extra, ...] = get_args(Extra)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that was built from it."""
    return build(copy_sources(tmp_path_factory.mktemp("build") / "weir"))


@pytest.fixture(scope="module")
def wheel(built: tuple[Path, Path]) -> Path:
    """The wheel."""
    return built[1]


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel without extras."""
    return install(wheel, tmp_path_factory.mktemp("plain") / "venv")


@pytest.fixture(scope="module")
def streaming(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel with the extra `kafka`."""
    return install(wheel, tmp_path_factory.mktemp("streaming") / "venv", "kafka")


def files_of(folder: Path) -> set[str]:
    """All files below a folder of the checkout but caches and prose, as paths from the root."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts and path.suffix != ".md"}


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(built: tuple[Path, Path]) -> None:
    """Modules, mappings, migrations, templates, queries and examples; no tests and no benchmarks."""
    sdist, wheel = built
    examples = files_of(ROOT / "examples")
    modules_and_data = set.union(*(files_of(ROOT / root) for root in ROOTS))
    assert {"jobs/demo/fleet.toml", "jobs/show/views.sql", "schemas/feeds/plain.toml"} < modules_and_data
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == modules_and_data | {f"jobs/{name}" for name in examples}
    with tarfile.open(sdist) as archive_of_sources:
        sources = {name.partition("/")[2] for name in archive_of_sources.getnames()}
    assert modules_and_data | examples | {"README.md", "LICENSE", "CHANGELOG.md", "docs/feeds.md"} <= sources
    assert not [name for name in sources if name.startswith(("tests", "benchmarks"))]


def test_the_wheel_says_who_it_is(wheel: Path) -> None:
    """Its name is the one that messages tell people to install, and its extras are those that messages name."""
    metadata = metadata_of(wheel)
    assert (DISTRIBUTION, "0.1.0") == (metadata["Name"], metadata["Version"])
    assert list(EXTRAS) == metadata.get_all("Provides-Extra")


def test_the_same_sources_give_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """A second build, of files with other times, gives the same bytes."""
    sources = copy_sources(tmp_path / "again")
    for path in sources.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    _, again = build(sources)
    assert hashlib.sha256(wheel.read_bytes()).digest() == hashlib.sha256(again.read_bytes()).digest()


def test_no_dependency_has_our_import_names() -> None:
    """The names of the four packages are general words; no distribution that Weir is tested with claims one of them."""
    claimed = packages_distributions()
    assert {} == {root: claimed[root] for root in (*ROOTS, "weir") if root in claimed}


def test_the_demo_runs_in_an_empty_folder(plain: Installed, tmp_path: Path) -> None:
    """All of it comes from the wheel and from what the wheel requires, and its examples can be used from then on."""
    where = plain.python(
        tmp_path,
        f"import json, sys, {', '.join(ROOTS)}; print(json.dumps([{'.__file__, '.join(ROOTS)}.__file__, *sys.path]))",
    )
    packages, path = json.loads(where)[: len(ROOTS)], json.loads(where)[len(ROOTS) :]
    assert [str(plain.packages / root / "__init__.py") for root in ROOTS] == packages
    assert not [entry for entry in path if Path(entry or tmp_path).is_relative_to(ROOT)]

    done = plain.weir(tmp_path, "demo", *SMALL, "--json")
    assert (0, "") == (done.returncode, done.stderr)
    shown = json.loads(done.stdout)
    mappings = {path.stem for path in (ROOT / "schemas" / "feeds").glob("*.toml")}
    assert {*mappings, "plain (fleet)"} == shown["feeds"].keys()
    assert all(tally["rated"] for tally in shown["feeds"].values())
    assert {path.suffix for path in (tmp_path / "weir-demo" / "report").iterdir()} >= {".html", ".xlsx"}

    examples = tmp_path / shown["examples"]
    catalogue = [*sorted((examples / "catalogue").glob("*.toml")), examples / "feeds" / "cards.csv"]
    applied = plain.weir(tmp_path, "apply", *catalogue, "--as-of", "2026-10-01")
    assert (0, "") == (applied.returncode, applied.stderr)
    for name in files_of(ROOT / "examples"):
        assert (ROOT / name).read_bytes() == (tmp_path / "weir-demo" / name).read_bytes()


def told(end: tuple[int, str], module: str, extra: Extra) -> None:
    """Assert that a command ended with advice to install the extra, because of the missing module."""
    status, said = end
    assert 2 == status, said
    assert f"needs a package that is not installed ({module}): run `pip install 'weir-rating[{extra}]'`" in said


def test_without_the_extra_kafka(plain: Installed, tmp_path: Path) -> None:
    """Every command of the streaming side says what to install, before it does anything."""
    (tmp_path / "commands.ndjson").touch()
    commands: list[tuple[str, ...]] = [
        ("worker",),
        ("feed", "plain", "usage.csv"),
        ("pack", "plain", "--from", "records"),
        ("send", "apply", "plans.toml"),
        ("send", "command", "commands.ndjson"),
        ("send", "activate", "rule"),
        ("send", "deactivate", "rule"),
        ("send", "tick"),
    ]
    for command, end in zip(commands, plain.runs(tmp_path, *commands), strict=True):
        module = re.match(rf"weir: weir {command[0]} needs [^(]* \((\w+)\)", end[1])
        assert module, end
        told(end, module[1], "kafka")


def test_a_worker_asks_for_the_client_of_clickhouse_before_it_starts(streaming: Installed, tmp_path: Path) -> None:
    """A worker that is to land in ClickHouse does not find out hours later that the client is missing."""
    (tmp_path / "weir.toml").write_text('[worker]\nclickhouse = true\n[clickhouse]\nurl = "http://127.0.0.1:8123"\n')
    told(*streaming.runs(tmp_path, ("worker",)), "clickhouse_connect", "clickhouse")


@contextmanager
def hidden(installed: Installed, module: str) -> Iterator[None]:
    """Take a package out of the environment."""
    link = installed.packages / module
    target = link.readlink()
    link.unlink()
    try:
        yield
    finally:
        link.symlink_to(target)


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("faust", ("worker",)),
        ("prometheus_client", ("worker",)),
        ("aiokafka", ("feed", "plain", "usage.csv")),
        ("fastavro", ("pack", "plain", "--from", "records")),
    ],
)
def test_without_one_package_of_the_extra_kafka(
    streaming: Installed, tmp_path: Path, module: str, command: tuple[str, ...]
) -> None:
    """Each package of the extra is reported if it is the only one that is missing."""
    with hidden(streaming, module):
        told(*streaming.runs(tmp_path, command), module, "kafka")


def test_without_the_extras_of_clickhouse(plain: Installed, wheel: Path, tmp_path: Path) -> None:
    """For a server the client is asked for, for the embedded engine the engine, also if the client is there."""
    server = tmp_path / "server.toml"
    server.write_text(f'[clickhouse]\nurl = "http://127.0.0.1:{free_port()}"\npatience_s = 0\n')
    asked: list[tuple[object, ...]] = [("load",), ("check",), ("sql", "SELECT 1")]
    embedded = [("clickhouse", *one) for one in asked]
    remote = [("--config", server, *one) for one in embedded]
    made, *ends = plain.runs(tmp_path, ("tick", "--as-of", "2026-10-01"), *embedded, *remote)
    assert 0 == made[0], made
    for number, end in enumerate(ends):
        told(end, "clickhouse_connect", "chdb" if number < len(embedded) else "clickhouse")

    with_client = install(wheel, tmp_path / "client", "clickhouse")
    assert not (with_client.packages / "chdb").exists()
    without_engine, away = with_client.runs(tmp_path, embedded[0], remote[0])
    told(without_engine, "chdb", "chdb")
    assert 3 == away[0], away  # the client is there, the server is not
    with_engine = install(wheel, tmp_path / "engine", "chdb")
    loaded = with_engine.weir(tmp_path, "clickhouse", "load", "--json")
    assert (0, "") == (loaded.returncode, loaded.stderr)


def test_every_late_import_of_an_optional_package_asks_for_its_extra(plain: Installed, tmp_path: Path) -> None:
    """Whatever module does not load without extras is imported by the others in a function, under `require_extra`."""
    modules = sorted(
        re.sub(r"/__init__$", "", name.removesuffix(".py")).replace("/", ".")
        for root in ROOTS
        for name in files_of(ROOT / root)
        if name.endswith(".py")
    )
    code = """
import importlib, json
lacking = {}
for name in %r:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        lacking[name] = error.name.partition(".")[0]
print(json.dumps(lacking))
"""
    lacking: dict[str, str] = json.loads(plain.python(tmp_path, code % modules))
    assert lacking["pipeline.streaming.worker.app"] == "faust"
    assert {"faust", "aiokafka", "prometheus_client", "fastavro", "aiohttp"} == set(lacking.values())
    optional = lacking.keys() | set(lacking.values()) | {"clickhouse_connect", "chdb"}
    found = 0
    for name in modules:
        if name in lacking:
            continue
        file = ROOT / name.replace(".", "/")
        tree = ast.parse(
            (file.with_suffix(".py") if file.with_suffix(".py").exists() else file / "__init__.py").read_text()
        )
        guarded = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.With) and "require_extra(" in ast.unparse(node.items[0])
            for inner in ast.walk(node)
        }
        late = [
            (node, names)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
            if (names := imported(node) & optional)
        ]
        found += len(late)
        bare = [(node.lineno, names) for node, names in late if id(node) not in guarded]
        if name == "pipeline.clickhouse.client":  # `connect` asks for the package before anything else
            bare = [(line, names) for line, names in bare if names != {"clickhouse_connect"}]
        assert [] == bare, name
    assert found > 5


def imported(node: ast.AST) -> set[str]:
    """The modules that an import may load; of other nodes none. Packages of others by their top name."""
    if isinstance(node, ast.Import):
        names = {one.name for one in node.names}
    elif isinstance(node, ast.ImportFrom):
        names = {node.module or "", *(f"{node.module}.{one.name}" for one in node.names)}
    else:
        return set()
    return {name if name.partition(".")[0] in ROOTS else name.partition(".")[0] for name in names}


def test_a_broker_runs_without_extras(plain: Installed, tmp_path: Path) -> None:
    """`weir kafka` needs Java, and no package of an extra."""
    need_broker()
    port = free_port()
    command = plain.command("kafka", "--ephemeral", "--port", port)
    with running(command, tmp_path) as process:
        assert process.stdout is not None
        answers = f"Kafka answers at 127.0.0.1:{port} ".encode()
        assert any(line.startswith(answers) for line in process.stdout)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=120)
    assert b"stopped" in rest
    assert 0 == process.returncode


def test_a_worker_runs_without_clickhouse(
    plain: Installed, streaming: Installed, kafka: SharedBroker, tmp_path: Path
) -> None:
    """With the extra `kafka` alone a worker rates; what it lands can be queried without any extra."""
    text = f'[kafka]\nservers = "{kafka.address}"\nprefix = "wheel."\npartitions = 1\n[worker]\napp = "wheel"\n'
    text += f'history = "history"\nland_every_s = 1\ntick_s = 0\nweb_port = {free_port()}\n'
    (tmp_path / "weir.toml").write_text(text)
    examples = ROOT / "examples"
    catalogue = [*sorted((examples / "catalogue").glob("*.toml")), examples / "feeds" / "cards.csv"]

    def ask(installed: Installed, *arguments: object) -> Any:
        done = installed.weir(tmp_path, *arguments, "--json")
        assert 0 == done.returncode, done
        return json.loads(done.stdout)

    with running(streaming.command("worker"), tmp_path) as process:
        ask(streaming, "send", "apply", *catalogue, "--as-of", "2026-10-01", "--timeout", 120)
        ask(streaming, "feed", "1nce", examples / "feeds" / "1nce.ndjson", "--as-of", "2026-10-31T20:00:00Z")
        while not list((tmp_path / "history").glob("*/history/rated/**/*.parquet")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
        process.terminate()
        process.communicate(timeout=120)
    assert 0 == process.returncode

    assert ask(plain, "--data", "history", "sql", "SELECT count(*) AS landed FROM rated")[0]["landed"]
    told(*plain.runs(tmp_path, ("--data", "history", "cards")), "aiokafka", "kafka")
    assert ask(streaming, "--data", "history", "cards")["rows"]


@contextmanager
def running(command: list[str], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has ended afterwards."""
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment()
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # so that it ends a process of its own as well
            try:
                process.wait(timeout=60)
            finally:
                process.kill()
                process.wait()


def test_the_version_is_the_newest_of_the_change_log() -> None:
    """pyproject.toml, the change log and the image of compose.yaml name the same version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version == headings[0]
    assert f"image: weir:{version}\n" in (ROOT / "compose.yaml").read_text()
