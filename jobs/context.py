"""Shared parts of the commands: the data directory, common options, and parsing of times.

Every command imports this module, so it must import nothing slow at its top.
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
    from pipeline.embedded.committed import Committed
    from pipeline.embedded.driver import Embedded
    from rating.step import Step


def feed_names(incomplete: str) -> list[str]:
    """Return the ready feeds whose names begin with `incomplete`. If there are none, the shell completes file names."""
    return [name for name in ready_feeds() if name.startswith(incomplete)]


Force = Annotated[
    bool, typer.Option("--force", help="Take a time more than a day ahead of this machine's clock; it never goes back.")
]
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
    """Path of the data directory of a command, and of the configuration file if `--config` names one."""

    path: Path
    config: Path | None = None  # None means weir.toml of the working directory, if that file exists.

    def write(self, *, force: bool = False) -> Embedded:
        """Open the data directory to write, and create it if it does not exist.

        With `force`, times of arrival may be more than a day ahead of the machine's clock. Raises UsageError if it is
        the history of streaming workers.
        """
        from pipeline.embedded.driver import Embedded

        self._require_state()
        return Embedded.open(self.path, write=True, force=force)

    def read(self) -> Committed:
        """Open the data directory to read. Another process may write to it meanwhile.

        Raises UsageError if it is the history of streaming workers.
        """
        from pipeline.embedded.committed import Committed

        self._require_state()
        return Committed.open(self.path)

    def is_streaming(self) -> bool:
        """Return True if the path is the history of streaming workers, which has no state."""
        from pipeline.history.reader import partition_folders

        return bool(partition_folders(self.path))

    def _require_state(self) -> None:
        from pipeline.history.reader import no_state

        if self.is_streaming():
            raise no_state(self.path, "what this command needs")


def data_of(context: typer.Context) -> Data:
    """Return the data directory that the options before the command name."""
    data = context.find_object(Data)
    assert data is not None
    return data


def parse_instant(text: str | None, option: str) -> dt.datetime | None:
    """Parse an ISO 8601 time (UTC if it has no offset); return None for None.

    Raises UsageError, which names `option`, if the text is not such a time.
    """
    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{option}: found {text!r}; expected an ISO 8601 time such as 2026-11-01T00:00:00Z") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


def instant_to_send(text: str | None, option: str) -> dt.datetime | None:
    """Parse a time as `parse_instant` does, for workers.

    Raises UsageError if workers would refuse it: a time more than a day ahead of now, or before 1970.
    """
    from pipeline.journal.arrival import time_problem

    moment = parse_instant(text, option)
    problem = None if moment is None else time_problem(micros(moment), micros(dt.datetime.now(dt.UTC)))
    if problem is not None:
        raise UsageError(f"{option}: {problem}; workers refuse it, because their clock never goes back")
    return moment


def micros(moment: dt.datetime) -> int:
    """Return the microseconds since 1970-01-01 UTC."""
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def tell(said: str, document: dict[str, Any], step: Step, as_json: bool) -> None:
    """Print what was done, what had to be rated again, and the number of firings and actions that it caused.

    The text omits zero counts; the JSON document always has those of firings and actions.
    """
    from jobs.output.console import show

    counts = {"firings": step.firings.num_rows, "actions": step.actions.num_rows}
    came = ", ".join(counted(count, name.removesuffix("s")) for name, count in counts.items() if count)
    sentence = f"{said}: {came}" if came else said
    rerated = {}
    if step.rerated_records:
        rerated = {"rerated_records": step.rerated_records, "rerated_subjects": step.rerated_subjects}
        subjects = counted(step.rerated_subjects, "subject")
        sentence += f"; rated again {counted(step.rerated_records, 'record')} of {subjects}"
    show(document | counts | rerated, as_json, lambda console: console.print(sentence, highlight=False))


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 rule", "2 rules"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
