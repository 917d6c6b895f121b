"""What the commands share: the data directory and the ways to open it, options of several commands, times.

Every command imports this, so it imports nothing heavy at its top.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.feeds.ready import ready_feeds
from rating.errors import UsageError

if TYPE_CHECKING:
    from pipeline.embedded.driver import Embedded
    from rating.step import Step


def feed_names(incomplete: str) -> list[str]:
    """The ready feeds whose names begin so, for completion; with none of them a shell completes files."""
    return [name for name in ready_feeds() if name.startswith(incomplete)]


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Limit = Annotated[int, typer.Option(min=0, help="Maximum number of rows to show.")]
Offset = Annotated[int, typer.Option(min=0, help="Number of rows to skip.")]
Files = Annotated[list[Path], typer.Argument(metavar="FILE…", help="One or more files.")]
FeedArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE.toml", help="A ready mapping by name, or your own file.", autocompletion=feed_names
    ),
]


@dataclass(frozen=True)
class Data:
    """The data directory that a command works on, and the configuration file if one was named."""

    path: Path
    config: Path | None = None  # None: weir.toml of the working directory, if there is one

    def write(self) -> Embedded:
        """Open it to write; it is made if it does not exist. Raises UsageError if streaming workers land it."""
        from pipeline.embedded.driver import Embedded

        self._require_state()
        return Embedded.open(self.path, write=True)

    def read(self) -> Embedded:
        """Open it to read, beside a process that writes. Raises UsageError if streaming workers land it."""
        from pipeline.embedded.driver import Embedded

        self._require_state()
        return Embedded.open(self.path, write=False)

    def is_streaming(self) -> bool:
        """Whether streaming workers land it: a history without the state."""
        from pipeline.history.reader import partition_folders

        return bool(partition_folders(self.path))

    def _require_state(self) -> None:
        from pipeline.history.reader import no_state

        if self.is_streaming():
            raise no_state(self.path, "what this command needs of it")


def data_of(context: typer.Context) -> Data:
    """The data directory given before the command."""
    data = context.find_object(Data)
    assert data is not None
    return data


def parse_instant(text: str | None, option: str) -> dt.datetime | None:
    """An ISO 8601 time with its offset (UTC if it has none). Raises UsageError if the text is no such time."""
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
    from jobs.cli.console import show

    counts = {"firings": step.firings.num_rows, "actions": step.actions.num_rows}
    came = ", ".join(counted(count, name.removesuffix("s")) for name, count in counts.items() if count)
    sentence = f"{said}: {came}" if came else said
    show(document | counts, as_json, lambda console: console.print(sentence, highlight=False))


def counted(count: int, noun: str) -> str:
    """A number of things: 1 rule, 2 rules."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
