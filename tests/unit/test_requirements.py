"""The pinned requirements: everything hashed, nothing addressed, and no direct dependency left out."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("requirements-setup.txt", "requirements.txt", "requirements-streaming.txt", "requirements-dev.txt")
PIN = re.compile(
    r"^([a-z0-9][a-z0-9-]*)==(\S+)(?: ; [^\\]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def pins(file: str) -> dict[str, set[str]]:
    """The versions of each package that a requirement file pins."""
    found: dict[str, set[str]] = {}
    for name, version, _ in PIN.findall((ROOT / file).read_text()):
        found.setdefault(name, set()).add(version)
    return found


def named(requirements: list[str]) -> set[str]:
    """The names of requirements such as "numpy>=2.3,<3"."""
    return {re.split(r"[^A-Za-z0-9-]", requirement)[0] for requirement in requirements}


def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("file", FILES)
def test_nothing_but_names_versions_and_hashes(file: str) -> None:
    """What is left of a file without its pins and comments is nothing: no address, no option, no unpinned name."""
    rest = PIN.sub("", (ROOT / file).read_text())
    assert [] == [line for line in rest.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert "://" not in (ROOT / file).read_text()


def test_direct_dependencies_are_pinned() -> None:
    """Each dependency that pyproject.toml names is pinned in the file that is compiled from it."""
    assert named(project()["project"]["dependencies"]) <= pins("requirements.txt").keys()
    streaming = named(project()["project"]["optional-dependencies"]["streaming"])
    assert streaming <= pins("requirements-streaming.txt").keys()
    assert named(project()["dependency-groups"]["dev"]) <= pins("requirements-dev.txt").keys()
    assert named(project()["dependency-groups"]["setup"]) == pins("requirements-setup.txt").keys()


def test_tests_run_on_what_is_run() -> None:
    """The file for development pins the same versions as the one for running, and more."""
    to_run, to_stream = pins("requirements.txt"), pins("requirements-streaming.txt")
    to_test = pins("requirements-dev.txt")
    assert to_run == {name: to_stream[name] for name in to_run}
    assert to_stream == {name: to_test[name] for name in to_stream}


def test_every_dependency_says_why() -> None:
    """Each direct dependency has a comment that gives its reason."""
    text = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|streaming|dev) = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert 3 == len(lists)
    lines = [line for block in lists for line in block.splitlines()]
    assert [] == [line for line in lines if not re.fullmatch(r'    "[^"]+",\s*# \S.{10,}', line)]
