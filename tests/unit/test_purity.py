"""The fold and the schemas touch no clock, chance, file, environment or log: read from their source, call by call."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PURE_FILES = sorted(path for package in ("rating", "schemas") for path in (ROOT / package).rglob("*.py"))

# Names that must not be called or referred to, as written after their imports are spelled out in full.
IMPURE = {
    "a file or stream": re.compile(
        r"(open|input|print|numpy\.(load|save|savez|savez_compressed|fromfile|memmap|loadtxt|genfromtxt|savetxt))"
        r"|(polars|pyarrow|msgspec)(\.\w+)*\.(read|scan|write|sink)_\w+|pyarrow\.(parquet|dataset|csv|fs)(\.\w+)*"
        r"|pyarrow\.(OSFile|memory_map|input_stream|output_stream)"
    ),
    "the clock": re.compile(
        r"datetime\.(datetime|date)\.(now|utcnow|today)|datetime\.date\.fromtimestamp|time(\.\w+)*"
    ),
    "chance": re.compile(r"(random|secrets|uuid|numpy\.random)(\.\w+)*"),
    "a hash that changes from process to process": re.compile(r"hash"),
    "code from outside": re.compile(r"eval|exec|compile|__import__|importlib(\.\w+)*"),
    "the process and its environment": re.compile(
        r"(os|sys|subprocess|threading|multiprocessing|asyncio|socket|logging|warnings)(\.\w+)*"
    ),
}
ALLOWED = {
    # The rules of the time zones are read from the pinned package, as code is, and never from the machine.
    "rating/calendars/calendar.py": {"importlib.resources.files is code from outside"},
    # Where modules are found decides what is imported, not what is computed.
    "schemas/arrow.py": {
        "importlib.machinery.ModuleSpec is code from outside",
        *(f"{name} is the process and its environment" for name in ("sys", "sys.modules", "sys.meta_path")),
        *(f"sys.meta_path.{name} is the process and its environment" for name in ("insert", "remove")),
    },
}
# Methods of frames and expressions that read, write or draw lots, whatever they are called on.
IMPURE_METHODS = re.compile(
    r"(write|sink|read|scan)_(csv|parquet|ipc\w*|ndjson|json|excel|avro|database|delta)|sample|shuffle"
)


def _findings(source: str) -> list[str]:
    """Each impure name in `source` as "line N: name is what it is"."""
    tree = ast.parse(source)
    imported: dict[str, str] = {}  # the name it has in this file: its name in full
    found: list[tuple[int, str]] = []

    def spelled_out(node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return imported.get(node.id, node.id if hasattr(builtins, node.id) else "")
        return f"{spelled_out(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                imported[alias.asname or first] = alias.name if alias.asname else first
                found.append((node.lineno, alias.name))
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                found.append((node.lineno, f"{node.module}.{alias.name}"))
    found += [(node.lineno, spelled_out(node)) for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute)]
    findings = {
        f"line {line}: {name} is {what}"
        for line, name in found
        for what, names in IMPURE.items()
        if names.fullmatch(name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if IMPURE_METHODS.fullmatch(node.func.attr):
            findings.add(f"line {node.lineno}: .{node.func.attr}() is a file or chance")
        local_time = spelled_out(node.func) == "datetime.datetime.fromtimestamp"
        if local_time and len(node.args) + len(node.keywords) < 2:
            findings.add(f"line {node.lineno}: fromtimestamp() without a zone is the machine's time zone")
    return sorted(findings)


@pytest.mark.parametrize("path", PURE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_pure(path: Path) -> None:
    """A module of rating or schemas refers to nothing whose answer differs from one run to the next."""
    allowed = ALLOWED.get(str(path.relative_to(ROOT)), set())
    found = _findings(path.read_text(encoding="utf-8"))
    assert [] == [finding for finding in found if finding.split(": ", 1)[1] not in allowed]


def test_there_are_modules_to_check() -> None:
    """The list of checked modules is not empty by mistake."""
    names = {str(path.relative_to(ROOT)) for path in PURE_FILES}
    assert {"rating/errors.py", "schemas/usage.py", "schemas/tables.py"} <= names


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = open('f')", "line 1: open is a file or stream"),
        ("import time\ntime.monotonic()", "line 2: time.monotonic is the clock"),
        ("import datetime as dt\ndt.datetime.now(dt.UTC)", "line 2: datetime.datetime.now is the clock"),
        ("from datetime import date\ndate.today()", "line 2: datetime.date.today is the clock"),
        ("import numpy as np\nnp.random.default_rng(1)", "line 2: numpy.random.default_rng is chance"),
        ("import os\nos.environ['A']", "line 2: os.environ is the process and its environment"),
        ("from os import environ\nenviron['A']", "line 2: os.environ is the process and its environment"),
        ("import polars as pl\npl.read_csv('f')", "line 2: polars.read_csv is a file or stream"),
        ("def f(frame):\n    frame.write_parquet('f')", "line 2: .write_parquet() is a file or chance"),
        (
            "from datetime import datetime\ndatetime.fromtimestamp(0)",
            "line 2: fromtimestamp() without a zone is the machine's time zone",
        ),
        ("from time import monotonic as now", "line 1: time.monotonic is the clock"),
        ("hash('key')", "line 1: hash is a hash that changes from process to process"),
    ],
)
def test_an_impure_module_is_found(source: str, expected: str) -> None:
    """Each kind of impurity is recognised, so a clean result means something."""
    assert expected in _findings(source)


def test_ordinary_code_is_pure() -> None:
    """Times that are handed in, columns and hashes of frames raise no alarm."""
    source = (
        "import datetime as dt\nfrom datetime import time\nimport polars as pl\n"
        "def f(frame: pl.DataFrame, at: dt.datetime) -> pl.Series:\n"
        "    opened = dt.datetime.fromtimestamp(0, dt.UTC) < at\n"
        "    return frame.filter(opened).select(pl.col('key').hash(0)).to_series().sort()\n"
    )
    assert [] == _findings(source)
