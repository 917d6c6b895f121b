"""The pinned requirements: everything hashed, no addresses, no direct dependency missing, and the sets agree."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "rating", "pipeline", "jobs")
# Each contains the one before it: to run, on Kafka and for a ClickHouse server, with ClickHouse embedded, to test.
CHAIN = ("requirements.txt", "requirements-streaming.txt", "requirements-chdb.txt", "requirements-dev.txt")
FILES = ("requirements-setup.txt", *CHAIN)
FILE_OF_EXTRA = {
    "kafka": "requirements-streaming.txt",
    "clickhouse": "requirements-streaming.txt",
    "chdb": "requirements-chdb.txt",
}
PIN = re.compile(
    r"^([a-z0-9][a-z0-9-]*)==(\S+)(?: ; [^\\]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def pins(file: str) -> dict[str, set[str]]:
    """The versions of each package that a requirement file pins."""
    found: dict[str, set[str]] = {}
    for name, version, _ in PIN.findall((ROOT / file).read_text()):
        found.setdefault(name, set()).add(version)
    return found


def ranges(requirements: list[str]) -> dict[str, SpecifierSet]:
    """The versions that requirements such as "numpy>=2.3,<3" allow, and those of the extras that they name."""
    found = {}
    for one in map(Requirement, requirements):
        found[canonicalize_name(one.name)] = one.specifier
        found |= {canonicalize_name(extra): SpecifierSet() for extra in one.extras}  # chdb, an extra of that name
    return found


def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_each_file_of_the_folder_is_tested() -> None:
    """No requirement file escapes these tests."""
    assert sorted(FILES) == sorted(path.name for path in ROOT.glob("requirements*"))


@pytest.mark.parametrize("file", FILES)
def test_nothing_but_names_versions_and_hashes(file: str) -> None:
    """What is left of a file without its pins and comments is nothing: no address, no option, no unpinned name."""
    rest = PIN.sub("", (ROOT / file).read_text())
    assert [] == [line for line in rest.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert "://" not in (ROOT / file).read_text()


def test_direct_dependencies_are_pinned() -> None:
    """Each dependency that pyproject.toml names is pinned, at a version it allows, in the file compiled from it."""
    named = {"requirements.txt": ranges(project()["project"]["dependencies"])}
    for extra, requirements in project()["project"]["optional-dependencies"].items():
        named.setdefault(FILE_OF_EXTRA[extra], {}).update(ranges(requirements))
    named["requirements-dev.txt"] = ranges(project()["dependency-groups"]["dev"])
    named["requirements-setup.txt"] = ranges(project()["dependency-groups"]["setup"])
    assert set(FILES) == named.keys()
    for file, wanted in named.items():
        pinned = pins(file)
        for name, allowed in wanted.items():
            assert pinned.get(name), (file, name)
            assert all(version in allowed for version in pinned[name]), (file, name)
    assert named["requirements-setup.txt"].keys() == pins("requirements-setup.txt").keys()


def test_each_set_contains_the_set_before_it() -> None:
    """What runs is what is tested: all sets pin the same versions."""
    for smaller, larger in pairwise(map(pins, CHAIN)):
        assert smaller == {name: larger.get(name) for name in smaller}
        assert len(smaller) < len(larger)
    everything = pins(CHAIN[-1])
    tools = pins("requirements-setup.txt")
    assert {} == {name: version for name, version in tools.items() if everything.get(name, version) != version}


def test_a_worker_needs_neither_the_clickhouse_engine_nor_test_tools() -> None:
    """The set that the image and scripts/streaming install has no package that only the larger sets need."""
    streaming = pins("requirements-streaming.txt").keys()
    tools = ranges(project()["dependency-groups"]["dev"]).keys() - {"packaging"}  # which an image has anyway
    assert set() == streaming & {"chdb", "chdb-core", *tools}
    assert {"chdb", "chdb-core"} <= pins("requirements-chdb.txt").keys()


def test_every_dependency_says_why() -> None:
    """Each direct dependency has a comment that gives its reason."""
    text = (ROOT / "pyproject.toml").read_text()
    extras = "|".join(project()["project"]["optional-dependencies"])
    lists = re.findall(rf"^(?:dependencies|{extras}|dev|setup) = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert len(lists) == 3 + len(project()["project"]["optional-dependencies"])
    lines = [line for block in lists for line in block.splitlines()]
    assert [] == [line for line in lines if not re.fullmatch(r'    "[^"]+",\s*# \S.{10,}', line)]


def test_every_package_that_is_imported_is_named() -> None:
    """The code imports nothing that is there only because a dependency requires it."""
    extras = project()["project"]["optional-dependencies"].values()
    named = ranges([*project()["project"]["dependencies"], *(one for extra in extras for one in extra)]).keys()
    providers = packages_distributions()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            else:
                continue
            for top in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {*PACKAGES}:
                assert named & {canonicalize_name(one) for one in providers[top]}, f"{path}:{node.lineno}: {top}"
