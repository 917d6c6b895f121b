"""The table of commands, and the version: what is said twice is said alike."""

from __future__ import annotations

import inspect
import subprocess
import tomllib
from pathlib import Path

import pytest

from jobs.cli.app import COMMANDS, load_command
from jobs.version import VERSION
from tests.support.weir_command import WEIR


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_of_a_command_is_that_of_its_module(name: str) -> None:
    """`weir --help` says of a command what its own help begins with."""
    command = load_command(name)
    assert name == command.name
    (first, *_) = inspect.cleandoc(command.help).split("\n\n")
    assert COMMANDS[name][1] == " ".join(first.split())


@pytest.mark.parametrize("module", sorted({module for module, _ in COMMANDS.values()}))
def test_each_command_of_a_module_is_in_the_table(module: str) -> None:
    """A command that a module registers can be found."""
    import importlib

    import typer
    from typer.main import get_group

    app = typer.Typer()
    importlib.import_module(f"jobs.cli.{module}").register(app)
    assert {name for name, (of, _) in COMMANDS.items() if of == module} == set(get_group(app).commands)


def test_each_module_of_commands_is_in_the_table() -> None:
    """No file of commands is left out."""
    folder = Path(__file__).parents[2] / "jobs" / "cli"
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "app"}
    assert modules == {module for module, _ in COMMANDS.values()}


def test_the_version_is_that_of_the_distribution() -> None:
    """`weir --version` prints what pyproject.toml says."""
    document = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert VERSION == document["project"]["version"]
    done = subprocess.run([WEIR, "--version"], capture_output=True, text=True, check=True, timeout=120)
    assert f"weir {VERSION}\n" == done.stdout


def test_top_help_lists_all_commands() -> None:
    """The list has every command and its whole line of help."""
    done = subprocess.run([WEIR, "--help"], capture_output=True, text=True, check=True, timeout=120)
    said = " ".join(done.stdout.split())
    assert [] == [name for name, (_, line) in COMMANDS.items() if f" {name} {line}" not in said]
