"""What the commands share: the data directory and the ways to open it, and how times are given."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.console import show
from pipeline.embedded import Embedded
from pipeline.histories import no_state, partition_folders
from rating.errors import UsageError
from rating.step import Step

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@dataclass(frozen=True)
class Data:
    """The data directory that a command works on, and the configuration file if one was named."""

    path: Path
    config: Path | None = None  # None: weir.toml of the working directory, if there is one

    def write(self) -> Embedded:
        """Open it to write; made where it is not there yet. Raises UsageError where streaming workers land it."""
        self._require_state()
        return Embedded.open(self.path, write=True)

    def read(self) -> Embedded:
        """Open it to read, beside a process that writes. Raises UsageError where streaming workers land it."""
        self._require_state()
        return Embedded.open(self.path, write=False)

    def is_streaming(self) -> bool:
        """Whether streaming workers land it: a history without the state."""
        return bool(partition_folders(self.path))

    def _require_state(self) -> None:
        if self.is_streaming():
            raise no_state(self.path, "what this command needs of it")


def data_of(context: typer.Context) -> Data:
    """The data directory given before the command."""
    data = context.find_object(Data)
    assert data is not None
    return data


def parse_instant(text: str | None, option: str) -> dt.datetime | None:
    """An ISO 8601 time with its offset (UTC where it has none). Raises UsageError where it is none."""
    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{option}: found {text!r}; expected an ISO 8601 time such as 2026-11-01T00:00:00Z") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


def micros(moment: dt.datetime) -> int:
    """Microseconds since 1970 UTC."""
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def tell(said: str, document: dict[str, Any], step: Step, as_json: bool) -> None:
    """Print what was done, and how many firings and actions came of it, if any; as JSON always."""
    counts = {"firings": step.firings.num_rows, "actions": step.actions.num_rows}
    came = ", ".join(counted(count, name.removesuffix("s")) for name, count in counts.items() if count)
    sentence = f"{said}: {came}" if came else said
    show(document | counts, as_json, lambda console: console.print(sentence, highlight=False))


def counted(count: int, noun: str) -> str:
    """A number of things: 1 rule, 2 rules."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
