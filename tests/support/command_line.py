"""The command line in this process, over a data directory of its own and files that a test writes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import app


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
