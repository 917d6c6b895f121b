"""The command `weir` in tests: in this process, as a function, or in a process of its own.

weir("pools", "--json").json                 the fixture: as the executable does it, with exit status and output
printed("--data", path, "pools")             the output alone; an error of the command is raised
succeeded("--data", path, "outbox", "list")  in a process of its own, which must succeed
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.progress import completed

WEIR: Final = str(Path(sys.executable).with_name("weir"))
_CELLS: Final = 200  # the width of a pipe; a test runner may have set another


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its document. The command must have succeeded."""
        assert 0 == self.status, self.err
        return json.loads(self.out)


class Weir:
    """Runs commands in this process, the way the executable does."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: object) -> Result:
        """Run one command. It must not end with a traceback."""
        from jobs.cli import app as cli  # here, because this module is imported by every test

        self._monkeypatch.setattr(sys, "argv", ["weir", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(int(end.value.code or 0), captured.out, captured.err)


@pytest.fixture
def weir(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Weir:
    """The command line, as wide as it is in a pipe."""
    from jobs.output import console

    monkeypatch.setattr(console.out, "_width", _CELLS)
    return Weir(capsys, monkeypatch)


def printed(*arguments: object) -> str:
    """What a command prints on standard output. An error of the command is raised as it is."""
    from typer.testing import CliRunner

    from jobs.cli import app as cli

    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def succeeded(
    *arguments: object, text: bool = True, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Any:
    """The standard output of a command that runs in a process of its own and must succeed; bytes if not `text`."""
    done = completed([WEIR, *map(str, arguments)], text=text, cwd=cwd, env=env)
    assert 0 == done.returncode, done.stderr if text else done.stderr.decode()
    return done.stdout


@dataclass
class CommandLine:
    """Runs `weir` commands over `folder`/data. Names of files are looked up in `folder`."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def write(self, **files: str) -> None:
        """Write files; the name `cards_csv` is that of cards.csv."""
        for name, text in files.items():
            stem, _, suffix = name.rpartition("_")
            (self.folder / f"{stem}.{suffix}").write_text(text, encoding="utf-8")

    def ended(self, *arguments: str) -> tuple[int, str, str]:
        """Return the exit status of a command, its output and its errors."""
        from jobs.cli import app

        found = [str(self.folder / one) if (self.folder / one).is_file() else one for one in arguments]
        self.monkeypatch.setattr(sys, "argv", ["weir", "--data", str(self.folder / "data"), *found])
        with pytest.raises(SystemExit) as end:
            app.main()
        printed = self.capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    def run(self, *arguments: str) -> str:
        """Run a command that must end well. Return its output."""
        status, out, errors = self.ended(*arguments)
        assert status == 0, errors
        return out

    def apply(self, *files: str, day: str) -> None:
        """Put files into force on a day."""
        self.run("apply", *files, "--as-of", day)

    def ingest(self, file: str, day: str) -> None:
        """Rate a file of the feed `plain` that arrives on a day."""
        self.run("ingest", "--feed", "plain", file, "--as-of", day)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query, with their columns in its order."""
        found = json.loads(self.run("sql", "--json", f"select to_json(one)::varchar as row from ({query}) one"))
        return [tuple(json.loads(row["row"]).values()) for row in found]
