"""Weir as users install it: a wheel of this tree in a separate environment, with or without extras."""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
ROOTS = ("schemas", "rating", "pipeline", "jobs")
_LIMIT_S = 240
_ALL_COMMANDS = """
import contextlib, io, json, sys
from jobs.start import main
ends = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["weir", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
        except SystemExit as end:
            ends.append((end.code, said.getvalue()))
print(json.dumps(ends))
"""


def copy_sources(folder: Path) -> Path:
    """Copy the files that a build reads, and the tests, which it must not include. The build writes into the copy."""
    folder.mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*ROOTS, "examples", "docs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored, copy_function=shutil.copyfile)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def build(sources: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from the sdist, with the pinned setuptools and no network. Return both paths."""
    subprocess.run(
        [*_uv("build"), "--no-build-isolation", "--python", sys.executable, "--out-dir", sources / "dist", sources],
        check=True,
        capture_output=True,
        timeout=_LIMIT_S,
        env=os.environ | {"SOURCE_DATE_EPOCH": "1760000000"},
    )
    (sdist,) = (sources / "dist").glob("*.tar.gz")
    (wheel,) = (sources / "dist").glob("*.whl")
    return sdist, wheel


def metadata_of(wheel: Path) -> email.message.Message:
    """Return the METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def required(wheel: Path, extras: tuple[str, ...]) -> set[str]:
    """Return the names of all distributions that an installer would install with the wheel and these extras.

    The requirements come from the wheel and from the distributions of this environment, which have pinned versions.
    """
    waiting = [(Requirement(one), extras) for one in metadata_of(wheel).get_all("Requires-Dist", [])]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement, parents = waiting.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *parents)):
            continue
        found = distribution(requirement.name)
        assert found.version in requirement.specifier, (requirement, found.version)
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            waiting += [(Requirement(one), tuple(requirement.extras)) for one in found.requires or ()]
    return {name for name, _ in seen}


@dataclass(frozen=True)
class Installed:
    """A virtual environment with Weir from a wheel."""

    folder: Path

    @property
    def packages(self) -> Path:
        """The folder site-packages."""
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def command(self, *arguments: object) -> list[str]:
        """Return the command line of the installed `weir` with arguments."""
        return [str(self.folder / "bin" / "weir"), *map(str, arguments)]

    def weir(self, cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run the installed `weir` in a folder and wait for its end."""
        return self._run(self.command(*arguments), cwd)

    def python(self, cwd: Path, code: str, *arguments: str) -> str:
        """Run Python code and return its output. Raises CalledProcessError if it fails."""
        done = self._run([str(self.folder / "bin" / "python"), "-c", code, *arguments], cwd)
        done.check_returncode()
        return done.stdout

    def runs(self, cwd: Path, *commands: tuple[object, ...]) -> list[tuple[int, str]]:
        """Run commands in one process, because Weir loads slowly. Return exit status and standard error of each."""
        given = json.dumps([[str(one) for one in command] for command in commands])
        return [(status, said) for status, said in json.loads(self.python(cwd, _ALL_COMMANDS, given))]

    def _run(self, command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_LIMIT_S, env=environment())

    def add(self, names: set[str]) -> None:
        """Link distributions of the environment that runs the tests into this one."""
        for name in names:
            found = distribution(name)
            for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
                link = self.packages / top
                if not link.exists():
                    link.symlink_to(str(found.locate_file(top)))


def environment() -> dict[str, str]:
    """Return the environment variables of this process without those that lead to this checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "WEIR_DATA", "WEIR_CONFIG")}


def install(wheel: Path, folder: Path, *extras: str) -> Installed:
    """Install the wheel into a new environment with only the distributions that it and the extras require."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=_LIMIT_S)
    installed = Installed(folder)
    command = [*_uv("pip", "install"), "--quiet", "--no-deps", "--no-index", "--python", folder / "bin" / "python"]
    subprocess.run([*command, wheel], check=True, timeout=_LIMIT_S)
    installed.add(required(wheel, extras))
    return installed


def _uv(*arguments: str) -> list[str | Path]:
    return [Path(sys.executable).with_name("uv"), *arguments, "--offline"]
