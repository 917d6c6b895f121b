"""The command `weir`. Each subcommand is a few lines that call a function of jobs/ or pipeline/.

Exit status: 0 done (also if records were rejected), 2 bad usage or configuration, 3 failure of the environment such as
a full disk, 1 internal error, 130 stopped by the user.

Help and completion must answer at once, so they do not import the libraries that commands run with. `COMMANDS` has
the name, the module and the one-line help of each command. The module is imported only when its command is called. It
declares arguments and help at its top, and imports the libraries that it needs inside its functions.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from jobs.context import Data
from jobs.version import VERSION
from rating.errors import InputError, WorldError

# The module of each command and its one-line help, in the order of `weir --help`. A test compares each line with the
# command's own help.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "apply": (
        "ingest",
        "Load accounts, plans, zones, pools, cards and rules from TOML and CSV files: all or nothing.",
    ),
    "ingest": ("ingest", "Rate the usage records of feed files. Each record ends as rated, duplicate or rejected."),
    "rerate": (
        "rerate",
        "Rate a billing cycle again with the plans and cards known now. Differences become adjustments.",
    ),
    "compact": ("ingest", "Merge small history files. Processes that read are not disturbed."),
    "generate": (
        "ingest",
        "Generate a fleet: a catalogue, a card list and a month of usage as files of the feed `plain`.",
    ),
    "verify": ("verify", "Read every file of the data directory and compare it with its digest."),
    "demo": (
        "ingest",
        "Run the whole way once: example catalogue and rules, sample feeds, a generated fleet, actions, a report.",
    ),
    "report": ("show", "Write the monthly usage report: an HTML page, XLSX, CSV and Parquet."),
    "cards": ("show", "List cards with their usage in the open cycle. Several filters narrow the list."),
    "card": (
        "show",
        "Show one card: its data, counters and add-ons, and its usage by day in this and the previous cycle.",
    ),
    "pools": ("show", "List pools: size, usage, percent, and the day on which each is used up."),
    "pool": ("show", "Show one pool: size and usage by service and cycle, and the members with the most usage."),
    "explain": ("show", "Explain the charge of a record, step by step."),
    "sql": ("show", "Query the history in DuckDB's SQL."),
    "status": ("show", "Show the contents of the data directory."),
    "rejected": (
        "rejected",
        "List rejected records, export them for correction, replay them. Without a command: list.",
    ),
    "command": (
        "rules",
        "Apply commands: results of actions, network events of SIMs, rules to activate or deactivate. All or nothing.",
    ),
    "tick": (
        "rules",
        "Advance the clock to now or a given time, so that rules and actions that depend on time happen.",
    ),
    "close": (
        "close",
        "Close the billing cycles whose grace period is over: what is owed beside usage is written down and stands.",
    ),
    "rules": ("rules", "List, activate and deactivate rules; list their firings and actions. Without a command: list."),
    "feeds": ("feeds", "List and show feed mappings; check how one reads a file of yours."),
    "outbox": ("outbox", "Deliver actions, list deliveries, retry dead letters."),
    "kafka": (
        "streaming",
        "Run a Kafka broker on this machine until Ctrl-C, to try streaming. Needs Java 17, and Maven the first time.",
    ),
    "feed": (
        "streaming",
        "Send feed files to Kafka, for workers to rate. After a crash, run the command again: it resumes.",
    ),
    "send": ("send", "Send catalogues, commands and ticks to the workers."),
    "worker": (
        "worker",
        "Run one worker of the group until Ctrl-C. It rates its assigned partitions and lands their rows.",
    ),
    "pack": (
        "pack",
        "Pack single records of a topic for workers to rate, until Ctrl-C: each once, even after a crash.",
    ),
    "clickhouse": ("clickhouse", "Load the history into ClickHouse, query it there, and compare the two."),
}


class _CommandGroup(TyperGroup):
    """Click group of the commands in `COMMANDS`. A command has only name and help until it is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (_, line) in COMMANDS.items():
            self.add_command(TyperCommand(name, short_help=line, rich_markup_mode=None))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name, the loaded command, and the arguments after the name."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, None if found is None or name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """Import the module of the command `name` and return its Click command."""
    app = typer.Typer(rich_markup_mode=None)
    import_module(f"jobs.cli.{COMMANDS[name][0]}").register(app)
    return get_group(app).commands[name]


# Without markup, help and usage errors are plain text. Importing Rich takes longer than everything else they need.
app = typer.Typer(
    name="weir",
    cls=_CommandGroup,
    help="Rate usage records of IoT SIM cards: load plans and cards, ingest carrier feeds, read totals and reports.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"weir {VERSION}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    data: Annotated[
        Path, typer.Option(envvar="WEIR_DATA", metavar="DIR", help="The data directory.", show_default=True)
    ] = Path("weir-data"),
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="WEIR_CONFIG", metavar="FILE", help="The configuration file. Default: weir.toml, if it exists."
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Store the options that all commands share in the context."""
    context.obj = Data(data, config)


def main() -> None:
    """Run `weir` and exit. An error becomes a message on standard error and an exit status."""
    sys.exit(_run())


def _run() -> int:
    try:
        app()
    except SystemExit as end:  # Typer always ends with this, after success and failure.
        if end.code == 130:
            return _message("stopped; what was committed stays, and the same command goes on from there", 130)
        # Typer and Rich exit with 1 when the reader closes the pipe (`weir cards | head -1`). That is no failure.
        status = end.code if isinstance(end.code, int) and end.code != 1 else 0
    except InputError as error:
        return _message(error, 2)
    except WorldError as error:
        return _message(error, 3)
    except OSError as error:
        return _message(f"{error.filename or 'output'}: {error.strerror}; {_advice(error)}", 3)
    except MemoryError:
        return _message("out of memory; close other programs and run the command again", 3)
    except Exception as error:
        if os.environ.get("WEIR_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}"
        return _message(f"internal error in Weir: {what}\nRun again with WEIR_DEBUG=1 to see the traceback.", 1)
    return _flushed(status)


def _flushed(status: int) -> int:
    """Flush standard output and return `status`, or 3 if the output cannot be written.

    A closed pipe is no failure: the reader has all that it wants.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            return _message(f"standard output: {error.strerror}; {_advice(error)}", 3)
    return status


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room, then give the same command again"
    return "check the path and its permissions"


def _message(error: object, status: int) -> int:
    from jobs.output.console import err, printable_lines

    err.print(printable_lines(f"weir: {error}"), style="red", highlight=False, soft_wrap=True)
    return status
